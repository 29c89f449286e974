//! Reservations: place for an executor that is not published yet.

use core::fmt;
use core::marker::PhantomData;

use crate::arena::ArenaRef;
use crate::executor::Executor;
use crate::fork;
use crate::layout::{Block, SizedEntry};
use crate::reclaim::retire::{Dead, Was};
use crate::thread::{self, ThreadState};
use crate::units::Span;

/// Place for one executor: its address is known, its bytes are not written.
///
/// It is written and published through the handle that made it. Dropping it
/// gives the bytes back.
#[must_use = "dropping a reservation gives its bytes back"]
pub struct Reservation {
    /// Always there but while it turns into an executor or is dropped.
    shared: Option<ArenaRef>,
    /// The handle that made it.
    home: u64,
    span: Span,
    entry: usize,
    block: Block,
    /// The write scope it was made in, 0 for none; see `WriteScope`.
    scope: u64,
    written: bool,
    _not_send: PhantomData<*mut ()>,
}

impl Reservation {
    #[inline(always)]
    pub(crate) fn new(thread: &ThreadState, block: Block, span: Span, entry: usize) -> Self {
        thread.reserved();
        let scope = if thread.open_scopes.get() == 0 { 0 } else { thread.scopes.get() };
        Self {
            shared: Some(thread.draw_ref()),
            home: thread.id(),
            span,
            entry,
            block,
            scope,
            written: false,
            _not_send: PhantomData,
        }
    }

    /// Address at which the code will run.
    #[must_use]
    pub fn entry(&self) -> usize {
        self.entry
    }

    /// Address at which running code will find the data.
    #[must_use]
    pub fn data(&self) -> usize {
        self.entry + self.block.data_offset
    }

    /// Bytes of code reserved.
    #[must_use]
    pub fn code_len(&self) -> usize {
        self.block.code_len
    }

    /// Bytes of data reserved.
    #[must_use]
    pub fn data_len(&self) -> usize {
        self.block.data_len
    }

    /// Bytes from the entry to the end of the data.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a reservation is never empty")]
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// The granules that belong to it.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    pub(crate) fn block(&self) -> Block {
        self.block
    }

    pub(crate) fn bytes(&self) -> usize {
        self.block.bytes()
    }

    pub(crate) fn scope(&self) -> u64 {
        self.scope
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written
    }

    pub(crate) fn set_written(&mut self) {
        self.written = true;
    }

    /// Makes it smaller; returns the granules that fell off its end.
    pub(crate) fn shrink(&mut self, block: Block) -> Span {
        let span = block.span_at(self.entry);
        debug_assert!(span.start == self.span.start && span.end() <= self.span.end());
        let tail = Span::new(span.end(), self.span.end() - span.end());
        self.block = block;
        self.span = span;
        tail
    }

    #[inline]
    pub(crate) fn is_of(&self, thread: &ThreadState) -> bool {
        self.home == thread.id()
            && self.shared.as_ref().is_some_and(|shared| thread.is_of(shared.pointer()))
    }

    /// The executor this has become.
    #[inline(always)]
    pub(crate) fn into_executor(mut self) -> Executor {
        Executor::from_owned(self.shared.take(), SizedEntry::new(self.entry, &self.block))
    }
}

impl Drop for Reservation {
    #[inline]
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            self.give_back(shared);
        }
    }
}

impl Reservation {
    #[cold]
    fn give_back(&mut self, shared: ArenaRef) {
        let pointer = shared.pointer();
        let mut owned = Some(shared);
        // Its own handle knows whether a write window is open on it.
        thread::with_handle(pointer, self.home, |thread| {
            if thread.id() == self.home {
                thread.unreserved(self.span);
            } else {
                fork::strays::give_back(pointer, self.home, self.span);
            }
            if self.written || !thread.unbump(self.span) {
                thread.abandon(self.span);
            }
            if let Some(shared) = owned.take() {
                thread.return_ref(shared);
            }
        });
        // The handle that made it is gone, and the thread has no other.
        if let Some(shared) = owned {
            fork::strays::give_back(pointer, self.home, self.span);
            shared.get().abandon(Dead { span: self.span, was: Was::Abandoned });
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("entry", &format_args!("{:#x}", self.entry))
            .field("code_len", &self.block.code_len)
            .field("data_len", &self.block.data_len)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}
