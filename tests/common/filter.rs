//! System-call filters (seccomp(2)), for tests of what happens when the system
//! refuses, and of what makes no system call at all.
//!
//! A filter cannot be lifted again: for child processes only. It binds the
//! calling thread and the threads it starts.

use std::io;

/// A system call to refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    number: libc::c_long,
    /// Bits of the third argument of which one must be set; 0 for any call.
    third: u32,
}

/// All calls of `number`.
pub(crate) fn any(number: libc::c_long) -> Refused {
    Refused { number, third: 0 }
}

/// Calls of `number` whose third argument has one of `bits`.
pub(crate) fn with_third(number: libc::c_long, bits: i32) -> Refused {
    Refused { number, third: bits as u32 }
}

/// Offset of the system call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the low half of its third argument.
const THIRD: u32 = 32;

/// Has the kernel answer these calls with `errno`.
pub(crate) fn refuse(calls: &[Refused], errno: i32) {
    let mut program = Vec::new();
    for call in calls {
        program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER));
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        // What follows for this call, in instructions.
        let rest = if call.third == 0 { 1 } else { 3 };
        program.push(branch(equal, call.number as u32, 0, rest));
        if call.third != 0 {
            program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, THIRD));
            program.push(branch(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, call.third, 0, 1));
        }
        program.push(verdict(libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    program.push(verdict(libc::SECCOMP_RET_ALLOW));
    install(program);
}

/// Has the kernel end the process, by SIGSYS, at the calling thread's next
/// system call of any kind.
pub(crate) fn forbid_all() {
    install(vec![verdict(libc::SECCOMP_RET_TRAP)]);
}

fn verdict(value: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, value)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    branch(code, k, 0, 0)
}

fn branch(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn install(mut program: Vec<libc::sock_filter>) {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: prctl(2) with numbers only.
    let status = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(status, 0, "PR_SET_NO_NEW_PRIVS: {}", io::Error::last_os_error());
    // SAFETY: the program is complete and outlives the call.
    let status =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(status, 0, "PR_SET_SECCOMP: {}", io::Error::last_os_error());
}
