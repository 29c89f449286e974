//! Sealed views: what a write gadget with system calls could do to them is
//! refused by the kernel, and the arena works as ever.

#![cfg(target_os = "linux")]

mod common;

use std::io;

use common::{RESERVE, call, child, install, maps, not_run};
use jit_arena::{Arena, BuildError, Strategy};

fn pointer(addr: usize) -> *mut libc::c_void {
    std::ptr::with_exposed_provenance_mut(addr)
}

/// The errno of a call that gave `result`, 0 if it succeeded.
fn errno(failed: bool) -> i32 {
    if failed { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// Tries all that could change the mapping at `addr`.
fn expect_sealed(addr: usize) {
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let all = read_write | libc::PROT_EXEC;
    let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let at = pointer(addr);
    // SAFETY: refused; if it were not, this process would be this test's own.
    let protected = unsafe { libc::mprotect(at, 4096, all) } != 0;
    assert_eq!(errno(protected), libc::EPERM, "mprotect");
    // SAFETY: as above.
    let unmapped = unsafe { libc::munmap(at, 4096) } != 0;
    assert_eq!(errno(unmapped), libc::EPERM, "munmap");
    // SAFETY: as above.
    let moved = unsafe { libc::mremap(at, 4096, 8192, libc::MREMAP_MAYMOVE) };
    assert_eq!(errno(moved == libc::MAP_FAILED), libc::EPERM, "mremap");
    // SAFETY: as above.
    let replaced = unsafe { libc::mmap(at, 4096, read_write, fixed, -1, 0) };
    assert_eq!(errno(replaced == libc::MAP_FAILED), libc::EPERM, "mmap over it");
}

#[test]
fn w1_sealed_views_cannot_be_changed() {
    const NAME: &str = "w1_sealed_views_cannot_be_changed";
    let Some(part) = child::part() else {
        for strategy in Strategy::ALL {
            if common::arena_of(strategy).is_some() {
                child::run(NAME, strategy.name()).expect_success();
            }
        }
        return;
    };
    let strategy: Strategy = part.parse().unwrap();
    let arena = match Arena::builder().reserve(RESERVE).strategy(strategy).sealed(true).build() {
        Ok(arena) => arena,
        Err(BuildError::Seal(error)) if strategy == Strategy::Mprotect => {
            assert_eq!(error.errno, libc::ENOTSUP);
            return;
        }
        Err(BuildError::Seal(error)) => return not_run(&error.to_string()),
        Err(error) => panic!("{error:?}"),
    };
    let mut thread = arena.attach().unwrap();
    let kept = install(&mut thread, 1);
    for round in 0..2000 {
        drop(thread.install(&[0x90; 3000], &[]).unwrap());
        if round % 500 == 0 {
            thread.collect();
        }
    }
    let span = arena.span();
    let writable = |mapping: &maps::Mapping| {
        mapping.range.len() == span.len && mapping.range.start != span.start
    };
    expect_sealed(span.start);
    for view in maps::all().iter().filter(|mapping| writable(mapping)) {
        expect_sealed(view.range.start);
    }
    assert_eq!(call(&thread, &kept), 1);
    drop(kept);
    thread.collect();
    arena.verify().unwrap();
    drop(thread);
    drop(arena);
    // The address space stays, the memory does not.
    assert!(maps::at(span.start).is_some());
    assert_eq!(maps::resident_bytes(span.start..span.end()), 0);
    // SAFETY: the child ends at once.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let gone = maps::at(span.start).is_none();
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!gone)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
}

#[test]
fn anonymous_memory_that_is_mapped_again_cannot_be_sealed() {
    let builder = Arena::builder().reserve(RESERVE).strategy(Strategy::DualTransient);
    let error = builder.anonymous(true).sealed(true).build().unwrap_err();
    let BuildError::Seal(error) = error else { panic!("{error:?}") };
    assert_eq!(error.errno, libc::ENOTSUP);
}
