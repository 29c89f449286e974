//! What allocators are made to do. All of it is drawn before the clock starts.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal};

/// Median and mean of an executor's size, in bytes, as recorded from a JIT.
pub const MEDIAN: f64 = 1300.0;
/// See [`MEDIAN`].
pub const MEAN: f64 = 2400.0;

/// The longest executor, in bytes.
pub const LONGEST: usize = 36 * 1024;

/// Sizes with [`MEDIAN`] and about [`MEAN`].
#[must_use]
pub fn sizes() -> impl Distribution<f64> {
    // The mean of a log-normal is its median times exp(sigma² / 2).
    LogNormal::new(MEDIAN.ln(), (2.0 * (MEAN / MEDIAN).ln()).sqrt()).expect("finite")
}

/// Draws a size in bytes.
pub fn size(rng: &mut impl Rng, sizes: &impl Distribution<f64>) -> usize {
    (sizes.sample(rng) as usize).clamp(32, LONGEST)
}

/// Replace the executor in a slot by one of so many bytes.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Which slot.
    pub slot: u32,
    /// Bytes of the new executor.
    pub size: u32,
    /// Whether the old one is freed by another thread.
    pub remote: bool,
}

/// An endless sequence of replacements, drawn beforehand and repeated.
#[derive(Debug)]
pub struct Churn {
    ops: Vec<Op>,
    at: usize,
}

/// Length of the sequence before it repeats.
const PERIOD: usize = 1 << 16;

impl Churn {
    /// Replacements at random in `slots` slots; of a hundred frees, `remote`
    /// are another thread's to do.
    #[must_use]
    pub fn new(seed: u64, slots: usize, remote: u32) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sizes = sizes();
        let ops = (0..PERIOD)
            .map(|_| Op {
                slot: rng.random_range(0..slots as u32),
                size: size(&mut rng, &sizes) as u32,
                remote: rng.random_range(0..100) < remote,
            })
            .collect();
        Self { ops, at: 0 }
    }

    /// The next `count` replacements, or fewer where the sequence wraps.
    pub fn next(&mut self, count: usize) -> &[Op] {
        if self.at == self.ops.len() {
            self.at = 0;
        }
        let from = self.at;
        self.at = from.saturating_add(count).min(self.ops.len());
        &self.ops[from..self.at]
    }
}

/// Something to copy code from: bytes that no trap fill or zero page equals.
#[must_use]
pub fn source() -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(1);
    (0..LONGEST).map(|_| rng.random_range(1..0xCC)).collect()
}
