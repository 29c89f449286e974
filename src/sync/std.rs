//! The primitives of every normal build.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::thread_local;

/// A count that steers policy and statistics, never the algorithm.
pub(crate) type Tally = core::sync::atomic::AtomicU64;

/// `len` atomic words, all zero, not resident until first touched.
pub(crate) fn zeroed_words(len: usize) -> Box<[AtomicU64]> {
    // `vec!` of zeros asks the allocator for zeroed memory, which for large
    // sizes is fresh pages of the system: a region's metadata costs nothing
    // until a code page is used.
    let words = vec![0_u64; len].into_boxed_slice();
    // SAFETY: AtomicU64 has the size, alignment and bit validity of u64, and
    // the box is handed over whole.
    unsafe { Box::from_raw(Box::into_raw(words) as *mut [AtomicU64]) }
}
