//! Lookup: from an address to the executor it lies in.
//!
//! A profiler's signal handler, an unwinder and a debugger's hook all start
//! from a program counter. [`Arena::contains`](crate::Arena::contains) compares
//! it with the region; [`Arena::lookup`](crate::Arena::lookup) goes down from
//! its granule to the nearest mark and reads the header there. Both only
//! load: no lock, no allocation, no thread-local, no system call.
//!
//! # What a reader may see
//!
//! The header lies in code memory, and the reader may have no guard: it may be
//! wiped and written anew under its eyes. So recycling advances a
//! [`Generation`] once a lot, after the marks of the lot are cleared and before
//! its first byte changes, and a lookup counts only if the generation was the
//! same before it looked for the mark and after it had read the header,
//! `[L1]`:
//!
//! - The mark was read with Acquire, so the header read is the one that
//!   belongs to the bit, or what came after it was wiped.
//! - In the latter case the reader sees the generation advanced: the fence
//!   before the wiping pairs with the one behind the reading. It had not seen
//!   that before it found the bit, or it would have found the bit cleared.
//!
//! This rules out ABA as well: between an executor and its successor in the
//! same granule lies a lot. It is the reader's side of a sequence lock (Boehm,
//! *Can Seqlocks Get Along With Programming Language Memory Models?*, 2012),
//! with the marks in the place of odd counts.
//!
//! An executor that cannot be recycled meanwhile (the interrupted thread has a
//! guard or a hold on it, the caller owns its handle) reads the same at every
//! attempt, whatever generation it is. So the number of attempts is bounded:
//! where a lot passed in each of [`ATTEMPTS`], the answer is taken if all of
//! them were the same.

use crate::arena::Shared;
use crate::executor::peek_header;
use crate::layout::Block;
use crate::page::bitmap::WORD;
use crate::sync::{AtomicU64, Ordering, fence, mutant};
use crate::units::{GRANULE, MAX_ALIGN, MAX_EXECUTOR, Span};

/// Times a lookup tries before it trusts what it has read each time. A lot takes
/// a core synchronisation at the least, an attempt some ten loads.
const ATTEMPTS: usize = 8;

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

/// Counts the lots whose marks were cleared, `[L1]`.
#[derive(Debug)]
pub(crate) struct Generation(AtomicU64);

impl Generation {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Announces that what has lost its marks will be wiped. Wait-free;
    /// once a lot.
    pub(crate) fn advance(&self) {
        if mutant("generation-not-advanced") {
            return;
        }
        // Release [L1]: pairs with the Acquire in `now`: who sees this sees the
        // marks cleared.
        self.0.fetch_add(1, Ordering::Release);
        // Release [L1]: pairs with the fence in `is_still`: who reads a byte
        // that is written from here on sees the count advanced.
        fence(Ordering::Release);
    }

    fn now(&self) -> u64 {
        // Acquire [L1]: pairs with the Release in `advance`.
        self.0.load(Ordering::Acquire)
    }

    /// Whether nothing read since `before` was wiped.
    fn is_still(&self, before: u64) -> bool {
        // Acquire [L1]: pairs with the fence in `advance`.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        self.0.load(Ordering::Relaxed) == before
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
    let mut first = None;
    for attempt in 0..ATTEMPTS {
        let before = shared.generation.now();
        let found = attempt_at(shared, address);
        if shared.generation.is_still(before) {
            return found;
        }
        if attempt == 0 {
            first = found;
        } else if first != found {
            // Not protected by anything: what was there is going or gone.
            first = None;
        }
    }
    first
}

/// One look, which may have seen anything if the generation has changed.
fn attempt_at(shared: &Shared, address: usize) -> Option<CodeInfo> {
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
