//! Executors: published code, owned by a handle.

use core::fmt;
use core::marker::PhantomData;

use crate::arena::{ArenaRef, Shared};
use crate::guard::Guard;
use crate::layout::{Block, SizedEntry, entry_of, header_of};
use crate::reclaim::retire::{Dead, Was};
use crate::sync::mutant;
use crate::thread::{self, ThreadState};
use crate::units::Span;

/// One published piece of code, and the data behind it.
///
/// The handle owns it. Dropping the handle, on any thread and at any time,
/// retires it: threads that may be running it finish, and then its bytes are
/// used again.
///
/// Usually O(1), wait-free and without a system call. On an attached thread one
/// drop in at most 64, of many threads one in a few, passes on what was dropped,
/// and some of those help the epoch: they are lock-free, and where 16 threads or
/// more are attached may yield the processor. On any other thread a drop is
/// lock-free and allocates. See DESIGN.md, section 9.
#[must_use = "dropping an executor retires its code"]
pub struct Executor {
    /// Always there but while it is dropped or taken apart.
    shared: Option<ArenaRef>,
    entry: SizedEntry,
}

impl Executor {
    #[inline(always)]
    pub(crate) fn from_owned(shared: Option<ArenaRef>, entry: SizedEntry) -> Self {
        Self { shared, entry }
    }

    /// Takes the handle apart without retiring the code.
    pub(crate) fn into_parts(mut self) -> (Option<ArenaRef>, usize) {
        (self.shared.take(), self.addr())
    }

    pub(crate) fn is_of(&self, shared: &ArenaRef) -> bool {
        self.shared.as_ref().is_some_and(|own| own.pointer() == shared.pointer())
    }

    /// Address of the first instruction.
    #[must_use]
    #[inline]
    pub fn addr(&self) -> usize {
        self.entry.entry()
    }

    /// The code as something to call, for as long as the guard lives.
    ///
    /// An entry cannot outlive its guard:
    ///
    /// ```compile_fail
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut thread = jit_arena::Arena::new()?.attach()?;
    /// let executor = thread.install(&[0xC3], &[])?;
    /// let guard = thread.pin();
    /// let entry = executor.entry(&guard);
    /// drop(guard);
    /// println!("{:#x}", entry.addr());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[inline]
    pub fn entry<'g>(&'g self, _guard: &'g Guard<'_>) -> Entry<'g> {
        // The borrow of the handle keeps the code alive; the guard keeps the
        // thread from opening a write scope meanwhile.
        Entry::new(self.addr())
    }

    /// Bytes of code.
    #[must_use]
    pub fn code_len(&self) -> usize {
        self.block().map_or(0, |block| block.code_len)
    }

    /// Bytes of data.
    #[must_use]
    pub fn data_len(&self) -> usize {
        self.block().map_or(0, |block| block.data_len)
    }

    /// Offset of the data from the entry, in bytes.
    #[must_use]
    pub fn data_offset(&self) -> usize {
        self.block().map_or(0, |block| block.data_offset)
    }

    /// The client's word; see [`CodeLayout::tag`](crate::CodeLayout::tag).
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.block().map_or(0, |block| block.tag)
    }

    fn block(&self) -> Option<Block> {
        self.shared.as_ref().and_then(|shared| read_block(shared.get(), self.addr()))
    }

    /// Retires it through a thread's own batch.
    #[inline]
    pub(crate) fn retire_on(mut self, thread: &ThreadState) {
        match self.shared.take() {
            Some(shared) if thread.is_of(shared.pointer()) => {
                retire(thread, shared, self.entry);
            }
            // Of another arena: dropping it finds the way.
            shared => self.shared = shared,
        }
    }
}

/// As [`read_header`], where it may be wiped meanwhile: what is read then may be
/// anything.
pub(crate) fn peek_header(shared: &Shared, header: usize) -> Option<(usize, Block)> {
    let region = &shared.region;
    decode(shared, header, |at| {
        // SAFETY: aligned, and inside the region.
        unsafe { region.protection().peek_word(region.platform(), at) }
    })
}

/// Reads the header of the executor whose first granule is at `header`: its
/// entry and its block.
pub(crate) fn read_header(shared: &Shared, header: usize) -> Option<(usize, Block)> {
    let region = &shared.region;
    decode(shared, header, |at| {
        // SAFETY: headers lie in the region, each at the start of a granule.
        unsafe { region.protection().load_word(region.platform(), at) }
    })
}

/// What the two words at `header` say, if this process has them: a forked child may
/// have nothing there to read, `[F3]`.
fn decode(shared: &Shared, header: usize, read: impl Fn(usize) -> u64) -> Option<(usize, Block)> {
    if shared.lost.get().is_some() {
        return None;
    }
    let (word, tag) = (read(header), read(header + 8));
    Some((entry_of(header, word), Block::decode(word, tag)?))
}

/// Reads the header of the executor entered at `entry`.
pub(crate) fn read_block(shared: &Shared, entry: usize) -> Option<Block> {
    read_header(shared, header_of(entry)).map(|(_, block)| block)
}

/// The granules of an executor, and its bytes of code and data; reads its header
/// if the handle does not know.
#[inline]
fn size(shared: &Shared, entry: SizedEntry) -> Option<(Span, usize)> {
    let read = || {
        let block = read_block(shared, entry.entry())?;
        Some((block.span_at(entry.entry()), block.bytes()))
    };
    let size = entry.size().or_else(read)?;
    debug_assert!(
        shared.lost.get().is_some() || read() == Some(size),
        "the handle remembers another size than its executor has"
    );
    Some(size)
}

/// What is to be recycled of an executor, which becomes retired here, `[D1]`.
#[inline]
fn bury(shared: &Shared, entry: SizedEntry) -> Option<Dead> {
    let (span, bytes) = size(shared, entry)?;
    let first = shared.pages.marks.retire(shared.pages.granule(span.start));
    debug_assert!(first, "[D1] an executor was retired twice");
    if mutant("mark-cleared-early") {
        shared.pages.marks.clear(shared.pages.granule(span.start));
    }
    first.then_some(Dead { span, was: Was::Executor { entry: entry.entry(), bytes } })
}

#[inline]
fn retire(thread: &ThreadState, shared: ArenaRef, entry: SizedEntry) {
    if let Some(dead) = bury(shared.get(), entry) {
        thread.count_retired(dead.bytes());
        thread.retire(dead);
    }
    thread.return_ref(shared);
}

impl Drop for Executor {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let pointer = shared.pointer();
        let mut owned = Some(shared);
        thread::with_attached(pointer, |thread| {
            if let Some(shared) = owned.take() {
                retire(thread, shared, self.entry);
            }
        });
        // Never attached, or exiting.
        if let Some(shared) = owned
            && let Some(dead) = bury(shared.get(), self.entry)
        {
            shared.get().unattached.count_retired(dead.bytes());
            shared.get().orphan(dead);
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("entry", &format_args!("{:#x}", self.addr()))
            .field("code_len", &self.code_len())
            .field("data_len", &self.data_len())
            .finish_non_exhaustive()
    }
}

/// A callable address, valid while its guard lives.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'g> {
    addr: usize,
    /// Borrows the guard; not `Send`, because guards are not `Sync`.
    _guard: PhantomData<&'g Guard<'g>>,
}

impl Entry<'_> {
    #[inline]
    pub(crate) fn new(addr: usize) -> Self {
        Self { addr, _guard: PhantomData }
    }

    /// The address.
    #[must_use]
    #[inline]
    pub fn addr(self) -> usize {
        self.addr
    }

    /// The address as a function pointer of type `F`.
    ///
    /// # Safety
    ///
    /// - `F` is a function pointer type, and the code follows its calling
    ///   convention and signature.
    /// - The function is not called after the guard is dropped.
    #[must_use]
    #[inline]
    pub unsafe fn cast<F: Copy>(self) -> F {
        // SAFETY: the caller vouches for the function.
        unsafe { cast(self.addr) }
    }
}

/// `addr` as a function pointer.
///
/// # Safety
///
/// `F` is a function pointer type fit for the code at `addr`.
#[inline]
pub(crate) unsafe fn cast<F: Copy>(addr: usize) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>(), "F must be a function pointer") };
    // SAFETY: of equal size; the caller vouches for the rest.
    unsafe { core::mem::transmute_copy(&addr) }
}
