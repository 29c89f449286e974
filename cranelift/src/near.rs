//! Ordinary memory within reach of a region of code: for data that stays writable.

use core::ptr;
use std::io;

use jit_arena::Span;

/// Farthest that a byte of data may be from one of code, in bytes.
const REACH: usize = 1 << 31;

/// Places that are tried on each side of the region.
const TRIES: usize = 64;

/// A private mapping, readable and writable, unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Pages(Span);

impl Pages {
    /// `len` bytes, whole pages, within reach of all of `region`.
    pub(crate) fn map(region: Span, len: usize) -> io::Result<Self> {
        let above = (0..TRIES).map(|at| region.end() + at * region.len.max(len));
        let below = (1..=TRIES).filter_map(|at| {
            let at = at.checked_mul(region.len.max(len))?;
            region.start.checked_sub(at).map(|start| start & !0xFFFF)
        });
        let mut error = None;
        for hint in above.zip(below).flat_map(|(above, below)| [above, below]) {
            match Self::map_at(hint, len) {
                Ok(pages) if pages.is_near(region) => return Ok(pages),
                // Elsewhere: unmapped again.
                Ok(_) => {}
                Err(refused) => error = Some(refused),
            }
        }
        Err(error.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::OutOfMemory, "no room for data within reach of the code")
        }))
    }

    fn map_at(hint: usize, len: usize) -> io::Result<Self> {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let hint = ptr::without_provenance_mut(hint);
        // SAFETY: a new mapping, which replaces none: the address is a hint.
        let start = unsafe { libc::mmap(hint, len, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Span::new(start.expose_provenance(), len)))
    }

    fn is_near(&self, region: Span) -> bool {
        let low = self.0.start.min(region.start);
        let high = self.0.end().max(region.end());
        high - low < REACH
    }

    pub(crate) fn span(&self) -> Span {
        self.0
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let start = ptr::with_exposed_provenance_mut(self.0.start);
        // SAFETY: mapped by `map_at`, and used by nobody any more.
        unsafe { libc::munmap(start, self.0.len) };
    }
}
