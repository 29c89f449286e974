//! `dual-pkey`: two lasting views, the writable one under a protection key.
//!
//! Opening a scope is one change of the thread's rights register (25 ns or so
//! for the pair), windows are free, and every thread's every instruction fetch
//! and load of the executable view is outside the key's reach: threads older
//! than the key and signal handlers run code as any other. The key sits on the
//! *writable* view because it governs data accesses only; on an executable page
//! it could not make writable and executable exclude each other.
//!
//! Owns: `[W1]` nobody outside a scope writes; no mapping is ever W+X.
//! Sources: pkeys(7); Linux Documentation/core-api/protection-keys.rst.

use crate::platform::{Key, KeyAccess, OsResult, Platform};
use crate::report::MemoryKind;
use crate::units::{GRANULE, Span};

use super::views::{OwnedKey, Views, Wanted};
use super::{Fresh, Protection, Rights, Strategy, View, Window};

/// See the module.
#[derive(Debug)]
pub(crate) struct DualPkey {
    key: Key,
    views: Views,
}

impl DualPkey {
    pub(crate) fn create(
        platform: &dyn Platform,
        wanted: &Wanted<'_>,
        memory: MemoryKind,
    ) -> OsResult<(Self, Span)> {
        let key = OwnedKey::new(platform)?;
        let views = Views::create(platform, wanted, memory, Some(key.key()))?;
        Ok((Self { key: key.keep(), views }, views.executable.span))
    }
}

impl Protection for DualPkey {
    fn strategy(&self) -> Strategy {
        Strategy::DualPkey
    }

    fn write_unit(&self) -> usize {
        GRANULE
    }

    fn close_rights(&self, platform: &dyn Platform) {
        platform.set_key_access(self.key, KeyAccess::Closed);
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
        Ok(Window { span, writable: self.views.writable_at(span.start) })
    }

    unsafe fn close_window(&self, _platform: &dyn Platform, _window: &Window) -> OsResult<()> {
        Ok(())
    }

    fn writable_at(&self, addr: usize) -> Option<usize> {
        Some(self.views.writable_at(addr))
    }

    unsafe fn populate(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // The system faults pages in as this thread would, with its rights.
        let before = self.open(platform);
        // SAFETY: inside the writable view, which is ours; rights are open.
        let done = unsafe { platform.populate(self.views.writable_at(span.start), span.len) };
        self.close(platform, before);
        done
    }

    unsafe fn discard(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: whole pages of the writable view, owned by the caller.
        unsafe { platform.discard(self.views.writable_at(span.start), span.len) }
    }

    unsafe fn collapse(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: whole huge pages of the region (caller).
        unsafe { self.views.collapse(platform, span) }
    }

    fn views(&self) -> (View, Option<View>) {
        (self.views.executable, Some(self.views.writable))
    }

    fn is_shared(&self) -> bool {
        true
    }

    unsafe fn after_fork(
        &self,
        platform: &dyn Platform,
        fresh: Option<Fresh>,
        _windows: &[Window],
    ) -> OsResult<()> {
        // SAFETY: from the caller; windows are parts of the writable view.
        unsafe { self.views.after_fork(platform, fresh, Some(self.key)) }
    }

    unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: nothing uses the region any more (caller).
        unsafe { self.views.release(platform) };
        // SAFETY: the only mapping that carried the key is gone.
        unsafe { platform.key_free(self.key) };
    }
}
