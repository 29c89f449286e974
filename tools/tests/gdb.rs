//! Real gdb: names in a backtrace through JIT frames.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::{
    calls, calls_without_frame, frame_of_calls_without, function, has, install, is_child, no_frame,
    not_run, said, under,
};
use jit_arena::Arena;
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

fn backtrace_of(child: &str) -> Option<String> {
    if !has("gdb") {
        return None;
    }
    let commands = [
        "-nx",
        "-q",
        "-batch",
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        "set startup-with-shell off",
        "-ex",
        "handle SIGTRAP stop print nopass",
        "-ex",
        "run",
        "-ex",
        "bt 12",
        "-ex",
        "info functions ^py::",
        "-ex",
        "kill",
        "--args",
    ];
    let output = under("gdb", &commands, child).output().unwrap();
    let said = said(&output);
    if said.contains("ptrace: Operation not permitted") || said.contains("Couldn't get CS") {
        not_run("gdb", "this machine lets no process be debugged");
        return None;
    }
    Some(said)
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
    assert!(chunks.len() < 10, "250 KB in {} files", chunks.len());
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
