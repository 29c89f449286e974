//! Fresh memory for a forked child: made before the fork, filled by the parent
//! after it, and put in place of the shared memory by the child, `[F1]`.
//!
//! It is a second region without users: the same length, the same kind of
//! memory if that can still be had, and a writable view, the *staging* view,
//! through which the parent copies. The child shows it where the region's views
//! were, so that no address changes, and gives the staging view up.

use crate::platform::{Access, Backing, Key, MemoryFile, OsError, OsResult, Place, Platform};
use crate::report::MemoryKind;
use crate::units::Span;

use super::views::{File, Mapping, unmap};

/// See the module.
#[derive(Debug)]
pub(crate) struct Fresh {
    memory: Memory,
    /// Readable and writable; nobody runs it.
    staging: Span,
}

#[derive(Debug)]
enum Memory {
    File(MemoryFile),
    /// Shown executable here, to be duplicated.
    Anonymous(Span),
}

impl Fresh {
    /// What a child is told that has none.
    pub(super) const MISSING: OsError = OsError { call: "fork", bytes: 0, errno: libc::ENOMEM };

    /// Memory of `len` bytes, none of it present. System calls.
    pub(crate) fn create(
        platform: &dyn Platform,
        name: &str,
        len: usize,
        kind: MemoryKind,
    ) -> OsResult<Self> {
        if kind == MemoryKind::Memfd
            && let Ok(fresh) = Self::of_file(platform, name, len)
        {
            return Ok(fresh);
        }
        // Also where no descriptor is left for a file.
        let backing = Backing::SharedAnonymous;
        let anywhere = Place::Anywhere;
        let executable = Mapping::new(platform, backing, anywhere, len, Access::ReadExecute)?;
        // SAFETY: the whole of the shared mapping made just now.
        let staging = unsafe { Mapping::duplicate_of(platform, executable.span()) }?;
        staging.protect(Access::ReadWrite, None)?;
        let memory = Memory::Anonymous(executable.keep().span);
        Ok(Self { memory, staging: staging.keep().span })
    }

    fn of_file(platform: &dyn Platform, name: &str, len: usize) -> OsResult<Self> {
        let file = File::sealed(platform, name, len)?;
        let (backing, access) = (file.backing(), Access::ReadWrite);
        let staging = Mapping::new(platform, backing, Place::Anywhere, len, access)?.keep().span;
        Ok(Self { memory: Memory::File(file.keep()), staging })
    }

    /// The staging address of the byte `offset` from the start.
    pub(crate) fn staging_at(&self, offset: usize) -> usize {
        debug_assert!(offset <= self.staging.len);
        self.staging.start + offset
    }

    /// Whether it is shared anonymous memory, which has names of its own.
    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(self.memory, Memory::Anonymous(_))
    }

    /// Shows the part of it that begins `offset` from its start at `to`, to be
    /// run or read only. System call.
    ///
    /// # Safety
    ///
    /// The caller owns the range `to`, and nothing needs what it shows now.
    pub(crate) unsafe fn show_executable(
        &self,
        platform: &dyn Platform,
        offset: usize,
        to: Span,
    ) -> OsResult<()> {
        match self.memory {
            Memory::File(file) => {
                let backing = Backing::File(file, offset);
                // SAFETY: from the caller.
                unsafe { platform.map_over(backing, to.start, to.len, Access::ReadExecute) }
            }
            Memory::Anonymous(executable) => {
                // SAFETY: inside one shared mapping; `to` is the caller's.
                unsafe { platform.duplicate_over(executable.start + offset, to.len, to.start) }
            }
        }
    }

    /// As [`show_executable`](Self::show_executable), to be written, under `key`
    /// if there is one: never without it.
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn show_writable(
        &self,
        platform: &dyn Platform,
        offset: usize,
        to: Span,
        key: Option<Key>,
    ) -> OsResult<()> {
        let first = if key.is_some() { Access::None } else { Access::ReadWrite };
        match self.memory {
            Memory::File(file) => {
                let backing = Backing::File(file, offset);
                // SAFETY: from the caller.
                unsafe { platform.map_over(backing, to.start, to.len, first) }?;
                if key.is_some() {
                    // SAFETY: mapped just now; without rights until here.
                    unsafe { platform.protect(to.start, to.len, Access::ReadWrite, key) }?;
                }
                Ok(())
            }
            Memory::Anonymous(_) => {
                let from = self.staging.start + offset;
                if key.is_some() {
                    // SAFETY: the staging view is ours; its copy has the key.
                    unsafe { platform.protect(from, to.len, Access::ReadWrite, key) }?;
                }
                // SAFETY: inside one shared mapping; `to` is the caller's.
                unsafe { platform.duplicate_over(from, to.len, to.start) }
            }
        }
    }

    /// Lets go of everything but what was shown elsewhere; with it of the file,
    /// unless the caller takes it over: then it is returned.
    pub(crate) fn finish(self, platform: &dyn Platform, take_file: bool) -> Option<MemoryFile> {
        // SAFETY: ours since `create`, and `self` ends here.
        unsafe { unmap(platform, self.staging) };
        match self.memory {
            Memory::File(file) if take_file => return Some(file),
            Memory::File(file) => platform.close_file(file),
            // SAFETY: as above.
            Memory::Anonymous(executable) => unsafe { unmap(platform, executable) },
        }
        None
    }
}

/// Puts private memory in the place of what shows the parent's, in a child that is to
/// have nothing of that. Where the system has none to give, nothing there can be read,
/// written or run any more; a child that cannot have even that ends. System calls.
///
/// # Safety
///
/// A mapping of the region's, or a window of the only thread.
pub(crate) unsafe fn take_away(platform: &dyn Platform, view: Span, access: Access) {
    // SAFETY: from the caller.
    let replaced = unsafe { platform.map_over(Backing::Private, view.start, view.len, access) };
    let gone = replaced.or_else(|_| {
        // SAFETY: as above.
        unsafe { platform.protect(view.start, view.len, Access::None, None) }
    });
    // Kernels that account for memory late have taken away already what was there, and
    // find nothing to protect.
    // SAFETY: as above; nobody could do anything with it.
    let gone = gone.or_else(|_| unsafe { platform.unmap(view.start, view.len) });
    if gone.is_err() {
        std::process::abort();
    }
}
