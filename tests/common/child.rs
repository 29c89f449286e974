//! Tests that need a process of their own: because they die, because they
//! change what a whole process shares, or because they look at all of it.
//!
//! A child is this test binary run again with nothing but the calling test,
//! told by an environment variable that it is a child and which part it plays.
//! Never a bare `fork`: the harness has threads.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use jit_arena::{Arena, Strategy};

use super::arena_of;

/// Set in children, to the part they play.
const PART: &str = "JIT_ARENA_TEST_CHILD";

/// What a child prints before its part begins.
const BEGUN: &str = "child has begun: ";

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// An access that the machine refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) signal: i32,
    /// `si_code`.
    pub(crate) code: i32,
    /// `si_addr`.
    pub(crate) address: usize,
}

/// From <asm-generic/siginfo.h>.
pub(crate) const SEGV_MAPERR: i32 = 1;
pub(crate) const SEGV_ACCERR: i32 = 2;
pub(crate) const SEGV_PKUERR: i32 = 4;

/// The part this process plays, if it is a child.
pub(crate) fn part() -> Option<String> {
    let part = env::var(PART).ok()?;
    println!("\n{BEGUN}{part}");
    Some(part)
}

/// Runs `test`, the path of the calling test within its crate, in a child that
/// plays `part`.
pub(crate) fn run(test: &str, part: &str) -> Ended {
    run_with(test, part, |command| command)
}

/// As [`run`], with changes to the child's environment.
pub(crate) fn run_with(
    test: &str,
    part: &str,
    change: impl FnOnce(&mut Command) -> &mut Command,
) -> Ended {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(PART, part);
    let output = change(&mut command).output().unwrap();
    let ended = Ended {
        status: output.status,
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    let begun = format!("{BEGUN}{part}");
    assert!(ended.output.contains(&begun), "is there a test named {test}? {ended:?}");
    ended
}

impl Ended {
    /// Fails the test unless the child passed.
    pub(crate) fn expect_success(&self) {
        assert!(self.status.success(), "{:?}\n{}\n{}", self.status, self.output, self.errors);
    }

    /// The fault that ended the child.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let line = self.errors.lines().find_map(|line| line.strip_prefix("fault: "))?;
        let mut numbers = line.split(' ');
        let fault = Fault {
            signal: numbers.next()?.parse().ok()?,
            code: numbers.next()?.parse().ok()?,
            address: numbers.next()?.parse().ok()?,
        };
        assert_eq!(self.status.signal(), Some(fault.signal), "{self:?}");
        Some(fault)
    }

    /// Fails the test unless the child died of a SIGSEGV with this `si_code`.
    pub(crate) fn expect_fault(&self, code: i32) {
        let fault = self.fault();
        let seen = fault.map(|fault| (fault.signal, fault.code));
        assert_eq!(seen, Some((libc::SIGSEGV, code)), "{self:?}");
    }

    /// What the child said behind `key: `.
    pub(crate) fn said(&self, key: &str) -> Option<&str> {
        self.output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    }
}

/// Waits for a forked child of this process, which must have passed.
///
/// # Panics
///
/// If it did not: by how it ended, or because it hung until its alarm.
pub(crate) fn expect_passed(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: waits for a child of ours and fills a live word.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    let hung = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGALRM;
    assert!(!hung, "the child hangs");
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
}

/// In a child for each strategy that works here: runs `body`, with faults
/// reported. In the parent: gives what came of it to `check`.
pub(crate) fn each_strategy(
    test: &str,
    body: impl FnOnce(Arena),
    check: impl Fn(Strategy, &Ended),
) {
    each_of(&Strategy::ALL, test, body, check);
}

/// As [`each_strategy`], for some.
pub(crate) fn each_of(
    strategies: &[Strategy],
    test: &str,
    body: impl FnOnce(Arena),
    check: impl Fn(Strategy, &Ended),
) {
    if let Some(part) = part() {
        report_faults();
        let strategy = part.parse().unwrap();
        return body(arena_of(strategy).unwrap());
    }
    for &strategy in strategies {
        if arena_of(strategy).is_some() {
            check(strategy, &run(test, strategy.name()));
        }
    }
}

/// Makes the process say what fault it dies of.
pub(crate) fn report_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS] {
        handle(signal, report, libc::SA_RESETHAND);
    }
}

/// Says what happened; returning repeats it, with the default action.
extern "C" fn report(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo.
    let info = unsafe { &*info };
    let code = info.si_code;
    // SAFETY: signals of faults have an address.
    let address = unsafe { info.si_addr() } as usize;
    let mut line = Line { bytes: [0; 80], len: 0 };
    line.push(b"\nfault: ");
    line.push_number(signal as usize);
    line.push(b" ");
    line.push_number(code as usize);
    line.push(b" ");
    line.push_number(address);
    line.push(b"\n");
    // SAFETY: write(2) may be called in a handler, and the bytes are there.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
}

/// A line of text made without allocating.
struct Line {
    bytes: [u8; 80],
    len: usize,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_number(&mut self, number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }
}

/// Has the kernel read the byte at `addr`, with the calling thread's rights;
/// its errno if it refuses, 0 if not. May be called in a signal handler.
pub(crate) fn errno_of_reading(addr: usize) -> i32 {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
        return -1;
    }
    let from = std::ptr::with_exposed_provenance(addr);
    // SAFETY: the kernel checks the address.
    let written = unsafe { libc::write(pipe[1], from, 1) };
    let error = std::io::Error::last_os_error();
    for descriptor in pipe {
        // SAFETY: opened above.
        unsafe { libc::close(descriptor) };
    }
    if written == 1 { 0 } else { error.raw_os_error().unwrap_or(-1) }
}

/// A handler with the details of its signal.
pub(crate) type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Has `handler` run on `signal`.
pub(crate) fn handle(signal: i32, handler: Handler, flags: i32) {
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | flags;
    // SAFETY: the action is complete, and its handler lives for ever.
    let status = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(status, 0);
}
