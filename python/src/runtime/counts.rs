//! What a runtime has done.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counts of all threads together: of what is seldom.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) compiled: AtomicU64,
    pub(crate) sides: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) invalidated: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) born: AtomicU64,
}

/// What a runtime has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// Executors made, side traces among them.
    pub compiled: u64,
    /// Side traces.
    pub sides: u64,
    /// Times that no code could be made: no memory, or the world had changed.
    pub refused: u64,
    /// Executors dropped because a global changed, without their side traces.
    pub invalidated: u64,
    /// Executors dropped because memory was short, without their side traces.
    pub evicted: u64,
    /// Threads that programs started.
    pub born: u64,
}

impl Counts {
    // Relaxed, everywhere: counts that nothing is decided by.
    pub(crate) fn invalidated(&self, executors: usize) {
        if executors > 0 {
            self.invalidated.fetch_add(executors as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn thread_born(&self) {
        self.born.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Done {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Done {
            compiled: read(&self.compiled),
            sides: read(&self.sides),
            refused: read(&self.refused),
            invalidated: read(&self.invalidated),
            evicted: read(&self.evicted),
            born: read(&self.born),
        }
    }
}
