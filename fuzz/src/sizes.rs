//! Sizes and alignments worth trying: small ones, ones at the edges of
//! granules, pages and the region, and absurd ones.

use arbitrary::Arbitrary;
use jit_arena::{CodeLayout, GRANULE, MAX_EXECUTOR};

/// Bytes in front of each entry that the client does not ask for.
pub const HEADER: usize = 16;

/// Alignments by index; the first fifteen are valid.
const ALIGNS: [usize; 20] = [
    16,
    1,
    64,
    16,
    4096,
    32,
    16,
    128,
    8,
    1024,
    16,
    256,
    2048,
    2,
    512,
    0,
    24,
    8192,
    usize::MAX,
    1 << (usize::BITS - 1),
];

/// A number of bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Length {
    /// Up to 255 bytes.
    Small(u8),
    /// Up to 5,000 bytes.
    Medium(u16),
    /// What fills so many granules behind a header, and a little more or less.
    Granules(u8, i8),
    /// What fills so many 4 KiB pages behind a header, and a little more or
    /// less.
    Pages(u8, i8),
    /// What fills the region behind a header, and some granules more or less.
    Region(i8),
    /// Zero, the limits, and what overflows.
    Absurd(u8),
}

impl Length {
    /// The number of bytes in a region of `region` bytes.
    #[must_use]
    pub fn bytes(self, region: usize) -> usize {
        let near = |edge: usize, by: i8| {
            edge.saturating_sub(HEADER).saturating_add_signed(isize::from(by % 18))
        };
        match self {
            Self::Small(n) => usize::from(n),
            Self::Medium(n) => usize::from(n) % 5001,
            Self::Granules(n, by) => near(usize::from(n) * GRANULE, by),
            Self::Pages(n, by) => near(usize::from(n % 20) * 4096, by),
            Self::Region(by) => {
                region.saturating_sub(HEADER).saturating_add_signed(isize::from(by) * 16)
            }
            Self::Absurd(n) => match n % 8 {
                0 => 0,
                1 => MAX_EXECUTOR,
                2 => MAX_EXECUTOR + 1,
                3 => MAX_EXECUTOR - 1,
                4 => usize::MAX,
                5 => usize::MAX / 2,
                6 => region,
                _ => 1 << 24,
            },
        }
    }
}

/// An alignment, valid more often than not.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Align(pub u8);

impl Align {
    /// The alignment in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        ALIGNS[usize::from(self.0) % ALIGNS.len()]
    }
}

/// What to reserve.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Layout {
    /// Code.
    pub code: Length,
    /// Alignment of the entry.
    pub align: Align,
    /// Data, if any.
    pub data: Option<(Length, Align)>,
    /// The client's word.
    pub tag: u64,
}

/// A layout in plain numbers.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of code.
    pub code: usize,
    /// Alignment of the entry, bytes.
    pub align: usize,
    /// Bytes of data.
    pub data: usize,
    /// Alignment of the data, bytes.
    pub data_align: usize,
    /// The client's word.
    pub tag: u64,
}

impl Layout {
    /// The plain numbers in a region of `region` bytes.
    #[must_use]
    pub fn sizes(self, region: usize) -> Sizes {
        let (data, data_align) =
            self.data.map_or((0, 1), |(len, align)| (len.bytes(region), align.bytes()));
        Sizes {
            code: self.code.bytes(region),
            align: self.align.bytes(),
            data,
            data_align,
            tag: self.tag,
        }
    }
}

impl Sizes {
    /// Code alone, as `install` lays it out.
    #[must_use]
    pub fn plain(code: usize, data: usize) -> Self {
        Self { code, align: 16, data, data_align: 1, tag: 0 }
    }

    /// As the library takes it.
    #[must_use]
    pub fn layout(self) -> CodeLayout {
        CodeLayout::new(self.code).align(self.align).data(self.data, self.data_align).tag(self.tag)
    }

    /// Offset of the data from the entry, bytes; of valid sizes.
    #[must_use]
    pub fn data_offset(self) -> usize {
        self.code.next_multiple_of(self.data_align)
    }

    /// Bytes from the entry to the end; of valid sizes.
    #[must_use]
    pub fn len(self) -> usize {
        if self.data == 0 { self.code } else { self.data_offset() + self.data }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.code == 0
    }

    /// The most granules that placing it can take, from a granule on.
    #[must_use]
    pub fn granules(self) -> usize {
        let align = self.align.max(self.data_align).max(HEADER);
        (align + self.len()).div_ceil(GRANULE)
    }
}
