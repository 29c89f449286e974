//! The primitives as shuttle schedules them.

pub(crate) use shuttle::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use shuttle::thread_local;

/// A count that steers policy and statistics, never the algorithm: unseen by
/// the checker, so that it adds no interleavings.
pub(crate) type Tally = core::sync::atomic::AtomicU64;

/// `len` atomic words, all zero.
pub(crate) fn zeroed_words(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}
