//! A thread asleep in a call that its machine code made holds nobody up.
#![cfg(target_arch = "x86_64")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::Arena;
use jit_arena_python::{Options, Program, Runtime};

const SLEEPER: &str = "\
import time
import threading
lock = threading.Lock()
K = 1
def nap(n):
    s = 0
    for i in range(n):
        s += i * K
        if i == n - 1:
            time.sleep(10.0)
    return s
def wait_for_lock(n):
    s = 0
    for i in range(n):
        s += i * K
        if i == n - 1:
            with lock:
                s += 1
    return s
def hold_lock(n):
    with lock:
        time.sleep(10.0)
    return n
";

const BUSY: &str = "\
K = 1
def run(n):
    s = 0
    for i in range(n):
        s += i * K
    return s
";

/// Drops code all the time until `done`; the most bytes that were seen waiting
/// to be recycled, and how many were dropped.
fn churn(runtime: &Runtime, done: &AtomicBool) -> (u64, u64) {
    let program = Program::parse("busy.py", BUSY).expect("in the subset");
    let mut thread = runtime.attach().expect("a thread");
    let (mut most, mut dropped) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        // A global that changes very often no longer counts as a constant, so
        // each program has its own for some time only.
        let world = runtime.world(&program);
        thread.start(&world).expect("starts");
        for _ in 0..100 {
            assert_eq!(thread.call(&world, "run", 100).as_deref(), Ok("4950"));
            let before = runtime.arena().stats();
            world.rebind("K").expect("a global");
            let after = runtime.arena().stats();
            dropped += before.live_bytes.saturating_sub(after.live_bytes);
            most = most.max(after.retired_bytes);
        }
    }
    (most, dropped)
}

#[test]
fn a_thread_asleep_in_machine_code_leaves_retired_bytes_bounded() {
    let options = Options { warm_calls: 1, warm_loops: 2, ..Options::default() };
    let runtime = Runtime::new(Arena::builder(), options).expect("an arena");
    let program = Program::parse("sleeper.py", SLEEPER).expect("in the subset");
    let world = runtime.world(&program);
    runtime.attach().expect("a thread").start(&world).expect("starts");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = |name: &'static str, delay: u64| {
            let (runtime, world) = (&runtime, &world);
            scope.spawn(move || {
                let mut thread = runtime.attach().expect("a thread");
                thread::sleep(Duration::from_millis(delay));
                let started = Instant::now();
                let result = thread.call(world, name, 500).expect("returns");
                let entries = runtime.threads().iter().map(|t| t.entries).sum::<u64>();
                (result, started.elapsed(), entries)
            })
        };
        // One sleeps, one sleeps and has the lock, one waits for that.
        let asleep = [sleeper("nap", 0), sleeper("hold_lock", 0), sleeper("wait_for_lock", 200)];
        let churning = scope.spawn(|| churn(&runtime, &done));
        let [nap, hold, wait] = asleep.map(|thread| thread.join().expect("no panic"));
        done.store(true, Ordering::Relaxed);
        let (most, dropped) = churning.join().expect("no panic");

        assert_eq!((nap.0.as_str(), hold.0.as_str()), ("124750", "500"));
        assert_eq!(wait.0, "124751");
        assert!(nap.1 >= Duration::from_secs(10) && wait.1 >= Duration::from_secs(9));
        // They were in machine code, and so was who dropped it.
        assert!(nap.2 > 2);
        // Ten seconds' worth of code is far more than what was ever waiting.
        println!("{dropped} bytes of code were dropped, {most} waited at most");
        assert!(most < 256 << 10 && dropped > 4 * most, "{most} of {dropped} bytes waited");
    });
    drop(world);
}
