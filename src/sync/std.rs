//! The primitives of every normal build.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::thread::yield_now;
pub(crate) use std::thread_local;

/// A count that steers policy and statistics, never the algorithm.
pub(crate) type Tally = core::sync::atomic::AtomicU64;

/// How often a thread that finds the arena full lets others run, and looks
/// again, before it gives up.
pub(crate) const PATIENCE: usize = 128;

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

/// `len` atomic bytes, all zero, not resident until first touched.
pub(crate) fn zeroed_bytes(len: usize) -> Box<[AtomicU8]> {
    // As in `zeroed_words`.
    let bytes = vec![0_u8; len].into_boxed_slice();
    // SAFETY: AtomicU8 has the size, alignment and bit validity of u8, and the
    // box is handed over whole.
    unsafe { Box::from_raw(Box::into_raw(bytes) as *mut [AtomicU8]) }
}

/// What tests and simulated machines need of threads.
#[cfg(any(test, feature = "model"))]
pub(crate) mod thread {
    #[cfg(feature = "model")]
    pub(crate) use std::thread::JoinHandle;
    pub(crate) use std::thread::spawn;

    /// Names the calling thread, in thread-local destructors as well.
    #[cfg(feature = "model")]
    pub(crate) fn here() -> usize {
        use core::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        std::thread_local!(static HERE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
        HERE.with(|here| *here)
    }
}

/// A place in memory, often simulated, whose accesses a checker may watch for
/// data races. Nobody does in this build.
#[derive(Debug)]
pub(crate) struct Watched;

impl Watched {
    /// A place that nobody has accessed.
    pub(crate) fn new() -> Self {
        Self
    }

    /// Reports a non-atomic read by the calling thread.
    #[allow(clippy::unused_self)]
    pub(crate) fn read(&self) {}

    /// Reports a non-atomic write by the calling thread.
    #[allow(clippy::unused_self)]
    pub(crate) fn write(&self) {}
}

/// Whether this build's checker sees what crossbeam-epoch does.
#[cfg(test)]
pub(crate) const SEES_CROSSBEAM: bool = true;

/// Runs a test body as often as this build's checker needs: once.
#[cfg(test)]
pub(crate) fn explore(body: impl Fn() + Send + Sync + 'static) {
    body();
}
