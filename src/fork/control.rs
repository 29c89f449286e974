//! What parent and child tell each other during a fork: words of a page that
//! both map, made for one fork.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::platform::{Access, Backing, Place, Platform};
use crate::units::Span;

/// Words before those of the arenas.
const DONE: usize = 0;
const LIFE: usize = 1;
const FIRST: usize = 2;

/// See the module. Its atomics are of `core`: two processes are no part of a
/// model.
#[derive(Debug)]
pub(super) struct Control {
    memory: Span,
}

impl Control {
    /// For so many arenas. System call.
    pub(super) fn new(platform: &dyn Platform, arenas: usize) -> Option<Self> {
        let len = ((FIRST + arenas) * 4).next_multiple_of(platform.system_page());
        let (backing, access) = (Backing::SharedAnonymous, Access::ReadWrite);
        let start = platform.map(backing, Place::Anywhere, len, access).ok()?;
        Some(Self { memory: Span::new(start, len) })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        let word = core::ptr::with_exposed_provenance::<AtomicU32>(self.memory.start + at * 4);
        // SAFETY: aligned, in the mapping, zero at first, and used as this only.
        unsafe { &*word }
    }

    pub(super) fn set_copied(&self, arena: usize) {
        // Release [F1]: pairs with the Acquire in `is_copied`: the copy is whole.
        self.word(FIRST + arena).store(1, Ordering::Release);
    }

    pub(super) fn is_copied(&self, arena: usize) -> bool {
        // Acquire [F1]: pairs with the Release in `set_copied`.
        self.word(FIRST + arena).load(Ordering::Acquire) == 1
    }

    pub(super) fn set_done(&self) {
        // Release [F1]: pairs with the Acquire in `is_done`.
        self.word(DONE).store(1, Ordering::Release);
    }

    pub(super) fn is_done(&self) -> bool {
        // Acquire [F1]: pairs with the Release in `set_done`.
        self.word(DONE).load(Ordering::Acquire) == 1
    }

    pub(super) fn show_life(&self) {
        // Relaxed: steers patience.
        self.word(LIFE).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn signs_of_life(&self) -> u32 {
        // Relaxed: as above.
        self.word(LIFE).load(Ordering::Relaxed)
    }

    /// Unmaps it. System call.
    pub(super) fn release(self, platform: &dyn Platform) {
        // SAFETY: ours, and `self` ends here. The other process has its own
        // mapping of it.
        let _ = unsafe { platform.unmap(self.memory.start, self.memory.len) };
    }
}
