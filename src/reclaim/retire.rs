//! Dead executors on their way to becoming holes.
//!
//! Retiring puts an executor into the dropping thread's [`Batch`]. A full batch
//! that makes a lot is deferred by the epoch; smaller ones, of threads that are
//! one of many, first gather on a [`Stack`] that all threads share and are
//! deferred together. Once their grace period is over batches land on a *ripe*
//! stack, the thread's or the arena's, from which an allocating thread recycles
//! them. Deferred work runs inside whatever pin happens to collect, so all it
//! does is that one push, `[D2]`.

use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

use crate::sync::{AtomicPtr, Ordering, Tally};
use crate::units::Span;

/// Executors a batch holds at most, and what it has room for at first: those of
/// threads that are one of many stay small.
pub(crate) const BATCH: usize = 64;
const ROOM: usize = 16;

/// Granules that are to become a hole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead {
    /// In the executable view.
    pub(crate) span: Span,
    pub(crate) was: Was,
}

/// What dead granules were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Was {
    /// An executor, entered here, of so many bytes of code and data.
    Executor { entry: usize, bytes: usize },
    /// A reservation that never was published.
    Abandoned,
    /// Whole write units, every granule of them dead and accounted for.
    Unit,
}

impl Dead {
    /// Bytes of code and data it had as an executor.
    pub(crate) fn bytes(&self) -> usize {
        match self.was {
            Was::Executor { bytes, .. } => bytes,
            Was::Abandoned | Was::Unit => 0,
        }
    }

    /// Whether one of the sorted entries `held` is its own.
    pub(crate) fn is_held(&self, held: &[usize]) -> bool {
        match self.was {
            Was::Executor { entry, .. } => held.binary_search(&entry).is_ok(),
            Was::Abandoned | Was::Unit => false,
        }
    }
}

/// Dead executors that ripen together. A node of a [`Stack`].
pub(crate) struct Batch {
    next: *mut Batch,
    dead: Vec<Dead>,
    bytes: usize,
}

// SAFETY: a batch is plain data; `next` is used by stacks only, under their
// atomics.
unsafe impl Send for Batch {}

impl Batch {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self { next: ptr::null_mut(), dead: Vec::with_capacity(ROOM), bytes: 0 })
    }

    /// Empties it for use again; `None` if it was made for one.
    pub(crate) fn recycled(mut self: Box<Self>) -> Option<Box<Self>> {
        (self.next, self.bytes) = (ptr::null_mut(), 0);
        self.dead.clear();
        (self.dead.capacity() >= ROOM).then_some(self)
    }

    /// A batch of one.
    pub(crate) fn of(dead: Dead, weight: usize) -> Box<Self> {
        Box::new(Self { next: ptr::null_mut(), bytes: weight, dead: vec![dead] })
    }

    /// Adds what makes `weight` bytes free.
    #[inline]
    pub(crate) fn push(&mut self, dead: Dead, weight: usize) {
        self.bytes += weight;
        self.dead.push(dead);
    }

    pub(crate) fn dead(&self) -> &[Dead] {
        &self.dead
    }

    /// Bytes that become free with it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_full(&self) -> bool {
        self.dead.len() >= BATCH
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dead.is_empty()
    }
}

/// A stack of batches: pushed one by one, taken all at once.
///
/// Taking the whole list by one swap rules out the ABA problem of popping
/// (Treiber, *Systems Programming: Coping with Parallelism*, 1986).
///
/// Progress: push is lock-free, taking is wait-free.
pub(crate) struct Stack {
    head: AtomicPtr<Batch>,
    bytes: Tally,
}

impl Stack {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), bytes: Tally::new(0) }
    }

    pub(crate) fn push(&self, batch: Box<Batch>) {
        self.push_all(batch.into());
    }

    /// Pushes all of them, in one step; returns their bytes.
    pub(crate) fn push_all(&self, batches: Batches) -> usize {
        let (mut bytes, mut last) = (0, None);
        for node in batches.nodes() {
            // SAFETY: the list is owned, and its nodes are boxes.
            bytes += unsafe { node.as_ref() }.bytes;
            last = Some(node);
        }
        let Some(last) = last else { return 0 };
        // Relaxed: decides when to recycle, not what.
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let first = ManuallyDrop::new(batches).head;
        // Relaxed: only compared and stored in `next`.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the nodes came from boxes and are ours until pushed.
            unsafe { (*last.as_ptr()).next = head };
            // Release [D2] [E1]: pairs with the Acquire in `take_all`: what ended
            // the grace period is known to who recycles, and that nobody can
            // newly reach what is dead to who defers.
            match self.head.compare_exchange_weak(head, first, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return bytes,
                Err(now) => head = now,
            }
        }
    }

    /// Takes everything pushed so far.
    pub(crate) fn take_all(&self) -> Batches {
        // Acquire [D2] [E1]: pairs with the Release in `push_all`.
        let head = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let batches = Batches { head };
        // Relaxed: as in `push_all`.
        self.bytes.fetch_sub(batches.bytes() as u64, Ordering::Relaxed);
        batches
    }

    /// Drops everything on it, and counts from nothing. By a thread that is alone.
    pub(crate) fn reset(&self) {
        drop(self.take_all());
        // Relaxed: nobody else is there. A thread that is gone may have pushed
        // and not counted.
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Bytes waiting here, about.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: as in `push_all`. Two's complement: a taker may subtract before
        // the pusher of a batch it saw has added.
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes > i64::MAX as u64 { 0 } else { bytes as usize }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for batch in self.take_all() {
            drop(batch);
        }
    }
}

/// Batches whose grace period is over, and how many bytes are still in theirs.
pub(crate) struct Ripe {
    batches: Stack,
    /// Bytes deferred and not arrived.
    expected: Tally,
    pub(crate) attempts: Attempts,
}

/// When to try again what did not help: once there is so much more to help with.
///
/// An attempt to advance the epoch looks at all threads, and does it pinned; a
/// thread that loses the processor then holds everything up, and if that made
/// the others try all the time, one of them would be next.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// Bytes that waited when it was last tried.
    last: Tally,
}

impl Attempts {
    /// Of something that is tried at first, however little waits.
    pub(crate) fn from_the_first() -> Self {
        Self { last: Tally::new(u64::MAX) }
    }

    /// Whether to try now that `waiting` bytes wait; if so that counts as tried.
    pub(crate) fn is_time(&self, waiting: usize, step: usize) -> bool {
        let is_time = self.has_come(waiting, step);
        if is_time {
            self.note(waiting);
        }
        is_time
    }

    /// Whether to try now that `waiting` bytes wait.
    pub(crate) fn has_come(&self, waiting: usize, step: usize) -> bool {
        // Relaxed: steers policy.
        let last = self.last.load(Ordering::Relaxed) as usize;
        waiting < last || waiting - last >= step
    }

    /// It was tried with so many bytes waiting.
    pub(crate) fn note(&self, waiting: usize) {
        // Relaxed: as above.
        self.last.store(waiting as u64, Ordering::Relaxed);
    }
}

impl Ripe {
    pub(crate) fn new() -> Self {
        Self { batches: Stack::new(), expected: Tally::new(0), attempts: Attempts::default() }
    }

    /// Announces that batches of `bytes` were deferred.
    pub(crate) fn expect(&self, bytes: usize) {
        // Relaxed: steers policy.
        self.expected.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What deferred work does, and all it does, `[D2]`. Lock-free.
    pub(crate) fn arrive(&self, batches: Batches) {
        let bytes = self.batches.push_all(batches);
        // Relaxed: steers policy.
        self.expected.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes whose grace period has begun, over or not.
    pub(crate) fn pending(&self) -> usize {
        // Relaxed: steers policy.
        self.expected.load(Ordering::Relaxed) as usize + self.batches.bytes()
    }

    /// See [`Stack::reset`].
    pub(crate) fn reset(&self) {
        self.batches.reset();
        // Relaxed: nobody else is there.
        self.expected.store(0, Ordering::Relaxed);
    }

    /// The batches that are ripe.
    pub(crate) fn batches(&self) -> &Stack {
        &self.batches
    }
}

/// A list of batches, owned. Dropping the rest frees it.
pub(crate) struct Batches {
    head: *mut Batch,
}

// SAFETY: it owns its batches, which are plain data.
unsafe impl Send for Batches {}

impl Default for Batches {
    fn default() -> Self {
        Self { head: ptr::null_mut() }
    }
}

impl Batches {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Puts those of `other` in front.
    pub(crate) fn append(&mut self, other: Self) {
        if let Some(last) = other.nodes().last() {
            // SAFETY: both lists are owned, and their nodes are boxes.
            unsafe { (*last.as_ptr()).next = self.head };
            self.head = ManuallyDrop::new(other).head;
        }
    }

    fn nodes(&self) -> impl Iterator<Item = NonNull<Batch>> {
        let mut at = NonNull::new(self.head);
        core::iter::from_fn(move || {
            let node = at?;
            // SAFETY: the list is owned, and its nodes are boxes.
            at = NonNull::new(unsafe { node.as_ref() }.next);
            Some(node)
        })
    }

    /// Bytes that become free with them.
    pub(crate) fn bytes(&self) -> usize {
        // SAFETY: as in `nodes`.
        self.nodes().map(|node| unsafe { node.as_ref() }.bytes).sum()
    }
}

impl From<Box<Batch>> for Batches {
    fn from(batch: Box<Batch>) -> Self {
        Self { head: Box::into_raw(batch) }
    }
}

impl Iterator for Batches {
    type Item = Box<Batch>;

    fn next(&mut self) -> Option<Box<Batch>> {
        let node = NonNull::new(self.head)?;
        // SAFETY: the list is owned, its nodes are boxes, and this one leaves it.
        let batch = unsafe { Box::from_raw(node.as_ptr()) };
        self.head = batch.next;
        Some(batch)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
