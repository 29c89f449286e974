//! Whether a program is steady: executors come and go, and their bytes stay
//! about the same.
//!
//! What a steady program has free it needs for the next executors that fit
//! nowhere else, however little of it is in use at a moment, so giving it back
//! would be to commit it again. That a program is steady shows only after it
//! has been for a while: until then, and as soon as it leaves the band, the
//! watermark decides.

use crate::sync::{Ordering, Tally};

/// Times the bytes in use must have been recycled inside the band.
const TURNS: usize = 4;

/// The band: the most in use is less than so many quarters of the least.
const QUARTERS: usize = 6;

/// The bytes in use of late. Steers policy only, so all accesses are relaxed,
/// and threads that race may lose some of each other's notes.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    least: Tally,
    most: Tally,
    /// Bytes recycled since the band was begun.
    recycled: Tally,
}

impl Steady {
    /// Notes that `recycled` bytes were, with `used` bytes in use now; whether
    /// the program is steady.
    pub(crate) fn note(&self, recycled: usize, used: usize) -> bool {
        let least = used.min(self.least.load(Ordering::Relaxed) as usize);
        let most = used.max(self.most.load(Ordering::Relaxed) as usize);
        if most > least.saturating_mul(QUARTERS) / 4 {
            self.least.store(used as u64, Ordering::Relaxed);
            self.most.store(used as u64, Ordering::Relaxed);
            self.recycled.store(0, Ordering::Relaxed);
            return false;
        }
        self.least.store(least as u64, Ordering::Relaxed);
        self.most.store(most as u64, Ordering::Relaxed);
        let so_far = self.recycled.fetch_add(recycled as u64, Ordering::Relaxed) as usize;
        so_far / TURNS >= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_steady_after_some_turns_and_no_longer_when_it_shrinks() {
        let steady = Steady::default();
        let turns = |used: &[usize]| {
            (0..).position(|at| steady.note(100, used[at % used.len()])).map(|lots| lots / 10)
        };
        assert_eq!(turns(&[1000, 1200, 1400]), Some(5), "fourteen lots of a turn, four times");
        assert!(!steady.note(100, 600), "it shrank");
        assert!(!steady.note(100, 650));
        // Waves are never steady.
        assert!((0..1000).all(|at| !steady.note(100, if at % 40 < 20 { 1000 } else { 2000 })));
    }
}
