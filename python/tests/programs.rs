//! Every bundled program prints the same whoever runs it: the interpreter,
//! machine code, machine code whose guards fail at random, and `python3`.

use std::process::Command;

use jit_arena::Arena;
use jit_arena_python::programs::{BUNDLED, Bundled};
use jit_arena_python::{Options, Program, Runtime, THREAD_STACK};

fn run(bundled: &Bundled, options: Options) -> (String, Runtime) {
    // Recursion needs more stack than test threads have.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(THREAD_STACK)
            .spawn_scoped(scope, || run_here(bundled, options))
            .expect("a thread")
            .join()
            .expect("no panic")
    })
}

fn run_here(bundled: &Bundled, options: Options) -> (String, Runtime) {
    let program = Program::parse(bundled.name, bundled.text).expect("in the subset");
    let runtime = Runtime::new(Arena::builder(), options).expect("an arena");
    let world = runtime.world(&program);
    let mut thread = runtime.attach().expect("a thread");
    thread.start(&world).expect(bundled.name);
    (world.take_output(), runtime)
}

/// Nothing is left once the program is gone.
fn settles(runtime: &Runtime) {
    let mut handle = runtime.arena().attach().expect("a thread");
    for _ in 0..100 {
        handle.collect();
        if runtime.arena().stats().retired_executors == 0 {
            break;
        }
    }
    drop(handle);
    let stats = runtime.arena().stats();
    assert_eq!((stats.live_bytes, stats.retired_bytes), (0, 0), "{stats:?}");
    runtime.arena().verify().expect("consistent");
}

#[test]
fn machine_code_prints_what_the_interpreter_prints() {
    let interpreted = Options { machine_code: false, ..Options::default() };
    let eager = Options { warm_calls: 2, warm_loops: 5, warm_exits: 3, ..Options::default() };
    let forced = Options { force_exits: Some(50), ..eager };
    for bundled in &BUNDLED {
        let (expected, runtime) = run(bundled, interpreted);
        assert_eq!(runtime.done().compiled, 0);
        for options in [Options::default(), eager, forced] {
            let (got, runtime) = run(bundled, options);
            assert_eq!(got, expected, "{} with {options:?}", bundled.name);
            settles(&runtime);
            if cfg!(target_arch = "x86_64") {
                assert!(runtime.done().compiled > 0, "{}", bundled.name);
            }
        }
    }
}

#[test]
fn python_prints_the_same() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("not run: python_prints_the_same: there is no python3");
        return;
    }
    for bundled in &BUNDLED {
        let python = Command::new("python3").args(["-c", bundled.text]).output().expect("starts");
        assert!(python.status.success(), "{}: {python:?}", bundled.name);
        let expected = String::from_utf8(python.stdout).expect("UTF-8");
        assert_eq!(run(bundled, Options::default()).0, expected, "{}", bundled.name);
    }
}
