//! When code comes and when it goes.
#![cfg(target_arch = "x86_64")]

use jit_arena::{Arena, Builder};
use jit_arena_python::programs::BUNDLED;
use jit_arena_python::{Options, Program, Runtime, World};

const EAGER: Options = Options {
    machine_code: true,
    warm_calls: 2,
    warm_loops: 5,
    warm_exits: 3,
    force_exits: None,
    live_goal: None,
};

fn world(builder: Builder, options: Options, text: &str) -> (Runtime, World) {
    let program = Program::parse("test.py", text).expect("in the subset");
    let runtime = Runtime::new(builder, options).expect("an arena");
    let world = runtime.world(&program);
    runtime.attach().expect("a thread").start(&world).expect("starts");
    (runtime, world)
}

const USES_GLOBAL: &str = "\
K = 3
def helper(x):
    return x + K
def run(n):
    s = 0
    for i in range(n):
        s += helper(i) * K
    return s
";

#[test]
fn a_changed_global_drops_the_code_that_knew_it() {
    let (runtime, world) = world(Arena::builder(), EAGER, USES_GLOBAL);
    let mut thread = runtime.attach().expect("a thread");
    let sum = |n: i64| (0..n).map(|i| (i + 3) * 3).sum::<i64>().to_string();
    for n in 0..100 {
        assert_eq!(thread.call(&world, "run", n), Ok(sum(n)));
    }
    let before = runtime.arena().stats();
    assert!(before.live_executors >= 2, "{before:?}");
    assert!(world.rebind("K").expect("a global") >= 2);
    assert_eq!(runtime.arena().stats().live_executors, 0);
    // It is made anew, and knows the new version.
    for n in 0..100 {
        assert_eq!(thread.call(&world, "run", n), Ok(sum(n)));
    }
    assert!(runtime.arena().stats().live_executors >= 2);
    assert_eq!(world.rebind("no such name"), None);
}

#[test]
fn side_traces_die_with_their_parent() {
    let text = "\
K = 1
def run(n):
    if n < 0:
        s = 0
        for i in range(10):
            s += i
        return s
    return n + K
def poly(n):
    a = half(n)
    return a + half(n * 0.5)
def half(x):
    return x / 2 + K
";
    let (runtime, world) = world(Arena::builder(), EAGER, text);
    let mut thread = runtime.attach().expect("a thread");
    for n in 0..60 {
        let half = f64::from(n as i32);
        let expected = format!("{:?}", half / 2.0 + 1.0 + (half * 0.5 / 2.0 + 1.0));
        assert_eq!(thread.call(&world, "poly", n), Ok(expected));
    }
    assert!(runtime.done().sides > 0, "{:?}", runtime.done());
    assert!(runtime.arena().stats().live_executors > 0);
    let _ = world.rebind("K");
    let _ = world.rebind("half");
    assert_eq!(runtime.arena().stats().live_executors, 0);
    // A dead parent gets no new ones.
    runtime.arena().collect().expect("a thread");
    runtime.arena().verify().expect("consistent");
}

#[test]
fn cold_code_goes_when_memory_is_short() {
    let budget = 128 << 10;
    let runtime = Runtime::new(Arena::builder().code_budget(budget), EAGER).expect("an arena");
    let mut thread = runtime.attach().expect("a thread");
    let mut worlds = Vec::new();
    for round in 0..3 {
        for bundled in BUNDLED.iter().filter(|bundled| bundled.numeric) {
            let program = Program::parse(bundled.name, bundled.text).expect("in the subset");
            let world = runtime.world(&program);
            thread.start(&world).expect("starts");
            let stats = runtime.arena().stats();
            assert!(stats.committed_bytes <= budget as u64, "{stats:?}, round {round}");
            worlds.push(world);
        }
    }
    assert!(runtime.done().evicted > 0, "{:?}", runtime.done());
    drop(thread);
    runtime.arena().verify().expect("consistent");
}

#[test]
fn all_threads_run_the_same_code() {
    let (runtime, world) = world(Arena::builder(), EAGER, USES_GLOBAL);
    let mut thread = runtime.attach().expect("a thread");
    for n in 0..100 {
        thread.call(&world, "run", n).expect("runs");
    }
    let compiled = runtime.done().compiled;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut other = runtime.attach().expect("a thread");
                for n in 0..100 {
                    other.call(&world, "run", n).expect("runs");
                }
            });
        }
    });
    assert_eq!(runtime.done().compiled, compiled);
    let entered = runtime.threads().iter().filter(|thread| thread.entries > 50).count();
    assert_eq!(entered, 4, "{:?}", runtime.threads());
}
