//! Counts the system calls of a piece of work, all of them, by tracing a child
//! that does it (ptrace(2)).

use std::io;

/// Marks the beginning and the end of what is counted: a call that nothing
/// else here makes.
fn mark() {
    // SAFETY: getppid(2) takes nothing.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// Runs `prepare`, then `work` on what that made, in a child, and returns the
/// number of system calls `work` made.
///
/// # Errors
///
/// The system does not let processes be traced, or the child failed.
pub(crate) fn count<T>(prepare: impl FnOnce() -> T, work: impl FnOnce(T)) -> io::Result<u64> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process of several threads cannot be forked safely"));
    }
    // SAFETY: the process has one thread, so nothing is locked or half done in
    // the child.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let prepared = prepare();
            let nothing = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: takes nothing; makes the parent the tracer.
            unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) };
            // SAFETY: stops here until the tracer is ready.
            unsafe { libc::raise(libc::SIGSTOP) };
            mark();
            work(prepared);
        }));
        mark();
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    check(child.into())?;
    follow(child)
}

/// Follows a child from stop to stop.
fn follow(child: libc::pid_t) -> io::Result<u64> {
    let (mut marks, mut calls) = (0, 0);
    let mut begun = false;
    loop {
        let mut status = 0;
        // SAFETY: writes the status of a child of ours.
        check(unsafe { libc::waitpid(child, &raw mut status, 0) }.into())?;
        if !libc::WIFSTOPPED(status) {
            let failed = !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0;
            return if failed || marks != 2 {
                Err(io::Error::other("the traced child failed"))
            } else {
                Ok(calls)
            };
        }
        let signal = libc::WSTOPSIG(status);
        let mut pass_on = 0;
        if !begun {
            begun = true;
            let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
            // SAFETY: sets options of a stopped child of ours.
            check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) })?;
        } else if signal == libc::SIGTRAP | 0x80 {
            match entered(child)? {
                Some(number) if number == libc::SYS_getppid as u64 => marks += 1,
                Some(_) if marks == 1 => calls += 1,
                _ => {}
            }
        } else {
            pass_on = signal;
        }
        // SAFETY: lets a stopped child of ours run to its next system call.
        check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child, 0, pass_on) })?;
    }
}

/// The number of the call that a stopped child is about to make; `None` where
/// it comes back from one.
fn entered(child: libc::pid_t) -> io::Result<Option<u64>> {
    // SAFETY: all zeros are a value of the structure.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: writes at most `size` bytes of it.
    check(unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, child, size, &raw mut info) })?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says which part of the union was written.
    Ok(Some(unsafe { info.u.entry.nr }))
}

fn check(status: libc::c_long) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
