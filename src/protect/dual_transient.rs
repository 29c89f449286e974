//! `dual-transient`: one lasting executable view; writable ones come and go.
//!
//! The default where there are no protection keys. A window maps the system
//! pages around its span a second time, writable, at an address of the
//! kernel's choosing, and unmaps them when it closes (some microseconds for the
//! pair). Outside windows no writable mapping of code exists at all.
//!
//! The unit of writing stays a granule: two threads may map the same system
//! page at once, each at its own address, and write their own granules of it.
//!
//! Inside a window the mapping is writable to all threads of the process, not
//! just its own: what protects it is that it is short-lived, and not its address,
//! which often is that of the last one.
//!
//! Owns: `[W1]` as far as just said; no mapping is ever W+X.
//! Sources: mmap(2), mremap(2) NOTES.

use core::sync::atomic::{AtomicI32, Ordering};

use crate::platform::{Access, Backing, KeyAccess, MemoryFile, OsResult, Place, Platform};
use crate::report::MemoryKind;
use crate::units::{GRANULE, Span};

use super::views::{self, File, Mapping, Wanted};
use super::{Fresh, Protection, Rights, Strategy, View, Window, take_away};

/// See the module.
#[derive(Debug)]
pub(crate) struct DualTransient {
    executable: View,
    /// Kept open to map windows from; shared anonymous memory needs none. A
    /// forked child has another, or may open no window.
    file: Descriptor,
    system_page: usize,
}

/// A descriptor, none, or [`GONE`](Self::GONE). Changes only while one thread is all
/// there is, so it is no part of any model, and Relaxed.
#[derive(Debug)]
struct Descriptor(AtomicI32);

impl Descriptor {
    const NONE: i32 = -1;

    /// In a child that is to have nothing of its parent's: no window opens.
    const GONE: i32 = -2;

    fn new(file: Option<MemoryFile>) -> Self {
        Self(AtomicI32::new(file.map_or(Self::NONE, |file| file.0)))
    }

    fn get(&self) -> Option<MemoryFile> {
        let file = self.0.load(Ordering::Relaxed);
        (file >= 0).then_some(MemoryFile(file))
    }

    fn is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::GONE
    }

    /// Changes it, and closes what it was.
    fn replace(&self, platform: &dyn Platform, file: Option<MemoryFile>) {
        self.set(platform, file.map_or(Self::NONE, |file| file.0));
    }

    /// Closes it for good.
    fn forgo(&self, platform: &dyn Platform) {
        self.set(platform, Self::GONE);
    }

    fn set(&self, platform: &dyn Platform, to: i32) {
        let before = self.get();
        self.0.store(to, Ordering::Relaxed);
        if let Some(before) = before {
            platform.close_file(before);
        }
    }
}

impl DualTransient {
    pub(crate) fn create(
        platform: &dyn Platform,
        wanted: &Wanted<'_>,
        memory: MemoryKind,
    ) -> OsResult<(Self, Span)> {
        let Wanted { name, len, place, .. } = *wanted;
        let (executable, file) = match memory {
            MemoryKind::Memfd => {
                let file = File::sealed(platform, name, len)?;
                let backing = file.backing();
                let executable =
                    Mapping::guarded(platform, backing, place, wanted, Access::ReadExecute)?;
                (executable.keep(), Some(file.keep()))
            }
            MemoryKind::SharedAnonymous => {
                let backing = Backing::SharedAnonymous;
                let executable =
                    Mapping::guarded(platform, backing, place, wanted, Access::ReadExecute)?;
                (executable.keep(), None)
            }
            MemoryKind::Private | MemoryKind::Jit => return Err(views::single_view(len)),
        };
        let system_page = platform.system_page();
        let file = Descriptor::new(file);
        Ok((Self { executable, file, system_page }, executable.span))
    }

    /// A writable view of the system pages around `span`.
    ///
    /// # Safety
    ///
    /// `span` lies in the region.
    unsafe fn map_around<'p>(
        &self,
        platform: &'p dyn Platform,
        span: Span,
    ) -> OsResult<(Span, Mapping<'p>)> {
        if self.file.is_gone() {
            return Err(Fresh::MISSING);
        }
        let pages = span.round_out(self.system_page);
        // SAFETY: the region is whole system pages, so rounding out stays in.
        let mapping =
            unsafe { views::temporary(platform, self.file.get(), self.executable.span, pages) }?;
        Ok((pages, mapping))
    }

    /// Unmaps what else shows the memory that is mapped at `known`, but for `lasting`
    /// and `windows`: windows of threads that are not here.
    ///
    /// # Safety
    ///
    /// In a forked child, whose only thread has `windows`; the region's memory is
    /// mapped at `known`, which is in `lasting`.
    unsafe fn unmap_windows_of_others(
        &self,
        platform: &dyn Platform,
        known: usize,
        lasting: Span,
        windows: &[Window],
    ) {
        let own = windows.iter().map(|window| Span::new(window.writable, window.span.len));
        let mut keep: Vec<Span> = own.chain([lasting]).collect();
        keep.sort_unstable_by_key(|span| span.start);
        for (start, len) in platform.mappings_of(known) {
            // Neighbours may be one mapping to the system, ours among them.
            let mut from = start;
            let inside = keep.iter().filter(|span| span.start < start + len && span.end() > start);
            for span in inside.copied().chain([Span::new(start + len, 0)]) {
                if span.start > from {
                    // SAFETY: of threads that are not here.
                    unsafe { views::unmap(platform, Span::new(from, span.start - from)) };
                }
                from = from.max(span.end());
            }
        }
    }
}

impl Protection for DualTransient {
    fn strategy(&self) -> Strategy {
        Strategy::DualTransient
    }

    fn write_unit(&self) -> usize {
        GRANULE
    }

    fn close_rights(&self, _platform: &dyn Platform) {}

    fn open(&self, _platform: &dyn Platform) -> Rights {
        Rights(KeyAccess::Open)
    }

    fn close(&self, _platform: &dyn Platform, _before: Rights) {}

    unsafe fn window(&self, platform: &dyn Platform, span: Span) -> OsResult<Window> {
        // SAFETY: in the region (caller).
        let (pages, mapping) = unsafe { self.map_around(platform, span) }?;
        Ok(Window { span: pages, writable: mapping.keep().span.start })
    }

    unsafe fn close_window(&self, platform: &dyn Platform, window: &Window) -> OsResult<()> {
        if self.file.is_gone() {
            // Of before the fork: what is there now may be somebody else's.
            return Ok(());
        }
        // SAFETY: mapped by `window` for this window alone, which is over.
        unsafe { platform.unmap(window.writable, window.span.len) }
    }

    unsafe fn populate(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: in the region (caller).
        let (pages, mapping) = unsafe { self.map_around(platform, span) }?;
        // SAFETY: the mapping is writable and ours.
        unsafe { platform.populate(mapping.span().start, pages.len) }
    }

    unsafe fn discard(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: in the region (caller); `span` is whole system pages, so the
        // mapping shows those and no others.
        let (pages, mapping) = unsafe { self.map_around(platform, span) }?;
        debug_assert_eq!(pages, span);
        // SAFETY: whole pages of a writable mapping, owned by the caller.
        unsafe { platform.discard(mapping.span().start, pages.len) }
    }

    fn views(&self) -> (View, Option<View>) {
        (self.executable, None)
    }

    fn is_shared(&self) -> bool {
        true
    }

    unsafe fn after_fork(
        &self,
        platform: &dyn Platform,
        fresh: Option<Fresh>,
        windows: &[Window],
    ) -> OsResult<()> {
        // Seen by what they show, before that changes. The guards of anonymous memory
        // show some of it, too.
        let (known, lasting) = (self.executable.span.start, self.executable.guarded());
        // Nothing is mapped from it any more, and the look may need a descriptor.
        self.file.forgo(platform);
        // SAFETY: in a child, and the view is all of the memory (caller).
        unsafe { self.unmap_windows_of_others(platform, known, lasting, windows) };
        let Some(fresh) = fresh else { return Err(Fresh::MISSING) };
        // SAFETY: all of the view, whose bytes `fresh` has (caller).
        let mut shown = unsafe { fresh.show_executable(platform, 0, self.executable.span) };
        for window in windows {
            let offset = window.span.start - self.executable.span.start;
            let to = Span::new(window.writable, window.span.len);
            // SAFETY: all of a window of the only thread, as above.
            let again = || unsafe { fresh.show_writable(platform, offset, to, None) };
            shown = shown.and_then(|()| again());
        }
        self.file.replace(platform, fresh.finish(platform, true));
        if shown.is_err() {
            self.file.forgo(platform);
        }
        shown
    }

    unsafe fn forgo(&self, platform: &dyn Platform, windows: &[Window]) {
        let len = self.system_page;
        let map = |file| {
            Mapping::new(platform, Backing::File(file, 0), Place::Anywhere, len, Access::None)
        };
        let known = self.file.get().map(map);
        // Before the look, which may need a descriptor.
        self.file.forgo(platform);
        // Windows of anonymous memory are copies of a view that children do not have,
        // and so not here either.
        let Some(known) = known else { return };
        if let Ok(known) = known {
            let known = known.span();
            // SAFETY: in a child (caller), and of the same file.
            unsafe { self.unmap_windows_of_others(platform, known.start, known, windows) };
        }
        for window in windows {
            let to = Span::new(window.writable, window.span.len);
            // SAFETY: a window of the only thread.
            unsafe { take_away(platform, to, Access::None) };
        }
    }

    unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: ours since `create`, unused from now on (caller).
        unsafe { self.executable.release(platform) };
        if let Some(file) = self.file.get() {
            platform.close_file(file);
        }
    }
}
