//! Byte-exact accounts of a region, added up from single-writer counts, `[A1]`.

use crate::sync::{Ordering, Tally};

/// What an arena holds and has done.
///
/// Exact while no thread uses the arena; otherwise each figure is one that was
/// true at some moment of the call, and they need not belong to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Executors published and not yet dropped.
    pub live_executors: u64,
    /// Their bytes of code and data.
    pub live_bytes: u64,
    /// Executors dropped and not yet recycled.
    pub retired_executors: u64,
    /// Their bytes of code and data.
    pub retired_bytes: u64,
    /// Bytes in claims that no executor occupies yet.
    pub claimed_bytes: u64,
    /// Bytes of committed memory in holes: what installs can have without a
    /// system call.
    pub hole_bytes: u64,
    /// Bytes of the islands that trampolines are in.
    pub island_bytes: u64,
    /// Bytes lost to headers, alignment, granules and unpublished
    /// reservations: committed, less all of the above.
    pub padding_bytes: u64,
    /// Bytes of code memory held from the system, in whole system pages.
    pub committed_bytes: u64,
    /// Of these, bytes in huge pages, as far as the arena knows: the system
    /// may split them.
    pub huge_bytes: u64,
    /// Bytes of address space of one view.
    pub reserved_bytes: u64,
    /// Executors ever published.
    pub installs: u64,
    /// Executors ever dropped.
    pub retires: u64,
    /// Executors whose granules became holes again.
    pub recycles: u64,
    /// Lots they were recycled in, each with one core synchronisation.
    pub recycled_lots: u64,
    /// Claims taken.
    pub claims: u64,
    /// Bytes ever given back to the system.
    pub trimmed_bytes: u64,
    /// Times the system refused to close a write window or to synchronise
    /// cores. What was concerned waits and is tried again.
    pub refusals: u64,
    /// Threads attached now.
    pub attached_threads: u64,
}

/// The counts of one thread: written by it alone, read by all.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) installs: Tally,
    pub(crate) installed_bytes: Tally,
    pub(crate) retires: Tally,
    pub(crate) retired_bytes: Tally,
    pub(crate) recycles: Tally,
    pub(crate) recycled_bytes: Tally,
    pub(crate) lots: Tally,
    pub(crate) claims: Tally,
    /// Granules this thread took from pages.
    pub(crate) taken: Tally,
    /// Granules this thread gave back to pages.
    pub(crate) released: Tally,
    /// Bytes of this thread's claim that no executor occupies.
    pub(crate) unused: Tally,
    pub(crate) trimmed: Tally,
    pub(crate) refusals: Tally,
}

impl Tallies {
    /// Counts from nothing again.
    pub(crate) fn clear(&self) {
        let Self { installs, installed_bytes, retires, retired_bytes, .. } = self;
        let Self { recycles, recycled_bytes, lots, claims, .. } = self;
        let Self { taken, released, unused, trimmed, refusals, .. } = self;
        for tally in [installs, installed_bytes, retires, retired_bytes, recycles, recycled_bytes]
            .into_iter()
            .chain([lots, claims, taken, released, unused, trimmed, refusals])
        {
            // Relaxed: statistics.
            tally.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds to a count that only the calling thread writes.
#[inline]
pub(crate) fn add(tally: &Tally, n: usize) {
    // Relaxed: a single writer, and readers that ask for no order.
    tally.store(tally.load(Ordering::Relaxed).wrapping_add(n as u64), Ordering::Relaxed);
}

/// Totals over all threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) stats: Stats,
    pub(crate) installed_bytes: u64,
    pub(crate) retired_bytes: u64,
    pub(crate) recycled_bytes: u64,
    pub(crate) taken: u64,
    pub(crate) released: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, tallies: &Tallies) {
        // Relaxed: see `Stats`.
        let read = |tally: &Tally| tally.load(Ordering::Relaxed);
        let stats = &mut self.stats;
        stats.installs += read(&tallies.installs);
        stats.retires += read(&tallies.retires);
        stats.recycles += read(&tallies.recycles);
        stats.recycled_lots += read(&tallies.lots);
        stats.claims += read(&tallies.claims);
        stats.claimed_bytes += read(&tallies.unused);
        stats.trimmed_bytes += read(&tallies.trimmed);
        stats.refusals += read(&tallies.refusals);
        self.installed_bytes += read(&tallies.installed_bytes);
        self.retired_bytes += read(&tallies.retired_bytes);
        self.recycled_bytes += read(&tallies.recycled_bytes);
        self.taken += read(&tallies.taken);
        self.released += read(&tallies.released);
    }

    /// Bytes of granules that belong to somebody.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken.saturating_sub(self.released) * crate::units::GRANULE as u64
    }

    /// The figures a client sees.
    pub(crate) fn finish(mut self, committed: usize, reserved: usize, islands: usize) -> Stats {
        let taken = self.taken_bytes();
        let stats = &mut self.stats;
        stats.committed_bytes = committed as u64;
        stats.reserved_bytes = reserved as u64;
        // Saturating: threads that run meanwhile may be counted in part.
        stats.live_executors = stats.installs.saturating_sub(stats.retires);
        stats.live_bytes = self.installed_bytes.saturating_sub(self.retired_bytes);
        stats.retired_executors = stats.retires.saturating_sub(stats.recycles);
        stats.retired_bytes = self.retired_bytes.saturating_sub(self.recycled_bytes);
        stats.hole_bytes = stats.committed_bytes.saturating_sub(taken);
        stats.island_bytes = islands as u64;
        let known =
            stats.live_bytes + stats.retired_bytes + stats.claimed_bytes + stats.island_bytes;
        stats.padding_bytes = taken.saturating_sub(known);
        self.stats
    }
}
