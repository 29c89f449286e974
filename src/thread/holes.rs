//! Holes a thread keeps for itself, to reserve in without asking anybody.
//!
//! What a thread recycles it mostly needs again at once, so it stays with it up
//! to a bound, together with what its claims left over. The granules stay taken,
//! `[B1]`. Nobody else can reach them, so they need no traps until they are
//! given away: what is reserved here is written over anyway, `[D3]`.
//!
//! The truth is a bit a granule, so that neighbours become one hole by being set,
//! whatever order they come in. Where holes of a length start is noted in a list
//! for each class of lengths, and never taken back: a note that no longer fits
//! the bits is dropped when it is come upon. Both adding and taking are a few
//! looks at the bits around.

use core::fmt;

use crate::page::bitmap::{Run, WORD};
use crate::units::GRANULE;

/// Classes of lengths: one a granule up to [`FINE`], then eight an octave.
const CLASSES: usize = u64::BITS as usize;
const FINE: usize = 32;

/// Notes there may be for each hole, and beyond that, before they are made anew.
const NOTES_A_HOLE: usize = 4;
const NOTES: usize = 256;

/// The class of holes of so many granules; that of none is always empty.
#[inline]
fn class(granules: usize) -> usize {
    if granules < FINE {
        return granules;
    }
    let octave = granules.ilog2();
    let eighth = (granules >> (octave - 3)) & 7;
    (FINE + 8 * (octave - FINE.ilog2()) as usize + eighth).min(CLASSES - 1)
}

/// The holes of one thread.
pub(crate) struct Holes {
    /// A bit for each granule of the region that is in a hole; as many as were
    /// ever needed.
    bits: Vec<u64>,
    /// A bit for each word of `bits` that is not zero, and some that are.
    words: Vec<u64>,
    /// Where holes of each class start, or once did.
    notes: [Vec<u32>; CLASSES],
    /// A bit for each class that has notes.
    noted: u64,
    /// Notes in all.
    note_count: usize,
    /// Holes.
    count: usize,
    /// Granules in all holes.
    granules: usize,
}

impl Default for Holes {
    fn default() -> Self {
        Self {
            bits: Vec::new(),
            words: Vec::new(),
            notes: [const { Vec::new() }; CLASSES],
            noted: 0,
            note_count: 0,
            count: 0,
            granules: 0,
        }
    }
}

impl Holes {
    /// Bytes in all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.granules * GRANULE
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds granules, which become one hole with those they touch.
    pub(crate) fn add(&mut self, run: Run) {
        if self.bits.len() <= run.end() / WORD {
            self.grow(run.end());
        }
        let mut hole = run;
        self.count += 1;
        if self.is_in_hole(run.end()) {
            hole.len += self.length_from(run.end());
            self.count -= 1;
        }
        if run.start > 0 && self.is_in_hole(run.start - 1) {
            let below = self.length_below(run.start);
            hole = Run::new(run.start - below, below + hole.len);
            self.count -= 1;
        }
        self.flip(run);
        for word in run.start / WORD..run.end().div_ceil(WORD) {
            self.words[word / WORD] |= 1 << (word % WORD);
        }
        self.granules += run.len;
        self.note(hole);
    }

    /// Makes room for a run that ends in front of granule `end`, and one more
    /// bit, so that no run ends with the last one.
    #[cold]
    fn grow(&mut self, end: usize) {
        let words = (end / WORD + 1).next_power_of_two();
        self.bits.resize(words, 0);
        self.words.resize(words.div_ceil(WORD), 0);
    }

    /// Takes `need` granules out of a hole of the least class that has one so
    /// long, or all of a hole with room for as much again. Looks through one
    /// class at most.
    #[inline]
    pub(crate) fn take(&mut self, need: usize) -> Option<Run> {
        let mut classes = self.noted >> class(need) << class(need);
        while classes != 0 {
            let class = classes.trailing_zeros() as usize;
            classes &= classes - 1;
            if let Some(hole) = self.take_of(class, need) {
                let rest = hole.len - need;
                if rest == 0 || rest >= need {
                    self.remove(hole);
                    return Some(hole);
                }
                // What is left is too short for such another.
                self.flip(Run::new(hole.start, need));
                self.granules -= need;
                self.note(Run::new(hole.start + need, rest));
                return Some(Run::new(hole.start, need));
            }
        }
        None
    }

    /// A hole of one class that is long enough; takes it off the notes, and
    /// what it comes upon that is no hole of that class.
    #[inline]
    fn take_of(&mut self, of: usize, need: usize) -> Option<Run> {
        let mut at = self.notes[of].len();
        let mut found = None;
        while at > 0 && found.is_none() {
            at -= 1;
            let start = self.notes[of][at] as usize;
            let len = self.length_at(start);
            let is_of_class = class(len) == of;
            if is_of_class && len < need {
                continue;
            }
            self.notes[of].swap_remove(at);
            self.note_count -= 1;
            found = is_of_class.then_some(Run::new(start, len));
        }
        self.noted &= !(u64::from(self.notes[of].is_empty()) << of);
        found
    }

    /// Calls `f` with each of them, lowest first.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Run)) {
        let mut at = 0;
        while let Some(bits) = self.bits.get(at / WORD) {
            let above = bits >> (at % WORD);
            if above == 0 {
                at = (at / WORD + 1) * WORD;
                continue;
            }
            let start = at + above.trailing_zeros() as usize;
            let hole = Run::new(start, self.length_from(start));
            f(hole);
            at = hole.end();
        }
    }

    /// Takes out the highest holes until no more than `keep` bytes are left;
    /// adds them to `to`, highest first.
    pub(crate) fn drain(&mut self, keep: usize, to: &mut Vec<Run>) {
        let mut at = self.words.len();
        while at > 0 && self.bytes() > keep {
            let words = self.words[at - 1];
            if words == 0 {
                at -= 1;
                continue;
            }
            let word = at * WORD - 1 - words.leading_zeros() as usize;
            let bits = self.bits[word];
            if bits == 0 {
                self.words[word / WORD] &= !(1 << (word % WORD));
                continue;
            }
            let end = (word + 1) * WORD - bits.leading_zeros() as usize;
            let len = self.length_below(end);
            let hole = Run::new(end - len, len);
            self.remove(hole);
            to.push(hole);
        }
        if self.granules == 0 {
            self.forget_notes();
        }
    }

    /// Takes a whole hole out; its notes stay.
    fn remove(&mut self, hole: Run) {
        self.flip(hole);
        self.granules -= hole.len;
        self.count -= 1;
    }

    #[inline]
    fn note(&mut self, hole: Run) {
        if self.note_count >= NOTES_A_HOLE * self.count + NOTES {
            // The bits know of this one, too.
            return self.note_anew();
        }
        let class = class(hole.len);
        self.notes[class].push(hole.start as u32);
        self.noted |= 1 << class;
        self.note_count += 1;
    }

    fn forget_notes(&mut self) {
        self.notes.iter_mut().for_each(Vec::clear);
        (self.noted, self.note_count) = (0, 0);
    }

    /// Notes each hole once.
    #[cold]
    fn note_anew(&mut self) {
        self.forget_notes();
        let mut word = 0;
        while word < self.bits.len() {
            let mut starts = self.bits[word] & !(self.bits[word] << 1);
            if word > 0 && self.bits[word - 1] >> (WORD - 1) == 1 {
                starts &= !1;
            }
            while starts != 0 {
                let start = word * WORD + starts.trailing_zeros() as usize;
                starts &= starts - 1;
                self.note(Run::new(start, self.length_from(start)));
            }
            word += 1;
        }
    }

    /// Flips the bits of `run`, which are all alike.
    #[inline]
    fn flip(&mut self, run: Run) {
        let (first, last) = (run.start / WORD, (run.end() - 1) / WORD);
        let from = u64::MAX << (run.start % WORD);
        let to = u64::MAX >> (WORD - 1 - (run.end() - 1) % WORD);
        if first == last {
            self.bits[first] ^= from & to;
            return;
        }
        self.bits[first] ^= from;
        self.bits[first + 1..last].iter_mut().for_each(|bits| *bits = !*bits);
        self.bits[last] ^= to;
    }

    #[inline]
    fn is_in_hole(&self, granule: usize) -> bool {
        self.bits[granule / WORD] >> (granule % WORD) & 1 == 1
    }

    /// Length of the hole that starts at granule `start`; 0 if none does.
    #[inline]
    fn length_at(&self, start: usize) -> usize {
        let is_inside = start > 0 && self.is_in_hole(start - 1);
        if is_inside { 0 } else { self.length_from(start) }
    }

    /// How many granules in a row are in a hole, from `at` up.
    fn length_from(&self, at: usize) -> usize {
        let mut high = at;
        loop {
            let ones = (self.bits[high / WORD] >> (high % WORD)).trailing_ones() as usize;
            high += ones;
            // The last word is never full: see `add`.
            if ones == 0 || !high.is_multiple_of(WORD) {
                return high - at;
            }
        }
    }

    /// How many granules in a row are in a hole, from the one in front of `at`
    /// down.
    fn length_below(&self, at: usize) -> usize {
        let mut low = at;
        while low > 0 {
            let top = (low - 1) % WORD;
            let ones = (self.bits[(low - 1) / WORD] << (WORD - 1 - top)).leading_ones() as usize;
            low -= ones;
            if ones <= top {
                break;
            }
        }
        at - low
    }
}

impl fmt::Debug for Holes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holes")
            .field("count", &self.count)
            .field("bytes", &self.bytes())
            .field("notes", &self.note_count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holes(runs: &[(usize, usize)]) -> Holes {
        let mut holes = Holes::default();
        runs.iter().for_each(|&(start, len)| holes.add(Run::new(start, len)));
        holes
    }

    fn drained(holes: &mut Holes, keep: usize) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        holes.drain(keep, &mut runs);
        runs.iter().map(|run| (run.start, run.len)).collect()
    }

    #[test]
    fn the_shortest_hole_that_fits_is_taken() {
        let mut holes = holes(&[(1000, 7), (2000, 3), (3000, 12), (4000, 40)]);
        assert_eq!((holes.bytes(), holes.count()), (62 * GRANULE, 4));
        assert_eq!(holes.take(41), None);
        assert_eq!(holes.take(8), Some(Run::new(3000, 8)), "the rest stays");
        assert_eq!(holes.take(8), Some(Run::new(4000, 40)), "room for more of them");
        assert_eq!(holes.take(8), None);
        assert_eq!(holes.take(4), Some(Run::new(3008, 4)));
        assert_eq!(drained(&mut holes, 0), [(2000, 3), (1000, 7)]);
        assert_eq!((holes.bytes(), holes.count(), holes.take(1)), (0, 0, None));
    }

    #[test]
    fn neighbours_become_one_in_any_order() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let parts = [(60, 4), (64, 64), (128, 3)];
            let mut holes = holes(&order.map(|at| parts[at]));
            assert_eq!(holes.count(), 1);
            assert_eq!(holes.take(71), Some(Run::new(60, 71)), "{order:?}");
            assert_eq!(holes.take(1), None);
        }
    }

    #[test]
    fn the_highest_are_given_up_first() {
        let mut holes = holes(&[(10, 5), (64, 64), (700, 1)]);
        assert_eq!(drained(&mut holes, 69 * GRANULE), [(700, 1)]);
        assert_eq!(drained(&mut holes, 68 * GRANULE), [(64, 64)]);
        assert_eq!(holes.take(5), Some(Run::new(10, 5)));
    }

    /// Against a byte a granule, looked through from end to end.
    #[test]
    fn a_hole_is_found_if_there_is_one_and_is_about_the_shortest() {
        const GRANULES: usize = 4000;
        let mut state = 1_u64;
        let mut random = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % bound
        };
        let (mut holes, mut naive) = (Holes::default(), vec![false; GRANULES]);
        let runs = |naive: &[bool]| -> Vec<Run> {
            let mut runs: Vec<Run> = Vec::new();
            for at in (0..GRANULES).filter(|&at| naive[at]) {
                match runs.last_mut() {
                    Some(run) if run.end() == at => run.len += 1,
                    _ => runs.push(Run::new(at, 1)),
                }
            }
            runs
        };
        for _ in 0..20_000 {
            let most = [4, 40, 400][random(3)];
            let len = 1 + random(most);
            let start = random(GRANULES - len);
            if naive[start..start + len].iter().all(|free| !free) {
                holes.add(Run::new(start, len));
                naive[start..start + len].fill(true);
            }
            if random(3) == 0 {
                let most = [4, 40, 400][random(3)];
                let need = 1 + random(most);
                let known = runs(&naive);
                let shortest = known.iter().map(|run| run.len).filter(|&len| len >= need).min();
                let found = holes.take(need);
                let hole = found.and_then(|run| known.iter().find(|hole| hole.start == run.start));
                assert_eq!(hole.map(|hole| class(hole.len)), shortest.map(class), "{need}");
                if let Some(run) = found {
                    let len = hole.map_or(0, |hole| hole.len);
                    assert_eq!(run.len, if len < 2 * need { need } else { len }, "{len} {need}");
                    naive[run.start..run.end()].fill(false);
                }
            }
            if random(50) == 0 {
                let keep = random(GRANULES) * GRANULE;
                for (start, len) in drained(&mut holes, keep) {
                    assert!(runs(&naive).contains(&Run::new(start, len)));
                    naive[start..start + len].fill(false);
                }
                assert!(holes.bytes() <= keep);
            }
            assert_eq!(holes.count(), runs(&naive).len());
            assert_eq!(holes.bytes(), naive.iter().filter(|free| **free).count() * GRANULE);
        }
        assert!(holes.note_count <= NOTES_A_HOLE * holes.count + NOTES);
    }
}
