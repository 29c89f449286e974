//! Slots: where a runtime keeps the entry of a function that changes.

use core::fmt;

use crate::arena::ArenaRef;
use crate::error::SlotError;
use crate::executor::{Entry, Executor};
use crate::guard::Guard;
use crate::layout::SizedEntry;
use crate::sync::{AtomicUsize, Ordering};

/// One word that threads load and call while others replace what it holds.
///
/// Owns the executor in it: dropping the slot retires it.
pub struct Slot {
    shared: ArenaRef,
    /// Entry of the executor, 0 for none.
    entry: AtomicUsize,
}

impl Slot {
    pub(crate) fn new(shared: ArenaRef) -> Self {
        Self { shared, entry: AtomicUsize::new(0) }
    }

    /// What to call, if there is something. Wait-free: one load.
    ///
    /// A guard of another arena cannot protect what is in this slot, so to it
    /// the slot reads as empty.
    #[must_use]
    #[inline]
    pub fn load<'g>(&self, guard: &'g Guard<'_>) -> Option<Entry<'g>> {
        self.load_addr(guard).map(Entry::new)
    }

    #[inline]
    pub(crate) fn load_addr(&self, guard: &Guard<'_>) -> Option<usize> {
        guard.protect();
        // Acquire [X1]: pairs with the Release of `install` and `replace`: who
        // sees the entry sees the code.
        let entry = self.entry.load(Ordering::Acquire);
        (entry != 0 && guard.is_of(&self.shared)).then_some(entry)
    }

    /// Whether nothing is in it at this moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Relaxed: says nothing of the code.
        self.entry.load(Ordering::Relaxed) == 0
    }

    /// Puts an executor into the empty slot. Wait-free.
    ///
    /// # Errors
    ///
    /// Hands the executor back if the slot holds one, or belongs to another
    /// arena.
    pub fn install(&self, executor: Executor) -> Result<(), SlotError> {
        if !executor.is_of(&self.shared) {
            return Err(SlotError::Foreign(executor));
        }
        // Release [X1]: pairs with the Acquire of `load_addr`.
        let installed =
            self.entry.compare_exchange(0, executor.addr(), Ordering::Release, Ordering::Relaxed);
        if installed.is_err() {
            return Err(SlotError::Occupied(executor));
        }
        let (shared, _) = executor.into_parts();
        self.keep(shared);
        Ok(())
    }

    /// Puts an executor into the slot and returns the one it replaces; drop
    /// that to retire it. Wait-free.
    ///
    /// # Errors
    ///
    /// Hands the executor back if the slot belongs to another arena.
    pub fn replace(&self, executor: Executor) -> Result<Option<Executor>, SlotError> {
        if !executor.is_of(&self.shared) {
            return Err(SlotError::Foreign(executor));
        }
        let (shared, entry) = executor.into_parts();
        self.keep(shared);
        // Release [X1]: pairs with the Acquire of `load_addr`. Acquire: with
        // the Release that put the old one there, so that its header is seen.
        Ok(self.owned(self.entry.swap(entry, Ordering::AcqRel)))
    }

    /// Empties the slot and returns what was in it; drop that to retire it.
    /// Wait-free.
    pub fn invalidate(&self) -> Option<Executor> {
        // Acquire: pairs with the Release that put it there.
        self.owned(self.entry.swap(0, Ordering::Acquire))
    }

    /// The handle of an executor that goes into the slot stays with it.
    fn keep(&self, shared: Option<ArenaRef>) {
        core::mem::forget(shared);
    }

    /// The executor that was in the slot, with the handle kept for it.
    fn owned(&self, entry: usize) -> Option<Executor> {
        (entry != 0).then(|| {
            let shared = ArenaRef::from_owned(self.shared.pointer());
            Executor::from_owned(Some(shared), SizedEntry::unsized_at(entry))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.invalidate());
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: a look.
        let entry = self.entry.load(Ordering::Relaxed);
        f.debug_struct("Slot").field("entry", &format_args!("{entry:#x}")).finish_non_exhaustive()
    }
}
