//! The depot: holes beyond what their threads may keep, for whoever needs one.
//!
//! With many threads each may keep little, and what one recycles others need.
//! A hole here is as it was when its thread had it: its granules are taken,
//! `[B1]`, synchronised, `[X2]`, and not filled with traps, `[D3]`. So passing it
//! on costs one compare-and-swap on either side and none of what it takes to
//! make it everybody's (the name and the idea: Bonwick and Adams, *Magazines and
//! Vmem*, USENIX 2001; here it holds single holes by length in place of
//! magazines).
//!
//! A slot holds a whole run or nothing, so whoever swaps it out owns what it
//! read: there is no link to go stale, and no ABA. There are few slots: what
//! finds none is refused.
//!
//! Progress: lock-free; a failed compare-and-swap means that another thread's
//! succeeded.

use crate::claim;
use crate::page::bitmap::Run;
use crate::sync::{AtomicU64, Ordering, Tally, zeroed_words};
use crate::units::GRANULE;

/// Classes of lengths: one a granule below four, then two an octave.
const CLASSES: usize = 24;

/// Slots of a class, at most, and granules of the region for each.
const MOST_SLOTS: usize = 32;
const GRANULES_A_SLOT: usize = 4096;

/// Granules of the longest run that is taken in, which is the longest claim: who
/// takes one out claims all of it.
const LONGEST: usize = claim::MOST / GRANULE;

/// The class of runs of so many granules.
fn class(granules: usize) -> usize {
    if granules < 4 {
        return granules - 1;
    }
    let octave = granules.ilog2() as usize;
    let half = (granules >> (octave - 1)) & 1;
    (3 + 2 * (octave - 2) + half).min(CLASSES - 1)
}

/// A run in a word; never 0, for no run is empty.
fn pack(run: Run) -> u64 {
    (run.start as u64) << 32 | run.len as u64
}

fn unpack(word: u64) -> Run {
    Run::new((word >> 32) as usize, word as u32 as usize)
}

pub(crate) struct Depot {
    /// All slots, class by class.
    slots: Box<[AtomicU64]>,
    /// A bit for each class that has something, and some that have not. A hint:
    /// one that is lost costs a hole until the next of its class, or a drain.
    filled: AtomicU64,
    /// Of what is there, and of what is being put: 0 means that nothing is.
    bytes: Tally,
}

impl Depot {
    /// Of a region of so many granules.
    pub(crate) fn new(granules: usize) -> Self {
        let a_class = (granules / GRANULES_A_SLOT).clamp(1, MOST_SLOTS);
        let slots = zeroed_words(CLASSES * a_class);
        Self { slots, filled: AtomicU64::new(0), bytes: Tally::new(0) }
    }

    fn class(&self, class: usize) -> &[AtomicU64] {
        let a_class = self.slots.len() / CLASSES;
        &self.slots[class * a_class..][..a_class]
    }

    /// Bytes in it, about.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: steers policy; who knows of a run also knows that it counts.
        self.bytes.load(Ordering::Relaxed) as usize
    }

    /// Hands over a run of the caller's; false if there is no room for it, or it is
    /// too long.
    pub(crate) fn put(&self, run: Run) -> bool {
        if run.len > LONGEST {
            return false;
        }
        let class = class(run.len);
        // Relaxed: see `bytes`. Before it is there.
        self.bytes.fetch_add((run.len * GRANULE) as u64, Ordering::Relaxed);
        for slot in self.class(class) {
            // Relaxed: a hint.
            if slot.load(Ordering::Relaxed) != 0 {
                continue;
            }
            // Release [B1] [X2]: pairs with the Acquire in `take_from`: the next
            // owner comes after all that was done with the run.
            let put = slot.compare_exchange(0, pack(run), Ordering::Release, Ordering::Relaxed);
            if put.is_ok() {
                self.hint(class);
                return true;
            }
        }
        self.count_out(run);
        false
    }

    fn hint(&self, class: usize) {
        // Relaxed, both: a hint. The load spares a line that all threads read.
        if self.filled.load(Ordering::Relaxed) >> class & 1 == 0 {
            self.filled.fetch_or(1 << class, Ordering::Relaxed);
        }
    }

    /// Takes out a run of at least `need` granules, the shortest of the first
    /// class that has one.
    pub(crate) fn take(&self, need: usize) -> Option<Run> {
        if self.bytes() == 0 {
            return None;
        }
        let first = class(need);
        // Relaxed: a hint.
        let mut classes = self.filled.load(Ordering::Relaxed) >> first << first;
        while classes != 0 {
            let class = classes.trailing_zeros() as usize;
            match self.take_of(class, need) {
                Ok(run) => return Some(run),
                Err(is_empty) if is_empty => self.unhint(class),
                Err(_) => {}
            }
            classes &= classes - 1;
        }
        None
    }

    /// The shortest run of a class that is long enough, or whether the class is
    /// empty.
    fn take_of(&self, class: usize, need: usize) -> Result<Run, bool> {
        loop {
            let mut best: Option<(&AtomicU64, Run)> = None;
            let mut is_empty = true;
            for slot in self.class(class) {
                // Relaxed: decides which; `take_from` acquires.
                let word = slot.load(Ordering::Relaxed);
                let run = unpack(word);
                is_empty &= word == 0;
                if run.len >= need && best.is_none_or(|(_, other)| run.len < other.len) {
                    best = Some((slot, run));
                }
            }
            let Some((slot, run)) = best else { return Err(is_empty) };
            if self.take_from(slot, run) {
                return Ok(run);
            }
        }
    }

    /// Takes `run` out of a slot, if it still is what is there.
    fn take_from(&self, slot: &AtomicU64, run: Run) -> bool {
        // Acquire [B1] [X2]: pairs with the Release in `put`.
        let taken = slot.compare_exchange(pack(run), 0, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_ok() {
            self.count_out(run);
        }
        taken.is_ok()
    }

    fn count_out(&self, run: Run) {
        // Relaxed: see `bytes`.
        self.bytes.fetch_sub((run.len * GRANULE) as u64, Ordering::Relaxed);
    }

    /// Notes that a class was seen empty.
    #[cold]
    fn unhint(&self, class: usize) {
        // Relaxed, all: a hint. Looked at again, for a run may have come.
        self.filled.fetch_and(!(1 << class), Ordering::Relaxed);
        if self.class(class).iter().any(|slot| slot.load(Ordering::Relaxed) != 0) {
            self.hint(class);
        }
    }

    /// Takes out all that is there, whatever the hints say.
    pub(crate) fn drain(&self, to: &mut Vec<Run>) {
        if self.bytes() == 0 {
            return;
        }
        for slot in &self.slots {
            // Relaxed: decides whether; `take_from` acquires.
            let run = unpack(slot.load(Ordering::Relaxed));
            if run.len > 0 && self.take_from(slot, run) {
                to.push(run);
            }
        }
    }

    /// Forgets what is there. By a thread that is alone.
    pub(crate) fn reset(&self) {
        // Relaxed: nobody else is there.
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
        self.filled.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::{Watched, thread};

    #[test]
    fn b1_x2_a_run_has_one_owner_who_comes_after_the_last() {
        crate::sync::explore(|| {
            let depot = Arc::new(Depot::new(0));
            let granules = Arc::new([Watched::new(), Watched::new()]);
            let own_some = |depot: &Depot, granules: &[Watched; 2]| {
                if let Some(run) = depot.take(1) {
                    granules[run.start].write();
                    assert!(depot.put(run), "its slot was its own");
                }
            };
            granules.iter().for_each(Watched::write);
            assert!(depot.put(Run::new(0, 1)) && depot.put(Run::new(1, 2)));
            let other = {
                let (depot, granules) = (Arc::clone(&depot), Arc::clone(&granules));
                thread::spawn(move || own_some(&depot, &granules))
            };
            own_some(&depot, &granules);
            other.join().unwrap();
            let mut all = Vec::new();
            depot.drain(&mut all);
            assert_eq!(all, [Run::new(0, 1), Run::new(1, 2)], "lost, or there twice");
        });
    }

    #[test]
    fn a_run_comes_out_as_it_went_in_and_once() {
        crate::sync::explore(|| {
            let depot = Depot::new(2 * GRANULES_A_SLOT);
            let runs =
                [Run::new(0, 1), Run::new(7, 40), Run::new(60, 45), Run::new(1 << 31, LONGEST)];
            assert!(runs.iter().all(|&run| depot.put(run)));
            assert_eq!(depot.bytes(), (1 + 40 + 45 + LONGEST) * GRANULE);
            assert!(!depot.put(Run::new(200, 41)), "its class is full");
            assert_eq!(depot.take(41), Some(runs[2]), "the only one of its class long enough");
            assert_eq!(depot.take(30), Some(runs[1]));
            assert_eq!(depot.take(30), Some(runs[3]));
            assert_eq!(depot.take(1), Some(runs[0]));
            assert_eq!((depot.take(1), depot.bytes()), (None, 0));
        });
    }

    #[test]
    fn a_drain_and_a_reset_leave_nothing() {
        crate::sync::explore(|| {
            let depot = Depot::new(0);
            let run = Run::new(3, 12);
            assert!(depot.put(run));
            let mut drained = Vec::new();
            depot.drain(&mut drained);
            assert_eq!((drained, depot.take(1), depot.bytes()), (vec![run], None, 0));
            assert!(depot.put(run));
            depot.reset();
            assert_eq!((depot.take(1), depot.bytes()), (None, 0));
            assert!(depot.put(run));
            assert_eq!(depot.take(12), Some(run), "a hint that was reset comes back");
        });
    }

    #[test]
    fn longer_runs_have_no_lower_class() {
        let classes: Vec<usize> = (1..=1 << 16).map(class).collect();
        assert!(classes.is_sorted() && classes[0] == 0 && classes.last() == Some(&(CLASSES - 1)));
        let run = Run::new((1 << 32) - 1, (1 << 32) - 1);
        assert_eq!(unpack(pack(run)), run);
    }
}
