//! Write units: what must be dead as a whole before it can be filled.
//!
//! Where a thread can write one executor without touching its neighbours, a
//! unit is a granule and an executor's granules are free as soon as it is
//! dead. Where writing flips a system page, nobody may write while anything
//! else on that page can run: its dead granules are counted until the whole
//! unit is dead, and then it becomes free as one, `[W3]`.

use crate::sync::{AtomicU64, Ordering, mutant, zeroed_words};
use crate::units::GRANULE;

use super::bitmap::Run;

/// The write units of a region.
pub(crate) struct Units {
    /// Granules a unit, a power of two.
    granules: usize,
    /// Dead granules of each unit; empty if units are granules.
    dead: Box<[AtomicU64]>,
}

impl Units {
    /// The units of `unit` granules of a region of `granules`.
    pub(crate) fn new(unit: usize, granules: usize) -> Self {
        let count = if unit == 1 { 0 } else { granules.div_ceil(unit) };
        Self { granules: unit, dead: zeroed_words(count) }
    }

    /// Bytes a unit.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.granules * GRANULE
    }

    /// Whether units are more than granules.
    #[inline]
    pub(crate) fn are_coarse(&self) -> bool {
        self.granules > 1
    }

    /// `granules` rounded up to whole units.
    #[inline]
    pub(crate) fn round_up(&self, granules: usize) -> usize {
        granules.next_multiple_of(self.granules)
    }

    /// Granules that are free once `run`, which lives, is dead: its own, and its
    /// share of those around it that died before. Wait-free.
    #[inline]
    pub(crate) fn weight(&self, run: Run) -> usize {
        if self.are_coarse() { self.weight_in_units(run) } else { run.len }
    }

    fn weight_in_units(&self, run: Run) -> usize {
        let mut weight = 0;
        let mut at = run.start;
        while at < run.end() {
            let unit = at / self.granules;
            let end = ((unit + 1) * self.granules).min(run.end());
            // Relaxed: steers policy.
            let dead = self.dead[unit].load(Ordering::Relaxed) as usize;
            let living = self.granules.saturating_sub(dead).max(end - at);
            weight += (end - at) * self.granules / living;
            at = end;
        }
        weight
    }

    /// Forgets what was buried, in a process of one thread, which buries it anew.
    pub(crate) fn after_fork(&self) {
        // Relaxed: of the only thread.
        self.dead.iter().for_each(|dead| dead.store(0, Ordering::Relaxed));
    }

    /// Marks granules as dead for good; calls `whole` with each run of units
    /// that this made dead as a whole, which then belongs to the caller.
    ///
    /// Wait-free.
    #[inline]
    pub(crate) fn bury(&self, run: Run, mut whole: impl FnMut(Run)) {
        if self.are_coarse() { self.bury_in_units(run, whole) } else { whole(run) }
    }

    fn bury_in_units(&self, run: Run, mut whole: impl FnMut(Run)) {
        let mut at = run.start;
        while at < run.end() {
            let unit = at / self.granules;
            let end = ((unit + 1) * self.granules).min(run.end());
            let dead = &self.dead[unit];
            // Release [W3]: pairs with the fence in `Lookups::let_wipe`, which a
            // recycler passes before it writes: who completes the unit comes
            // after everyone who buried a part of it. Who made the unit buries
            // its own parts before it publishes any, so nobody has run what it
            // completes.
            let before = dead.fetch_add((end - at) as u64, Ordering::Release) as usize;
            debug_assert!(before + end - at <= self.granules, "[W3] granules buried twice");
            if before + (end - at) == self.granules || mutant("unit-freed-half-dead") {
                // Relaxed: the unit is ours; the Release that frees its
                // granules orders this before its next burials.
                dead.store(0, Ordering::Relaxed);
                whole(Run::new(unit * self.granules, self.granules));
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w3_a_unit_is_free_once_all_of_it_is_dead() {
        let units = Units::new(64, 256);
        let mut whole = Vec::new();
        units.bury(Run::new(10, 100), |run| whole.push(run));
        assert_eq!(whole, []);
        units.bury(Run::new(0, 10), |run| whole.push(run));
        assert_eq!(whole, [Run::new(0, 64)]);
        units.bury(Run::new(110, 146), |run| whole.push(run));
        assert_eq!(
            whole,
            [Run::new(0, 64), Run::new(64, 64), Run::new(128, 64), Run::new(192, 64)]
        );
        whole.clear();
        units.bury(Run::new(0, 64), |run| whole.push(run));
        assert_eq!(whole, [Run::new(0, 64)], "a unit lives again");
    }

    #[test]
    fn the_last_to_live_in_a_unit_weigh_all_of_it() {
        let units = Units::new(64, 256);
        let (one, two, long) = (Run::new(0, 1), Run::new(1, 3), Run::new(60, 80));
        assert_eq!((units.weight(one), units.weight(two), units.weight(long)), (1, 3, 80));
        units.bury(Run::new(4, 60), |_| panic!("two are alive"));
        assert_eq!((units.weight(one), units.weight(two)), (16, 48));
        units.bury(one, |_| panic!("one is alive"));
        assert_eq!(units.weight(two), 64);
        assert_eq!(Units::new(1, 256).weight(long), 80);
    }

    #[test]
    fn granules_are_free_at_once() {
        let units = Units::new(1, 256);
        let mut whole = Vec::new();
        units.bury(Run::new(3, 7), |run| whole.push(run));
        assert_eq!(whole, [Run::new(3, 7)]);
    }
}
