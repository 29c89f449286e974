//! Latencies, counted by size.

use core::array;
use core::sync::atomic::{AtomicU64, Ordering};

/// Classes for each doubling.
const STEPS: usize = 4;

const CLASSES: usize = 64 * STEPS;

/// Counts values by their size, a quarter of a doubling each. Lock-free.
#[derive(Debug)]
pub struct Histogram([AtomicU64; CLASSES]);

impl Default for Histogram {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&self, value: u64) {
        // Relaxed: a count.
        self.0[class(value)].fetch_add(1, Ordering::Relaxed);
    }

    /// Each class that has values: its least value, and how many there are.
    #[must_use]
    pub fn classes(&self) -> Vec<(u64, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().filter(|(_, n)| *n > 0).map(|(at, n)| (least(at), n)).collect()
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes().iter().map(|(_, n)| n).sum()
    }

    /// The least value of the class that so much of all values lie below or
    /// in, 0 if there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        let classes = self.classes();
        let all: u64 = classes.iter().map(|(_, n)| n).sum();
        let mut below = 0;
        for (value, n) in classes {
            below += n;
            if below as f64 >= part * all as f64 {
                return value;
            }
        }
        0
    }
}

fn class(value: u64) -> usize {
    let value = value.max(1);
    let doublings = value.ilog2() as usize;
    let quarter = if doublings >= 2 { (value >> (doublings - 2)) as usize & 3 } else { 0 };
    doublings * STEPS + quarter
}

fn least(class: usize) -> u64 {
    let (doublings, quarter) = (class / STEPS, class % STEPS);
    if doublings >= 2 { (4 + quarter as u64) << (doublings - 2) } else { 1 << doublings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_the_class_that_starts_below_them() {
        for value in [1, 2, 3, 4, 5, 7, 8, 9, 1000, 123_456_789, u64::MAX] {
            let class = class(value);
            assert!(least(class) <= value, "{value}");
            assert!(class + 1 >= CLASSES || least(class + 1) > value || value < 4, "{value}");
        }
        let histogram = Histogram::default();
        (0..100).for_each(|_| histogram.record(1000));
        histogram.record(1_000_000);
        assert_eq!(histogram.count(), 101);
        assert_eq!(histogram.quantile(0.5), 896);
        assert!(histogram.quantile(1.0) > 900_000);
    }
}
