//! macOS: the platform trait by system calls, for `map-jit`.
//!
//! One view of `MAP_JIT` memory that each thread sees as writable or as
//! executable, by its own toggle (pthread_jit_write_protect_np(3), Apple,
//! "Porting just-in-time compilers to Apple silicon"). `MAP_JIT` excludes
//! `MAP_SHARED` and `MAP_FIXED`, and its pages refuse mprotect, so memory files
//! and second views are refused here with ENOTSUP and the strategies that want
//! them are passed over.

use super::{
    Access, Backing, ForkHandlers, Key, KeyAccess, MemoryFile, OsError, OsResult, Place, Platform,
};
use crate::arch;

unsafe extern "C" {
    /// sys_icache_invalidate(3), in libSystem.
    fn sys_icache_invalidate(start: *mut libc::c_void, len: libc::size_t);
}

/// The running macOS system.
#[derive(Debug)]
pub struct Macos {
    system_page: usize,
}

impl Macos {
    /// Asks the system for its page size.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: sysconf(3) has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // Cannot fail; 16 KiB is a multiple of every page size in use.
        Self { system_page: usize::try_from(page).unwrap_or(16 * crate::units::KIB) }
    }
}

impl Default for Macos {
    fn default() -> Self {
        Self::new()
    }
}

fn pointer(addr: usize) -> *mut libc::c_void {
    core::ptr::with_exposed_provenance_mut(addr)
}

fn last_error(call: &'static str, bytes: usize) -> OsError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    OsError { call, bytes, errno }
}

fn check(status: libc::c_int, call: &'static str, bytes: usize) -> OsResult<()> {
    if status == 0 { Ok(()) } else { Err(last_error(call, bytes)) }
}

const fn unsupported(call: &'static str, bytes: usize) -> OsError {
    OsError { call, bytes, errno: libc::ENOTSUP }
}

const fn protection_bits(access: Access) -> libc::c_int {
    match access {
        Access::None => libc::PROT_NONE,
        Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Access::ReadWriteExecute => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    }
}

// SAFETY: mappings come from mmap(2) without MAP_FIXED, which replaces none;
// there are no second views and no keys to keep promises about.
unsafe impl Platform for Macos {
    fn system_page(&self) -> usize {
        self.system_page
    }

    fn create_file(&self, _name: &str, len: usize) -> OsResult<MemoryFile> {
        Err(unsupported("memfd_create", len))
    }

    fn seal_file(&self, _file: MemoryFile) -> OsResult<()> {
        Err(unsupported("fcntl(F_ADD_SEALS)", 0))
    }

    fn random(&self) -> OsResult<u64> {
        let mut bytes = [0_u8; 8];
        // SAFETY: as many bytes as the array has.
        let status = unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), bytes.len()) };
        check(status, "getentropy", bytes.len())?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn close_file(&self, _file: MemoryFile) {}

    fn map(&self, backing: Backing, place: Place, len: usize, access: Access) -> OsResult<usize> {
        let flags = match backing {
            // Elsewhere the toggle does nothing: all threads would have all rights.
            Backing::Jit if !cfg!(target_arch = "aarch64") => {
                return Err(unsupported("mmap(MAP_JIT)", len));
            }
            Backing::Jit => libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_JIT,
            Backing::Private => libc::MAP_PRIVATE | libc::MAP_ANON,
            Backing::File(..) | Backing::SharedAnonymous => return Err(unsupported("mmap", len)),
        };
        // Without MAP_FIXED the address is a hint that the kernel rounds up to
        // the next range that is free.
        let hint = match place {
            // Found by alignment only where a hint happens to have it.
            Place::Anywhere | Place::Aligned(_) => 0,
            // As random as the system's own choice.
            Place::Random { near: None, .. } => 0,
            Place::Near(near) | Place::Random { near: Some(near), .. } => {
                near & !(self.system_page - 1)
            }
        };
        // SAFETY: without MAP_FIXED the call replaces no mapping.
        let addr = unsafe { libc::mmap(pointer(hint), len, protection_bits(access), flags, -1, 0) };
        if addr == libc::MAP_FAILED {
            return Err(last_error("mmap", len));
        }
        Ok(addr.expose_provenance())
    }

    unsafe fn duplicate(&self, _addr: usize, len: usize) -> OsResult<usize> {
        Err(unsupported("mremap", len))
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: the caller owns the range and is done with it.
        check(unsafe { libc::munmap(pointer(addr), len) }, "munmap", len)
    }

    unsafe fn protect(
        &self,
        addr: usize,
        len: usize,
        access: Access,
        key: Option<Key>,
    ) -> OsResult<()> {
        if key.is_some() {
            return Err(unsupported("pkey_mprotect", len));
        }
        // SAFETY: the caller owns the range and its rights.
        let status = unsafe { libc::mprotect(pointer(addr), len, protection_bits(access)) };
        check(status, "mprotect", len)
    }

    unsafe fn populate(&self, _addr: usize, _len: usize) -> OsResult<()> {
        // Anonymous memory is not limited by a file system and is paged to
        // swap: a store may fault, but only the system as a whole can run out.
        Ok(())
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> OsResult<()> {
        // Takes the pages off the process's footprint. They may keep their old bytes,
        // traps, until the system wants them; zeros cannot be written, for where
        // pages flip nobody can write these.
        // SAFETY: whole pages of the caller's that nobody needs.
        let status = unsafe { libc::madvise(pointer(addr), len, libc::MADV_FREE_REUSABLE) };
        check(status, "madvise(MADV_FREE_REUSABLE)", len)
    }

    unsafe fn hide_from_children(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: the caller owns the range.
        let status = unsafe { libc::minherit(pointer(addr), len, libc::VM_INHERIT_NONE) };
        check(status, "minherit", len)
    }

    fn forks(&self) -> bool {
        true
    }

    fn on_fork(&self, handlers: ForkHandlers) -> OsResult<()> {
        let ForkHandlers { prepare, parent, child } = handlers;
        // SAFETY: three functions that stay for as long as the process.
        let errno = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        let error = OsError { call: "pthread_atfork", bytes: 0, errno };
        if errno == 0 { Ok(()) } else { Err(error) }
    }

    fn process_and_parent(&self) -> (i32, i32) {
        // SAFETY: getpid(2) has no preconditions.
        let own = unsafe { libc::getpid() };
        // SAFETY: nor has getppid(2).
        (own, unsafe { libc::getppid() })
    }

    fn key_alloc(&self) -> OsResult<Key> {
        Err(unsupported("pkey_alloc", 0))
    }

    unsafe fn key_free(&self, _key: Key) {}

    fn key_access(&self, _key: Key) -> KeyAccess {
        KeyAccess::Closed
    }

    fn set_key_access(&self, _key: Key, _access: KeyAccess) {}

    fn set_jit_writable(&self, writable: bool) {
        // An opaque call that the compiler must take to touch any memory; the
        // fences say so even where it is inlined.
        #[cfg(target_arch = "aarch64")]
        {
            core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
            // SAFETY: a toggle of the calling thread's; 0 lets it write.
            unsafe { libc::pthread_jit_write_protect_np(libc::c_int::from(!writable)) };
            core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        }
        // On x86-64 MAP_JIT memory is plainly readable, writable and executable.
        #[cfg(not(target_arch = "aarch64"))]
        let _ = writable;
    }

    fn register_sync_core(&self) -> OsResult<()> {
        Err(unsupported("membarrier", 0))
    }

    fn sync_core(&self) -> OsResult<()> {
        // The system offers no such call.
        Err(unsupported("membarrier", 0))
    }

    unsafe fn copy_in(&self, to: usize, bytes: &[u8]) {
        // SAFETY: writable now and owned by the caller.
        unsafe { arch::copy_in(to, bytes) }
    }

    unsafe fn store_words(&self, to: usize, words: [u64; 2]) {
        // SAFETY: aligned, writable now and owned by the caller.
        unsafe { arch::store_words(to, words) }
    }

    unsafe fn fill_traps(&self, to: usize, len: usize) {
        // SAFETY: writable now and owned by the caller; whole fours.
        unsafe { arch::fill_traps(to, len) }
    }

    unsafe fn load_word(&self, addr: usize) -> u64 {
        // SAFETY: aligned and readable (caller).
        unsafe { arch::load_word(addr) }
    }

    unsafe fn clean_data_cache(&self, _addr: usize, _len: usize) {
        // sys_icache_invalidate cleans the data cache first, and there is one
        // view only.
    }

    unsafe fn invalidate_instruction_cache(&self, addr: usize, len: usize) {
        // SAFETY: mapped and executable (caller).
        unsafe { sys_icache_invalidate(pointer(addr), len) }
    }

    fn return_stub(&self) -> &'static [u8] {
        arch::RETURN
    }

    unsafe fn call_stub(&self, addr: usize) {
        let entry = core::ptr::with_exposed_provenance::<()>(addr);
        // SAFETY: a function pointer is a code address, and `addr` is one of a
        // function without arguments or result (caller).
        let entry = unsafe { core::mem::transmute::<*const (), extern "C" fn()>(entry) };
        entry();
    }
}
