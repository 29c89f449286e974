//! The gate: while it is closed nothing that was published changes its bytes.
//!
//! Whoever recycles or gives memory back passes it; a fork closes it, waits for
//! those inside, and opens it once its child has a copy, `[F1]`. Nobody waits
//! at it for long: a thread that finds it closed does without.

use core::time::Duration;

use crate::sync::{AtomicUsize, Ordering};

/// Above the count of those inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Longest that somebody waits in [`Gate::wait_a_little`]. Not for ever: what
/// the fork waits for may be waiting for the caller.
const A_LITTLE: u32 = 50;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate(AtomicUsize);

/// Somebody is inside.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Goes in, unless the gate is closed. Wait-free.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        // Acquire [F1]: pairs with the Release in `open`: the copy was made
        // before anything changes again.
        let before = self.0.fetch_add(1, Ordering::Acquire);
        let inside = Inside(self);
        (before & CLOSED == 0).then_some(inside)
    }

    /// Goes in, and waits for that if the gate is closed, some seconds at most.
    pub(crate) fn enter_in_time(&self) -> Option<Inside<'_>> {
        (0..A_LITTLE).find_map(|_| {
            self.wait_a_little();
            self.enter()
        })
    }

    /// Lets nobody in any more. One at a time closes it.
    pub(super) fn close(&self) {
        // Relaxed: `is_empty` orders.
        self.0.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Whether the gate is closed and nobody is inside.
    pub(super) fn is_empty(&self) -> bool {
        // Acquire [F1]: pairs with the Release of those who left: what they
        // changed is in the copy.
        self.0.load(Ordering::Acquire) == CLOSED
    }

    /// Whether a fork is under way; or for good, where an arena is lost.
    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: `enter` decides.
        self.0.load(Ordering::Relaxed) & CLOSED != 0
    }

    pub(super) fn open(&self) {
        // Release [F1]: pairs with the Acquire in `enter`.
        self.0.fetch_and(!CLOSED, Ordering::Release);
    }

    /// Opens it, or leaves it closed for good, where nobody else is.
    pub(super) fn reset(&self, closed: bool) {
        // Relaxed: of the only thread.
        self.0.store(if closed { CLOSED } else { 0 }, Ordering::Relaxed);
    }

    /// Waits for the gate to open, some milliseconds at most.
    pub(crate) fn wait_a_little(&self) {
        for _ in 0..A_LITTLE {
            if !self.is_closed() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Release [F1]: pairs with the Acquire in `is_empty`.
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_a_closed_gate_lets_nobody_in_and_knows_who_is_inside() {
        let gate = Gate::new();
        let inside = gate.enter().unwrap();
        gate.close();
        assert!(gate.enter().is_none() && !gate.is_empty());
        drop(inside);
        assert!(gate.is_empty() && gate.enter().is_none() && gate.is_empty());
        gate.open();
        assert!(gate.enter().is_some() && gate.enter().is_some());
        gate.reset(true);
        assert!(gate.enter().is_none());
        gate.reset(false);
        assert!(gate.enter().is_some());
    }
}
