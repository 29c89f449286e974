//! The primitives as loom explores them.

pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

/// loom's `thread_local!`, which has no form for constants.
macro_rules! thread_locals {
    () => {};
    ($(#[$attr:meta])* $vis:vis static $name:ident: $t:ty = const $init:block; $($rest:tt)*) => {
        ::loom::thread_local! { $(#[$attr])* $vis static $name: $t = $init; }
        $crate::sync::thread_local! { $($rest)* }
    };
    ($(#[$attr:meta])* $vis:vis static $name:ident: $t:ty = $init:expr; $($rest:tt)*) => {
        ::loom::thread_local! { $(#[$attr])* $vis static $name: $t = $init; }
        $crate::sync::thread_local! { $($rest)* }
    };
}
pub(crate) use thread_locals as thread_local;

pub(crate) use loom::thread::yield_now;

/// As in every normal build, but no patience: each look is as many states.
pub(crate) const PATIENCE: usize = 1;

/// A count that steers policy and statistics, never the algorithm: unseen by
/// the checker, so that it adds no interleavings.
pub(crate) type Tally = core::sync::atomic::AtomicU64;

/// `len` atomic words, all zero.
#[cfg_attr(jit_arena_mutants, expect(dead_code, reason = "replaced by one of its own"))]
pub(crate) fn zeroed_words(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// `len` atomic bytes, all zero.
#[cfg_attr(jit_arena_mutants, expect(dead_code, reason = "replaced by one of its own"))]
pub(crate) fn zeroed_bytes(len: usize) -> Box<[AtomicU8]> {
    (0..len).map(|_| AtomicU8::new(0)).collect()
}

/// What tests and simulated machines need of threads.
#[cfg(any(test, feature = "model"))]
pub(crate) mod thread {
    use core::cell::RefCell;
    use core::sync::atomic::{AtomicUsize, Ordering};

    pub(crate) use loom::thread::{JoinHandle, spawn};

    loom::thread_local!(static HERE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    std::thread_local! {
        /// Where on its stack each model thread was last seen, and its name.
        static STACKS: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    }

    /// Stacks of two threads are further apart than this, and places on one
    /// stack from which the machine is called are closer.
    const APART: usize = 16 * 1024;

    /// Names the calling thread, in thread-local destructors as well.
    ///
    /// In those, loom no longer says which thread runs; the stack does.
    pub(crate) fn here() -> usize {
        let marker = 0_u8;
        let stack = (&raw const marker).addr();
        STACKS.with_borrow_mut(|stacks| {
            let known = stacks.iter_mut().find(|(at, _)| at.abs_diff(stack) < APART);
            match (HERE.try_with(|here| *here), known) {
                (Ok(here), Some(place)) => {
                    *place = (stack, here);
                    here
                }
                (Ok(here), None) => {
                    stacks.push((stack, here));
                    here
                }
                (Err(_), Some((_, here))) => *here,
                (Err(_), None) => usize::MAX,
            }
        })
    }
}

/// A place in memory, often simulated, whose accesses loom watches for data
/// races: it fails the model when two, one of them a write, are not ordered by
/// happens-before. Watching adds no step and no ordering.
#[derive(Debug)]
pub(crate) struct Watched(loom::cell::UnsafeCell<()>);

// SAFETY: there is nothing in the cell; loom keeps its own state of it, and runs
// all threads of a model on one.
unsafe impl Sync for Watched {}

impl Watched {
    /// A place that nobody has accessed. Creating it counts as a write.
    pub(crate) fn new() -> Self {
        Self(loom::cell::UnsafeCell::new(()))
    }

    /// Reports a non-atomic read by the calling thread.
    #[track_caller]
    pub(crate) fn read(&self) {
        self.0.with(|_| ());
    }

    /// Reports a non-atomic write by the calling thread.
    #[track_caller]
    pub(crate) fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

/// Whether this build's checker sees what crossbeam-epoch does.
#[cfg(test)]
pub(crate) const SEES_CROSSBEAM: bool = cfg!(crossbeam_loom);

/// Runs a test body as often as this build's checker needs: once for every
/// schedule with at most three preemptions, and for every value a load may
/// see in it.
#[cfg(test)]
pub(crate) fn explore(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(model.preemption_bound.unwrap_or(3));
    model.max_branches = model.max_branches.max(20_000);
    model.check(body);
}
