//! Signals of the calling thread, held back.

use core::mem::MaybeUninit;
use core::ptr;

/// Those that the thread itself causes, and that held back would end the process.
const ITS_OWN: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];

/// Signals that come meanwhile are handled when this is dropped. Stays on its thread,
/// and on its likeness in a forked child. System calls.
pub(crate) struct SignalsHeldBack(libc::sigset_t);

impl SignalsHeldBack {
    pub(crate) fn new() -> Self {
        let mut all = empty();
        // SAFETY: fills a set.
        unsafe { libc::sigfillset(&raw mut all) };
        for signal in ITS_OWN {
            // SAFETY: a set, and the number of a signal.
            unsafe { libc::sigdelset(&raw mut all, signal) };
        }
        let mut before = empty();
        // SAFETY: a set, and a place for one.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before) };
        Self(before)
    }
}

fn empty() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: a place for a set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the call has just made it one.
    unsafe { set.assume_init() }
}

impl Drop for SignalsHeldBack {
    fn drop(&mut self) {
        // SAFETY: the set that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
