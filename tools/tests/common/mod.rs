//! What the tests share: machine code with frames, and programs that test by
//! running this one again.

#![allow(dead_code, reason = "each test crate uses a part")]

use std::path::Path;
use std::process::{Command, Output};

use jit_arena::{CodeLayout, Executor, Line, Symbol, ThreadHandle};

/// Says which part of this program runs in a child process.
pub(crate) const CHILD: &str = "JIT_ARENA_TOOLS_CHILD";

/// A function that calls the function at `target` and returns what that does.
#[cfg(target_arch = "x86_64")]
pub(crate) fn calls(target: usize) -> Vec<u8> {
    // push rbp; mov rbp, rsp; mov rax, target; call rax; pop rbp; ret
    [&[0x55, 0x48, 0x89, 0xE5, 0x48, 0xB8][..], &target.to_le_bytes(), &[0xFF, 0xD0, 0x5D, 0xC3]]
        .concat()
}

/// As [`calls`], without a frame pointer: nobody guesses how to unwind it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn calls_without_frame(target: usize) -> Vec<u8> {
    // sub rsp, 56; mov rax, target; call rax; add rsp, 56; ret
    [
        &[0x48, 0x83, 0xEC, 56, 0x48, 0xB8][..],
        &target.to_le_bytes(),
        &[0xFF, 0xD0, 0x48, 0x83, 0xC4, 56, 0xC3],
    ]
    .concat()
}

/// A function `f(n: u32)` that counts down from `n`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn counts_down() -> Vec<u8> {
    // dec edi; jnz -4; ret
    vec![0xFF, 0xCF, 0x75, 0xFC, 0xC3]
}

/// CIE and FDE of [`calls`] at `entry`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn frame_of_calls(entry: usize) -> Vec<u8> {
    // After push rbp (offset 1): rsp + 16, rbp saved at -16. After mov (offset
    // 4): rbp + 16. Before ret (one behind the pop): rsp + 8.
    let end = calls(0).len();
    let moves = [0x41, 0x0E, 16, 0x86, 2, 0x43, 0x0D, 6, 0x40 + (end as u8 - 5), 0x0C, 7, 8];
    frame(entry, end, &moves)
}

/// CIE and FDE of [`calls_without_frame`] at `entry`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn frame_of_calls_without(entry: usize) -> Vec<u8> {
    // After sub (offset 4): rsp + 64. Before ret: rsp + 8.
    let end = calls_without_frame(0).len();
    frame(entry, end, &[0x44, 0x0E, 64, 0x40 + (end as u8 - 5), 0x0E, 8])
}

/// CIE and FDE of code of `end` bytes at `entry`, with these instructions.
#[cfg(target_arch = "x86_64")]
fn frame(entry: usize, end: usize, moves: &[u8]) -> Vec<u8> {
    // Version 1, augmentation "zR" with absolute addresses; code and data
    // alignment 1 and -8; the return address is register 16. At the entry the
    // frame is at rsp + 8, and the return address is on top.
    let cie = [1, b'z', b'R', 0, 1, 0x78, 16, 1, 0, 0x0C, 7, 8, 0x90, 1];
    let mut frame = Vec::new();
    let cie_len = (4 + cie.len()).next_multiple_of(8) + 4;
    frame.extend((cie_len as u32).to_le_bytes());
    frame.extend(0_u32.to_le_bytes());
    frame.extend(cie);
    frame.resize(4 + cie_len, 0);
    let mut fde = Vec::new();
    fde.extend((frame.len() as u32 + 4).to_le_bytes());
    fde.extend(entry.to_le_bytes());
    fde.extend(end.to_le_bytes());
    fde.push(0);
    fde.extend_from_slice(moves);
    fde.resize(fde.len().next_multiple_of(8) + 4, 0);
    frame.extend((fde.len() as u32).to_le_bytes());
    frame.extend(fde);
    frame
}

/// Installs code under a name, with its unwind information.
pub(crate) fn install(
    thread: &mut ThreadHandle,
    code: &[u8],
    name: &str,
    unwind: fn(usize) -> Vec<u8>,
) -> Executor {
    install_lines(thread, code, name, &[], unwind)
}

/// Installs code under a name, with its lines and unwind information.
pub(crate) fn install_lines(
    thread: &mut ThreadHandle,
    code: &[u8],
    name: &str,
    lines: &[Line<'_>],
    unwind: fn(usize) -> Vec<u8>,
) -> Executor {
    let mut place = thread.reserve(CodeLayout::new(code.len())).unwrap();
    thread.write().write_at(&mut place, 0, code).unwrap();
    let frame = unwind(place.entry());
    // SAFETY: the tests give code with its own unwind information, or none.
    let symbol = unsafe { Symbol::new(name).lines(lines).eh_frame(&frame) };
    thread.publish_named(place, &symbol).unwrap()
}

/// No unwind information.
pub(crate) fn no_frame(_: usize) -> Vec<u8> {
    Vec::new()
}

/// The function at `entry` of an executor that the caller keeps.
pub(crate) fn function(executor: &Executor) -> extern "C-unwind" fn(u32) -> u32 {
    let code = std::ptr::with_exposed_provenance::<()>(executor.addr());
    // SAFETY: the tests install such functions, and keep them while they call.
    unsafe { std::mem::transmute(code) }
}

/// A command that runs test `name` of this program as a child, under `program`
/// with `args` in front.
pub(crate) fn under(program: &str, args: &[&str], name: &str) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(CHILD, name).env("DEBUGINFOD_URLS", "");
    command
}

/// Whether this process is the child that runs test `name`.
pub(crate) fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// Whether `program` is installed; says so if not.
///
/// # Panics
///
/// If it is missing and `JIT_ARENA_REQUIRE` lists it.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success());
    if !found {
        not_run(program, "it is not installed");
    }
    found
}

/// Says that a test did not run for want of `capability`.
///
/// # Panics
///
/// If `JIT_ARENA_REQUIRE` lists it.
pub(crate) fn not_run(capability: &str, why: &str) {
    let required = std::env::var("JIT_ARENA_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|item| item == capability);
    assert!(!required, "{capability} is required: {why}");
    let thread = std::thread::current();
    println!("not run: {}: {capability}: {why}", thread.name().unwrap_or("test"));
}

/// Everything a program said.
pub(crate) fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// The text of a file.
pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
