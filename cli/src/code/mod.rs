//! Machine code whose answer tells whether it is whole.
//!
//! [`Program`] is a function of exactly the size a trace asks for, assembled
//! for the machine it runs on. Called as [`Function`], it writes its own seed
//! to where it is told and returns a value computed from its argument, from
//! immediates in every few bytes from its first instruction to its last, and
//! from its data, which it reads relative to the program counter. The caller
//! computes the same value from the seed in Rust ([`Program::answer`]). Code
//! that is stale, torn, overwritten, out of date in an instruction cache, or
//! parted from its data answers wrong or faults.
//!
//! The bytes depend on seed and size alone, never on the address, so they can
//! be made before the place is known and made again later to compare with what
//! lies in memory ([`Program::emit`]).
//!
//! What each size can do is its [`Tier`]. Executors too small to compute
//! anything are filled with the largest function that fits.

use crate::trace::Shape;

#[cfg(any(test, target_arch = "aarch64"))]
mod aarch64;
#[cfg(any(test, target_arch = "x86_64"))]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

/// How a [`Program`] is called: argument, and where it writes its seed.
pub type Function = unsafe extern "C" fn(u64, *mut u64) -> u64;

/// What a function of some size can show of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// No instruction fits: never call it.
    Nothing,
    /// It returns, with an answer that says nothing.
    Returns,
    /// It returns its seed mixed with the argument.
    Mixes,
    /// It does all that this module's header says.
    Full,
}

/// Distance in bytes between the data words a function reads.
///
/// A granule: whatever piece of the data were replaced, a word of it is read.
const DATA_STRIDE: usize = 64;

/// Left rotation after each data word.
const DATA_ROTATION: u32 = 7;

/// A function of a given size and identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Tells it from all others.
    pub seed: u64,
    /// Its size.
    pub shape: Shape,
}

impl Program {
    /// What a function of this size can show of itself.
    #[must_use]
    pub fn tier(&self) -> Tier {
        native::tier(self.shape.code as usize)
    }

    /// Makes the code and the data. `gap` is the number of bytes between the
    /// end of the code and the start of the data.
    pub fn emit(&self, gap: usize, code: &mut Vec<u8>, data: &mut Vec<u8>) {
        data.clear();
        let len = self.shape.data as usize;
        let mut words = Words::new(self.seed ^ DATA_SALT);
        while data.len() < len {
            let word = words.next_word().to_le_bytes();
            data.extend_from_slice(&word[..word.len().min(len - data.len())]);
        }
        code.clear();
        native::emit(self, gap, code);
        debug_assert_eq!(code.len(), self.shape.code as usize);
    }

    /// What the function returns for `argument`, if its size lets it return
    /// anything that can be told in advance.
    #[must_use]
    pub fn answer(&self, argument: u64) -> Option<u64> {
        match self.tier() {
            Tier::Nothing | Tier::Returns => None,
            Tier::Mixes => Some(argument ^ self.seed),
            Tier::Full => Some(self.full_answer(argument)),
        }
    }

    fn full_answer(&self, argument: u64) -> u64 {
        let mut value = argument;
        let mut words = Words::new(self.seed);
        for _ in 0..native::steps(self) {
            value = Step::next(&mut words).apply(value);
        }
        let Reads::Words { last } = self.reads() else {
            return value;
        };
        // The data comes from a sequence, of which a stride skips whole words.
        let mut words = Words::new(self.seed ^ DATA_SALT);
        let mut at = 0;
        while at <= last {
            value = value.wrapping_add(words.at(at)).rotate_left(DATA_ROTATION);
            at += DATA_STRIDE;
        }
        value.wrapping_add(words.straddling(last))
    }

    /// What a full function reads of its data.
    fn reads(&self) -> Reads {
        match (self.shape.data as usize).checked_sub(8) {
            Some(last) => Reads::Words { last },
            None => Reads::Nothing,
        }
    }
}

/// What a full function reads of its data.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// Less than a word of data: none of it.
    Nothing,
    /// The words at every [`DATA_STRIDE`] up to offset `last`, then the word
    /// at `last`, which ends where the data ends.
    Words {
        /// Offset of the last whole word.
        last: usize,
    },
}

/// One step of the computation: add an immediate, rotate.
#[derive(Clone, Copy, Debug)]
struct Step {
    addend: u64,
    /// Left rotation, 1 to 63.
    rotation: u8,
}

impl Step {
    fn next(words: &mut Words) -> Self {
        let addend = words.next_word();
        // Any bits would do: the addend is in the instructions beside them.
        Self { addend, rotation: (addend % 63) as u8 + 1 }
    }

    fn apply(self, value: u64) -> u64 {
        value.wrapping_add(self.addend).rotate_left(u32::from(self.rotation))
    }
}

/// Keeps the words of the data apart from those of the code.
const DATA_SALT: u64 = 0xd1b5_4a32_d192_ed03;

/// A sequence of words in which any place can be reached at once: SplitMix64,
/// a counter passed through a mixing function (Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Words {
    start: u64,
    next: u64,
}

impl Words {
    const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { start: Self::mix(seed), next: 0 }
    }

    /// The next word.
    pub fn next_word(&mut self) -> u64 {
        self.next += 1;
        self.word(self.next - 1)
    }

    fn word(&self, index: u64) -> u64 {
        Self::mix(self.start.wrapping_add((index + 1).wrapping_mul(Self::STRIDE)))
    }

    /// The word at byte `offset`, a multiple of 8.
    fn at(&mut self, offset: usize) -> u64 {
        debug_assert!(offset.is_multiple_of(8));
        self.word(offset as u64 / 8)
    }

    /// The eight bytes from byte `offset` on, little-endian.
    fn straddling(&self, offset: usize) -> u64 {
        let index = offset as u64 / 8;
        let shift = 8 * (offset as u32 % 8);
        let low = self.word(index) >> shift;
        if shift == 0 { low } else { low | self.word(index + 1) << (64 - shift) }
    }

    const fn mix(word: u64) -> u64 {
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths are exact on either machine, whichever this is, and the last
    /// instruction returns. What the functions compute is in `tests/code.rs`.
    #[test]
    fn lengths_are_exact_and_functions_end_in_a_return() {
        let mut code = Vec::new();
        for len in 1..300 {
            for data in [0, 100] {
                let program = Program { seed: 3, shape: Shape { code: len, data } };
                let len = len as usize;
                code.clear();
                x86_64::emit(&program, 7, &mut code);
                assert_eq!(code.len(), len);
                assert_eq!(code.last(), Some(&0xc3));
                code.clear();
                aarch64::emit(&program, 7, &mut code);
                assert_eq!(code.len(), len);
                if aarch64::tier(len) != Tier::Nothing {
                    assert_eq!(code[len / 4 * 4 - 4..len / 4 * 4], 0xd65f_03c0_u32.to_le_bytes());
                }
                if aarch64::tier(len) == Tier::Full {
                    assert!(
                        code.len() / 4 * 4
                            >= OPENING_AND_ONE_STEP + 24 * (aarch64::steps(&program) - 1)
                    );
                }
            }
        }
    }

    const OPENING_AND_ONE_STEP: usize = 44;

    #[test]
    fn straddling_words_are_the_bytes_of_both() {
        let words = Words::new(9);
        let bytes: Vec<u8> = (0..3).flat_map(|i| words.word(i).to_le_bytes()).collect();
        for offset in 0..16 {
            let word: [u8; 8] = bytes[offset..offset + 8].try_into().expect("eight bytes");
            assert_eq!(words.straddling(offset), u64::from_le_bytes(word), "at {offset}");
        }
    }
}
