//! Numbers: clocks, medians, spreads.

use std::time::{Duration, Instant};

/// Processor time of the calling thread.
#[must_use]
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds of `work`, done `count` times, for each.
pub fn per(count: u32, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| work());
    start.elapsed().as_nanos() as f64 / f64::from(count)
}

/// The middle of a sample, and the two quarters around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// A quarter of the values are below.
    pub low: f64,
    /// Half are.
    pub median: f64,
    /// Three quarters are.
    pub high: f64,
}

impl Spread {
    /// Of these values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |quarters: usize| values.get((values.len() * quarters / 4).min(values.len() - 1));
        if values.is_empty() {
            return None;
        }
        Some(Self { low: *at(1)?, median: *at(2)?, high: *at(3)? })
    }

    /// A single value, counted rather than sampled.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self { low: value, median: value, high: value }
    }

    /// Each of the three through `f`, which grows.
    #[must_use]
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { low: f(self.low), median: f(self.median), high: f(self.high) }
    }
}

/// The middle of `values`; NaN if there are none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).map_or(f64::NAN, |it| it.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_quarters() {
        let spread = Spread::of((0..8).rev().map(f64::from)).unwrap();
        assert_eq!(spread, Spread { low: 2.0, median: 4.0, high: 6.0 });
        assert_eq!(Spread::of([7.0]), Some(Spread::exact(7.0)));
        assert_eq!(Spread::of([]), None);
        assert!(median([]).is_nan());
    }
}
