//! What a replay measures: sums over the time of the trace, peaks, latencies.
//! Each thread keeps its own and they are added up at the end.

use hdrhistogram::Histogram;

/// Latencies above this are counted as this: 100 seconds, in nanoseconds.
const LONGEST: u64 = 100_000_000_000;

/// Durations in nanoseconds, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // One bucket array for the whole range, made here: recording never
        // allocates.
        match Histogram::new_with_bounds(1, LONGEST, 3) {
            Ok(histogram) => Self(histogram),
            Err(e) => unreachable!("the bounds are constants in range: {e:?}"),
        }
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds.max(1));
    }

    /// Adds another thread's durations.
    pub fn add(&mut self, other: &Self) {
        if self.0.add(&other.0).is_err() {
            unreachable!("all have the same bounds");
        }
    }

    /// The duration that a fraction of all do not exceed.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_quantile(fraction) }
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.max()
    }
}

/// Bytes over the time of the trace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    live: f64,
    committed: f64,
    retired: f64,
    live_when_asked: f64,
    resident: f64,
}

impl Held {
    /// After an event `live` bytes are needed; the arena holds `committed`,
    /// `retired` of them dead code nobody may reuse yet. So it stays for
    /// `weight` nanoseconds.
    pub(super) fn count(&mut self, weight: u64, live: u64, committed: u64, retired: u64) {
        let weight = weight as f64;
        self.live += weight * live as f64;
        self.committed += weight * committed as f64;
        self.retired += weight * retired as f64;
    }

    /// At some event the kernel says that `resident` bytes are in memory,
    /// which stands for `weight` nanoseconds around it.
    pub(super) fn count_resident(&mut self, weight: u64, live: u64, resident: u64) {
        let weight = weight as f64;
        self.live_when_asked += weight * live as f64;
        self.resident += weight * resident as f64;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.live += other.live;
        self.committed += other.committed;
        self.retired += other.retired;
        self.live_when_asked += other.live_when_asked;
        self.resident += other.resident;
    }

    pub(super) fn committed_over_live(&self) -> f64 {
        self.committed / self.live
    }

    pub(super) fn retired_over_live(&self) -> f64 {
        self.retired / self.live
    }

    pub(super) fn resident_over_live(&self) -> f64 {
        self.resident / self.live_when_asked
    }
}

/// All that one thread of a replay measures.
#[derive(Clone, Debug, Default)]
pub(super) struct Measures {
    pub(super) held: Held,
    pub(super) peak_committed: u64,
    pub(super) calls_verified: u64,
    pub(super) bytes_compared: u64,
    pub(super) install: Latencies,
    pub(super) drop: Latencies,
    /// Nanoseconds spent installing and dropping.
    pub(super) in_arena: u64,
}

impl Measures {
    pub(super) fn add(&mut self, other: &Self) {
        self.held.add(&other.held);
        self.peak_committed = self.peak_committed.max(other.peak_committed);
        self.calls_verified += other.calls_verified;
        self.bytes_compared += other.bytes_compared;
        self.install.add(&other.install);
        self.drop.add(&other.drop);
        self.in_arena += other.in_arena;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_sums_over_time() {
        let mut held = Held::default();
        // A long time at 2 and a short one at 4, with ten times the live bytes.
        held.count(90, 100, 200, 10);
        let mut other = Held::default();
        other.count(10, 1000, 4000, 0);
        held.add(&other);
        assert!(
            (held.committed_over_live() - (18_000.0 + 40_000.0) / (9_000.0 + 10_000.0)).abs()
                < 1e-12
        );
        assert!((held.retired_over_live() - 900.0 / 19_000.0).abs() < 1e-12);
        held.count_resident(5, 10, 30);
        assert!((held.resident_over_live() - 3.0).abs() < 1e-12);
    }

    #[test]
    fn latencies_keep_their_extremes() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|n| latencies.record(n));
        let mut other = Latencies::default();
        other.record(u64::MAX);
        other.record(0);
        latencies.add(&other);
        assert_eq!(latencies.quantile(0.5), 500);
        assert!(latencies.max() >= LONGEST);
        assert_eq!(Latencies::default().quantile(0.99), 0);
    }
}
