//! `dual-open`: two lasting views, the writable one open to every thread.
//!
//! No rights to open and no windows: the fastest strategy, and one that hands a
//! stray store the writable view. No mapping is W+X, but `[W1]` holds only as far
//! as nobody guesses an address; so it is never chosen by default.

use crate::platform::{KeyAccess, OsResult, Platform};
use crate::report::MemoryKind;
use crate::units::{GRANULE, Span};

use super::views::{Views, Wanted};
use super::{Fresh, Protection, Rights, Strategy, View, Window};

/// See the module.
#[derive(Debug)]
pub(crate) struct DualOpen {
    views: Views,
}

impl DualOpen {
    pub(crate) fn create(
        platform: &dyn Platform,
        wanted: &Wanted<'_>,
        memory: MemoryKind,
    ) -> OsResult<(Self, Span)> {
        let views = Views::create(platform, wanted, memory, None)?;
        Ok((Self { views }, views.executable.span))
    }
}

impl Protection for DualOpen {
    fn strategy(&self) -> Strategy {
        Strategy::DualOpen
    }

    fn write_unit(&self) -> usize {
        GRANULE
    }

    fn close_rights(&self, _platform: &dyn Platform) {}

    fn open(&self, _platform: &dyn Platform) -> Rights {
        Rights(KeyAccess::Open)
    }

    fn close(&self, _platform: &dyn Platform, _before: Rights) {}

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
        // SAFETY: inside the writable view, which is ours.
        unsafe { platform.populate(self.views.writable_at(span.start), span.len) }
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
        unsafe { self.views.after_fork(platform, fresh, None) }
    }

    unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: nothing uses the region any more (caller).
        unsafe { self.views.release(platform) };
    }
}
