//! Lookup: from an address to the executor it lies in.
//!
//! A profiler's signal handler, an unwinder and a debugger's hook all start
//! from a program counter. [`Arena::contains`](crate::Arena::contains) compares
//! it with the region; [`Arena::lookup`](crate::Arena::lookup) goes down from
//! its granule to the nearest mark and reads the header there. No lock, no
//! allocation, no thread-local, no system call; and no store but where lots were
//! recycled all the while.
//!
//! # What a reader may see
//!
//! The header lies in code memory, and the reader may have no guard: it may be
//! wiped and written anew under its eyes. So recycling advances a *generation*
//! once a lot, after the marks of the lot are cleared and before its first byte
//! changes, and a look counts only if the generation was the same before it
//! looked for the mark and after it had read the header, `[L1]`:
//!
//! - The mark was read with Acquire, so the header read is the one that
//!   belongs to the mark, or what came after it was wiped.
//! - In the latter case the reader sees the generation advanced: the fence
//!   before the wiping pairs with the one behind the reading. It had not seen
//!   that before it found the mark, or it would have found it cleared.
//!
//! This rules out ABA as well: between an executor and its successor in the
//! same granule lies a lot. It is the reader's side of a sequence lock (Boehm,
//! *Can Seqlocks Get Along With Programming Language Memory Models?*, 2012),
//! with the marks in the place of odd counts.
//!
//! A reader of a sequence lock may have to look again for ever. This one, where
//! a lot passed in each of [`LOOKS`], *announces* itself and looks once more.
//! Recyclers ask for announced lookups after they have cleared the marks of a
//! lot, and while there is one they leave the bytes as they are, for the next
//! lot. With a fence on either side, either the recycler sees the announcement,
//! or the lookup sees the marks cleared: whatever mark it finds, the header
//! there stays until it has been read. It is a hazard pointer (Michael, 2004)
//! without the pointer, so any number of lookups can have it at once, in signal
//! handlers, without a place for each.

use crate::arena::Shared;
use crate::executor::peek_header;
use crate::layout::Block;
use crate::page::bitmap::WORD;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, fence, mutant};
use crate::units::{GRANULE, MAX_ALIGN, MAX_EXECUTOR, Span};

/// Times a lookup looks before it announces itself. A lot takes a core
/// synchronisation at the least, a look some dozen loads.
pub(crate) const LOOKS: usize = 4;

/// The most granules between an executor's first and an address inside it.
const FARTHEST: usize = (MAX_EXECUTOR + 2 * MAX_ALIGN) / GRANULE + 1;

/// What [`Arena::lookup`](crate::Arena::lookup) found: an executor's parts and
/// its tag. Plain numbers, which keep nothing alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodeInfo {
    /// The code, in the executable view; starts with the entry.
    pub code: Span,
    /// The data behind it; empty if there is none.
    pub data: Span,
    /// The client's word; see [`CodeLayout::tag`](crate::CodeLayout::tag).
    pub tag: u64,
}

impl CodeInfo {
    pub(crate) fn new(entry: usize, block: &Block) -> Self {
        Self {
            code: Span::new(entry, block.code_len),
            data: Span::new(entry + block.data_offset, block.data_len),
            tag: block.tag,
        }
    }

    /// Address of the first instruction.
    #[must_use]
    pub const fn entry(&self) -> usize {
        self.code.start
    }

    /// Whether the byte at `address` is code or data of the executor, or lies
    /// between.
    const fn covers(&self, address: usize) -> bool {
        let end = if self.data.len == 0 { self.code.end() } else { self.data.end() };
        address >= self.code.start && address < end
    }
}

/// How lookups and lots keep out of each other's way, `[L1]`.
#[derive(Debug)]
pub(crate) struct Lookups {
    /// Lots whose marks were cleared.
    generation: AtomicU64,
    /// Lookups that have announced themselves.
    announced: AtomicUsize,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        Self { generation: AtomicU64::new(0), announced: AtomicUsize::new(0) }
    }

    /// Whether what has lost its marks may be wiped now; if not, it stays
    /// as it is, and the caller asks again later. Wait-free; once a lot.
    #[must_use]
    pub(crate) fn let_wipe(&self) -> bool {
        if mutant("generation-not-advanced") {
            return true;
        }
        // Release [L1]: pairs with the Acquire in `now`: who sees this sees the
        // marks cleared.
        self.generation.fetch_add(1, Ordering::Release);
        // SeqCst [L1]: between the clearing of marks and the look at
        // `announced`; pairs with the fence in `announce`. Its Release pairs with
        // the fence in `is_still`: who reads a byte that is written from here on
        // sees the count advanced. Its Acquire pairs with the Release in
        // `Units::bury`, [W3].
        fence(Ordering::SeqCst);
        // Acquire [L1]: pairs with the Release of an announcement's end: what
        // the lookup read, it read before it is written.
        self.announced.load(Ordering::Acquire) == 0
    }

    /// Whether some keep a lot from being wiped just now.
    pub(crate) fn are_announced(&self) -> bool {
        // Relaxed: steers policy.
        self.announced.load(Ordering::Relaxed) > 0
    }

    /// Has lookups begin anew, in a process of one thread, which is in none:
    /// those that had announced themselves are not here.
    pub(crate) fn after_fork(&self) {
        // Relaxed: of the only thread.
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.announced.store(0, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        // Acquire [L1]: pairs with the Release in `let_wipe`.
        self.generation.load(Ordering::Acquire)
    }

    /// Whether nothing read since `before` was wiped.
    fn is_still(&self, before: u64) -> bool {
        // Acquire [L1]: pairs with the fence in `let_wipe`.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        self.generation.load(Ordering::Relaxed) == before
    }

    /// Announces a lookup until what is returned is dropped.
    fn announce(&self) -> Announced<'_> {
        // Relaxed: ordered by the fence.
        self.announced.fetch_add(1, Ordering::Relaxed);
        // SeqCst [L1]: between the announcement and the look for a mark;
        // pairs with the fence in `let_wipe`.
        fence(Ordering::SeqCst);
        Announced { announced: &self.announced }
    }
}

/// An announced lookup: marks that it finds stay true while it lasts.
struct Announced<'a> {
    announced: &'a AtomicUsize,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        // Release [L1]: pairs with the Acquire in `let_wipe`.
        self.announced.fetch_sub(1, Ordering::Release);
    }
}

/// See [`Arena::contains`](crate::Arena::contains).
#[inline]
pub(crate) fn contains(shared: &Shared, address: usize) -> bool {
    let span = shared.region.span();
    address.wrapping_sub(span.start) < span.len
}

/// See [`Arena::lookup`](crate::Arena::lookup).
pub(crate) fn lookup(shared: &Shared, address: usize) -> Option<CodeInfo> {
    if !contains(shared, address) {
        return None;
    }
    for _ in 0..shared.config.lookup_looks {
        let before = shared.lookups.now();
        let found = look(shared, address);
        if shared.lookups.is_still(before) {
            return found;
        }
    }
    let _announced = shared.lookups.announce();
    look(shared, address)
}

/// One look, which may have seen anything if a lot was wiped meanwhile.
fn look(shared: &Shared, address: usize) -> Option<CodeInfo> {
    let start = start_below(shared, shared.pages.granule(address))?;
    let (entry, block) = peek_header(shared, shared.pages.address(start))?;
    let info = CodeInfo::new(entry, &block);
    info.covers(address).then_some(info)
}

/// The nearest granule from `granule` down in which an executor starts, if it is
/// near enough and no free granule lies between, as far as words of granules
/// tell that.
fn start_below(shared: &Shared, granule: usize) -> Option<usize> {
    let pages = &shared.pages;
    let lowest = granule.saturating_sub(FARTHEST);
    let mut high = granule + 1;
    while high > lowest {
        let low = ((high - 1) / WORD * WORD).max(lowest);
        if let Some(start) = pages.marks.starts(low..high).next_back() {
            return Some(start);
        }
        if !pages.is_all_taken(low, high) {
            return None;
        }
        high = low;
    }
    None
}
