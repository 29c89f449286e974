//! Units of code memory: sizes as constants, spans as a type.
//!
//! Addresses are plain `usize` values of the *executable view*; the writable
//! view of the same memory is only ever derived from them inside a write scope
//! (see [`crate::protect`]).

/// 1,024 bytes.
pub(crate) const KIB: usize = 1024;
/// 1,024 KiB.
pub(crate) const MIB: usize = 1024 * KIB;

/// Unit of placement, in bytes. One bit in a code page's bitmaps.
///
/// A cache line of every supported processor: two executors never share one,
/// so writing one never evicts the other's line from a running core.
pub const GRANULE: usize = 64;

/// Largest executor (code and data together), in bytes.
pub const MAX_EXECUTOR: usize = 4 * MIB;

/// Largest alignment of an executor's entry or data part, in bytes.
pub const MAX_ALIGN: usize = 4 * KIB;

/// Bytes in front of each entry that say what the executor is made of.
pub(crate) const HEADER: usize = 16;

/// A half-open range of bytes of the executable view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Span {
    /// The span of `len` bytes from `start`.
    #[must_use]
    pub const fn new(start: usize, len: usize) -> Self {
        Self { start, len }
    }

    /// First address behind the span.
    #[must_use]
    pub const fn end(self) -> usize {
        self.start + self.len
    }

    /// Whether all of `other` lies inside this span, whatever `other` is: one that
    /// would end behind the last address does not.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other.start >= self.start
            && other.len <= self.len
            && other.start - self.start <= self.len - other.len
    }

    /// Whether some byte lies in both. Neither ends behind the last address.
    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// The smallest span of whole `unit`s that contains this one.
    ///
    /// `unit` is a power of two.
    #[must_use]
    pub const fn round_out(self, unit: usize) -> Self {
        let start = self.start & !(unit - 1);
        let end = (self.end() + unit - 1) & !(unit - 1);
        Self { start, len: end - start }
    }
}

const _: () = assert!(GRANULE.is_power_of_two() && HEADER <= GRANULE && HEADER.is_multiple_of(16));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_contains_what_ends_no_later_and_nothing_that_wraps() {
        let span = Span::new(0x1000, 0x100);
        for inside in [(0x1000, 0x100), (0x1000, 0), (0x10FF, 1), (0x1100, 0)] {
            assert!(span.contains(Span::new(inside.0, inside.1)), "{inside:x?}");
        }
        let none =
            [(0xFFF, 1), (0x1000, 0x101), (0x1100, 1), (usize::MAX, 1), (0x1001, usize::MAX)];
        for outside in none {
            assert!(!span.contains(Span::new(outside.0, outside.1)), "{outside:x?}");
        }
    }
}
