//! Signals that come at any moment, on stacks of their own: in the midst of a
//! write scope, of dropping, of a look-up, of a lot. Their handlers run code and
//! look it up; what they interrupt goes on as if nothing had been.

#![cfg(target_os = "linux")]

mod common;

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Random, call, call_at, child, constant, install, is_sanitized};
use jit_arena::{Arena, CodeLayout, Executor, ReserveError};

/// What a thread is doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Other,
    Writing,
    Dropping,
    LookingUp,
    Recycling,
}

const PHASES: [Phase; 5] =
    [Phase::Other, Phase::Writing, Phase::Dropping, Phase::LookingUp, Phase::Recycling];

/// The arena that handlers ask, and an executor that stays.
static ASKED: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());
static ENTRY: AtomicUsize = AtomicUsize::new(0);
/// What the executor returns.
const ANSWER: u32 = 0x5eed;
/// Signals that came in each phase.
static CAME: [AtomicUsize; PHASES.len()] = [const { AtomicUsize::new(0) }; PHASES.len()];
/// Handlers that saw something wrong.
static WRONG: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Other) };
    /// Of the stack for handlers; empty where there is none.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let entry = ENTRY.load(Ordering::Acquire);
    // SAFETY: the test stores an arena that outlives the timer, or null.
    let Some(arena) = (unsafe { ASKED.load(Ordering::Acquire).as_ref() }) else { return };
    let mark = 0_u8;
    let (stack, len) = STACK.get();
    let at = (&raw const mark).addr();
    let on_own_stack = len == 0 || (stack..stack + len).contains(&at);
    let found = arena.lookup(entry).is_some_and(|found| found.entry() == entry);
    if !on_own_stack || !found || call_at(entry) != ANSWER {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
    CAME[PHASE.get() as usize].fetch_add(1, Ordering::Relaxed);
}

/// Has handlers on this thread run on a stack of their own.
fn own_stack() -> Vec<u8> {
    let mut memory = vec![0_u8; 64 * 1024];
    let stack =
        libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: the memory outlives the thread's last handler: the caller keeps it.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    if !is_sanitized() {
        // Sanitizers keep locals elsewhere.
        STACK.set((memory.as_ptr().addr(), memory.len()));
    }
    memory
}

/// Threads to signal: no timer of the process comes more often than the
/// system's clock ticks.
static TARGETS: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// The calling thread is signalled as long as this lives.
struct Target(libc::pid_t);

impl Target {
    fn new() -> Self {
        // SAFETY: gettid(2) has no preconditions.
        let own = unsafe { libc::gettid() };
        TARGETS.lock().unwrap().push(own);
        Self(own)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        TARGETS.lock().unwrap().retain(|target| *target != self.0);
    }
}

/// Signals each target, once an `interval`.
fn send(interval: Duration, stop: &AtomicBool) {
    // SAFETY: getpid(2) has no preconditions.
    let own = unsafe { libc::getpid() };
    while !stop.load(Ordering::Relaxed) {
        for target in TARGETS.lock().unwrap().iter() {
            // SAFETY: a thread that lives: it is on the list.
            unsafe { libc::syscall(libc::SYS_tgkill, own, *target, libc::SIGPROF) };
        }
        thread::sleep(interval);
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn churn(arena: &Arena, seed: u64, stop: &AtomicBool) {
    let stack = own_stack();
    let target = Target::new();
    let mut random = Random::new(seed);
    let mut thread = arena.attach().unwrap();
    let mut all: Vec<(Executor, u32)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let value = random.below(1 << 20) as u32;
        let code = constant(value);
        let len = code.len() + random.below(2000) / 4 * 4;
        let mut place = match thread.reserve(CodeLayout::new(len)) {
            // A thread that is pinned has not run for long: it is let run.
            Err(ReserveError::Exhausted { .. }) => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            reserved => reserved.unwrap(),
        };
        PHASE.set(Phase::Writing);
        let mut scope = thread.write();
        let bytes = scope.bytes(&mut place).unwrap();
        bytes[code.len()..].fill(0x90);
        scope.nest().write_at(&mut place, 0, &code).unwrap();
        drop(scope);
        PHASE.set(Phase::Other);
        all.push((thread.publish(place).unwrap(), value));
        PHASE.set(Phase::LookingUp);
        for (executor, _) in &all {
            let found = arena.lookup(executor.addr()).unwrap();
            assert_eq!(found.entry(), executor.addr());
        }
        PHASE.set(Phase::Other);
        let (executor, value) = &all[random.below(all.len())];
        assert_eq!(call(&thread, executor), *value);
        if all.len() > 40 {
            PHASE.set(Phase::Dropping);
            all.drain(..20).for_each(drop);
            PHASE.set(Phase::Recycling);
            thread.collect();
            PHASE.set(Phase::Other);
        }
    }
    drop(all);
    drop(target);
    STACK.set((0, 0));
    let none =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: from here on handlers run on the thread's own stack.
    unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
    drop(stack);
}

/// Goes on until signals came in all phases, and for so long at least.
fn signals_at_any_moment(arena: Arena, interval: Duration, least: Duration) {
    child::handle(libc::SIGPROF, handler, libc::SA_RESTART | libc::SA_ONSTACK);
    let mut thread = arena.attach().unwrap();
    let kept = install(&mut thread, ANSWER);
    ENTRY.store(kept.addr(), Ordering::Release);
    ASKED.store((&raw const arena).cast_mut(), Ordering::Release);
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let came = |phase: Phase| CAME[phase as usize].load(Ordering::Relaxed);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| send(interval, &stop));
        for seed in 0..4 {
            let (arena, stop) = (&arena, &stop);
            scope.spawn(move || churn(arena, seed, stop));
        }
        let all_came = || PHASES.into_iter().all(|phase| came(phase) > 2);
        while begun.elapsed() < least || !all_came() {
            assert!(begun.elapsed() < least + Duration::from_secs(60), "{CAME:?}");
            thread::sleep(Duration::from_millis(20));
        }
    });
    ASKED.store(std::ptr::null_mut(), Ordering::Release);
    println!("\nsignals: {:?} {CAME:?}", PHASES);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0, "handlers saw something wrong");
    assert_eq!(call(&thread, &kept), ANSWER);
    drop(kept);
    thread.collect();
    arena.verify().unwrap();
    assert_eq!(arena.stats().live_executors, 0);
}

#[test]
fn h5_handlers_run_code_in_the_midst_of_everything() {
    let run = |arena| signals_at_any_moment(arena, Duration::from_micros(200), Duration::ZERO);
    child::each_strategy("h5_handlers_run_code_in_the_midst_of_everything", run, |_, ended| {
        ended.expect_success();
    });
}

/// Each thread every 200 microseconds, if the machine gets to it, for a minute:
/// `cargo test --release --test signals -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute a strategy"]
fn h5_a_profiler_at_five_kilohertz_for_a_minute() {
    let minute = Duration::from_secs(60);
    let run = |arena| signals_at_any_moment(arena, Duration::from_micros(200), minute);
    let name = "h5_a_profiler_at_five_kilohertz_for_a_minute";
    child::each_strategy(name, run, |strategy, ended| {
        ended.expect_success();
        println!("{strategy}: {}", ended.said("signals").unwrap_or_default());
    });
}
