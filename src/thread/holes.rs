//! Holes a thread keeps for itself, to reserve in without asking anybody.
//!
//! What a thread recycles it mostly needs again at once, so a part of each lot
//! stays with it, together with what its claims left over. Their granules stay
//! taken, `[B1]`. Nobody else can reach them, so they need no traps until they
//! are given away: what is reserved here is written over anyway, `[D3]`.

use core::fmt;

use crate::page::bitmap::Run;
use crate::units::GRANULE;

/// Granules that belong to a thread and to no executor.
///
/// One word, so that a lot of them sorts fast: the first granule on top, then
/// how many, and whether they may hold something else than traps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hole(u64);

impl Hole {
    pub(crate) fn new(run: Run, filled: bool) -> Self {
        debug_assert!(run.start < 1 << 32 && run.len < 1 << 31);
        Self((run.start as u64) << 32 | (run.len as u64) << 1 | u64::from(!filled))
    }

    pub(crate) fn run(self) -> Run {
        Run::new((self.0 >> 32) as usize, self.granules())
    }

    fn granules(self) -> usize {
        (self.0 as u32 >> 1) as usize
    }

    pub(crate) fn bytes(self) -> usize {
        self.granules() * GRANULE
    }

    /// Whether all of it is traps, or never was written.
    pub(crate) fn is_filled(self) -> bool {
        self.0 & 1 == 0
    }

    /// The hole that two make of which the first ends where the second begins.
    pub(crate) fn joined(self, next: Self) -> Option<Self> {
        let (run, after) = (self.run(), next.run());
        let both = Run::new(run.start, run.len + after.len);
        (run.end() == after.start).then(|| Self::new(both, self.is_filled() && next.is_filled()))
    }
}

impl fmt::Debug for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hole")
            .field("run", &self.run())
            .field("is_filled", &self.is_filled())
            .finish()
    }
}

/// Classes of lengths: one a granule up to [`FINE`], then eight an octave.
const CLASSES: usize = u64::BITS as usize;
const FINE: usize = 32;

/// The holes of one thread, filed by length.
#[derive(Debug)]
pub(crate) struct Holes {
    /// The first hole of each class; the others follow by `next`.
    first: [u32; CLASSES],
    /// A bit for each class that has holes.
    filed: u64,
    slots: Vec<Slot>,
    /// Slots without a hole, linked like a class.
    unused: u32,
    count: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hole: Hole,
    next: u32,
}

/// No slot.
const NONE: u32 = u32::MAX;

/// The class of holes of so many granules.
fn class(granules: usize) -> usize {
    if granules < FINE {
        return granules;
    }
    let octave = granules.ilog2();
    let eighth = (granules >> (octave - 3)) & 7;
    (FINE + 8 * (octave - FINE.ilog2()) as usize + eighth).min(CLASSES - 1)
}

impl Default for Holes {
    fn default() -> Self {
        let (slots, unused) = (Vec::new(), NONE);
        Self { first: [NONE; CLASSES], filed: 0, slots, unused, count: 0, bytes: 0 }
    }
}

impl Holes {
    /// Bytes in all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Files a hole.
    pub(crate) fn push(&mut self, hole: Hole) {
        let class = class(hole.granules());
        let slot = Slot { hole, next: self.first[class] };
        let at = self.unused;
        if let Some(unused) = self.slots.get_mut(at as usize) {
            self.unused = unused.next;
            *unused = slot;
            self.first[class] = at;
        } else {
            self.first[class] = self.slots.len() as u32;
            self.slots.push(slot);
        }
        self.filed |= 1 << class;
        self.count += 1;
        self.bytes += hole.bytes();
    }

    /// Takes out a hole of at least `need` granules, of the least class that
    /// has one. Looks through one class at most.
    pub(crate) fn take(&mut self, need: usize) -> Option<Hole> {
        let least = class(need);
        let fits = |slot: &Slot| slot.hole.granules() >= need;
        let mut before = NONE;
        let mut at = self.first[least];
        while let Some(slot) = self.slots.get(at as usize) {
            if fits(slot) {
                return Some(self.remove(least, before, at));
            }
            (before, at) = (at, slot.next);
        }
        // All of the greater classes fit.
        let greater = (self.filed >> least) & !1;
        if greater == 0 {
            return None;
        }
        let class = least + greater.trailing_zeros() as usize;
        Some(self.remove(class, NONE, self.first[class]))
    }

    /// Unfiles the hole in slot `at`, which follows `before` in its class.
    fn remove(&mut self, class: usize, before: u32, at: u32) -> Hole {
        let Slot { hole, next } = self.slots[at as usize];
        match self.slots.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => {
                self.first[class] = next;
                self.filed &= !(u64::from(next == NONE) << class);
            }
        }
        self.slots[at as usize].next = self.unused;
        self.unused = at;
        self.count -= 1;
        self.bytes -= hole.bytes();
        hole
    }

    /// Calls `f` with each of them.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Hole)) {
        for first in self.first {
            let mut at = first;
            while let Some(slot) = self.slots.get(at as usize) {
                f(slot.hole);
                at = slot.next;
            }
        }
    }

    /// Takes all of them out.
    pub(crate) fn drain(&mut self, mut to: impl FnMut(Hole)) {
        while self.filed != 0 {
            let class = self.filed.trailing_zeros() as usize;
            to(self.remove(class, NONE, self.first[class]));
        }
        self.slots.clear();
        self.unused = NONE;
    }
}

#[cfg(all(test, not(jit_arena_loom), not(jit_arena_shuttle)))]
mod tests {
    use super::*;

    fn hole(granules: usize) -> Hole {
        Hole::new(Run::new(granules << 20, granules), granules == 12)
    }

    #[test]
    fn the_shortest_hole_that_fits_is_taken() {
        let mut holes = Holes::default();
        [7, 3, 12, 3, 40].into_iter().for_each(|granules| holes.push(hole(granules)));
        assert_eq!((holes.bytes(), holes.count()), (65 * GRANULE, 5));
        let mut take = |need| holes.take(need).map(|hole| (hole.granules(), hole.is_filled()));
        assert_eq!(take(41), None);
        assert_eq!(take(8), Some((12, true)));
        assert_eq!(take(8), Some((40, false)));
        assert_eq!(take(8), None);
        assert_eq!(take(1), Some((3, false)));
        assert_eq!(take(4), Some((7, false)));
        assert_eq!((holes.bytes(), holes.count()), (3 * GRANULE, 1));
        let mut rest = Vec::new();
        holes.drain(|hole| rest.push(hole.granules()));
        assert_eq!(rest, [3]);
        assert_eq!((holes.bytes(), holes.count(), holes.take(1).is_none()), (0, 0, true));
    }

    #[test]
    fn a_hole_is_found_if_there_is_one_and_is_about_the_shortest() {
        let mut state = 1_u64;
        let mut random = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % bound
        };
        let (mut holes, mut all) = (Holes::default(), Vec::new());
        for _ in 0..20_000 {
            let most = [20, 200, 3000][random(3)];
            let granules = 1 + random(most);
            if random(2) == 0 {
                holes.push(hole(granules));
                all.push(granules);
                continue;
            }
            let shortest = all.iter().copied().filter(|&len| len >= granules).min();
            let found = holes.take(granules).map(|hole| hole.granules());
            assert_eq!(found.is_some(), shortest.is_some());
            let (Some(found), Some(shortest)) = (found, shortest) else { continue };
            assert!(found >= granules && class(found) == class(shortest), "{found} {shortest}");
            all.swap_remove(all.iter().position(|&len| len == found).unwrap());
        }
        assert_eq!(holes.count(), all.len());
        assert_eq!(holes.bytes(), all.iter().sum::<usize>() * GRANULE);
    }
}
