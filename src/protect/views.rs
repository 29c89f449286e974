//! Making views: mappings, files and keys that undo themselves until a
//! strategy keeps them.
//!
//! A strategy takes several calls to set up, each of which can be refused. What
//! was made before a refusal goes away by `Drop`, so after an error nothing has
//! changed. `keep` hands the thing over to the strategy's `release`.

use crate::platform::{Access, Backing, Key, MemoryFile, OsError, OsResult, Place, Platform};
use crate::report::MemoryKind;
use crate::units::Span;

use super::Fresh;

/// What a strategy is to be built over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Name of the memory file, for /proc/self/maps.
    pub(crate) name: &'a str,
    /// Length in bytes, whole system pages.
    pub(crate) len: usize,
    /// Bytes that are inaccessible before and after each view, whole system pages.
    pub(crate) guard: usize,
    /// Where the executable view is to lie.
    pub(crate) place: Place,
    /// Where a second view of all of it is to lie.
    pub(crate) aside: Place,
}

/// A view that lasts, and the inaccessible memory on either side of it, if there is
/// any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// What is shown.
    pub(crate) span: Span,
    guard: usize,
}

impl View {
    /// The view with its guards.
    pub(crate) fn guarded(&self) -> Span {
        Span::new(self.span.start - self.guard, self.span.len + 2 * self.guard)
    }

    /// Unmaps all of it.
    ///
    /// # Safety
    ///
    /// As [`unmap`].
    pub(crate) unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: from the caller; the guards came with the view.
        unsafe { unmap(platform, self.guarded()) };
    }
}

/// A mapping that goes away unless it is kept.
#[derive(Debug)]
pub(crate) struct Mapping<'p> {
    platform: &'p dyn Platform,
    view: View,
}

impl<'p> Mapping<'p> {
    pub(crate) fn new(
        platform: &'p dyn Platform,
        backing: Backing,
        place: Place,
        len: usize,
        access: Access,
    ) -> OsResult<Self> {
        let start = platform.map(backing, place, len, access)?;
        Ok(Self { platform, view: View { span: Span::new(start, len), guard: 0 } })
    }

    /// Between guards, if there are to be any.
    pub(crate) fn guarded(
        platform: &'p dyn Platform,
        backing: Backing,
        place: Place,
        wanted: &Wanted<'_>,
        access: Access,
    ) -> OsResult<Self> {
        let Wanted { len, guard, .. } = *wanted;
        if guard == 0 {
            return Self::new(platform, backing, place, len, access);
        }
        if backing == Backing::SharedAnonymous {
            // The system makes such memory after it has taken away what was in place,
            // and where it can make none another thread may be there: all of it is
            // this memory, and the guards lose their rights.
            let mapping = Self::with_guards(platform, backing, place, wanted, access)?;
            for end in [mapping.view.guarded().start, mapping.view.span.end()] {
                // SAFETY: a part of what was mapped just now.
                unsafe { platform.protect(end, guard, Access::None, None) }?;
            }
            return Ok(mapping);
        }
        let mapping = Self::with_guards(platform, Backing::Private, place, wanted, Access::None)?;
        // SAFETY: the middle of what was reserved, which shows nothing. Of a file, and
        // of private memory, what mmap(2) refuses it refuses before it takes that away.
        unsafe { platform.map_over(backing, mapping.view.span.start, len, access) }?;
        Ok(mapping)
    }

    /// Memory for a view and its guards, all of it with the same rights.
    fn with_guards(
        platform: &'p dyn Platform,
        backing: Backing,
        place: Place,
        wanted: &Wanted<'_>,
        access: Access,
    ) -> OsResult<Self> {
        let Wanted { len, guard, .. } = *wanted;
        let start = platform.map(backing, place, len + 2 * guard, access)?;
        Ok(Self { platform, view: View { span: Span::new(start + guard, len), guard } })
    }

    /// A second view of all of `first`, between guards of its own if there are to
    /// be any.
    ///
    /// # Safety
    ///
    /// `first` is one shared mapping.
    pub(super) unsafe fn guarded_duplicate_of(
        platform: &'p dyn Platform,
        first: Span,
        wanted: &Wanted<'_>,
    ) -> OsResult<Self> {
        if wanted.guard == 0 {
            // SAFETY: from the caller.
            return unsafe { Self::duplicate_of(platform, first) };
        }
        // A refusal in place may come after what was in place has gone, and then
        // another thread may be there: what is refused here shows elsewhere first.
        // SAFETY: from the caller.
        drop(unsafe { Self::duplicate_of(platform, first) }?);
        debug_assert_eq!(first.len, wanted.len);
        let mapping =
            Self::with_guards(platform, Backing::Private, wanted.aside, wanted, Access::None)?;
        let to = mapping.view.span.start;
        // SAFETY: from the caller, onto the middle of what was reserved.
        unsafe { platform.duplicate_over(first.start, first.len, to) }?;
        Ok(mapping)
    }

    /// A second view, anywhere, of the part of `shared` that `part` names.
    ///
    /// # Safety
    ///
    /// `part` lies inside one shared mapping.
    pub(super) unsafe fn duplicate_of(platform: &'p dyn Platform, part: Span) -> OsResult<Self> {
        // SAFETY: from the caller.
        let start = unsafe { platform.duplicate(part.start, part.len) }?;
        Ok(Self { platform, view: View { span: Span::new(start, part.len), guard: 0 } })
    }

    /// Sets rights, and tags the pages if there is a key.
    pub(crate) fn protect(&self, access: Access, key: Option<Key>) -> OsResult<()> {
        // SAFETY: the whole mapping is ours, and nobody knows of it yet.
        unsafe { self.platform.protect(self.span().start, self.span().len, access, key) }
    }

    pub(crate) fn span(&self) -> Span {
        self.view.span
    }

    /// Hands the mapping over; whoever takes it unmaps it.
    pub(crate) fn keep(self) -> View {
        let view = self.view;
        core::mem::forget(self);
        view
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: the whole mapping is ours, and was handed to nobody.
        unsafe { self.view.release(self.platform) };
    }
}

/// Unmaps, and leaks the range if the system refuses: there is nobody to tell.
///
/// # Safety
///
/// The caller owns the whole range and nothing uses it any more.
pub(crate) unsafe fn unmap(platform: &dyn Platform, span: Span) {
    // SAFETY: from the caller.
    let _ = unsafe { platform.unmap(span.start, span.len) };
}

/// A sealed memory file that is closed unless it is kept.
#[derive(Debug)]
pub(crate) struct File<'p> {
    platform: &'p dyn Platform,
    file: MemoryFile,
}

impl<'p> File<'p> {
    pub(crate) fn sealed(platform: &'p dyn Platform, name: &str, len: usize) -> OsResult<Self> {
        let file = Self { platform, file: platform.create_file(name, len)? };
        platform.seal_file(file.file)?;
        Ok(file)
    }

    pub(crate) fn backing(&self) -> Backing {
        Backing::File(self.file, 0)
    }

    /// Hands the descriptor over; whoever takes it closes it.
    pub(crate) fn keep(self) -> MemoryFile {
        let file = self.file;
        core::mem::forget(self);
        file
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        self.platform.close_file(self.file);
    }
}

/// A protection key that goes back unless it is kept. Declare it before the
/// mappings it tags, so that they go first.
#[derive(Debug)]
pub(crate) struct OwnedKey<'p> {
    platform: &'p dyn Platform,
    key: Key,
}

impl<'p> OwnedKey<'p> {
    pub(crate) fn new(platform: &'p dyn Platform) -> OsResult<Self> {
        Ok(Self { platform, key: platform.key_alloc()? })
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Hands the key over; whoever takes it frees it.
    pub(crate) fn keep(self) -> Key {
        let key = self.key;
        core::mem::forget(self);
        key
    }
}

impl Drop for OwnedKey<'_> {
    fn drop(&mut self) {
        // SAFETY: mappings tagged with it were declared later and are gone.
        unsafe { self.platform.key_free(self.key) };
    }
}

/// The two lasting views of `dual-pkey` and `dual-open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Views {
    /// Readable and executable.
    pub(crate) executable: View,
    /// Readable and writable, of the same length.
    pub(crate) writable: View,
}

impl Views {
    /// Maps both views, the writable one under `key` if there is one. It never
    /// exists without its key.
    pub(crate) fn create(
        platform: &dyn Platform,
        wanted: &Wanted<'_>,
        memory: MemoryKind,
        key: Option<Key>,
    ) -> OsResult<Self> {
        let Wanted { name, len, place, aside, .. } = *wanted;
        let (executable, writable) = match memory {
            MemoryKind::Memfd => {
                // Closed at the end of this arm: mappings hold the memory, and
                // nobody can map it a third time.
                let file = File::sealed(platform, name, len)?;
                let backing = file.backing();
                let executable =
                    Mapping::guarded(platform, backing, place, wanted, Access::ReadExecute)?;
                let writable = Mapping::guarded(platform, backing, aside, wanted, Access::None)?;
                (executable, writable)
            }
            MemoryKind::SharedAnonymous => {
                // Executable from the start: kernels that deny a mapping the
                // right to execute once it was writable see no such change.
                let backing = Backing::SharedAnonymous;
                let executable =
                    Mapping::guarded(platform, backing, place, wanted, Access::ReadExecute)?;
                let first = executable.span();
                // SAFETY: the whole of the shared mapping made just now.
                let writable = unsafe { Mapping::guarded_duplicate_of(platform, first, wanted) }?;
                (executable, writable)
            }
            MemoryKind::Private | MemoryKind::Jit => return Err(single_view(len)),
        };
        writable.protect(Access::ReadWrite, key)?;
        Ok(Self { executable: executable.keep(), writable: writable.keep() })
    }

    /// Where the byte that runs at `addr` can be written.
    pub(crate) fn writable_at(&self, addr: usize) -> usize {
        let executable = self.executable.span;
        debug_assert!(addr >= executable.start && addr <= executable.end());
        self.writable.span.start + (addr - executable.start)
    }

    /// Moves memory into huge pages and maps it by them in the executable
    /// view, and in the writable one if that lies where it can be.
    ///
    /// # Safety
    ///
    /// `span` lies in the executable view and is whole huge pages.
    pub(crate) unsafe fn collapse(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: from the caller.
        unsafe { platform.collapse(span.start, span.len, false) }?;
        let writable = self.writable_at(span.start);
        if writable.is_multiple_of(span.len) {
            // The memory is in huge pages already. A system that does not map
            // it by them here maps it as before: only speed is lost.
            // SAFETY: as above, in the view of the same memory.
            let _ = unsafe { platform.collapse(writable, span.len, false) };
        }
        Ok(())
    }

    /// Puts `fresh` in the place of both.
    ///
    /// # Safety
    ///
    /// As [`Protection::after_fork`](super::Protection::after_fork).
    pub(crate) unsafe fn after_fork(
        &self,
        platform: &dyn Platform,
        fresh: Option<Fresh>,
        key: Option<Key>,
    ) -> OsResult<()> {
        let Some(fresh) = fresh else { return Err(Fresh::MISSING) };
        // SAFETY: all of the view, whose bytes `fresh` has (caller).
        let executable = unsafe { fresh.show_executable(platform, 0, self.executable.span) };
        let shown = executable.and_then(|()| {
            // SAFETY: as above.
            unsafe { fresh.show_writable(platform, 0, self.writable.span, key) }
        });
        fresh.finish(platform, false);
        shown
    }

    /// Unmaps both.
    ///
    /// # Safety
    ///
    /// Nothing uses the region any more.
    pub(crate) unsafe fn release(&self, platform: &dyn Platform) {
        // SAFETY: ours since `create`, unused from now on (caller).
        unsafe { self.writable.release(platform) };
        // SAFETY: as above.
        unsafe { self.executable.release(platform) };
    }
}

/// The answer to asking for two views of memory that has one.
pub(crate) fn single_view(len: usize) -> OsError {
    OsError { call: "mremap", bytes: len, errno: libc::EINVAL }
}

/// A second, temporary view of `part`, writable, of memory mapped executable
/// at `executable`.
///
/// # Safety
///
/// `part` lies inside `executable`, which maps all of `file` or, where there is
/// none, is shared anonymous memory.
pub(crate) unsafe fn temporary<'p>(
    platform: &'p dyn Platform,
    file: Option<MemoryFile>,
    executable: Span,
    part: Span,
) -> OsResult<Mapping<'p>> {
    if let Some(file) = file {
        let backing = Backing::File(file, part.start - executable.start);
        return Mapping::new(platform, backing, Place::Anywhere, part.len, Access::ReadWrite);
    }
    // SAFETY: inside the shared anonymous mapping (caller).
    let alias = unsafe { Mapping::duplicate_of(platform, part) }?;
    // The alias is executable, never both: the change takes that right away as
    // it gives the other.
    alias.protect(Access::ReadWrite, None)?;
    Ok(alias)
}
