//! State that belongs to the checking, not to the program checked.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Shared bookkeeping that the checkers do not see: reading or changing it is
/// no step of the program and orders nothing.
///
/// It is a plain mutex of `std`. loom and shuttle run all threads of a model on
/// one operating-system thread and switch only at operations of their own, so
/// a closure given to [`with`](Self::with) that performs none is one atomic
/// step together with the operation before it.
pub(crate) struct Ghost<T>(Mutex<T>);

impl<T> Ghost<T> {
    /// New bookkeeping.
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Reads or changes it. The closure must not use atomics, cells or threads
    /// of this facade: a switch to another thread that comes here is a
    /// deadlock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // A failing model panics in here; its unwinding must still get through.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> fmt::Debug for Ghost<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ghost")
    }
}
