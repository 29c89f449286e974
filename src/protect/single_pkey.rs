//! `single-pkey`: one view, readable, writable and executable, under a key.
//!
//! For clients that can write only at the address their code runs at. Outside a
//! scope a thread may read and run, not write; but the key governs data
//! accesses only, so inside its scope a thread may write *and* run the same
//! page, and /proc/self/maps says `rwx`. Weaker than W^X, and never chosen by
//! default.
//!
//! The key covers the pages that code reads its own literals from. Threads
//! older than the key and signal handlers start with all access to it denied:
//! they can run code but not read it, so [`load_word`](Protection::load_word)
//! grants itself reading around the load, and code whose data lies beside it
//! faults there (SEGV_PKUERR). Attached threads are fine outside handlers.
//!
//! Sources: pkeys(7), "Signal Handler Behavior".

use crate::platform::{Access, Backing, Key, KeyAccess, OsResult, Platform};
use crate::report::MemoryKind;
use crate::units::{GRANULE, Span};

use super::views::{self, Mapping, OwnedKey, Wanted};
use super::{Fresh, Protection, Rights, Strategy, View, Window};

/// See the module.
#[derive(Debug)]
pub(crate) struct SinglePkey {
    key: Key,
    view: View,
}

impl SinglePkey {
    pub(crate) fn create(
        platform: &dyn Platform,
        wanted: &Wanted<'_>,
        memory: MemoryKind,
    ) -> OsResult<(Self, Span)> {
        let backing = match memory {
            MemoryKind::Private => Backing::Private,
            MemoryKind::Memfd | MemoryKind::SharedAnonymous | MemoryKind::Jit => {
                return Err(views::single_view(wanted.len));
            }
        };
        let key = OwnedKey::new(platform)?;
        // Without rights first: the pages are never writable without their key.
        let view = Mapping::guarded(platform, backing, wanted.place, wanted, Access::None)?;
        view.protect(Access::ReadWriteExecute, Some(key.key()))?;
        let view = view.keep();
        Ok((Self { key: key.keep(), view }, view.span))
    }
}

impl SinglePkey {
    /// Runs `read` with the right to read the view, which threads older than
    /// the key and signal handlers do not have.
    fn reading(&self, platform: &dyn Platform, read: impl FnOnce() -> u64) -> u64 {
        let before = platform.key_access(self.key);
        if before != KeyAccess::Closed {
            return read();
        }
        platform.set_key_access(self.key, KeyAccess::ReadOnly);
        let word = read();
        platform.set_key_access(self.key, before);
        word
    }
}

impl Protection for SinglePkey {
    fn strategy(&self) -> Strategy {
        Strategy::SinglePkey
    }

    fn write_unit(&self) -> usize {
        GRANULE
    }

    fn close_rights(&self, platform: &dyn Platform) {
        platform.set_key_access(self.key, KeyAccess::ReadOnly);
    }

    fn open(&self, platform: &dyn Platform) -> Rights {
        let before = platform.key_access(self.key);
        platform.set_key_access(self.key, KeyAccess::Open);
        Rights(before)
    }

    fn close(&self, platform: &dyn Platform, before: Rights) {
        platform.set_key_access(self.key, before.0);
    }

    unsafe fn window(&self, _platform: &dyn Platform, span: Span) -> OsResult<Window> {
        Ok(Window { span, writable: span.start })
    }

    unsafe fn close_window(&self, _platform: &dyn Platform, _window: &Window) -> OsResult<()> {
        Ok(())
    }

    fn writable_at(&self, addr: usize) -> Option<usize> {
        Some(addr)
    }

    unsafe fn populate(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // The system faults pages in as this thread would, with its rights.
        let before = self.open(platform);
        // SAFETY: inside the view, which is ours; rights are open.
        let done = unsafe { platform.populate(span.start, span.len) };
        self.close(platform, before);
        done
    }

    unsafe fn discard(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // Of a sealed view the system takes only what this thread could write:
        // mseal(2), destructive advice on read-only memory.
        let before = self.open(platform);
        // SAFETY: whole pages of the view, owned by the caller.
        let done = unsafe { platform.discard(span.start, span.len) };
        self.close(platform, before);
        done
    }

    unsafe fn load_word(&self, platform: &dyn Platform, addr: usize) -> u64 {
        self.reading(platform, || {
            // SAFETY: aligned, in the view (caller), and readable meanwhile.
            unsafe { platform.load_word(addr) }
        })
    }

    unsafe fn peek_word(&self, platform: &dyn Platform, addr: usize) -> u64 {
        self.reading(platform, || {
            // SAFETY: as in `load_word`.
            unsafe { platform.peek_word(addr) }
        })
    }

    fn views(&self) -> (View, Option<View>) {
        (self.view, None)
    }

    unsafe fn after_fork(
        &self,
        _platform: &dyn Platform,
        _fresh: Option<Fresh>,
        _windows: &[Window],
    ) -> OsResult<()> {
        // Private memory under rights of the thread's own: as it was.
        Ok(())
    }

    unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: ours since `create`, unused from now on (caller).
        unsafe { self.view.release(platform) };
        // SAFETY: the only mapping that carried the key is gone.
        unsafe { platform.key_free(self.key) };
    }
}
