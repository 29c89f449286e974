//! `[L1]` A profiler's signal handler finds the code that it interrupts, while threads
//! install, run and drop code on shared pages.

#![cfg(target_os = "linux")]

mod common;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::code::{is_whole, try_place};
use common::{Random, code, each_strategy_with};
use jit_arena::{Arena, CodeLayout, Executor, ReserveError};

/// The arena that the signal handler asks; null while there is none.
static ASKED: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());
/// Signals that came inside code of the arena, and elsewhere.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static OUTSIDE: AtomicUsize = AtomicUsize::new(0);
/// The first thing that was wrong: 1 for code not found, 2 for another's, 3 for
/// parts of two headers.
static WRONG: AtomicUsize = AtomicUsize::new(0);
/// An address that handlers look up although nothing protects it.
static STRAY: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The entry that this thread runs, 0 for none.
    static RUNNING: Cell<u64> = const { Cell::new(0) };
}

fn pc_of(context: &libc::ucontext_t) -> usize {
    #[cfg(target_arch = "x86_64")]
    let pc = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    let pc = context.uc_mcontext.pc as usize;
    pc
}

extern "C" fn on_profile(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the test stores an arena that outlives the timer, or null.
    let Some(arena) = (unsafe { ASKED.load(Ordering::Acquire).as_ref() }) else { return };
    // SAFETY: SA_SIGINFO hands the interrupted context over.
    let pc = pc_of(unsafe { &*context.cast::<libc::ucontext_t>() });
    if arena.contains(pc) {
        INSIDE.fetch_add(1, Ordering::Relaxed);
        let wrong = match arena.lookup(pc) {
            None => 1,
            Some(found) if found.entry() as u64 != RUNNING.get() => 2,
            Some(found) if !is_whole(&found) => 3,
            Some(_) => 0,
        };
        WRONG.fetch_max(wrong, Ordering::Relaxed);
    } else {
        OUTSIDE.fetch_add(1, Ordering::Relaxed);
    }
    let stray = arena.lookup(STRAY.load(Ordering::Relaxed));
    if stray.is_some_and(|found| !is_whole(&found)) {
        WRONG.fetch_max(3, Ordering::Relaxed);
    }
}

/// Has SIGPROF come for every `interval` of processor time, or no more.
fn set_timer(interval: Duration) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval.as_micros() as libc::suseconds_t };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: both are local and valid; a null old value is allowed.
    let set = unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) };
    assert_eq!(set, 0, "setitimer: {}", std::io::Error::last_os_error());
}

fn handle_profile_signals() {
    // SAFETY: all zeros is a value of the type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_profile as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the action is valid, and its handler async-signal-safe.
    let set = unsafe { libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) };
    assert_eq!(set, 0, "sigaction: {}", std::io::Error::last_os_error());
}

/// Threads install, run, and drop code on shared pages, profiled all the while:
/// by lookups as they are, and by such as announce themselves at once, as they
/// do after lots have passed in several looks.
#[test]
fn l1_a_profiler_finds_the_code_that_runs() {
    handle_profile_signals();
    each_strategy_with(|builder| builder, profile);
    each_strategy_with(|builder| builder.lookup_looks(0), profile);
}

fn profile(arena: Arena) {
    const THREADS: usize = 3;
    const ENOUGH: usize = 60;
    let before = INSIDE.load(Ordering::Relaxed);
    let enough = || INSIDE.load(Ordering::Relaxed) - before >= ENOUGH;
    let stop = AtomicBool::new(false);
    let looked = AtomicU64::new(0);
    let deadline = Instant::now() + Duration::from_secs(60);
    ASKED.store(std::ptr::from_ref(&arena).cast_mut(), Ordering::Release);
    set_timer(Duration::from_millis(1));
    thread::scope(|threads| {
        // Also where an assertion fails: the threads would go on for ever.
        let stopping = Stop(&stop);
        for seed in 0..THREADS as u64 {
            let (arena, stop) = (&arena, &stop);
            threads.spawn(move || churn(arena, seed, stop));
        }
        // Looks at what nothing protects. Now and then it does not: one that loses
        // the processor while it has announced itself holds up all recycling, and
        // with little else to do it would be there each time.
        let (arena, stop, looked) = (&arena, &stop, &looked);
        threads.spawn(move || {
            let mut random = Random::new(77);
            for round in 1_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if round.is_multiple_of(64) {
                    thread::sleep(Duration::from_micros(100));
                }
                let stray = STRAY.load(Ordering::Relaxed);
                let found = arena.lookup(stray + random.below(512));
                assert!(found.as_ref().is_none_or(is_whole), "{found:x?}");
                looked.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
            }
        });
        while !enough() && Instant::now() < deadline && !threads_failed() {
            thread::sleep(Duration::from_millis(5));
        }
        drop(stopping);
    });
    set_timer(Duration::ZERO);
    ASKED.store(std::ptr::null_mut(), Ordering::Release);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0, "1: not found, 2: another's, 3: torn");
    assert!(INSIDE.load(Ordering::Relaxed) > before, "no signal came while code ran");
    assert!(looked.load(Ordering::Relaxed) > 0, "no stray lookup found anything");
    assert!(arena.stats().recycles > 0, "nothing was recycled meanwhile");
    arena.attach().unwrap().collect();
    arena.verify().unwrap();
}

fn threads_failed() -> bool {
    WRONG.load(Ordering::Relaxed) != 0
}

/// Has the threads end when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Installs, runs and drops functions that count down, of many sizes.
fn churn(arena: &Arena, seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    let mut handle = arena.attach().unwrap();
    let mut mine: Vec<Executor> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let layout = CodeLayout::new(64 + random.below(2000)).data(8 * random.below(40), 8);
        mine.push(match try_place(&mut handle, &code::count_down(), layout) {
            // Another thread is pinned and has not run for long. The arena waits
            // for such a one, and is right to say at last what it waits for.
            Err(ReserveError::Exhausted { .. }) => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            placed => placed.unwrap(),
        });
        let ran = &mine[random.below(mine.len())];
        let guard = handle.pin();
        // SAFETY: the code is such a function, called under its guard.
        let function: extern "C" fn(u32) = unsafe { ran.entry(&guard).cast() };
        RUNNING.set(ran.addr() as u64);
        function(60_000);
        RUNNING.set(0);
        drop(guard);
        while mine.len() > 24 {
            let gone = mine.swap_remove(random.below(mine.len()));
            STRAY.store(gone.addr() + 16 * random.below(4), Ordering::Relaxed);
        }
    }
}
