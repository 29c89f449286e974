//! What the kernel does with the calls, one by one.

use super::*;
use crate::platform::{Platform, linux::Linux};
use crate::protect::tests::on_a_kernel;
use crate::units::Span;

fn page() -> usize {
    Linux::new().system_page()
}

fn is_present(addr: usize) -> bool {
    crate::protect::tests::is_present(Span::new(addr, page()))
}

fn store(addr: usize, byte: u8) {
    // SAFETY: tests store to writable pages of their own.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(addr).write_volatile(byte) };
}

fn load(addr: usize) -> u8 {
    // SAFETY: tests load from readable pages of their own.
    unsafe { core::ptr::with_exposed_provenance::<u8>(addr).read_volatile() }
}

#[test]
fn a_sealed_file_keeps_its_size_and_gives_pages_back() {
    if !on_a_kernel("a_sealed_file_keeps_its_size_and_gives_pages_back") {
        return;
    }
    let len = 4 * page();
    let file = create_file("a name\0 of any bytes", len).unwrap();
    seal_file(file).unwrap();
    for length in [0, len as libc::off_t * 2] {
        // SAFETY: a descriptor of ours; the call is to be refused.
        assert_eq!(unsafe { libc::ftruncate(file.0, length) }, -1);
        assert_eq!(last_error("ftruncate", 0).errno, libc::EPERM);
    }
    assert_eq!(seal_file(file).unwrap_err().errno, libc::EPERM, "no more seals");
    let addr = map_anywhere(Backing::File(file, 0), len, Access::ReadWrite).unwrap();
    close_file(file);
    store(addr, 1);
    assert!(is_present(addr));
    // SAFETY: a page of ours that nobody needs.
    unsafe { discard(addr, page()) }.unwrap();
    assert!(!is_present(addr));
    assert_eq!(load(addr), 0);
    // SAFETY: ours, not used again.
    unsafe { unmap(addr, len) }.unwrap();
}

#[test]
fn a_file_is_closed_on_exec() {
    let file = create_file("exec", page()).unwrap();
    // SAFETY: F_GETFD takes no argument.
    let flags = unsafe { libc::fcntl(file.0, libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    close_file(file);
}

#[test]
fn both_ways_of_populating_bring_pages_and_keep_bytes() {
    if !on_a_kernel("both_ways_of_populating_bring_pages_and_keep_bytes") {
        return;
    }
    type Populate = unsafe fn(usize, usize, usize) -> OsResult<()>;
    for way in [populate as Populate, populate_by_futex as Populate] {
        for backing in [Backing::SharedAnonymous, Backing::Private] {
            let len = 4 * page();
            let addr = map_anywhere(backing, len, Access::ReadWrite).unwrap();
            store(addr + 8, 0x5A);
            // SAFETY: a writable mapping of ours.
            unsafe { way(addr, len, page()) }.unwrap();
            assert_eq!(load(addr + 8), 0x5A);
            assert_eq!(load(addr), 0);
            for offset in (0..len).step_by(page()) {
                assert!(is_present(addr + offset));
            }
            // SAFETY: ours, not used again.
            unsafe { unmap(addr, len) }.unwrap();
        }
    }
}

#[test]
fn populating_by_futex_reports_what_cannot_be_written() {
    let addr = map_anywhere(Backing::Private, page(), Access::ReadExecute).unwrap();
    // SAFETY: a mapping of ours; no page of it can be brought for writing.
    let refused = unsafe { populate_by_futex(addr, page(), page()) };
    assert_eq!(refused.unwrap_err().errno, libc::EFAULT);
    // SAFETY: ours, not used again.
    unsafe { unmap(addr, page()) }.unwrap();
}

#[test]
fn private_pages_are_discarded_too() {
    if !on_a_kernel("private_pages_are_discarded_too") {
        return;
    }
    let addr = map_anywhere(Backing::Private, 2 * page(), Access::ReadWrite).unwrap();
    store(addr, 1);
    store(addr + page(), 2);
    // SAFETY: a page of ours that nobody needs.
    unsafe { discard(addr, page()) }.unwrap();
    assert_eq!((load(addr), load(addr + page())), (0, 2));
    // SAFETY: ours, not used again.
    unsafe { unmap(addr, 2 * page()) }.unwrap();
}

#[test]
fn exact_places_are_taken_or_refused_and_never_replaced() {
    let taken = map_anywhere(Backing::Private, page(), Access::ReadWrite).unwrap();
    store(taken, 7);
    let refused = map_exactly(Backing::Private, taken, page(), Access::ReadWrite);
    assert_eq!(refused.unwrap_err().errno, libc::EEXIST);
    assert_eq!(load(taken), 7);
    // SAFETY: ours, not used again.
    unsafe { unmap(taken, page()) }.unwrap();
}

#[test]
fn only_shared_mappings_can_be_duplicated() {
    let shared = map_anywhere(Backing::SharedAnonymous, 2 * page(), Access::ReadWrite).unwrap();
    store(shared + page(), 9);
    // SAFETY: the second page of one shared mapping.
    match unsafe { duplicate(shared + page(), page()) } {
        Ok(copy) => {
            assert_eq!(load(copy), 9);
            store(copy, 10);
            assert_eq!(load(shared + page()), 10);
            // SAFETY: ours, not used again.
            unsafe { unmap(copy, page()) }.unwrap();
        }
        // User-mode emulators do not know the call.
        Err(error) => assert_eq!(error.call, "mremap"),
    }
    // SAFETY: ours, not used again.
    unsafe { unmap(shared, 2 * page()) }.unwrap();
}
