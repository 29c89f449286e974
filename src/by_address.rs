//! Executors by address alone: for clients that keep addresses and no handles,
//! as C programs do.
//!
//! [`Executor::into_addr`] gives a handle up and leaves the code in place; from
//! then on its address stands for it, on any thread. Retiring it by that needs
//! no more: the header in code memory says how long the executor is, the mark of
//! its granule that one starts there and whether it was retired before. So a
//! mistake is an error, and of two threads that free one executor at once, one
//! is told, `[D1]`.
//!
//! # Why the look and the mark are one
//!
//! Looking is done under a pin. What is marked live when it is looked at under a
//! pin is not recycled while the pin lasts, `[E1]`, like what a slot is loaded
//! with; so between the look and the compare-and-swap of the mark the executor
//! stays what it is. Executors that a client retires as quiescent do not wait
//! for pins. If one is freed twice, once like that and both at the same time, it
//! may be another between the two: so there is a second look behind the mark,
//! which is taken back if it is not of an executor entered where it should be.

use core::fmt;
use std::error::Error;

use crate::arena::{Arena, ArenaRef};
use crate::error::AttachError;
use crate::executor::Executor;
use crate::layout::{Block, header_of};
use crate::lookup::{self, CodeInfo};
use crate::reclaim::retire::{Dead, Was};
use crate::thread::{self, ThreadHandle, ThreadState};

/// Why no executor was retired. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetireError {
    /// The address is not in the arena's code memory.
    Outside {
        /// What was given.
        address: usize,
    },
    /// No executor is entered there.
    NotAnEntry {
        /// What was given.
        address: usize,
        /// The entry of the executor that it lies in, if it lies in one.
        inside: Option<usize>,
    },
    /// The executor was retired before.
    Retired {
        /// Its entry.
        entry: usize,
    },
    /// The calling thread could not attach.
    Attach(AttachError),
}

impl fmt::Display for RetireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside { address } => write!(
                f,
                "{address:#x} is not in this arena's code memory: free it where it came from"
            ),
            Self::NotAnEntry { address, inside: Some(entry) } => write!(
                f,
                "{address:#x} is in the middle of the executor at {entry:#x}: free it by its entry"
            ),
            Self::NotAnEntry { address, inside: None } => write!(
                f,
                "no executor is entered at {address:#x}: it was never published, or freed before"
            ),
            Self::Retired { entry } => {
                write!(f, "the executor at {entry:#x} was freed before: free it once")
            }
            Self::Attach(_) => f.write_str("nothing was freed: the thread could not attach"),
        }
    }
}

impl Error for RetireError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Attach(source) => Some(source),
            _ => None,
        }
    }
}

/// When the memory of what is retired may be used again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Once every pin of now has ended.
    Ripe,
    /// At once.
    Now,
}

impl Executor {
    /// Gives the handle up without retiring the code. Wait-free.
    ///
    /// The code stays until [`Arena::retire_at`] is called with its address,
    /// which this returns, or until the arena is gone: for that it does not
    /// keep the arena alive any more, as a handle does.
    #[must_use = "the address is all that is left to retire it by"]
    pub fn into_addr(self) -> usize {
        let (shared, entry) = self.into_parts();
        let Some(shared) = shared else { return entry };
        let pointer = shared.pointer();
        let mut owned = Some(shared);
        thread::with_attached(pointer, |thread| {
            if let Some(shared) = owned.take() {
                thread.return_ref(shared);
            }
        });
        entry
    }
}

impl Arena {
    /// Retires the executor entered at `entry`, on any thread: as dropping its
    /// handle would. On a thread that is attached as wait-free as a drop and a
    /// [`pin`](crate::ThreadHandle::pin), which are lock-free now and then;
    /// lock-free on another, which it attaches for the moment.
    ///
    /// # Errors
    ///
    /// An address outside the arena, in the middle of an executor or of none,
    /// or of one that was retired before and not yet used again.
    ///
    /// # Safety
    ///
    /// - The executor's handle was given up by [`Executor::into_addr`].
    /// - The address was not retired before, unless nothing was installed since:
    ///   the memory of what was retired becomes other executors', and one of
    ///   them may have the same entry.
    pub unsafe fn retire_at(&self, entry: usize) -> Result<(), RetireError> {
        retire(self.handle(), entry, When::Ripe)
    }

    /// As [`retire_at`](Self::retire_at), without a grace period: its memory may
    /// be used again at once, whoever is pinned.
    ///
    /// # Errors
    ///
    /// As [`retire_at`](Self::retire_at).
    ///
    /// # Safety
    ///
    /// As [`retire_at`](Self::retire_at), and:
    ///
    /// - No thread runs the executor, will run it, or reads its bytes by an
    ///   address it has; the last to do so happens before this call.
    /// - No thread takes a [`dump`](Self::dump) meanwhile.
    pub unsafe fn retire_quiescent_at(&self, entry: usize) -> Result<(), RetireError> {
        retire(self.handle(), entry, When::Now)
    }
}

fn retire(arena: &ArenaRef, entry: usize, when: When) -> Result<(), RetireError> {
    let on = |thread: &ThreadState| {
        let dead = bury(thread, entry)?;
        thread.count_retired(dead.bytes());
        match when {
            When::Ripe => thread.retire(dead),
            When::Now => thread.retire_ripe(dead),
        }
        Ok(())
    };
    if let Some(result) = thread::with_attached(arena.pointer(), on) {
        return result;
    }
    // What the handle retires it hands over as it is dropped.
    on(ThreadHandle::attach(arena).map_err(RetireError::Attach)?.state())
}

/// Marks the executor entered at `entry` as retired, `[D1]`.
fn bury(thread: &ThreadState, entry: usize) -> Result<Dead, RetireError> {
    let shared = thread.shared();
    let region = shared.region.span();
    if !lookup::contains(shared, entry) {
        return Err(RetireError::Outside { address: entry });
    }
    let nowhere = RetireError::NotAnEntry { address: entry, inside: None };
    let header = header_of(entry);
    if header < region.start {
        return Err(nowhere);
    }
    // [E1]: what is live now stays until the pin ends.
    let _pin = thread.local.pin();
    let granule = shared.pages.granule(header);
    let is_live = shared.pages.marks.is_live(granule);
    let info = lookup::lookup(shared, entry).ok_or(nowhere)?;
    if info.entry() != entry {
        return Err(RetireError::NotAnEntry { address: entry, inside: Some(info.entry()) });
    }
    if !is_live || !shared.pages.marks.retire_shared(granule) {
        return Err(RetireError::Retired { entry });
    }
    let Some(info) = lookup::lookup(shared, entry).filter(|info| info.entry() == entry) else {
        // Freed twice at once, and as quiescent: see the module.
        shared.pages.marks.restore(granule);
        return Err(RetireError::Retired { entry });
    };
    let block = block_of(&info);
    let (span, bytes) = (block.span_at(entry), block.bytes());
    Ok(Dead { span, was: Was::Executor { entry, bytes } })
}

/// The block that was found.
fn block_of(info: &CodeInfo) -> Block {
    Block {
        code_len: info.code.len,
        data_offset: info.data.start - info.code.start,
        data_len: info.data.len,
        tag: info.tag,
    }
}
