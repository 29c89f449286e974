//! `map-jit`: one view of memory the system knows to be JIT code, writable or
//! executable to each thread by a toggle of its own.
//!
//! macOS on Apple silicon. The toggle is per thread and covers all `MAP_JIT`
//! memory of the process; a thread inside a scope cannot run any of it. The
//! mapping is reported as writable and executable, though no thread ever has
//! both rights at once. On Intel Macs the toggle does nothing.
//!
//! The toggle cannot be read back, so each thread remembers what it set; the
//! host must leave it to this library, as pthread_jit_write_protect_np(3) asks.
//!
//! Owns: `[W1]` and `[W2]`, by hardware on aarch64.

use core::cell::Cell;

use crate::platform::{Access, Backing, KeyAccess, OsResult, Platform};
use crate::report::MemoryKind;
use crate::sync::thread_local;
use crate::units::{GRANULE, Span};

use super::views::{self, Mapping, Wanted};
use super::{Fresh, Protection, Rights, Strategy, View, Window};

thread_local! {
    /// Whether this thread's toggle stands at "writable". For all arenas: so
    /// does the toggle.
    static WRITABLE: Cell<bool> = const { Cell::new(false) };
}

/// Sets the toggle; says where it stood. In a thread whose locals are gone it
/// can only have stood at "executable": scopes do not outlive their thread.
fn toggle(platform: &dyn Platform, writable: bool) -> bool {
    let before = WRITABLE.try_with(|state| state.replace(writable)).unwrap_or(false);
    platform.set_jit_writable(writable);
    before
}

/// See the module.
#[derive(Debug)]
pub(crate) struct MapJit {
    view: View,
}

impl MapJit {
    pub(crate) fn create(
        platform: &dyn Platform,
        wanted: &Wanted<'_>,
        memory: MemoryKind,
    ) -> OsResult<(Self, Span)> {
        let backing = match memory {
            MemoryKind::Jit => Backing::Jit,
            MemoryKind::Memfd | MemoryKind::SharedAnonymous | MemoryKind::Private => {
                return Err(views::single_view(wanted.len));
            }
        };
        let access = Access::ReadWriteExecute;
        let view = Mapping::guarded(platform, backing, wanted.place, wanted, access)?.keep();
        Ok((Self { view }, view.span))
    }
}

impl Protection for MapJit {
    fn strategy(&self) -> Strategy {
        Strategy::MapJit
    }

    fn write_unit(&self) -> usize {
        GRANULE
    }

    fn close_rights(&self, platform: &dyn Platform) {
        toggle(platform, false);
    }

    fn shares_rights(&self) -> bool {
        true
    }

    fn open(&self, platform: &dyn Platform) -> Rights {
        let was_writable = toggle(platform, true);
        Rights(if was_writable { KeyAccess::Open } else { KeyAccess::ReadOnly })
    }

    fn close(&self, platform: &dyn Platform, before: Rights) {
        toggle(platform, before.0 == KeyAccess::Open);
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
        let before = self.open(platform);
        // SAFETY: inside the view, which is ours and writable just now.
        let done = unsafe { platform.populate(span.start, span.len) };
        self.close(platform, before);
        done
    }

    unsafe fn discard(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // The platform may have to write.
        let before = self.open(platform);
        // SAFETY: whole pages of the view, owned by the caller.
        let done = unsafe { platform.discard(span.start, span.len) };
        self.close(platform, before);
        done
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
    }
}
