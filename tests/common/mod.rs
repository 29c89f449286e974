//! What the tests share: strategies, machine code, child processes, the
//! process's mappings.

#![allow(dead_code, reason = "each test crate uses a part")]

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use jit_arena::{Arena, BuildError, Builder, Executor, Strategy, ThreadHandle};

pub(crate) mod child;
pub(crate) mod code;
#[cfg(target_os = "linux")]
pub(crate) mod filter;
pub(crate) mod maps;

pub(crate) use code::constant;

/// 1,024 bytes.
pub(crate) const KIB: usize = 1024;
/// 1,024 KiB.
pub(crate) const MIB: usize = 1024 * KIB;

/// Address space of the arenas here. Small, so that `verify`, which looks at
/// every page, takes little time without optimisation.
pub(crate) const RESERVE: usize = 16 * MIB;

/// Calls a function at `addr` that takes nothing and returns a word.
pub(crate) fn call_at(addr: usize) -> u32 {
    let code = std::ptr::with_exposed_provenance::<()>(addr);
    // SAFETY: callers pass the entry of such a function, and keep it alive.
    let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(code) };
    function()
}

/// Calls an executor that takes nothing and returns a word.
pub(crate) fn call(thread: &ThreadHandle, executor: &Executor) -> u32 {
    let guard = thread.pin();
    // SAFETY: the code is such a function, and is called under its guard.
    let function: extern "C" fn() -> u32 = unsafe { executor.entry(&guard).cast() };
    function()
}

/// The bytes at an address of the executable view.
pub(crate) fn bytes_at(addr: usize, len: usize) -> Vec<u8> {
    let from = std::ptr::with_exposed_provenance::<u8>(addr);
    // SAFETY: callers name live memory of an arena that nobody writes to.
    unsafe { std::slice::from_raw_parts(from, len) }.to_vec()
}

/// Installs a [`constant`].
pub(crate) fn install(thread: &mut ThreadHandle, value: u32) -> Executor {
    thread.install(&constant(value), &[]).unwrap()
}

/// Runs `test` on an arena of each strategy that works on this machine, and
/// says which did not run.
///
/// # Panics
///
/// If the environment variable `JIT_ARENA_REQUIRE` names a strategy (or, with
/// `pkey`, both that need keys) that does not work here.
pub(crate) fn each_strategy(test: impl Fn(Arena)) {
    each_strategy_with(|builder| builder, test);
}

/// As [`each_strategy`], with options.
pub(crate) fn each_strategy_with(options: impl Fn(Builder) -> Builder, test: impl Fn(Arena)) {
    for strategy in Strategy::ALL {
        if let Some(arena) = arena_with(strategy, &options) {
            test(arena);
        }
    }
}

/// An arena of `strategy`, if that works here; otherwise says that the test did
/// not run with it.
///
/// # Panics
///
/// As [`each_strategy`].
pub(crate) fn arena_of(strategy: Strategy) -> Option<Arena> {
    arena_with(strategy, |builder| builder)
}

fn arena_with(strategy: Strategy, options: impl Fn(Builder) -> Builder) -> Option<Arena> {
    match options(Arena::builder().reserve(RESERVE).strategy(strategy)).build() {
        Ok(arena) => Some(arena),
        Err(error) => {
            let needs_key = strategy.name().ends_with("pkey");
            let required = requires(strategy.name()) || needs_key && requires("pkey");
            assert!(!required, "{strategy} is required: {error}: {}", reason(&error));
            not_run(&format!("{strategy}: {}", reason(&error)));
            None
        }
    }
}

/// Whether the environment variable `JIT_ARENA_REQUIRE` lists `capability`.
pub(crate) fn requires(capability: &str) -> bool {
    let list = std::env::var("JIT_ARENA_REQUIRE").unwrap_or_default();
    list.split(',').any(|item| item == capability)
}

/// Whether this is a sanitizer's build: those reserve terabytes of address space
/// and map memory whenever they like.
pub(crate) fn is_sanitized() -> bool {
    maps::all().iter().map(|mapping| mapping.range.len()).sum::<usize>() > 1 << 40
}

/// Says that a test, or a part of one, did not run.
pub(crate) fn not_run(why: &str) {
    let thread = std::thread::current();
    println!("not run: {}: {why}", thread.name().unwrap_or("test"));
}

fn reason(error: &BuildError) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // Multiplicative, with the low bits stirred in from the high ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % bound
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// A barrier that gives up: where one thread fails, the others must not wait
/// for it for ever.
pub(crate) struct Barrier {
    threads: usize,
    /// How often threads have come so far.
    arrivals: Mutex<usize>,
    changed: Condvar,
}

/// Far more than any thread here takes, emulated machines included.
const PATIENCE: Duration = Duration::from_secs(600);

impl Barrier {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, arrivals: Mutex::new(0), changed: Condvar::new() }
    }

    /// Returns once all threads have come.
    ///
    /// # Panics
    ///
    /// If one of them does not.
    pub(crate) fn wait(&self) {
        let mut arrivals = self.arrivals.lock().unwrap();
        *arrivals += 1;
        let all = arrivals.next_multiple_of(self.threads);
        self.changed.notify_all();
        let (_arrivals, timeout) =
            self.changed.wait_timeout_while(arrivals, PATIENCE, |seen| *seen < all).unwrap();
        assert!(!timeout.timed_out(), "another thread did not come");
    }
}
