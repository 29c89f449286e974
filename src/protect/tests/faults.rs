//! What must kill: each forbidden access in a process of its own, which dies
//! with the signal and si_code it should (sigaction(2), siginfo_t).
//!
//! The test binary runs itself again with the case in the environment. The
//! child's handler turns signal, si_code and address into an exit status.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Names the case to a child: `strategy/memory/deed`.
const CASE: &str = "JIT_ARENA_TEST_FAULT";

/// How a child ended, as its exit status.
const SURVIVED: i32 = 20;
const WRONG_ADDRESS: i32 = 21;
const TRAPPED: i32 = 22;
/// Plus the si_code of a SIGSEGV at the expected address.
const FAULTED: i32 = 30;

/// si_code values of SIGSEGV, <asm-generic/siginfo.h>.
const NOT_MAPPED: i32 = FAULTED + 1;
const NO_RIGHT: i32 = FAULTED + 2;
const KEY_CLOSED: i32 = FAULTED + 4;

/// What a child does that it must not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    WriteExecutable,
    WriteClosedWindow,
    ReadClosedWindow,
    RunWritable,
    RunTraps,
}

const DEEDS: [Deed; 5] = [
    Deed::WriteExecutable,
    Deed::WriteClosedWindow,
    Deed::ReadClosedWindow,
    Deed::RunWritable,
    Deed::RunTraps,
];

/// What must come of it.
const fn fate(strategy: Strategy, deed: Deed) -> i32 {
    use Strategy::{DualOpen, DualPkey, DualTransient, MapJit, Mprotect, SinglePkey};
    match (deed, strategy) {
        (Deed::RunTraps, _) => TRAPPED,
        (_, MapJit) => SURVIVED,
        // One view: the closed window is the executable view.
        (Deed::WriteExecutable | Deed::WriteClosedWindow, SinglePkey) => KEY_CLOSED,
        (Deed::WriteExecutable, _) | (Deed::WriteClosedWindow, Mprotect) => NO_RIGHT,
        (Deed::WriteClosedWindow | Deed::ReadClosedWindow, DualPkey) => KEY_CLOSED,
        (Deed::WriteClosedWindow | Deed::ReadClosedWindow, DualTransient) => NOT_MAPPED,
        (Deed::ReadClosedWindow, Mprotect | SinglePkey) => SURVIVED,
        // The weaknesses these two are kept out of the defaults for.
        (Deed::WriteClosedWindow | Deed::ReadClosedWindow, DualOpen) => SURVIVED,
        (Deed::RunWritable, SinglePkey) => SURVIVED,
        (Deed::RunWritable, DualPkey | DualTransient | DualOpen | Mprotect) => NO_RIGHT,
    }
}

/// Where the child's fault is expected.
static EXPECTED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn report(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: these signals carry an address, or leave the field 0.
    let addr = unsafe { info.si_addr() } as usize;
    let status = match signal {
        libc::SIGTRAP => TRAPPED,
        libc::SIGSEGV if addr == EXPECTED.load(Ordering::Relaxed) => FAULTED + info.si_code,
        _ => WRONG_ADDRESS,
    };
    // SAFETY: _exit(2) is async-signal-safe.
    unsafe { libc::_exit(status) };
}

fn catch(signal: i32) {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = report as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: installs a handler that only exits.
    let status = unsafe { libc::sigaction(signal, &raw const action, core::ptr::null_mut()) };
    assert_eq!(status, 0);
}

/// The child: does the deed and reports how it went.
fn do_deed(case: &str) -> ! {
    let mut parts = case.split('/');
    let strategy: Strategy = parts.next().unwrap().parse().unwrap();
    let memory = parts.next().unwrap();
    let (_, memory) = RUNGS.into_iter().find(|(_, known)| known.name() == memory).unwrap();
    let deed = parts.next().unwrap();
    let deed = DEEDS.into_iter().find(|known| format!("{known:?}") == deed).unwrap();

    let region = rung(strategy, memory).unwrap();
    populate(&region, page(&region, 0));
    let entry = write(&region, 0, &returning(1));
    let span = Span::new(entry, GRANULE);
    let closed = in_window(&region, span, |window| window.writable_at(entry));
    assert_eq!(call(entry), 1);
    for signal in [libc::SIGSEGV, libc::SIGTRAP, libc::SIGBUS, libc::SIGILL] {
        catch(signal);
    }
    let expect = |addr| EXPECTED.store(addr, Ordering::Relaxed);
    match deed {
        Deed::WriteExecutable => {
            expect(entry);
            // SAFETY: it is not: the process must die of it here.
            unsafe { region.platform().copy_in(entry, &[0xC3]) };
        }
        Deed::WriteClosedWindow => {
            expect(closed);
            // SAFETY: it is not: the process must die of it here.
            unsafe { region.platform().copy_in(closed, &[0xC3]) };
        }
        Deed::ReadClosedWindow => {
            expect(closed);
            // SAFETY: it is not: the process must die of it here.
            unsafe { region.platform().load_word(closed) };
        }
        Deed::RunWritable => in_window(&region, span, |window| {
            let writable = window.writable_at(entry);
            expect(writable);
            call(writable);
        }),
        Deed::RunTraps => {
            let traps = [crate::arch::TRAP; GRANULE / 4].concat();
            call(write(&region, 0, &traps));
        }
    }
    // SAFETY: ends the child without running the parent's test runner.
    unsafe { libc::_exit(SURVIVED) }
}

#[test]
fn w1_forbidden_accesses_die_as_they_should() {
    const TEST: &str = "protect::tests::faults::w1_forbidden_accesses_die_as_they_should";
    if let Ok(case) = std::env::var(CASE) {
        do_deed(&case);
    }
    let _keys = hold_keys();
    for (strategy, memory) in RUNGS {
        if rung_for("w1_forbidden_accesses_die_as_they_should", strategy, memory).is_none() {
            continue;
        }
        for deed in DEEDS {
            let case = format!("{strategy}/{memory}/{deed:?}");
            let child = rerun(TEST, CASE, &case);
            assert_eq!(
                child.status.code(),
                Some(fate(strategy, deed)),
                "{case}: {}, {}{}",
                child.status,
                String::from_utf8_lossy(&child.stdout),
                String::from_utf8_lossy(&child.stderr),
            );
        }
    }
}
