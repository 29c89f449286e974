//! A profiler for the stress test: a signal at each tick of processor time,
//! whose handler looks the interrupted program counter up.
//!
//! What it finds inside the arena must be the executor that the thread says it
//! runs, `[L1]`. It also looks up what was dropped a moment ago, which nothing
//! protects: that may be gone, or there still, but never be parts of two.
//!
//! Linux only: elsewhere nothing is profiled.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no signal comes there"))]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::thread;

use jit_arena::{Arena, CodeInfo};

use super::ops;
use crate::failure::Check;

/// The arena that handlers ask; null while nothing is profiled.
static ASKED: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());
/// Handlers that may be using it.
static ASKING: AtomicUsize = AtomicUsize::new(0);
/// An address in what was dropped last.
static STRAY: AtomicUsize = AtomicUsize::new(0);
static SABOTAGED: AtomicBool = AtomicBool::new(false);

/// Signals handled, and those that came inside the arena's code.
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static INSIDE: AtomicU64 = AtomicU64::new(0);
/// The first wrong answer, by its place in [`WRONG`], from 1; and of which
/// address.
static FAULT: AtomicUsize = AtomicUsize::new(0);
static FAULT_AT: AtomicUsize = AtomicUsize::new(0);

/// What an answer can be that it must not.
const WRONG: [&str; 3] =
    ["found nothing", "found other code than runs there", "found parts of two executors"];

thread_local! {
    /// Where the executor is entered that this thread runs; 0 if it does not say.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Runs `call`, which runs the executor entered at `entry` and no other.
pub(super) fn running<R>(entry: usize, call: impl FnOnce() -> R) -> R {
    RUNNING.set(entry);
    compiler_fence(Ordering::SeqCst);
    let result = call();
    compiler_fence(Ordering::SeqCst);
    RUNNING.set(0);
    result
}

/// Notes that code at `address` is about to be dropped.
pub(super) fn dropping(address: usize) {
    // Relaxed: any address will do.
    STRAY.store(address, Ordering::Relaxed);
}

/// What was profiled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Profile {
    /// Signals handled.
    pub(super) signals: u64,
    /// Those that came inside code of the arena.
    pub(super) inside: u64,
}

/// Profiles until it is dropped.
#[derive(Debug)]
pub(super) struct Profiler {
    /// Handlers use it through [`ASKED`].
    _arena: Box<Arena>,
}

impl Profiler {
    /// Has all threads profiled on `arena`. One at a time.
    pub(super) fn start(arena: &Arena, sabotaged: bool) -> io::Result<Self> {
        let mut arena = Box::new(arena.clone());
        for count in [&SIGNALS, &INSIDE] {
            // Relaxed: no handler counts yet.
            count.store(0, Ordering::Relaxed);
        }
        FAULT.store(0, Ordering::Relaxed);
        SABOTAGED.store(sabotaged, Ordering::Relaxed);
        // Release: pairs with the handler's load.
        ASKED.store(&raw mut *arena, Ordering::Release);
        let profiler = Self { _arena: arena };
        signals::start()?;
        Ok(profiler)
    }

    /// What was profiled so far.
    ///
    /// # Errors
    ///
    /// A lookup was wrong.
    #[expect(clippy::unused_self, reason = "there is nothing to ask without one")]
    pub(super) fn check(&self) -> Result<Profile, Check> {
        // Acquire: pairs with the Release in `fault`.
        if let Some(what) = FAULT.load(Ordering::Acquire).checked_sub(1) {
            let pc = FAULT_AT.load(Ordering::Relaxed);
            return Err(Check::Lookup { pc, what: WRONG[what] });
        }
        let [signals, inside] = [&SIGNALS, &INSIDE].map(|count| count.load(Ordering::Relaxed));
        Ok(Profile { signals, inside })
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        signals::stop();
        // SeqCst, as all below and in `handle`: a handler that counts itself
        // later finds nobody to ask.
        ASKED.store(std::ptr::null_mut(), Ordering::SeqCst);
        while ASKING.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }
}

/// What a signal that interrupted the thread at `pc` leads to. Async-signal-safe.
fn handle(pc: usize) {
    ASKING.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the profiler keeps the arena while somebody is counted who may
    // have found it here.
    if let Some(arena) = unsafe { ASKED.load(Ordering::SeqCst).as_ref() } {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
        if arena.contains(pc) {
            INSIDE.fetch_add(1, Ordering::Relaxed);
            let running = RUNNING.get();
            match arena.lookup(pc) {
                None => fault(1, pc),
                Some(found) if running != 0 && found.entry() != running => fault(2, pc),
                Some(found) if !is_whole(&found) => fault(3, pc),
                Some(_) => {}
            }
        }
        let stray = STRAY.load(Ordering::Relaxed);
        let found = arena.lookup(stray);
        if found.is_some_and(|found| !is_whole(&found)) || SABOTAGED.load(Ordering::Relaxed) {
            fault(3, stray);
        }
    }
    ASKING.fetch_sub(1, Ordering::SeqCst);
}

/// Whether code, data and tag are of one program. Visitors set no tag.
fn is_whole(found: &CodeInfo) -> bool {
    let shape = ops::program(found.tag).shape;
    found.tag == 0 || found.code.len == shape.code as usize && found.data.len == shape.data as usize
}

fn fault(what: usize, pc: usize) {
    // Relaxed: an address of some fault, if there are several at once.
    FAULT_AT.store(pc, Ordering::Relaxed);
    // Release: pairs with the Acquire in `check`.
    let _ = FAULT.compare_exchange(0, what, Ordering::Release, Ordering::Relaxed);
}

#[cfg(target_os = "linux")]
mod signals {
    use std::io;
    use std::ptr;

    /// Microseconds of processor time from signal to signal; the system's tick
    /// where that is longer.
    const INTERVAL: libc::suseconds_t = 1000;

    extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO it is the interrupted context.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        #[cfg(target_arch = "x86_64")]
        let pc = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
        #[cfg(target_arch = "aarch64")]
        let pc = context.uc_mcontext.pc as usize;
        super::handle(pc);
    }

    fn set_timer(tv_usec: libc::suseconds_t) -> io::Result<()> {
        let interval = libc::timeval { tv_sec: 0, tv_usec };
        let timer = libc::itimerval { it_interval: interval, it_value: interval };
        // SAFETY: a valid value, and nobody asks for the old one.
        let set = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn start() -> io::Result<()> {
        // SAFETY: all zeros is a value of the type.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: the handler is async-signal-safe and stays for good.
        let set = unsafe { libc::sigaction(libc::SIGPROF, &raw const action, ptr::null_mut()) };
        if set == 0 { set_timer(INTERVAL) } else { Err(io::Error::last_os_error()) }
    }

    /// The handler stays: a signal may be under way.
    pub(super) fn stop() {
        // Of a valid value it does not fail.
        let _ = set_timer(0);
    }
}

#[cfg(not(target_os = "linux"))]
mod signals {
    pub(super) fn start() -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn stop() {}
}
