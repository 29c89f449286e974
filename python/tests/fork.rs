//! A forked child goes on running programs, whatever other threads were doing.
#![cfg(target_arch = "x86_64")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jit_arena::Arena;
use jit_arena_python::{Options, Program, Runtime, Thread, World};

/// Longest that a child may take, in seconds: one that hangs is ended.
const LIMIT: libc::c_uint = 120;

const CHILDREN: i64 = 10;

const TEXT: &str = "\
import threading
K = 3
def step(s, i):
    if i % 3 == 0:
        s += K
    return s + i
def work(out, n):
    s = 0
    for i in range(n):
        s = step(s, i)
    out[0] = s
def run(n):
    out = [0]
    work(out, n)
    return out[0]
def spread(n):
    out = [0]
    t = threading.Thread(target=work, args=(out, n))
    t.start()
    t.join()
    return out[0]
";

fn expected(n: i64) -> Result<String, String> {
    Ok((0..n).map(|i| if i % 3 == 0 { i + 3 } else { i }).sum::<i64>().to_string())
}

fn check(thread: &mut Thread, world: &World, function: &str, calls: i64) {
    for n in 30..30 + calls {
        assert_eq!(thread.call(world, function, n), expected(n));
    }
}

fn start(runtime: &Runtime, thread: &mut Thread) -> World {
    let program = Program::parse("test.py", TEXT).expect("in the subset");
    let world = runtime.world(&program);
    thread.start(&world).expect("starts");
    world
}

/// What a child does.
fn live(runtime: &Runtime, thread: &mut Thread, own: World) {
    runtime.arena().verify().expect("consistent");
    check(thread, &own, "run", 5);
    drop(own);
    thread.collect();
    let others = runtime.arena().stats().live_executors;
    let world = start(runtime, thread);
    check(thread, &world, "run", 20);
    assert!(runtime.arena().stats().live_executors > others, "it compiles");
    assert!(world.rebind("K").expect("a global") > 0);
    check(thread, &world, "run", 20);
    assert!(runtime.evict() > 0);
    drop(world);
    for _ in 0..100 {
        thread.collect();
    }
    let stats = runtime.arena().stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (others, 0), "{stats:?}");
    runtime.arena().verify().expect("consistent");
}

/// Has other threads stop, also where this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_child_goes_on_while_others_compile_and_evict() {
    let options = Options {
        warm_calls: 2,
        warm_loops: 5,
        warm_exits: 3,
        force_exits: Some(500),
        ..Options::default()
    };
    let runtime = Runtime::new(Arena::builder(), options).expect("an arena");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut thread = runtime.attach().expect("a thread");
                let world = start(&runtime, &mut thread);
                while !stop.load(Ordering::Relaxed) {
                    check(&mut thread, &world, "run", 3);
                    check(&mut thread, &world, "spread", 3);
                    runtime.evict();
                }
            });
        }
        let _stop = Stop(&stop);
        let mut thread = runtime.attach().expect("a thread");
        let outcomes = (0..CHILDREN).map(|_| {
            let own = start(&runtime, &mut thread);
            check(&mut thread, &own, "run", 5);
            // SAFETY: the child does what is tested here, and ends.
            let pid = thread.fork(&own, || unsafe { libc::fork() });
            if pid == 0 {
                // SAFETY: ends the process, unless it ends before.
                unsafe { libc::alarm(LIMIT) };
                let live = || live(&runtime, &mut thread, own);
                let passed = catch_unwind(AssertUnwindSafe(live)).is_ok();
                // SAFETY: ends the process.
                unsafe { libc::_exit(if passed { 0 } else { 101 }) };
            }
            let mut status = 0;
            // SAFETY: waits for the child just forked, and fills a live word.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            (pid > 0 && waited == pid, status)
        });
        let outcomes: Vec<_> = outcomes.collect();
        assert_eq!(outcomes, vec![(true, 0); CHILDREN as usize]);
    });
}
