//! Marks: where executors start, and which of them are retired.
//!
//! One byte a granule, so that whoever owns a granule may store its mark without
//! a read-modify-write: a bit would be shared with the owners of its
//! neighbours, and a locked instruction right after code was copied waits for
//! every one of those stores. It costs 1.6 % of the memory in use, metadata
//! that no page of code is made longer by.
//!
//! Progress: everything is wait-free.

use crate::sync::{AtomicU8, Ordering, mutant, zeroed_bytes};

/// What a granule's byte says. Fresh memory says [`NOTHING`].
const NOTHING: u8 = 0;
const LIVE: u8 = 1;
const RETIRED: u8 = 2;

/// The marks of all granules of a region.
pub(crate) struct Marks(Box<[AtomicU8]>);

impl Marks {
    pub(crate) fn new(granules: usize) -> Self {
        Self(zeroed_bytes(granules))
    }

    /// An executor starts at `granule`, which the caller owns, `[B1]`.
    #[inline]
    pub(crate) fn publish(&self, granule: usize) {
        let mark = &self.0[granule];
        // Relaxed: the last mark there was cleared before the granule changed
        // hands, [D1].
        debug_assert_eq!(mark.load(Ordering::Relaxed), NOTHING, "[B1] two executors at a granule");
        // Release [X1]: pairs with the Acquire in `is_start`: seeing the mark is seeing the header.
        mark.store(LIVE, Ordering::Release);
    }

    /// The executor at `granule` is retired, by the owner of its only handle;
    /// false if there is none or it was retired before, `[D1]`.
    #[inline]
    pub(crate) fn retire(&self, granule: usize) -> bool {
        let mark = &self.0[granule];
        // Relaxed [D1]: handles pass from thread to thread by means that order,
        // and there is one; the epoch orders everything that follows.
        let is_live = mark.load(Ordering::Relaxed) == LIVE;
        if is_live {
            // Relaxed: as above.
            mark.store(RETIRED, Ordering::Relaxed);
        }
        is_live
    }

    /// As [`retire`](Self::retire), where several threads may try at once: one of
    /// them does, `[D1]`.
    pub(crate) fn retire_shared(&self, granule: usize) -> bool {
        // Relaxed [D1]: the read-modify-write makes one caller the first; the
        // epoch orders everything that follows.
        let retired =
            self.0[granule].compare_exchange(LIVE, RETIRED, Ordering::Relaxed, Ordering::Relaxed);
        retired.is_ok()
    }

    /// Takes back what `retire_shared` did to another executor than was meant.
    pub(crate) fn restore(&self, granule: usize) {
        // Relaxed [D1]: the executor is another thread's, which knows of it.
        let _ =
            self.0[granule].compare_exchange(RETIRED, LIVE, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Nothing starts at `granule` any more. By the recycler, which owns it.
    #[inline]
    pub(crate) fn clear(&self, granule: usize) {
        // Relaxed: the Release that frees the granule, or the publishing of
        // what is written there next, orders this before the next mark; and
        // `Lookups::let_wipe` before what lookups must notice.
        if !mutant("mark-not-cleared") {
            self.0[granule].store(NOTHING, Ordering::Relaxed);
        }
    }

    /// Whether an executor starts at `granule`, retired or not.
    pub(crate) fn is_start(&self, granule: usize) -> bool {
        // Acquire [L1]: pairs with the Release in `publish`.
        self.0[granule].load(Ordering::Acquire) != NOTHING
    }

    /// Whether an executor starts at `granule` that is not retired.
    pub(crate) fn is_live(&self, granule: usize) -> bool {
        // Relaxed: says nothing of the header, which a lookup orders.
        self.0[granule].load(Ordering::Relaxed) == LIVE
    }

    /// The granules of `among` at which executors start, lowest first.
    pub(crate) fn starts(
        &self,
        among: core::ops::Range<usize>,
    ) -> impl DoubleEndedIterator<Item = usize> + '_ {
        among.filter(|&granule| self.is_start(granule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_an_executor_is_retired_once() {
        let marks = Marks::new(8);
        assert!(!marks.retire(3), "nothing starts there");
        marks.publish(3);
        assert!(marks.is_start(3) && marks.is_live(3));
        assert!(marks.retire(3));
        assert!(marks.is_start(3) && !marks.is_live(3));
        assert!(!marks.retire(3), "it is retired already");
        marks.publish(6);
        assert_eq!(marks.starts(0..8).collect::<Vec<_>>(), [3, 6]);
        marks.clear(3);
        assert!(!marks.is_start(3) && !marks.retire(3));
        marks.publish(3);
        assert!(marks.is_live(3));
        assert!(marks.retire_shared(3) && !marks.retire_shared(3) && !marks.retire_shared(4));
        marks.restore(3);
        assert!(marks.is_live(3) && marks.retire(3) && !marks.retire_shared(3));
    }
}
