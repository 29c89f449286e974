//! Linux: the platform trait by system calls.
//!
//! `memory` makes and changes mappings, `place` finds free addresses near a
//! given one, `keys` are protection keys, `membarrier` serialises the other
//! cores. Wrappers only: what is mapped with which rights is decided in
//! `crate::protect`. Every errno is kept.

use super::{
    Access, Backing, ForkHandlers, Key, KeyAccess, MemoryFile, OsError, OsResult, Place, Platform,
};
use crate::arch;
use crate::units::KIB;

mod keys;
mod membarrier;
mod memory;
mod place;

/// Bytes of a guard: a code page by default, so that one that is placed by its size
/// keeps its region so.
const GUARD: usize = 64 * KIB;

/// The running Linux system.
#[derive(Debug)]
pub struct Linux {
    system_page: usize,
}

impl Linux {
    /// Asks the system for its page size.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: sysconf(3) has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // The kernel passes it to every process (AT_PAGESZ), so this cannot
        // fail; the smallest page of both processors is what remains.
        Self { system_page: usize::try_from(page).unwrap_or(4096) }
    }
}

impl Default for Linux {
    fn default() -> Self {
        Self::new()
    }
}

/// The error a call about `bytes` bytes has just left in errno.
fn last_error(call: &'static str, bytes: usize) -> OsError {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    OsError { call, bytes, errno }
}

/// Ok for 0, what errno says for anything else.
fn check(status: libc::c_int, call: &'static str, bytes: usize) -> OsResult<()> {
    if status == 0 { Ok(()) } else { Err(last_error(call, bytes)) }
}

// SAFETY: mappings come from mmap(2) without MAP_FIXED and from mremap(2) with
// an old size of 0, neither of which replaces a mapping; the kernel shows one
// page cache in all mappings of one file or shared-anonymous object; WRPKRU is
// a register of the calling thread, in an asm block that clobbers memory.
unsafe impl Platform for Linux {
    fn system_page(&self) -> usize {
        self.system_page
    }

    fn create_file(&self, name: &str, len: usize) -> OsResult<MemoryFile> {
        memory::create_file(name, len)
    }

    fn seal_file(&self, file: MemoryFile) -> OsResult<()> {
        memory::seal_file(file)
    }

    fn close_file(&self, file: MemoryFile) {
        memory::close_file(file);
    }

    fn random(&self) -> OsResult<u64> {
        memory::random()
    }

    fn adds_execute(&self) -> bool {
        // SAFETY: personality(2) with this argument only reads.
        let personality = unsafe { libc::personality(0xFFFF_FFFF) };
        personality != -1 && personality & libc::READ_IMPLIES_EXEC != 0
    }

    fn guard(&self) -> usize {
        GUARD.max(self.system_page)
    }

    fn map(&self, backing: Backing, place: Place, len: usize, access: Access) -> OsResult<usize> {
        let candidates = match place {
            Place::Anywhere => Vec::new(),
            Place::Aligned(align) => memory::aligned_candidate(len, align).into_iter().collect(),
            Place::Near(near) => place::candidates_now(len, near),
            Place::Random { near, align, seed } => place::random_now(len, near, align, seed),
        };
        for start in candidates {
            if let Ok(addr) = memory::map_exactly(backing, start, len, access) {
                return Ok(addr);
            }
        }
        if let Place::Random { near, align, .. } = place {
            let place = near.map_or(Place::Aligned(align), Place::Near);
            return self.map(backing, place, len, access);
        }
        memory::map_anywhere(backing, len, access)
    }

    unsafe fn duplicate(&self, addr: usize, len: usize) -> OsResult<usize> {
        // SAFETY: inside one shared mapping (caller).
        unsafe { memory::duplicate(addr, len) }
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: the caller owns the range and is done with it.
        unsafe { memory::unmap(addr, len) }
    }

    unsafe fn protect(
        &self,
        addr: usize,
        len: usize,
        access: Access,
        key: Option<Key>,
    ) -> OsResult<()> {
        match key {
            // SAFETY: the caller owns the range and its rights.
            Some(key) => unsafe { keys::protect(addr, len, access, key) },
            // SAFETY: the caller owns the range and its rights.
            None => unsafe { memory::protect(addr, len, access) },
        }
    }

    unsafe fn populate(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: a writable mapping of the caller's.
        unsafe { memory::populate(addr, len, self.system_page) }
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: whole pages that nobody needs (caller).
        unsafe { memory::discard(addr, len) }
    }

    fn huge_page(&self) -> Option<usize> {
        memory::huge_page()
    }

    unsafe fn collapse(&self, addr: usize, len: usize, is_private: bool) -> OsResult<()> {
        // SAFETY: whole huge pages of a mapping of the caller's.
        unsafe { memory::collapse(addr, len, is_private) }
    }

    unsafe fn hide_from_children(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: the caller owns the range.
        unsafe { memory::hide_from_children(addr, len) }
    }

    unsafe fn seal_mapping(&self, addr: usize, len: usize) -> OsResult<()> {
        // SAFETY: of the caller's, who does not change it any more.
        unsafe { memory::seal(addr, len) }
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

    unsafe fn map_over(
        &self,
        backing: Backing,
        addr: usize,
        len: usize,
        access: Access,
    ) -> OsResult<()> {
        // SAFETY: a range of the caller's that nobody needs.
        unsafe { memory::map_over(backing, addr, len, access) }
    }

    unsafe fn duplicate_over(&self, addr: usize, len: usize, to: usize) -> OsResult<()> {
        // SAFETY: inside one shared mapping, onto a range of the caller's.
        unsafe { memory::duplicate_over(addr, len, to) }
    }

    fn mappings_of(&self, addr: usize) -> Vec<(usize, usize)> {
        place::mappings_of(addr)
    }

    unsafe fn copy_racing(&self, from: usize, to: usize, len: usize) {
        // SAFETY: from the caller.
        unsafe { arch::copy_racing(from, to, len) }
    }

    fn name_memory(&self, addr: usize, len: usize, name: &str) {
        memory::name(addr, len, name);
    }

    fn key_alloc(&self) -> OsResult<Key> {
        keys::alloc()
    }

    unsafe fn key_free(&self, key: Key) {
        // SAFETY: no mapping carries the key (caller).
        unsafe { keys::free(key) }
    }

    fn key_access(&self, key: Key) -> KeyAccess {
        keys::access(key)
    }

    fn set_key_access(&self, key: Key, access: KeyAccess) {
        keys::set_access(key, access);
    }

    fn set_jit_writable(&self, _writable: bool) {
        // `map` refuses `Backing::Jit`, so there is no memory this is about.
    }

    fn register_sync_core(&self) -> OsResult<()> {
        membarrier::register()
    }

    fn sync_core(&self) -> OsResult<()> {
        membarrier::sync_core(self.system_page)
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

    unsafe fn clean_data_cache(&self, addr: usize, len: usize) {
        // SAFETY: mapped and readable (caller).
        unsafe { arch::clean_data_cache(addr, len) }
    }

    unsafe fn invalidate_instruction_cache(&self, addr: usize, len: usize) {
        // SAFETY: mapped and executable (caller).
        unsafe { arch::invalidate_instruction_cache(addr, len) }
    }

    fn return_stub(&self) -> &'static [u8] {
        arch::RETURN
    }

    unsafe fn call_stub(&self, addr: usize) {
        let entry = core::ptr::with_exposed_provenance::<()>(addr);
        // SAFETY: a function pointer is a code address on both processors, and
        // `addr` is one of a function without arguments or result (caller).
        let entry = unsafe { core::mem::transmute::<*const (), extern "C" fn()>(entry) };
        entry();
    }
}
