//! A machine that fails: any other machine, with the n-th call of a kind
//! refused.
//!
//! A test first lets an operation run through and reads how many calls of each
//! kind it made ([`Faulty::calls`]), then repeats it once for each of them with
//! that one call failing ([`Faulty::fail`]), and checks that nothing was lost.

use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::Arc;

use super::{
    Access, Backing, ForkHandlers, Key, KeyAccess, MemoryFile, OsError, OsResult, Place, Platform,
};

/// Kinds of calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Platform::create_file`].
    CreateFile,
    /// [`Platform::seal_file`].
    SealFile,
    /// [`Platform::random`].
    Random,
    /// [`Platform::map`].
    Map,
    /// [`Platform::duplicate`].
    Duplicate,
    /// [`Platform::unmap`].
    Unmap,
    /// [`Platform::protect`].
    Protect,
    /// [`Platform::populate`].
    Populate,
    /// [`Platform::discard`].
    Discard,
    /// [`Platform::collapse`].
    Collapse,
    /// [`Platform::hide_from_children`].
    HideFromChildren,
    /// [`Platform::map_over`] and [`Platform::duplicate_over`].
    MapOver,
    /// [`Platform::seal_mapping`].
    SealMapping,
    /// [`Platform::key_alloc`].
    KeyAlloc,
    /// [`Platform::register_sync_core`].
    RegisterSyncCore,
    /// [`Platform::sync_core`].
    SyncCore,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::CreateFile,
        Self::SealFile,
        Self::Random,
        Self::Map,
        Self::Duplicate,
        Self::Unmap,
        Self::Protect,
        Self::Populate,
        Self::Discard,
        Self::Collapse,
        Self::HideFromChildren,
        Self::MapOver,
        Self::SealMapping,
        Self::KeyAlloc,
        Self::RegisterSyncCore,
        Self::SyncCore,
    ];
}

/// Calls of one kind: how many there were, and which of them fail.
#[derive(Debug)]
struct Counter {
    calls: AtomicUsize,
    /// Fails calls whose number, from 0, is in `[first, first + count)`.
    first: AtomicUsize,
    count: AtomicUsize,
    errno: AtomicI32,
}

impl Counter {
    const fn new() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            first: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            errno: AtomicI32::new(0),
        }
    }
}

/// A machine some of whose calls fail.
///
/// Its counters are atomics of `core`, not of the sync facade: they are no
/// part of a model. They are Relaxed, since tests set them while nothing runs.
pub struct Faulty {
    inner: Arc<dyn Platform>,
    counters: [Counter; Kind::ALL.len()],
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Faulty {
    /// `inner`, with nothing failing yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Platform>) -> Arc<Self> {
        Arc::new(Self { inner, counters: [const { Counter::new() }; Kind::ALL.len()] })
    }

    /// Calls of `kind` so far, failed ones included.
    #[must_use]
    pub fn calls(&self, kind: Kind) -> usize {
        self.counters[kind as usize].calls.load(Ordering::Relaxed)
    }

    /// Lets `count` calls of `kind` fail with `errno`, after `skip` more have
    /// succeeded. Takes the place of what was asked for this kind before.
    pub fn fail(&self, kind: Kind, skip: usize, count: usize, errno: i32) {
        let counter = &self.counters[kind as usize];
        counter.count.store(0, Ordering::Relaxed);
        counter.errno.store(errno, Ordering::Relaxed);
        counter.first.store(counter.calls.load(Ordering::Relaxed) + skip, Ordering::Relaxed);
        counter.count.store(count, Ordering::Relaxed);
    }

    /// Lets every call succeed again.
    pub fn heal(&self) {
        for counter in &self.counters {
            counter.count.store(0, Ordering::Relaxed);
        }
    }

    fn gate(&self, kind: Kind, call: &'static str, bytes: usize) -> OsResult<()> {
        let counter = &self.counters[kind as usize];
        let number = counter.calls.fetch_add(1, Ordering::Relaxed);
        let first = counter.first.load(Ordering::Relaxed);
        if number >= first && number - first < counter.count.load(Ordering::Relaxed) {
            let errno = counter.errno.load(Ordering::Relaxed);
            return Err(OsError { call, bytes, errno });
        }
        Ok(())
    }
}

// SAFETY: forwards to a machine that keeps the trait's promises; a call that
// fails instead changes nothing.
unsafe impl Platform for Faulty {
    fn system_page(&self) -> usize {
        self.inner.system_page()
    }

    fn create_file(&self, name: &str, len: usize) -> OsResult<MemoryFile> {
        self.gate(Kind::CreateFile, "memfd_create", len)?;
        self.inner.create_file(name, len)
    }

    fn seal_file(&self, file: MemoryFile) -> OsResult<()> {
        self.gate(Kind::SealFile, "fcntl", 0)?;
        self.inner.seal_file(file)
    }

    fn close_file(&self, file: MemoryFile) {
        self.inner.close_file(file);
    }

    fn random(&self) -> OsResult<u64> {
        self.gate(Kind::Random, "getrandom", size_of::<u64>())?;
        self.inner.random()
    }

    fn adds_execute(&self) -> bool {
        self.inner.adds_execute()
    }

    fn guard(&self) -> usize {
        self.inner.guard()
    }

    fn map(&self, backing: Backing, place: Place, len: usize, access: Access) -> OsResult<usize> {
        self.gate(Kind::Map, "mmap", len)?;
        self.inner.map(backing, place, len, access)
    }

    unsafe fn duplicate(&self, addr: usize, len: usize) -> OsResult<usize> {
        self.gate(Kind::Duplicate, "mremap", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.duplicate(addr, len) }
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> OsResult<()> {
        self.gate(Kind::Unmap, "munmap", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.unmap(addr, len) }
    }

    unsafe fn protect(
        &self,
        addr: usize,
        len: usize,
        access: Access,
        key: Option<Key>,
    ) -> OsResult<()> {
        self.gate(Kind::Protect, "mprotect", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.protect(addr, len, access, key) }
    }

    unsafe fn populate(&self, addr: usize, len: usize) -> OsResult<()> {
        self.gate(Kind::Populate, "madvise", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.populate(addr, len) }
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> OsResult<()> {
        self.gate(Kind::Discard, "madvise", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.discard(addr, len) }
    }

    fn huge_page(&self) -> Option<usize> {
        self.inner.huge_page()
    }

    unsafe fn collapse(&self, addr: usize, len: usize, is_private: bool) -> OsResult<()> {
        self.gate(Kind::Collapse, "madvise(MADV_COLLAPSE)", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.collapse(addr, len, is_private) }
    }

    unsafe fn hide_from_children(&self, addr: usize, len: usize) -> OsResult<()> {
        self.gate(Kind::HideFromChildren, "madvise", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.hide_from_children(addr, len) }
    }

    unsafe fn seal_mapping(&self, addr: usize, len: usize) -> OsResult<()> {
        self.gate(Kind::SealMapping, "mseal", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.seal_mapping(addr, len) }
    }

    fn return_stub(&self) -> &'static [u8] {
        self.inner.return_stub()
    }

    unsafe fn call_stub(&self, addr: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.call_stub(addr) }
    }

    fn forks(&self) -> bool {
        self.inner.forks()
    }

    fn on_fork(&self, handlers: ForkHandlers) -> OsResult<()> {
        self.inner.on_fork(handlers)
    }

    fn process_and_parent(&self) -> (i32, i32) {
        self.inner.process_and_parent()
    }

    unsafe fn map_over(
        &self,
        backing: Backing,
        addr: usize,
        len: usize,
        access: Access,
    ) -> OsResult<()> {
        self.gate(Kind::MapOver, "mmap(MAP_FIXED)", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.map_over(backing, addr, len, access) }
    }

    unsafe fn duplicate_over(&self, addr: usize, len: usize, to: usize) -> OsResult<()> {
        self.gate(Kind::MapOver, "mremap(MREMAP_FIXED)", len)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.duplicate_over(addr, len, to) }
    }

    fn mappings_of(&self, addr: usize) -> Vec<(usize, usize)> {
        self.inner.mappings_of(addr)
    }

    unsafe fn copy_racing(&self, from: usize, to: usize, len: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy_racing(from, to, len) }
    }

    fn key_alloc(&self) -> OsResult<Key> {
        self.gate(Kind::KeyAlloc, "pkey_alloc", 0)?;
        self.inner.key_alloc()
    }

    unsafe fn key_free(&self, key: Key) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.key_free(key) }
    }

    fn key_access(&self, key: Key) -> KeyAccess {
        self.inner.key_access(key)
    }

    fn set_key_access(&self, key: Key, access: KeyAccess) {
        self.inner.set_key_access(key, access);
    }

    fn set_jit_writable(&self, writable: bool) {
        self.inner.set_jit_writable(writable);
    }

    fn register_sync_core(&self) -> OsResult<()> {
        self.gate(Kind::RegisterSyncCore, "membarrier", 0)?;
        self.inner.register_sync_core()
    }

    fn sync_core(&self) -> OsResult<()> {
        self.gate(Kind::SyncCore, "membarrier", 0)?;
        self.inner.sync_core()
    }

    fn name_memory(&self, addr: usize, len: usize, name: &str) {
        self.inner.name_memory(addr, len, name);
    }

    unsafe fn copy_in(&self, to: usize, bytes: &[u8]) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy_in(to, bytes) }
    }

    unsafe fn fill_traps(&self, to: usize, len: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.fill_traps(to, len) }
    }

    unsafe fn load_word(&self, addr: usize) -> u64 {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.load_word(addr) }
    }

    unsafe fn peek_word(&self, addr: usize) -> u64 {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.peek_word(addr) }
    }

    unsafe fn clean_data_cache(&self, addr: usize, len: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.clean_data_cache(addr, len) }
    }

    unsafe fn invalidate_instruction_cache(&self, addr: usize, len: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.invalidate_instruction_cache(addr, len) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Machine, Options};
    use super::*;
    use crate::sync::explore;

    #[test]
    fn exactly_the_chosen_calls_fail_and_change_nothing() {
        explore(|| {
            let machine = Machine::new(Options::default());
            let faulty = Faulty::new(machine.clone());
            let map = || faulty.map(Backing::Private, Place::Anywhere, 4096, Access::ReadWrite);
            map().unwrap();
            faulty.fail(Kind::Map, 1, 2, libc::ENOMEM);
            map().unwrap();
            let refused = OsError { call: "mmap", bytes: 4096, errno: libc::ENOMEM };
            assert_eq!(map(), Err(refused));
            assert_eq!(map(), Err(refused));
            map().unwrap();
            assert_eq!(faulty.calls(Kind::Map), 5);
            assert_eq!(machine.mapped(), 3 * 4096);
            assert_eq!(faulty.calls(Kind::KeyAlloc), 0);
            faulty.fail(Kind::KeyAlloc, 0, usize::MAX, libc::ENOSPC);
            assert_eq!(faulty.key_alloc().unwrap_err().errno, libc::ENOSPC);
            faulty.heal();
            faulty.key_alloc().unwrap();
        });
    }
}
