//! The naive model: which blocks exist, what bytes they must hold, and who
//! protects them.
//!
//! A *block* is a reservation, a live executor, or a dropped executor that a
//! guard or a running entry still protects; once nobody does, the model forgets
//! it and says nothing more of its bytes. Protection is stated over all
//! executors, loaded or not: what was dropped after a thread pinned stays as
//! long as that pin, and what a thread runs stays as long as it runs it.
//!
//! Every rule is one of: blocks are disjoint, down to whole granules with the
//! header; their bytes change only by writes through the API; sizes, alignment
//! and tags are those asked for; counts are exact ([`accounts`]); and when
//! nothing is in flight nothing is lost and no hole is overlooked ([`space`]).

use std::collections::BTreeMap;
use std::mem;

use jit_arena::{Executor, GRANULE, Reservation, Span};

use crate::code;
use crate::ops::Setup;
use crate::sizes::{HEADER, Sizes};

pub mod accounts;
pub mod guards;
pub mod lookup;
pub mod space;

use accounts::Counts;
use guards::Pins;

/// Names a block.
pub type Id = u32;
/// Names a virtual thread.
pub type ThreadKey = u32;

/// Blocks longer than this are compared in parts, a different part each step.
const COMPARE: usize = 2048;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A reservation.
    Reserved {
        /// The handle that made it.
        home: ThreadKey,
        /// The write scope it was made in.
        scope: Option<u64>,
        /// Whether a scope ever touched it.
        written: bool,
    },
    /// A published executor.
    Live,
    /// Dropped at this moment, and still protected.
    Retired {
        /// When.
        at: u64,
    },
}

/// One block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The arena it is of.
    pub arena: usize,
    /// Its address.
    pub entry: usize,
    /// What was asked for; its sizes follow shrinking.
    pub sizes: Sizes,
    /// Where its data starts, from the entry.
    pub data_offset: usize,
    /// What it is.
    pub state: State,
    /// What it must hold.
    bytes: Vec<u8>,
}

impl Block {
    /// Bytes from the entry to the end.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes, which no block has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What it returns when called, if it begins with a function.
    #[must_use]
    pub fn returns(&self) -> Option<u32> {
        code::returns(&self.bytes[..self.sizes.code])
    }

    /// Its granules, the header's included.
    fn granules(&self) -> Span {
        let start = self.entry - HEADER;
        Span::new(start, HEADER + self.len()).round_out(GRANULE)
    }
}

/// One arena as the model knows it.
#[derive(Debug)]
pub struct ArenaModel {
    /// Its options.
    pub setup: Setup,
    /// Its region.
    pub span: Span,
    /// Its counts.
    pub counts: Counts,
}

impl ArenaModel {
    /// The unit of writing: what is taken and freed as a whole.
    #[must_use]
    pub fn unit(&self) -> usize {
        if self.is_coarse() { code::system_page() } else { GRANULE }
    }

    /// Whether units are more than granules.
    #[must_use]
    pub fn is_coarse(&self) -> bool {
        self.setup.strategy == jit_arena::Strategy::Mprotect
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Counts drops and pins, to order them.
    clock: u64,
    next: Id,
    blocks: BTreeMap<Id, Block>,
    /// Blocks by the address of their first granule.
    by_address: BTreeMap<usize, Id>,
    /// Dropped executors that are still protected, or were at the last sweep.
    retired: Vec<Id>,
    threads: BTreeMap<ThreadKey, Pins>,
    arenas: BTreeMap<usize, ArenaModel>,
}

impl Oracle {
    /// A new arena under a number that no earlier one had.
    pub fn built(&mut self, arena: usize, setup: Setup, span: Span) {
        assert_eq!(span.len, setup.reserve, "the region is as long as asked for");
        assert!(span.start.is_multiple_of(setup.code_page.min(code::system_page())));
        for other in self.arenas.values() {
            assert!(
                span.end() <= other.span.start || other.span.end() <= span.start,
                "two regions overlap"
            );
        }
        self.arenas.insert(arena, ArenaModel { setup, span, counts: Counts::default() });
    }

    /// An arena of which nothing is left.
    pub fn gone(&mut self, arena: usize) {
        self.arenas.remove(&arena);
    }

    /// An arena, known to exist.
    #[must_use]
    pub fn arena(&self, arena: usize) -> &ArenaModel {
        &self.arenas[&arena]
    }

    /// Its counts.
    pub fn counts(&mut self, arena: usize) -> &mut Counts {
        &mut self.arenas.get_mut(&arena).expect("a known arena").counts
    }

    /// A block, known to exist.
    #[must_use]
    pub fn block(&self, id: Id) -> &Block {
        &self.blocks[&id]
    }

    /// A reservation was made: checks its sizes, alignment and place.
    pub fn reserved(
        &mut self,
        arena: usize,
        (home, scope): (ThreadKey, Option<u64>),
        sizes: Sizes,
        it: &Reservation,
    ) -> Id {
        assert_eq!(it.code_len(), sizes.code, "code length of {sizes:?}");
        assert_eq!(it.data_len(), sizes.data, "data length of {sizes:?}");
        assert_eq!(it.len(), sizes.len(), "length of {sizes:?}");
        assert_eq!(it.data(), it.entry() + sizes.data_offset(), "place of the data of {sizes:?}");
        let state = State::Reserved { home, scope, written: false };
        self.place(arena, it.entry(), sizes, state)
    }

    /// An executor was made in one step.
    pub fn installed(&mut self, arena: usize, sizes: Sizes, it: &Executor, bytes: &[u8]) -> Id {
        let id = self.place(arena, it.addr(), sizes, State::Live);
        self.counts(arena).install(sizes.code + sizes.data);
        self.compare(id, bytes);
        self.check_executor(id, it);
        id
    }

    fn place(&mut self, arena: usize, entry: usize, sizes: Sizes, state: State) -> Id {
        let model = &self.arenas[&arena];
        assert!(entry.is_multiple_of(sizes.align.max(HEADER)), "{entry:#x} for {sizes:?}");
        let data_offset = sizes.data_offset();
        assert!((entry + data_offset).is_multiple_of(sizes.data_align), "data of {sizes:?}");
        // Compared with from here on: nobody else may write it.
        // SAFETY: the block is inside the region, or the next check fails: it
        // is done on the addresses first.
        let granules = Span::new(entry - HEADER, HEADER + sizes.len()).round_out(GRANULE);
        assert!(model.span.contains(granules), "{granules:x?} outside {:x?}", model.span);
        if let Some((_, other)) = self.by_address.range(..granules.end()).next_back() {
            let other = &self.blocks[other];
            assert!(
                other.granules().end() <= granules.start,
                "[B1] {granules:x?} overlaps {:x?}, {:?}",
                other.granules(),
                other.state
            );
        }
        let id = self.next;
        self.next += 1;
        // SAFETY: committed, and its owner, who alone writes it, is here.
        let bytes = unsafe { code::read(entry, sizes.len()) }.to_vec();
        self.by_address.insert(granules.start, id);
        self.blocks.insert(id, Block { arena, entry, sizes, data_offset, state, bytes });
        id
    }

    /// A scope touched a reservation; `bytes` went to `at`.
    pub fn wrote(&mut self, id: Id, at: usize, bytes: &[u8]) {
        let block = self.blocks.get_mut(&id).expect("a known block");
        block.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        if let State::Reserved { written, .. } = &mut block.state {
            *written = true;
        }
    }

    /// A reservation shrank.
    pub fn shrank(&mut self, id: Id, code: usize, data: usize, it: &Reservation) {
        self.wrote(id, 0, &[]);
        let block = self.blocks.get_mut(&id).expect("a known block");
        (block.sizes.code, block.sizes.data) = (code, data);
        if data == 0 {
            block.data_offset = code;
        }
        let len = if data == 0 { code } else { block.data_offset + data };
        block.bytes.truncate(len);
        assert_eq!(it.entry(), block.entry);
        assert_eq!((it.code_len(), it.data_len(), it.len()), (code, data, len));
        assert_eq!(it.data(), block.entry + block.data_offset);
    }

    /// A reservation was published.
    pub fn published(&mut self, id: Id, it: &Executor) {
        let block = self.blocks.get_mut(&id).expect("a known block");
        block.state = State::Live;
        let (arena, bytes) = (block.arena, block.sizes.code + block.sizes.data);
        self.counts(arena).install(bytes);
        self.check_executor(id, it);
    }

    /// The executor is what was asked for, and where.
    pub fn check_executor(&self, id: Id, it: &Executor) {
        let block = &self.blocks[&id];
        assert_eq!(it.addr(), block.entry);
        assert_eq!(it.code_len(), block.sizes.code);
        assert_eq!(it.data_len(), block.sizes.data);
        assert_eq!(it.data_offset(), block.data_offset);
        assert_eq!(it.tag(), block.sizes.tag);
    }

    /// A reservation was dropped.
    pub fn abandoned(&mut self, id: Id) {
        self.compare_whole(id);
        self.forget(id);
    }

    /// An executor was dropped.
    pub fn retired(&mut self, id: Id) {
        self.compare_whole(id);
        self.clock += 1;
        let at = self.clock;
        let block = self.blocks.get_mut(&id).expect("a known block");
        block.state = State::Retired { at };
        self.retired.push(id);
        let (arena, bytes) = (block.arena, block.sizes.code + block.sizes.data);
        self.counts(arena).retire(bytes);
    }

    fn forget(&mut self, id: Id) {
        if let Some(block) = self.blocks.remove(&id) {
            self.by_address.remove(&block.granules().start);
        }
    }

    /// Forgets what nobody protects any more, after its last comparison.
    pub fn sweep(&mut self) {
        let mut retired = mem::take(&mut self.retired);
        retired.retain(|&id| {
            let block = &self.blocks[&id];
            let State::Retired { at } = block.state else { return true };
            let is_protected = self.is_protected(id, block.arena, at);
            if !is_protected {
                self.forget(id);
            }
            is_protected
        });
        self.retired = retired;
    }

    /// Compares the bytes of every block; of long ones just some.
    pub fn compare_all(&mut self) {
        self.clock += 1;
        for (id, block) in &self.blocks {
            let len = block.len();
            if len <= 2 * COMPARE {
                Self::compare_part(*id, block, 0, len);
            } else {
                let middle = (self.clock as usize).wrapping_mul(COMPARE) % (len - COMPARE);
                for start in [0, middle, len - COMPARE] {
                    Self::compare_part(*id, block, start, COMPARE);
                }
            }
        }
    }

    fn compare_whole(&self, id: Id) {
        let block = &self.blocks[&id];
        Self::compare_part(id, block, 0, block.len());
    }

    fn compare_part(id: Id, block: &Block, start: usize, len: usize) {
        // SAFETY: the block is owned or protected, so it is mapped, and no
        // operation is under way that would write it.
        let found = unsafe { code::read(block.entry + start, len) };
        let expected = &block.bytes[start..start + len];
        if found != expected {
            let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
            panic!(
                "block {id} at {:#x} of {} bytes, {:?}: byte {} is {:#04x}, not {:#04x}",
                block.entry,
                block.len(),
                block.state,
                start + at,
                found[at],
                expected[at],
            );
        }
    }

    /// The writable view shows what the executable one does.
    pub fn check_view(&self, id: Id, view: &[u8]) {
        assert!(view == self.blocks[&id].bytes, "two views of block {id} differ");
    }

    /// The block holds exactly these bytes.
    pub fn compare(&self, id: Id, bytes: &[u8]) {
        assert_eq!(self.blocks[&id].bytes, bytes, "what was written to block {id}");
        self.compare_whole(id);
    }
}
