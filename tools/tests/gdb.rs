//! Real gdb: names in a backtrace through JIT frames.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::{
    calls, calls_without_frame, frame_of_calls_without, function, has, install, install_lines,
    is_child, no_frame, not_run, said, under,
};
use jit_arena::{Arena, Line, STRATEGY_VARIABLE, Strategy};
use jit_arena_tools::Gdb;

/// Stops the process where a debugger sees it, inside three JIT frames.
extern "C" fn stop() -> u32 {
    // SAFETY: raise(3) has no preconditions.
    unsafe { libc::raise(libc::SIGTRAP) };
    0
}

fn three_frames(calls: fn(usize) -> Vec<u8>, unwind: fn(usize) -> Vec<u8>) {
    let gdb = Gdb::new();
    let arena = Arena::builder().tool(gdb.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let stop = stop as extern "C" fn() -> u32 as usize;
    let inner = install(&mut thread, &calls(stop), "py::inner", unwind);
    let middle = install(&mut thread, &calls(inner.addr()), "py::middle", unwind);
    let outer = install(&mut thread, &calls(middle.addr()), "py::outer", unwind);
    // What is gone must not be named any more, nor in the way.
    let gone = install(&mut thread, &calls(stop), "py::gone", unwind);
    drop(gone);
    thread.collect();
    assert_eq!(gdb.files(), 1, "one for all code of a chunk");
    let guard = thread.pin();
    function(&outer)(0);
    drop(guard);
}

/// What gdb says to `commands` once `child` has stopped inside its JIT frames,
/// under this strategy if one is given.
fn gdb_says(child: &str, strategy: Option<Strategy>, commands: &[&str]) -> Option<String> {
    if !has("gdb") {
        return None;
    }
    let before = [
        "set debuginfod enabled off",
        "set startup-with-shell off",
        "set breakpoint pending off",
        "handle SIGTRAP stop print nopass",
        "run",
    ];
    let mut args = vec!["-nx", "-q", "-batch"];
    for command in before.iter().chain(commands).chain(&["kill"]) {
        args.extend(["-ex", command]);
    }
    args.push("--args");
    let mut command = under("gdb", &args, child);
    if let Some(strategy) = strategy {
        command.env(STRATEGY_VARIABLE, strategy.name());
    }
    let output = command.output().unwrap();
    let said = said(&output);
    if said.contains("ptrace: Operation not permitted") || said.contains("Couldn't get CS") {
        not_run("gdb", "this machine lets no process be debugged");
        return None;
    }
    Some(said)
}

fn backtrace_of(child: &str) -> Option<String> {
    gdb_says(child, None, &["bt 12", "info functions ^py::"])
}

fn expect_names(said: &str) {
    let at = |name: &str| {
        said.find(&format!(" in {name} ()")).unwrap_or_else(|| panic!("no {name} in {said}"))
    };
    assert!(at("py::inner") < at("py::middle") && at("py::middle") < at("py::outer"), "{said}");
    assert!(said.matches("py::middle").count() >= 2, "the symbols were not listed: {said}");
    assert!(!said.contains("py::gone"), "{said}");
    assert!(said.contains("three_frames"), "the backtrace ends in the JIT frames: {said}");
}

#[test]
fn n1_gdb_names_jit_frames() {
    if is_child("n1_gdb_names_jit_frames") {
        return three_frames(calls, no_frame);
    }
    if let Some(said) = backtrace_of("n1_gdb_names_jit_frames") {
        expect_names(&said);
    }
}

#[test]
fn n1_gdb_unwinds_by_the_clients_information() {
    if is_child("n1_gdb_unwinds_by_the_clients_information") {
        return three_frames(calls_without_frame, frame_of_calls_without);
    }
    if let Some(said) = backtrace_of("n1_gdb_unwinds_by_the_clients_information") {
        expect_names(&said);
    }
}

/// Two functions of one file, the inner one with lines of another inlined.
fn frames_with_lines() {
    let gdb = Gdb::new();
    let arena = Arena::builder().tool(gdb.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let line = |offset, file, line| Line { offset, file, line };
    let stop = stop as extern "C" fn() -> u32 as usize;
    // The call ends at 16; what comes behind it is on a line of its own.
    let lines = [line(0, "fib.py", 11), line(4, "/lib/math.py", 300), line(16, "fib.py", 12)];
    let inner = install_lines(&mut thread, &calls(stop), "py::inner", &lines, no_frame);
    // Out of order, and one that is not in the code.
    let lines = [line(16, "fib.py", 23), line(4, "fib.py", 22), line(500, "fib.py", 99)];
    let outer = install_lines(&mut thread, &calls(inner.addr()), "py::outer", &lines, no_frame);
    let gone = install_lines(&mut thread, &calls(stop), "py::gone", &lines, no_frame);
    drop(gone);
    thread.collect();
    let guard = thread.pin();
    function(&outer)(0);
    drop(guard);
}

#[test]
fn gdb_knows_the_lines_of_jit_code() {
    const NAME: &str = "gdb_knows_the_lines_of_jit_code";
    if is_child(NAME) {
        return frames_with_lines();
    }
    let commands = [
        "bt 12",
        "info line fib.py:22",
        "info line fib.py:99",
        "hbreak fib.py:12",
        "hbreak fib.py:23",
        "continue",
        "continue",
    ];
    let Some(said) = gdb_says(NAME, None, &commands) else { return };
    let expect = |all: &[&str]| {
        for expected in all {
            assert!(said.contains(expected), "no {expected:?} in {said}");
        }
    };
    expect(&[
        " in py::inner () at /lib/math.py:300",
        " in py::outer () at fib.py:22",
        "Line 22 of \"fib.py\" starts at address",
        "<py::outer+4> and ends at",
    ]);
    assert!(!said.contains("<py::gone"), "{said}");
    assert!(!said.contains("Line 99 of \"fib.py\" starts at address"), "{said}");
    // Where the breakpoints stop it, on the way back.
    let refused = "hardware breakpoint";
    if let Some(line) = said.lines().find(|line| line.contains("not") && line.contains(refused)) {
        return not_run("hardware breakpoints", line);
    }
    expect(&["py::inner () at fib.py:12", "py::outer () at fib.py:23"]);
}

#[test]
fn gdb_stops_at_lines_of_private_memory_without_hardware() {
    const NAME: &str = "gdb_stops_at_lines_of_private_memory_without_hardware";
    if is_child(NAME) {
        return frames_with_lines();
    }
    let commands = ["break fib.py:12", "continue"];
    let Some(said) = gdb_says(NAME, Some(Strategy::Mprotect), &commands) else { return };
    assert!(said.contains("py::inner () at fib.py:12"), "{said}");
}

#[test]
fn chunks_are_registered_once_each_and_batches_wait() {
    let gdb = Gdb::batched(100);
    let arena = Arena::builder().tool(gdb.clone()).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let mut all: Vec<_> =
        (0..250).map(|n| install(&mut thread, &[0xC3; 1000], &format!("f{n}"), no_frame)).collect();
    let chunks: std::collections::BTreeSet<_> = all.iter().map(|it| it.addr() >> 16).collect();
    gdb.flush();
    assert_eq!(gdb.files(), chunks.len());
    assert!(chunks.len() < 25, "{} files for 250 pieces of code", chunks.len());
    all.clear();
    thread.collect();
    gdb.flush();
    assert_eq!(gdb.files(), 0, "recycled code is registered");
    let last = install(&mut thread, &[0xC3], "last", no_frame);
    gdb.flush();
    assert_eq!(gdb.files(), 1);
    drop((last, thread, arena));
    assert_eq!(gdb.files(), 0, "code of an arena that is gone is registered");
}
