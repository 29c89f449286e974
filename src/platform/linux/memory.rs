//! Memory files, mappings and their pages.
//!
//! Sources: memfd_create(2), fcntl(2) (F_ADD_SEALS), ftruncate(2),
//! getrandom(2), getrlimit(2), mmap(2), mremap(2) NOTES, mprotect(2), madvise(2), futex(2).

use std::ffi::CString;

use super::{Access, Backing, MemoryFile, OsError, OsResult, check, last_error};

pub(super) const fn protection_bits(access: Access) -> libc::c_int {
    match access {
        Access::None => libc::PROT_NONE,
        Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Access::ReadWriteExecute => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    }
}

fn pointer(addr: usize) -> *mut libc::c_void {
    core::ptr::with_exposed_provenance_mut(addr)
}

/// A sparse file of `len` bytes in memory, closed on exec.
pub(super) fn create_file(name: &str, len: usize) -> OsResult<MemoryFile> {
    // A name cannot hold a NUL, and the kernel takes 249 bytes of it.
    let name: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(240).collect();
    let name = CString::new(name).unwrap_or_default();
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Since 6.3 a file that is to be mapped executable should say so, and must
    // where vm.memfd_noexec is 1 or more; older kernels refuse the flag.
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let mut fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_EXEC) };
    if fd < 0 && last_error("memfd_create", len).errno == libc::EINVAL {
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    }
    if fd < 0 {
        return Err(last_error("memfd_create", len));
    }
    let file = MemoryFile(fd);
    set_length(file, len).inspect_err(|_| close_file(file))?;
    Ok(file)
}

/// `PR_SET_VMA` and `PR_SET_VMA_ANON_NAME` of prctl(2).
const SET_VMA: libc::c_int = 0x5356_4D41;
const ANON_NAME: libc::c_ulong = 0;

/// Names anonymous memory in /proc/self/maps (`[anon:name]`, or `[anon_shmem:…]`
/// where it is shared). Kernels before 5.17 and 6.2, and those built without,
/// refuse; then it has no name.
pub(super) fn name(addr: usize, len: usize, name: &str) {
    // What the kernel takes: 79 printable bytes, without these.
    let fits = |byte: &u8| matches!(byte, b' '..=b'~') && !b"\\`$[]".contains(byte);
    let name: Vec<u8> = name.bytes().filter(fits).take(79).collect();
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: names memory and changes nothing else; the string outlives the
    // call, which copies it.
    unsafe { libc::prctl(SET_VMA, ANON_NAME, addr, len, name.as_ptr()) };
}

/// Sets the length of a new file, without ever raising SIGXFSZ.
fn set_length(file: MemoryFile, len: usize) -> OsResult<()> {
    let too_large = OsError { call: "ftruncate", bytes: len, errno: libc::EFBIG };
    // The kernel answers ftruncate beyond RLIMIT_FSIZE with EFBIG *and* a
    // signal that ends the process: look first, and answer in its place.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit for the call to fill.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    check(status, "getrlimit", 0)?;
    let bytes = u64::try_from(len).map_err(|_| too_large)?;
    if limit.rlim_cur != libc::RLIM_INFINITY && bytes > limit.rlim_cur {
        return Err(too_large);
    }
    let offset = libc::off_t::try_from(len).map_err(|_| too_large)?;
    // SAFETY: ftruncate(2) takes no memory; the descriptor is ours.
    check(unsafe { libc::ftruncate(file.0, offset) }, "ftruncate", len)
}

/// Fixes the file's size for ever, so that no other holder of it can make our
/// mappings raise SIGBUS by cutting it.
///
/// F_SEAL_FUTURE_WRITE is left out on purpose: with it the kernel also refuses
/// to punch holes (EPERM from MADV_REMOVE), so no memory could ever be given
/// back, and `dual-transient` could open no window.
pub(super) fn seal_file(file: MemoryFile) -> OsResult<()> {
    let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: fcntl(F_ADD_SEALS) takes an int; the descriptor is ours.
    check(unsafe { libc::fcntl(file.0, libc::F_ADD_SEALS, seals) }, "fcntl(F_ADD_SEALS)", 0)
}

pub(super) fn close_file(file: MemoryFile) {
    // SAFETY: the descriptor is ours and not used again. An error of close(2)
    // on a file in memory means nothing: the descriptor is gone either way.
    let _ = unsafe { libc::close(file.0) };
}

/// From getrandom(2), which gives so few bytes whole.
pub(super) fn random() -> OsResult<u64> {
    let mut bytes = [0_u8; 8];
    // SAFETY: as many bytes as the array has.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == bytes.len() as isize {
        return Ok(u64::from_ne_bytes(bytes));
    }
    Err(last_error("getrandom", bytes.len()))
}

/// Maps where the kernel likes.
pub(super) fn map_anywhere(backing: Backing, len: usize, access: Access) -> OsResult<usize> {
    map_with(backing, 0, 0, len, access)
}

/// Maps at `start`, or nowhere.
pub(super) fn map_exactly(
    backing: Backing,
    start: usize,
    len: usize,
    access: Access,
) -> OsResult<usize> {
    let addr = map_with(backing, start, libc::MAP_FIXED_NOREPLACE, len, access)?;
    if addr == start {
        return Ok(addr);
    }
    // Kernels before 4.17 take the unknown flag for a mere hint.
    // SAFETY: the mapping was made just now and nobody knows of it.
    unsafe { unmap(addr, len) }?;
    Err(OsError { call: "mmap", bytes: len, errno: libc::EEXIST })
}

/// A free range of `len` bytes at a multiple of `align`, by mapping one that is
/// long enough and giving it back. Another thread may take it meanwhile.
pub(super) fn aligned_candidate(len: usize, align: usize) -> Option<usize> {
    let room = len.checked_add(align)?;
    let addr = map_anywhere(Backing::Private, room, Access::None).ok()?;
    // SAFETY: the mapping was made just now and nobody knows of it.
    unsafe { unmap(addr, room) }.ok()?;
    Some(addr.next_multiple_of(align))
}

/// Maps at `addr`, in place of what is there.
///
/// # Safety
///
/// The caller owns the range, and nothing needs what it shows.
pub(super) unsafe fn map_over(
    backing: Backing,
    addr: usize,
    len: usize,
    access: Access,
) -> OsResult<()> {
    map_with(backing, addr, libc::MAP_FIXED, len, access).map(|_| ())
}

/// `MAP_FIXED` only with the promises of [`map_over`].
fn map_with(
    backing: Backing,
    hint: usize,
    fixed: libc::c_int,
    len: usize,
    access: Access,
) -> OsResult<usize> {
    let (kind, fd, offset) = match backing {
        Backing::File(file, offset) => (libc::MAP_SHARED, file.0, offset),
        Backing::SharedAnonymous => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0),
        Backing::Private => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        Backing::Jit => {
            return Err(OsError { call: "mmap(MAP_JIT)", bytes: len, errno: libc::EOPNOTSUPP });
        }
    };
    let offset = libc::off_t::try_from(offset).map_err(|_| OsError {
        call: "mmap",
        bytes: len,
        errno: libc::EOVERFLOW,
    })?;
    // A reserve is address space, most of which is never touched: account
    // pages when they come.
    let flags = kind | libc::MAP_NORESERVE | fixed;
    // SAFETY: without MAP_FIXED the call replaces no mapping, and NOREPLACE fails
    // rather than replace one; who asks for it may. The descriptor, if any, is the caller's.
    let addr =
        unsafe { libc::mmap(pointer(hint), len, protection_bits(access), flags, fd, offset) };
    if addr == libc::MAP_FAILED {
        return Err(last_error("mmap", len));
    }
    if matches!(backing, Backing::Private) {
        // Where the system takes huge pages by itself, a first store would bring
        // in 2 MiB of what is committed by the system page.
        // SAFETY: made just now; only how it is backed changes. A kernel without
        // huge pages refuses, and needs not be told.
        unsafe { libc::madvise(addr, len, libc::MADV_NOHUGEPAGE) };
    }
    Ok(addr.expose_provenance())
}

/// # Safety
///
/// The range lies inside one shared mapping.
pub(super) unsafe fn duplicate(addr: usize, len: usize) -> OsResult<usize> {
    // An old size of 0 leaves the old mapping alone and makes a second one of
    // the same pages: documented for shared mappings only.
    // SAFETY: inside a shared mapping (caller); MAYMOVE without FIXED replaces
    // nothing.
    let copy = unsafe { libc::mremap(pointer(addr), 0, len, libc::MREMAP_MAYMOVE) };
    if copy == libc::MAP_FAILED {
        return Err(last_error("mremap", len));
    }
    Ok(copy.expose_provenance())
}

/// As [`duplicate`], at `to` in place of what is there.
///
/// # Safety
///
/// As there, and the caller owns the range at `to`, which nothing needs.
pub(super) unsafe fn duplicate_over(addr: usize, len: usize, to: usize) -> OsResult<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: as in `duplicate`; what is replaced is the caller's.
    let copy = unsafe { libc::mremap(pointer(addr), 0, len, flags, pointer(to)) };
    if copy == libc::MAP_FAILED {
        return Err(last_error("mremap(MREMAP_FIXED)", len));
    }
    Ok(())
}

/// # Safety
///
/// The caller owns the range, and nothing uses it any more.
pub(super) unsafe fn unmap(addr: usize, len: usize) -> OsResult<()> {
    // SAFETY: from the caller.
    check(unsafe { libc::munmap(pointer(addr), len) }, "munmap", len)
}

/// # Safety
///
/// The caller owns the range, and no thread relies on a right that goes.
pub(super) unsafe fn protect(addr: usize, len: usize, access: Access) -> OsResult<()> {
    // SAFETY: from the caller.
    check(unsafe { libc::mprotect(pointer(addr), len, protection_bits(access)) }, "mprotect", len)
}

/// # Safety
///
/// The range lies inside one writable mapping that the caller owns.
pub(super) unsafe fn populate(addr: usize, len: usize, system_page: usize) -> OsResult<()> {
    // SAFETY: populating changes no byte; the mapping is the caller's.
    let status = unsafe { libc::madvise(pointer(addr), len, libc::MADV_POPULATE_WRITE) };
    let error = match check(status, "madvise(MADV_POPULATE_WRITE)", len) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if error.errno != libc::EINVAL {
        return Err(error);
    }
    // Kernels before 5.14.
    // SAFETY: from the caller.
    unsafe { populate_by_futex(addr, len, system_page) }
}

/// Makes pages present where MADV_POPULATE_WRITE is unknown, one system call a
/// page.
///
/// A store from user mode would do, but where no page can be had it raises
/// SIGBUS, and a read and write-back would lose what another thread writes
/// beside us. FUTEX_WAKE_OP has the kernel OR a word with 0 atomically: the
/// page comes, no byte changes, and failure is EFAULT.
///
/// # Safety
///
/// As for [`populate`].
unsafe fn populate_by_futex(addr: usize, len: usize, system_page: usize) -> OsResult<()> {
    // FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0) is `op << 28`.
    const OR_WITH_ZERO: libc::c_long = (libc::FUTEX_OP_OR as libc::c_long) << 28;
    let first = addr & !(system_page - 1);
    for page in (first..addr + len).step_by(system_page) {
        // Nobody waits on words of code memory, so the wakes wake nobody.
        // SAFETY: the word lies in the caller's mapping; an atomic OR with 0
        // leaves every byte as it is.
        let woken = unsafe {
            libc::syscall(
                libc::SYS_futex,
                pointer(page),
                libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG,
                0,
                0_usize,
                pointer(page),
                OR_WITH_ZERO,
            )
        };
        if woken < 0 {
            return Err(last_error("futex(FUTEX_WAKE_OP)", len));
        }
    }
    Ok(())
}

/// # Safety
///
/// Whole system pages of one writable mapping that nobody needs, in any view.
pub(super) unsafe fn discard(addr: usize, len: usize) -> OsResult<()> {
    // SAFETY: from the caller.
    let status = unsafe { libc::madvise(pointer(addr), len, libc::MADV_REMOVE) };
    let error = match check(status, "madvise(MADV_REMOVE)", len) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if error.errno != libc::EINVAL {
        return Err(error);
    }
    // EINVAL has two causes. Private anonymous memory has no file to punch:
    // MADV_DONTNEED gives its pages back. Locked memory (a host that calls
    // mlockall) is refused by MADV_DONTNEED as well, so a shared mapping whose
    // pages merely left the page table cannot pass for discarded.
    // SAFETY: from the caller.
    let status = unsafe { libc::madvise(pointer(addr), len, libc::MADV_DONTNEED) };
    check(status, "madvise(MADV_DONTNEED)", len)
}

/// mseal(2), which has one number on both processors; since 6.10.
///
/// # Safety
///
/// The caller owns the range, and never changes the mapping again.
pub(super) unsafe fn seal(addr: usize, len: usize) -> OsResult<()> {
    const MSEAL: libc::c_long = 462;
    // SAFETY: changes no byte and no right (caller).
    let status = unsafe { libc::syscall(MSEAL, pointer(addr), len, 0) };
    if status == 0 { Ok(()) } else { Err(last_error("mseal", len)) }
}

/// Size of the huge pages that a page-table entry can map.
pub(super) fn huge_page() -> Option<usize> {
    let file = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let size: usize = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    size.is_power_of_two().then_some(size)
}

/// By MADV_COLLAPSE (since 6.1), which needs no system setting: huge pages for
/// shared memory are off by default. Private memory is made without, see
/// [`map_with`]: it is allowed them meanwhile, and keeps those that it has then.
///
/// # Safety
///
/// Whole huge pages of one mapping that the caller owns.
pub(super) unsafe fn collapse(addr: usize, len: usize, is_private: bool) -> OsResult<()> {
    const COLLAPSE: &str = "madvise(MADV_COLLAPSE)";
    let advise = |advice, call| {
        // SAFETY: from the caller; no byte changes.
        check(unsafe { libc::madvise(pointer(addr), len, advice) }, call, len)
    };
    if !is_private {
        return advise(libc::MADV_COLLAPSE, COLLAPSE);
    }
    advise(libc::MADV_HUGEPAGE, "madvise(MADV_HUGEPAGE)")?;
    let moved = advise(libc::MADV_COLLAPSE, COLLAPSE);
    let after = advise(libc::MADV_NOHUGEPAGE, "madvise(MADV_NOHUGEPAGE)");
    moved.and(after)
}

/// # Safety
///
/// The caller owns the range.
pub(super) unsafe fn hide_from_children(addr: usize, len: usize) -> OsResult<()> {
    // SAFETY: from the caller.
    let status = unsafe { libc::madvise(pointer(addr), len, libc::MADV_DONTFORK) };
    check(status, "madvise(MADV_DONTFORK)", len)
}

#[cfg(test)]
mod tests;
