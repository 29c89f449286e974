//! `mprotect`: one view whose system pages flip between writable and
//! executable.
//!
//! The last resort, where no second view can be had. A page that is being
//! written cannot run, so the unit of writing is a system page: memory is
//! claimed, written and handed out again in whole ones, and no page is ever
//! shared between a writer and a runner. Flips interrupt the other cores.
//!
//! Private memory, so a forked child has its own copy.
//!
//! Owns: `[W1]`; no mapping is ever W+X. Source: mprotect(2).

use crate::platform::{Access, Backing, KeyAccess, OsError, OsResult, Platform};
use crate::report::MemoryKind;
use crate::units::Span;

use super::views::{self, Mapping, Wanted};
use super::{Fresh, Protection, Rights, Strategy, View, Window};

/// See the module.
#[derive(Debug)]
pub(crate) struct Mprotect {
    view: View,
    system_page: usize,
}

impl Mprotect {
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
        let view =
            Mapping::guarded(platform, backing, wanted.place, wanted, Access::ReadExecute)?.keep();
        Ok((Self { view, system_page: platform.system_page() }, view.span))
    }
}

impl Protection for Mprotect {
    fn strategy(&self) -> Strategy {
        Strategy::Mprotect
    }

    fn write_unit(&self) -> usize {
        self.system_page
    }

    fn close_rights(&self, _platform: &dyn Platform) {}

    fn open(&self, _platform: &dyn Platform) -> Rights {
        Rights(KeyAccess::Open)
    }

    fn close(&self, _platform: &dyn Platform, _before: Rights) {}

    unsafe fn window(&self, platform: &dyn Platform, span: Span) -> OsResult<Window> {
        let pages = span.round_out(self.system_page);
        // SAFETY: in the region; the caller owns every system page that `span`
        // touches, and nobody runs code in them.
        unsafe { platform.protect(pages.start, pages.len, Access::ReadWrite, None) }?;
        Ok(Window { span: pages, writable: pages.start })
    }

    unsafe fn close_window(&self, platform: &dyn Platform, window: &Window) -> OsResult<()> {
        let pages = window.span;
        // SAFETY: the pages are the caller's, who is done writing. If this is
        // refused they stay writable and cannot run.
        unsafe { platform.protect(pages.start, pages.len, Access::ReadExecute, None) }
    }

    unsafe fn populate(&self, _platform: &dyn Platform, _span: Span) -> OsResult<()> {
        // Nothing to gain: pages come at the first store inside a window, and
        // private anonymous memory, which has no file that could run out of
        // room, never answers a store with SIGBUS. Populating here would take
        // a flip to writable and back, of pages that may be running.
        Ok(())
    }

    unsafe fn discard(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: whole pages of the view, owned by the caller; giving private
        // pages back needs no right to write them.
        unsafe { platform.discard(span.start, span.len) }
    }

    unsafe fn collapse(&self, _platform: &dyn Platform, span: Span) -> OsResult<()> {
        // The first flip of a system page's rights would split it again.
        Err(OsError { call: "huge pages", bytes: span.len, errno: libc::ENOTSUP })
    }

    fn views(&self) -> (View, Option<View>) {
        (self.view, None)
    }

    unsafe fn after_fork(
        &self,
        platform: &dyn Platform,
        _fresh: Option<Fresh>,
        windows: &[Window],
    ) -> OsResult<()> {
        // Windows that other threads had open are nobody's now. Those of this
        // thread stay: what lies between them is sealed.
        let mut open: Vec<Span> = windows.iter().map(|window| window.span).collect();
        open.sort_unstable_by_key(|span| span.start);
        let mut from = self.view.span.start;
        for span in open.into_iter().chain([Span::new(self.view.span.end(), 0)]) {
            if span.start > from {
                let len = span.start - from;
                // SAFETY: no window of the only thread is among these pages.
                unsafe { platform.protect(from, len, Access::ReadExecute, None) }?;
            }
            from = from.max(span.end());
        }
        Ok(())
    }

    unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: ours since `create`, unused from now on (caller).
        unsafe { self.view.release(platform) };
    }
}
