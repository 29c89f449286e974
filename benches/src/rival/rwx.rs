//! A general heap over memory that is writable and executable throughout,
//! behind a mutex: no protection at all.
//!
//! [`SharedHeap`] is that heap, for rivals that add protection to it.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use talc::{ErrOnOom, Span, Talc};

use super::view::{self, Mapping};
use super::{NotHere, Rival, RivalThread, Usage};

/// Threads' heap inside one mapping.
#[derive(Clone)]
pub struct SharedHeap(Arc<Inner>);

struct Inner {
    // Before the memory it manages.
    heap: Mutex<Heap>,
    memory: Mapping,
}

struct Heap {
    talc: Talc<ErrOnOom>,
    live: usize,
    high: usize,
}

// SAFETY: the raw pointers of the heap lead into the mapping beside it, which
// belongs to nobody else.
unsafe impl Send for Heap {}

/// A block of a [`SharedHeap`].
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// First address.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

/// Alignment of blocks.
const ALIGN: usize = 64;

impl SharedHeap {
    /// A heap in private memory of these rights, with room for `live` bytes.
    pub fn new(live: usize, rights: i32) -> io::Result<Self> {
        let memory = Mapping::private((4 * live).max(64 << 20), rights)?;
        let mut talc = Talc::new(ErrOnOom);
        let span = Span::from_base_size(memory.start as *mut u8, memory.len);
        // SAFETY: writable memory that nobody else uses, alive as long as the
        // heap.
        unsafe { talc.claim(span) }.map_err(|()| io::Error::other("talc refuses the memory"))?;
        let heap = Mutex::new(Heap { talc, live: 0, high: 0 });
        Ok(Self(Arc::new(Inner { heap, memory })))
    }

    /// Takes a block.
    pub fn take(&self, len: usize) -> Block {
        let layout = Layout::from_size_align(len, ALIGN).expect("layout");
        let mut heap = self.0.heap.lock().expect("heap");
        // SAFETY: the layout is not empty.
        let start = unsafe { heap.talc.malloc(layout) }.expect("heap is full").as_ptr() as usize;
        heap.live += len;
        heap.high = heap.high.max(start + len - self.0.memory.start);
        Block { start, len }
    }

    /// Gives a block back.
    pub fn give(&self, block: Block) {
        let layout = Layout::from_size_align(block.len, ALIGN).expect("layout");
        let mut heap = self.0.heap.lock().expect("heap");
        heap.live -= block.len;
        let start = NonNull::new(block.start as *mut u8).expect("block");
        // SAFETY: taken with this layout.
        unsafe { heap.talc.free(start, layout) };
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Mapping {
        &self.0.memory
    }

    /// Bytes used; what was ever touched counts as held.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let heap = self.0.heap.lock().expect("heap");
        Usage {
            live: heap.live,
            committed: heap.high.next_multiple_of(view::PAGE),
            ..Usage::default()
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct TalcRwx(SharedHeap);

impl TalcRwx {
    /// With room for `live` bytes.
    pub fn new(live: usize) -> Result<Self, NotHere> {
        SharedHeap::new(live, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
            .map(Self)
            .map_err(|error| NotHere(format!("mmap RWX: {error}")))
    }
}

impl Rival for TalcRwx {
    type Thread = Self;

    fn name(&self) -> String {
        "talc-rwx".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }
}

impl RivalThread for TalcRwx {
    type Code = Block;

    #[inline]
    fn install(&mut self, code: &[u8]) -> Block {
        let block = self.0.take(code.len());
        // SAFETY: a block of our own in writable memory.
        unsafe { view::copy(block.start, code) };
        block
    }

    #[inline]
    fn free(&mut self, code: Block) {
        self.0.give(code);
    }

    fn addr(code: &Block) -> usize {
        code.start
    }
}
