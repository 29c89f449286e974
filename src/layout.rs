//! What an executor is made of, and where its parts lie.
//!
//! ```text
//!  granule        entry (aligned)          data (aligned)          granule
//!  │ header │ pad │ code … │ pad │ data … │ slack │
//!  ▲ 16 bytes     ▲ at most 64 bytes behind the header's start
//! ```
//!
//! The header lies in code memory: written in the write scope that writes the
//! code, readable through the executable view, and as well protected as the
//! code itself. It starts the executor's first granule, so that whoever knows
//! either the granule or the entry finds it. It is what lookup and `verify` know
//! an executor by, and a handle whose [`SizedEntry`] does not tell.

use crate::error::ReserveError;
use crate::units::{GRANULE, HEADER, MAX_ALIGN, MAX_EXECUTOR, Span};

/// Sizes and alignments of an executor to be, in bytes.
///
/// # Examples
///
/// ```
/// use jit_arena::CodeLayout;
///
/// // 451 bytes of code with 104 bytes of data straight behind it.
/// let layout = CodeLayout::new(451).data(104, 1);
/// assert_eq!(layout.data_offset(), 451);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    code_len: usize,
    align: usize,
    data_len: usize,
    data_align: usize,
    tag: u64,
}

impl CodeLayout {
    /// `code_len` bytes of code, entry aligned to 16, no data, tag 0.
    #[must_use]
    pub const fn new(code_len: usize) -> Self {
        Self { code_len, align: 16, data_len: 0, data_align: 1, tag: 0 }
    }

    /// Alignment of the entry: a power of two up to 4 KiB; 16 at least.
    #[must_use]
    pub const fn align(mut self, align: usize) -> Self {
        self.align = align;
        self
    }

    /// `len` bytes of data behind the code, aligned to `align` (a power of two
    /// up to 4 KiB; 1 puts it straight behind).
    #[must_use]
    pub const fn data(mut self, len: usize, align: usize) -> Self {
        self.data_len = len;
        self.data_align = align;
        self
    }

    /// A word of the client's that stays with the executor.
    #[must_use]
    pub const fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Bytes of code.
    #[must_use]
    pub const fn code_len(&self) -> usize {
        self.code_len
    }

    /// Bytes of data.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        self.data_len
    }

    /// Offset of the data from the entry, in bytes. Meaningful for layouts
    /// that [`reserve`](crate::ThreadHandle::reserve) accepts.
    #[must_use]
    pub const fn data_offset(&self) -> usize {
        // The entry is aligned at least as strictly as the data (`validate`).
        let mask = self.data_align.wrapping_sub(1);
        self.code_len.wrapping_add(mask) & !mask
    }

    /// Checks sizes and alignments; returns the layout with the entry aligned
    /// as strictly as the data, so that the data's offset does not depend on
    /// the address.
    #[inline]
    pub(crate) fn validate(mut self) -> Result<Self, ReserveError> {
        for align in [self.align, self.data_align] {
            if !align.is_power_of_two() || align > MAX_ALIGN {
                return Err(ReserveError::BadAlign { align });
            }
        }
        if self.code_len == 0 {
            return Err(ReserveError::Empty);
        }
        let bytes = self.code_len.saturating_add(self.data_len);
        if bytes > MAX_EXECUTOR {
            return Err(ReserveError::TooLarge { bytes, max: MAX_EXECUTOR });
        }
        self.align = self.align.max(self.data_align).max(HEADER);
        Ok(self)
    }

    /// Places the executor at the first granule from `cursor` on: its granules
    /// and its entry.
    #[inline]
    pub(crate) fn place(&self, cursor: usize) -> (Span, usize) {
        // A power of two: no division.
        let entry = (cursor + HEADER + self.align - 1) & !(self.align - 1);
        (self.block().span_at(entry), entry)
    }

    /// The most granules [`place`](Self::place) can need, padding included.
    pub(crate) fn granules(&self) -> usize {
        // From a granule on, the entry is at most its alignment away.
        (self.align + self.block().len()).div_ceil(GRANULE)
    }

    pub(crate) fn block(&self) -> Block {
        Block {
            code_len: self.code_len,
            data_offset: self.data_offset(),
            data_len: self.data_len,
            tag: self.tag,
        }
    }
}

/// The parts of an executor as its header tells them, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) code_len: usize,
    /// From the entry.
    pub(crate) data_offset: usize,
    pub(crate) data_len: usize,
    pub(crate) tag: u64,
}

/// Marks the first word of a header, in its lowest four bits. From there up:
/// where the entry is, the gap in front of the data, the lengths of both parts.
const MAGIC: u64 = 0xA;
const AT: u32 = 2;
const GAP: u32 = 12;
const FIELD: u32 = 23;

/// Where the fields begin.
const GAP_AT: u32 = 4 + AT;
const CODE_AT: u32 = GAP_AT + GAP;
const DATA_AT: u32 = CODE_AT + FIELD;

const _: () = {
    assert!(DATA_AT + FIELD == u64::BITS);
    assert!(MAX_EXECUTOR < 1 << FIELD);
    assert!(HEADER == 1 << 4, "a multiple of it is the field of the entry's place");
    assert!(GRANULE / HEADER == 1 << AT, "an entry is this many headers from its granule at most");
    assert!(MAX_ALIGN <= 1 << GAP, "the gap before the data is less than its alignment");
};

impl Block {
    /// Bytes from the entry to the last byte of data.
    pub(crate) fn len(&self) -> usize {
        if self.data_len == 0 { self.code_len } else { self.data_offset + self.data_len }
    }

    /// Bytes the client asked for.
    pub(crate) fn bytes(&self) -> usize {
        self.code_len + self.data_len
    }

    /// The granules of a block whose header lies in the granule at `start`.
    fn span(&self, entry: usize, start: usize) -> Span {
        Span::new(start, (entry + self.len()).next_multiple_of(GRANULE) - start)
    }

    /// The granules of a block whose entry is `entry`.
    pub(crate) fn span_at(&self, entry: usize) -> Span {
        self.span(entry, header_of(entry))
    }

    /// The header as two words, for [`header_of`] the entry.
    pub(crate) fn encode(&self, entry: usize) -> [u64; 2] {
        // Its distance in headers, which already is where the field is.
        let at = (entry - HEADER) % GRANULE;
        let gap = self.data_offset - self.code_len;
        let word = MAGIC
            | at as u64
            | (gap as u64) << GAP_AT
            | (self.code_len as u64) << CODE_AT
            | (self.data_len as u64) << DATA_AT;
        [word, self.tag]
    }

    /// Reads a header's first word; `None` if it is none.
    pub(crate) fn decode(word: u64, tag: u64) -> Option<Self> {
        let field = |low: u32, bits: u32| (word >> low & ((1 << bits) - 1)) as usize;
        let code_len = field(CODE_AT, FIELD);
        let block = Self {
            code_len,
            data_offset: code_len + field(GAP_AT, GAP),
            data_len: field(DATA_AT, FIELD),
            tag,
        };
        (word & 0xF == MAGIC && code_len > 0 && block.bytes() <= MAX_EXECUTOR).then_some(block)
    }
}

/// The entry of an executor and, if that fits beside it, how large it is: what a
/// handle knows of it. Its header tells as much, but is seldom in a cache when
/// the handle is dropped; and a word can be returned in a register.
///
/// From the lowest bit up: the entry, the bytes of the last granule behind the
/// executor, its granules, 0 if all of this is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizedEntry(u64);

const SLACK_AT: u32 = 48;
const SLACK: u32 = GRANULE.ilog2();
const GRANULES_AT: u32 = SLACK_AT + SLACK;

/// Where a region ends at the latest, so that entries leave room for sizes.
pub(crate) const MOST_ADDRESS: usize = 1 << SLACK_AT;

impl SizedEntry {
    /// Of an executor of which nothing else is known.
    #[inline]
    pub(crate) fn unsized_at(entry: usize) -> Self {
        debug_assert!(entry < MOST_ADDRESS, "the region ends below that");
        Self(entry as u64)
    }

    /// Of an executor of these parts.
    #[inline]
    pub(crate) fn new(entry: usize, block: &Block) -> Self {
        let span = block.span_at(entry);
        let granules = (span.len / GRANULE) as u64;
        let is_known = block.bytes() == block.len() && granules < 1 << (u64::BITS - GRANULES_AT);
        let slack = (span.end() - entry - block.len()) as u64;
        let size = granules << GRANULES_AT | slack << SLACK_AT;
        Self(Self::unsized_at(entry).0 | if is_known { size } else { 0 })
    }

    #[inline]
    pub(crate) fn entry(self) -> usize {
        (self.0 & (MOST_ADDRESS as u64 - 1)) as usize
    }

    /// The granules of the executor, and its bytes of code and data.
    #[inline]
    pub(crate) fn size(self) -> Option<(Span, usize)> {
        let granules = (self.0 >> GRANULES_AT) as usize;
        let slack = (self.0 >> SLACK_AT) as usize % GRANULE;
        let span = Span::new(header_of(self.entry()), granules * GRANULE);
        (granules > 0).then(|| (span, span.end() - self.entry() - slack))
    }
}

/// The header of the executor entered at `entry`: the start of its first
/// granule.
pub(crate) const fn header_of(entry: usize) -> usize {
    (entry - HEADER) & !(GRANULE - 1)
}

/// The entry that the first word of the header at `header` tells.
pub(crate) const fn entry_of(header: usize, word: u64) -> usize {
    header + HEADER + HEADER * (word >> 4 & ((1 << AT) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_know_the_sizes_that_fit_beside_the_entry() {
        let at = |entry: usize, layout: CodeLayout| {
            let block = layout.validate().unwrap().block();
            let sized = SizedEntry::new(entry, &block);
            assert_eq!(sized.entry(), entry);
            let size = Some((block.span_at(entry), block.bytes()));
            assert!(sized.size().is_none() || sized.size() == size, "{layout:?}");
            sized.size().is_some()
        };
        for entry in [0x10_0010, 0x10_0020, 0x10_0040, MOST_ADDRESS - (8 << 20) + 0x30] {
            assert!((1..300).all(|len| at(entry, CodeLayout::new(len))));
            assert!(at(entry, CodeLayout::new(1).data(62_000, 1)));
            assert!(!at(entry, CodeLayout::new(70_000)), "more granules than there are bits");
            assert!(!at(entry, CodeLayout::new(17).data(9, 16)), "a gap before the data");
            assert_eq!(SizedEntry::unsized_at(entry).size(), None);
        }
    }

    #[test]
    fn headers_come_back_as_they_went_in() {
        for (code, data, align) in
            [(1, 0, 1), (451, 104, 1), (17, 9, 4096), (MAX_EXECUTOR - 1, 1, 8), (1, 4095, 64)]
        {
            let layout = CodeLayout::new(code).data(data, align).tag(u64::MAX).validate().unwrap();
            let block = layout.block();
            for entry in [0x1010, 0x1020, 0x1030, 0x1040] {
                let [word, tag] = block.encode(entry);
                assert_eq!(Block::decode(word, tag), Some(block));
                assert_eq!(header_of(entry), 0x1000);
                assert_eq!(entry_of(0x1000, word), entry);
            }
            assert_eq!(block.data_offset % align, 0);
        }
        assert_eq!(Block::decode(0, 0), None, "fresh memory is no header");
        assert_eq!(Block::decode(0xCCCC_CCCC_CCCC_CCCC, 0), None, "traps are no header");
    }

    #[test]
    fn placed_parts_are_aligned_and_fit_what_was_asked_for() {
        for align in [1, 16, 32, 64, 128, 4096] {
            for code in [1, 15, 16, 47, 48, 49, 64, 1000] {
                for data in [0, 1, 64] {
                    for data_align in [1, 8, 256] {
                        for cursor in (0x10_000..0x12_000).step_by(GRANULE) {
                            let layout = CodeLayout::new(code)
                                .align(align)
                                .data(data, data_align)
                                .validate()
                                .unwrap();
                            let (span, entry) = layout.place(cursor);
                            assert!(entry.is_multiple_of(align) && entry.is_multiple_of(16));
                            assert!((entry + layout.data_offset()).is_multiple_of(data_align));
                            assert!(span.start >= cursor && span.start.is_multiple_of(GRANULE));
                            assert_eq!(span.start, header_of(entry));
                            assert!(span.start + HEADER <= entry);
                            assert!(entry + layout.block().len() <= span.end());
                            assert!(span.end() <= cursor + layout.granules() * GRANULE);
                            assert_eq!(layout.block().span_at(entry), span);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn absurd_layouts_are_refused() {
        let refused = |layout: CodeLayout| layout.validate().unwrap_err();
        assert_eq!(refused(CodeLayout::new(0)), ReserveError::Empty);
        assert_eq!(refused(CodeLayout::new(0).data(8, 8)), ReserveError::Empty);
        assert_eq!(refused(CodeLayout::new(1).align(0)), ReserveError::BadAlign { align: 0 });
        assert_eq!(refused(CodeLayout::new(1).align(24)), ReserveError::BadAlign { align: 24 });
        assert_eq!(
            refused(CodeLayout::new(1).data(1, 8192)),
            ReserveError::BadAlign { align: 8192 }
        );
        assert!(matches!(refused(CodeLayout::new(usize::MAX)), ReserveError::TooLarge { .. }));
        assert!(matches!(
            refused(CodeLayout::new(1).data(usize::MAX, 1)),
            ReserveError::TooLarge { .. }
        ));
    }
}
