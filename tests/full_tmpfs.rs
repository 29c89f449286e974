//! Memory files with no memory left behind them: a tiny tmpfs in a mount namespace
//! of a child's own, on which the arena's files lie. Every store to a page that is
//! not there would be a real SIGBUS.
//!
//! Files of memfd_create(2) lie on a mount of the kernel's, which has no limit of its
//! own to set. So this program has a memfd_create of its own, in place of the C
//! library's.

#![cfg(target_os = "linux")]

mod common;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::io;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

use common::child;
use common::{KIB, MIB, RESERVE, arena_of, call, install, not_run};
use jit_arena::{Arena, ReserveError, Strategy};

/// Where the tmpfs is mounted, in the child's namespace.
const MOUNT: &CStr = c"/mnt";

/// What it holds.
const ROOM: usize = MIB;

/// Whether memory files are to lie there.
static TINY: AtomicBool = AtomicBool::new(false);

/// In place of the C library's.
#[unsafe(no_mangle)]
extern "C" fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    if TINY.load(Ordering::Relaxed) {
        let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: a path that ends in a zero.
        return unsafe { libc::open(MOUNT.as_ptr(), flags, 0o600) };
    }
    // SAFETY: what the caller passes is what the call wants.
    (unsafe { libc::syscall(libc::SYS_memfd_create, name, flags) }) as c_int
}

/// In place of the C library's: files of a tmpfs cannot be sealed, and nobody cuts
/// these.
#[unsafe(no_mangle)]
extern "C" fn fcntl(file: c_int, command: c_int, argument: usize) -> c_int {
    if command == libc::F_ADD_SEALS && TINY.load(Ordering::Relaxed) {
        return 0;
    }
    // SAFETY: what the caller passes is what the call wants.
    (unsafe { libc::syscall(libc::SYS_fcntl, file, command, argument) }) as c_int
}

/// Gives the calling process, which has one thread, namespaces with a tmpfs of
/// [`ROOM`].
fn mount_tiny() -> io::Result<()> {
    let done = |status: c_int| {
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: getuid(2) has no preconditions.
    let user = unsafe { libc::getuid() };
    // SAFETY: nor has getgid(2).
    let group = unsafe { libc::getgid() };
    // SAFETY: changes what this process sees, and nothing else.
    done(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    let (at, none) = (MOUNT.as_ptr(), std::ptr::null());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: strings that end in a zero, or null; in a namespace of our own.
    done(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let size = std::ffi::CString::new(format!("size={ROOM}")).unwrap();
    // SAFETY: as above.
    done(unsafe { libc::mount(none, at, c"tmpfs".as_ptr(), 0, size.as_ptr().cast()) })
}

/// Runs `test` in a child with a tiny tmpfs; false where none can be had.
fn run_tiny(test: &str, strategy: Strategy) -> bool {
    let mut probe = std::process::Command::new("true");
    // SAFETY: makes system calls, and allocates in a child that this thread alone is
    // copied to, as the C library allows.
    unsafe { probe.pre_exec(mount_tiny) };
    if let Err(error) = probe.status() {
        not_run(&format!("no mount namespace can be had: {error}"));
        return false;
    }
    let ended = child::run_with(test, strategy.name(), |command| {
        // SAFETY: as above.
        unsafe { command.pre_exec(mount_tiny) }
    });
    ended.expect_success();
    assert_eq!(ended.said("ended"), Some("whole"), "{ended:?}");
    true
}

fn each_shared(test: &str, body: impl Fn(Arena)) {
    if let Some(strategy) = child::part() {
        child::report_faults();
        TINY.store(true, Ordering::Relaxed);
        let strategy = strategy.parse().unwrap();
        body(Arena::builder().reserve(RESERVE).strategy(strategy).build().unwrap());
        println!("\nended: whole");
        return;
    }
    for strategy in [Strategy::DualPkey, Strategy::DualTransient, Strategy::DualOpen] {
        if arena_of(strategy).is_some() && !run_tiny(test, strategy) {
            return;
        }
    }
}

#[test]
fn a_full_tmpfs_is_a_typed_error_and_no_signal() {
    each_shared("a_full_tmpfs_is_a_typed_error_and_no_signal", |arena| {
        let mut thread = arena.attach().unwrap();
        let code = vec![0xC3; 2 * KIB];
        let mut executors = Vec::new();
        let error = loop {
            match thread.install(&code, &[]) {
                Ok(executor) => executors.push(executor),
                Err(error) => break error,
            }
        };
        println!("\nerror: {error}");
        let jit_arena::InstallError::Reserve(ReserveError::Os(error)) = error else {
            panic!("{error}")
        };
        assert!(error.call.contains("madvise"), "{error}");
        // All that there is was used.
        let bytes = executors.len() * code.len();
        assert!(bytes <= ROOM && bytes > ROOM * 3 / 4, "{bytes}");
        // What is there works, and what is given up can be had again.
        executors.truncate(executors.len() / 2);
        thread.collect();
        let seven = install(&mut thread, 7);
        assert_eq!(call(&thread, &seven), 7);
        for _ in 0..100 {
            executors.push(thread.install(&code, &[]).unwrap());
        }
        drop((seven, executors));
        thread.collect();
        drop(thread);
        arena.verify().unwrap();
    });
}

#[test]
fn f3_a_fork_that_finds_the_tmpfs_full_leaves_the_parent_whole() {
    each_shared("f3_a_fork_that_finds_the_tmpfs_full_leaves_the_parent_whole", |arena| {
        let mut thread = arena.attach().unwrap();
        let seven = install(&mut thread, 7);
        let mut executors = Vec::new();
        while let Ok(executor) = thread.install(&vec![0xC3; 2 * KIB], &[]) {
            executors.push(executor);
        }
        // SAFETY: the child uses what the arena and the C library let it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // No code of the parent's and no memory for its own.
            let refused = thread.install(&[0xC3; 64], &[]).is_err();
            // SAFETY: ends the child.
            unsafe { libc::_exit(if refused { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child, with a place for how it ended.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        assert_eq!(call(&thread, &seven), 7);
        executors.clear();
        thread.collect();
        let eight = install(&mut thread, 8);
        assert_eq!(call(&thread, &eight), 8);
        drop((seven, eight));
        thread.collect();
        drop(thread);
        arena.verify().unwrap();
    });
}
