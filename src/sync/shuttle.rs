//! The primitives as shuttle schedules them.

pub(crate) use shuttle::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use shuttle::thread_local;

pub(crate) use shuttle::thread::yield_now;

/// As in every normal build, but no patience: each look is as many states.
pub(crate) const PATIENCE: usize = 1;

/// A count that steers policy and statistics, never the algorithm: unseen by
/// the checker, so that it adds no interleavings.
pub(crate) type Tally = core::sync::atomic::AtomicU64;

/// `len` atomic words, all zero.
pub(crate) fn zeroed_words(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// `len` atomic bytes, all zero.
pub(crate) fn zeroed_bytes(len: usize) -> Box<[AtomicU8]> {
    (0..len).map(|_| AtomicU8::new(0)).collect()
}

/// What tests and simulated machines need of threads.
#[cfg(any(test, feature = "model"))]
pub(crate) mod thread {
    pub(crate) use shuttle::thread::{JoinHandle, spawn};

    /// Names the calling thread, in thread-local destructors as well.
    pub(crate) fn here() -> usize {
        shuttle::current::me().into()
    }
}

/// A place in memory, often simulated, whose accesses a checker may watch for
/// data races. shuttle does not: to it every atomic is sequentially consistent.
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

/// Whether this build's checker sees what crossbeam-epoch does: each of its
/// operations is one step.
#[cfg(test)]
pub(crate) const SEES_CROSSBEAM: bool = true;

/// Runs a test body as often as this build's checker needs: 200 schedules.
#[cfg(test)]
pub(crate) fn explore(body: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(body, 200);
}
