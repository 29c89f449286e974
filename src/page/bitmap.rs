//! Sets of granules: one bit each, changed by compare-and-swap.
//!
//! The bitmaps of a code page are slices of a region-wide array of words; the
//! functions here work on any such slice and know nothing of pages. A set bit
//! in a *taken* bitmap means that exactly one party (a claim, an executor, the
//! recycler) owns the granule, `[B1]`.
//!
//! Progress: [`take`] is lock-free (a failed compare-and-swap means another
//! thread changed the word); everything else is wait-free.

use crate::sync::{AtomicU64, Ordering};

/// Granules in one word of a bitmap.
pub(crate) const WORD: usize = u64::BITS as usize;

/// A run of granules: index of the first, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Run {
    pub(crate) const fn new(start: usize, len: usize) -> Self {
        Self { start, len }
    }

    pub(crate) const fn end(self) -> usize {
        self.start + self.len
    }

    /// Whether the granules on both sides have their bits in the same word.
    pub(crate) const fn is_inside_a_word(self) -> bool {
        !self.start.is_multiple_of(WORD) && self.start / WORD == self.end() / WORD
    }

    /// The words the run touches, each with the mask of its bits.
    fn masks(self) -> impl Iterator<Item = (usize, u64)> {
        let (first, last) = (self.start / WORD, (self.end() - 1) / WORD);
        (first..=last).map(move |word| {
            let low = self.start.max(word * WORD) - word * WORD;
            let high = self.end().min((word + 1) * WORD) - word * WORD;
            (word, mask(low, high - low))
        })
    }
}

/// `len` ones from bit `low` on; `1 <= len` and `low + len <= 64`.
const fn mask(low: usize, len: usize) -> u64 {
    (u64::MAX >> (WORD - len)) << low
}

/// The maximal runs of clear bits, lowest first.
///
/// What it yields was clear word by word when read, and may be gone by the
/// time it is used: only [`take`] decides.
pub(crate) struct ClearRuns<'a> {
    words: &'a [AtomicU64],
    /// Index of the word in `bits`.
    word: usize,
    /// The current word with everything already passed set to one.
    bits: u64,
}

pub(crate) fn clear_runs(words: &[AtomicU64]) -> ClearRuns<'_> {
    // Relaxed: a hint; the Acquire of `take` orders what is done with it.
    let bits = words.first().map_or(u64::MAX, |word| word.load(Ordering::Relaxed));
    ClearRuns { words, word: 0, bits }
}

impl ClearRuns<'_> {
    /// Moves to the next word; false at the end.
    fn advance(&mut self) -> bool {
        self.word += 1;
        match self.words.get(self.word) {
            Some(word) => {
                // Relaxed: as in `clear_runs`.
                self.bits = word.load(Ordering::Relaxed);
                true
            }
            None => {
                self.bits = u64::MAX;
                false
            }
        }
    }
}

impl Iterator for ClearRuns<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        while self.bits == u64::MAX {
            if self.word >= self.words.len() || !self.advance() {
                return None;
            }
        }
        let low = self.bits.trailing_ones() as usize;
        let start = self.word * WORD + low;
        let mut len = 0;
        let mut from = low;
        loop {
            let rest = self.bits >> from;
            let clear = (rest.trailing_zeros() as usize).min(WORD - from);
            len += clear;
            if from + clear < WORD {
                self.bits |= mask(0, from + clear);
                break;
            }
            if !self.advance() || self.bits & 1 == 1 {
                break;
            }
            from = 0;
        }
        Some(Run { start, len })
    }
}

/// Sets the bits of `run`, from its start up to the first that somebody else
/// holds. Returns the run obtained, at least `need` long.
///
/// Otherwise it leaves all as it was; but as many granules as it returns then
/// looked taken for a moment, to whoever measured holes.
pub(crate) fn take(words: &[AtomicU64], run: Run, need: usize) -> Result<Run, usize> {
    let mut got = 0;
    for (word, mask) in run.masks() {
        if !take_word(&words[word], mask) {
            break;
        }
        got += mask.count_ones() as usize;
    }
    if got >= need {
        return Ok(Run::new(run.start, got));
    }
    if got > 0 {
        release(words, Run::new(run.start, got));
    }
    Err(got)
}

/// Sets all bits of `mask`, or none if one of them is set.
fn take_word(word: &AtomicU64, mask: u64) -> bool {
    // Relaxed: the compare-and-swap below decides.
    let mut seen = word.load(Ordering::Relaxed);
    while seen & mask == 0 {
        // Acquire [D3]: pairs with the Release in `release`, so that the new
        // owner's writes come after the trap fill (and the discard) of the
        // old one's.
        match word.compare_exchange_weak(seen, seen | mask, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

/// Clears the bits of `run`, all of which the caller owns.
pub(crate) fn release(words: &[AtomicU64], run: Run) {
    for (word, mask) in run.masks() {
        // Release [D3]: pairs with the Acquire in `take_word`.
        let before = words[word].fetch_and(!mask, Ordering::Release);
        debug_assert_eq!(before & mask, mask, "[B1] released granules nobody owned");
    }
}

/// Length of the longest run of clear bits.
pub(crate) fn longest_clear(words: &[AtomicU64]) -> usize {
    let (mut longest, mut run) = (0, 0);
    for word in words {
        // Relaxed: a hint, as in `clear_runs`.
        let bits = word.load(Ordering::Relaxed);
        if bits == u64::MAX {
            longest = longest.max(run);
            run = 0;
            continue;
        }
        if bits == 0 {
            run += WORD;
            continue;
        }
        longest = longest.max(run + bits.trailing_zeros() as usize);
        run = bits.leading_zeros() as usize;
        let mut long = starts_of(!bits, longest + 1);
        while long != 0 {
            long &= long >> 1;
            longest += 1;
        }
    }
    longest.max(run)
}

/// The lowest run of at least `need` clear bits; at least one, that is.
pub(crate) fn first_clear(words: &[AtomicU64], need: usize) -> Option<Run> {
    let whole = |start: usize, known: usize| {
        Some(Run::new(start, known + clear_above(words, start + known)))
    };
    let mut run = 0;
    for (at, word) in words.iter().enumerate() {
        // Relaxed: a hint, as in `clear_runs`.
        let bits = word.load(Ordering::Relaxed);
        let known = run + bits.trailing_zeros() as usize;
        if known >= need {
            return whole(at * WORD - run, known);
        }
        if bits == 0 {
            run += WORD;
            continue;
        }
        run = bits.leading_zeros() as usize;
        // Most words of a page in use are full, or nearly.
        if bits != u64::MAX {
            let long = starts_of(!bits, need);
            if long != 0 {
                return whole(at * WORD + long.trailing_zeros() as usize, need);
            }
        }
    }
    None
}

/// The bits of `bits` from which on `len` ones follow each other.
fn starts_of(bits: u64, len: usize) -> u64 {
    if len > WORD {
        return 0;
    }
    // What is left has `known` ones from each bit on. No early end: how often
    // this goes round depends on `len` alone, so that processors foresee it.
    let (mut left, mut known) = (bits, 1);
    while known < len {
        let step = known.min(len - known);
        left &= left >> step;
        known += step;
    }
    left
}

/// The run of clear bits around `run`, itself just cleared.
pub(crate) fn clear_around(words: &[AtomicU64], run: Run) -> Run {
    let below = clear_below(words, run.start);
    Run::new(run.start - below, below + run.len + clear_above(words, run.end()))
}

/// Whether the bits on both sides of `run` are set, or are none of these.
pub(crate) fn is_hemmed_in(words: &[AtomicU64], run: Run) -> bool {
    // Relaxed: a hint, as in `clear_runs`.
    let is_set = |at: usize| words[at / WORD].load(Ordering::Relaxed) >> (at % WORD) & 1 == 1;
    (run.start == 0 || is_set(run.start - 1))
        && (run.end() == words.len() * WORD || is_set(run.end()))
}

/// Length of the run of clear bits that ends in front of bit `at`.
pub(crate) fn clear_below(words: &[AtomicU64], at: usize) -> usize {
    let mut low = at;
    while low > 0 {
        // Relaxed: a hint, as in `clear_runs`.
        let bits = words[(low - 1) / WORD].load(Ordering::Relaxed);
        let below = bits << (WORD - 1 - (low - 1) % WORD);
        let clear = (below.leading_zeros() as usize).min((low - 1) % WORD + 1);
        low -= clear;
        if clear == 0 || !low.is_multiple_of(WORD) {
            break;
        }
    }
    at - low
}

/// Length of the run of clear bits that begins with bit `at`.
pub(crate) fn clear_above(words: &[AtomicU64], at: usize) -> usize {
    let mut high = at;
    while high < words.len() * WORD {
        // Relaxed: a hint, as in `clear_runs`.
        let above = words[high / WORD].load(Ordering::Relaxed) >> (high % WORD);
        let clear = (above.trailing_zeros() as usize).min(WORD - high % WORD);
        high += clear;
        if clear == 0 || !high.is_multiple_of(WORD) {
            break;
        }
    }
    high - at
}

/// Whether no bit is set.
pub(crate) fn is_clear(words: &[AtomicU64]) -> bool {
    // Relaxed: a hint, as in `clear_runs`.
    words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
}

/// How many bits are set.
pub(crate) fn count(words: &[AtomicU64]) -> usize {
    // Relaxed: exact only when nobody changes the set.
    words.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
}

/// Whether all bits of `run` are set.
pub(crate) fn is_all_set(words: &[AtomicU64], run: Run, order: Ordering) -> bool {
    run.masks().all(|(word, mask)| words[word].load(order) & mask == mask)
}

/// Whether bit `at` is set.
pub(crate) fn test(words: &[AtomicU64], at: usize, order: Ordering) -> bool {
    words[at / WORD].load(order) >> (at % WORD) & 1 == 1
}

/// The set bits, lowest first.
pub(crate) fn ones(words: &[AtomicU64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(word, bits)| {
        // Relaxed: exact only when nobody changes the set.
        let mut bits = bits.load(Ordering::Relaxed);
        core::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let low = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            Some(word * WORD + low)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_hemmed_in_where_nothing_around_it_is_clear() {
        let words = [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)];
        let hemmed_in = |start, len| is_hemmed_in(&words, Run::new(start, len));
        assert!(hemmed_in(0, 128) && hemmed_in(0, 64) && hemmed_in(64, 64) && hemmed_in(5, 90));
        words[0].store(!(1 << 63), Ordering::Relaxed);
        assert!(!hemmed_in(64, 3) && !hemmed_in(60, 3) && hemmed_in(65, 3) && hemmed_in(0, 60));
    }

    fn words(bits: &[u64]) -> Vec<AtomicU64> {
        bits.iter().map(|&bits| AtomicU64::new(bits)).collect()
    }

    /// The runs of clear bits, found bit by bit.
    fn naive(words: &[AtomicU64]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for at in 0..words.len() * WORD {
            if test(words, at, Ordering::Relaxed) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end() == at => run.len += 1,
                _ => runs.push(Run::new(at, 1)),
            }
        }
        runs
    }

    fn patterns() -> Vec<Vec<AtomicU64>> {
        let mut all = vec![
            words(&[0]),
            words(&[u64::MAX]),
            words(&[0, 0, 0]),
            words(&[u64::MAX, 0, u64::MAX]),
            words(&[1, 0, 1 << 63]),
            words(&[1 << 63, 1]),
            words(&[!0 >> 1, !0 << 1]),
            words(&[]),
        ];
        // A multiplicative generator: patterns of every density.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..500 {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state ^ state >> 29
            };
            all.push(words(&[next() & next(), next() | next(), next(), next() & next() & next()]));
        }
        all
    }

    #[test]
    fn clear_runs_agree_with_a_bit_by_bit_scan() {
        for words in patterns() {
            assert_eq!(clear_runs(&words).collect::<Vec<_>>(), naive(&words));
            assert_eq!(
                longest_clear(&words),
                naive(&words).iter().map(|run| run.len).max().unwrap_or(0)
            );
        }
    }

    #[test]
    fn first_clear_finds_the_lowest_run_that_is_long_enough() {
        for words in patterns() {
            for need in 1..=130 {
                let expected = naive(&words).into_iter().find(|run| run.len >= need);
                assert_eq!(first_clear(&words, need), expected, "{words:?} {need}");
            }
        }
    }

    #[test]
    fn clear_around_finds_the_whole_hole_from_any_part_of_it() {
        for words in patterns() {
            for hole in naive(&words) {
                for start in hole.start..hole.end() {
                    let part = Run::new(start, 1);
                    assert_eq!(clear_around(&words, part), hole, "{words:?} {part:?}");
                }
            }
        }
    }

    #[test]
    fn b1_take_stops_at_a_taken_granule_and_changes_nothing_when_short() {
        let words = words(&[0, 1 << 5, 0]);
        assert_eq!(take(&words, Run::new(10, 100), 55), Err(54));
        assert_eq!(count(&words), 1);
        assert_eq!(take(&words, Run::new(10, 100), 54), Ok(Run::new(10, 54)));
        assert_eq!(count(&words), 55);
        release(&words, Run::new(10, 54));
        assert_eq!(count(&words), 1);
    }

    #[test]
    fn set_bits_are_listed_and_tested() {
        let words = words(&[0, 0b110]);
        assert_eq!(ones(&words).collect::<Vec<_>>(), [65, 66]);
        assert!(test(&words, 66, Ordering::Relaxed) && !test(&words, 64, Ordering::Relaxed));
        assert!(is_all_set(&words, Run::new(65, 2), Ordering::Relaxed));
        assert!(!is_all_set(&words, Run::new(64, 2), Ordering::Relaxed));
        assert!(!is_all_set(&words, Run::new(63, 3), Ordering::Relaxed));
    }
}
