//! Guards of a thread, counted: how it joins the epoch, lets it move, and
//! leaves it while it sleeps in what it holds.

use core::cell::Cell;

use crate::reclaim::scheme::Pin;

use super::state::ThreadState;

impl ThreadState {
    /// Guards that live now, but for those that a park has set aside.
    pub(crate) fn guards(&self) -> usize {
        self.pins.get()
    }

    /// Joins the epoch, if this is the outermost guard.
    #[inline]
    pub(crate) fn enter(&self) {
        let pins = self.pins.get();
        if pins == 0 {
            self.join();
        }
        self.pins.set(pins + 1);
    }

    /// Leaves the epoch, if this was the last guard.
    #[inline]
    pub(crate) fn leave(&self) {
        let pins = self.pins.get() - 1;
        self.pins.set(pins);
        if pins == 0 {
            self.part();
        }
    }

    /// Pins, where there are no guards yet.
    #[inline]
    fn join(&self) {
        let pin = self.local.pin();
        // SAFETY: the cell is this thread's, and no reference into it outlives
        // a statement of this file. Without guards there is no pin to drop.
        unsafe { self.pin.get().cast::<Pin>().write(pin) };
    }

    /// Ends the pin, where there are no guards any more.
    #[inline]
    fn part(&self) {
        // SAFETY: as in `join`. The pin is there as long as guards are, of which
        // the last has just been counted out, and is read once.
        drop(unsafe { self.pin.get().cast::<Pin>().read() });
    }

    /// Ends the pin of guards that were forgotten, if there are any.
    pub(super) fn forget_guards(&self) {
        if self.pins.take() > 0 {
            self.part();
        }
    }

    /// Pins anew where another pin was, without ending that: it is of a collector
    /// that is gone.
    pub(super) fn join_anew(&self) {
        if self.pins.get() > 0 {
            self.join();
        }
    }

    /// Whether all guards but `own` many hold just the executor they run.
    pub(crate) fn only_holds_besides(&self, own: usize) -> bool {
        self.pins.get() == self.holding.get() + own
    }

    /// The mark of a guard made now.
    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark { parks: Cell::new(self.parks.get()), holds: Cell::new(false) }
    }

    /// Whether a park under way has set a guard with this mark aside: it was
    /// made before the park began, so the epoch does not know of it.
    fn is_aside(&self, mark: &Mark) -> bool {
        mark.parks.get() < self.parked.get()
    }

    /// A guard holds just what it runs.
    pub(crate) fn begin_hold(&self, mark: &Mark) {
        mark.holds.set(true);
        self.holding.set(self.holding.get() + 1);
    }

    /// Leaves the epoch in the middle of guards that hold what they run, and
    /// sets them aside. Guards made from here to [`unpark`](Self::unpark) join
    /// it anew.
    pub(crate) fn park(&self) {
        let pins = self.pins.take();
        let counts = SetAside { pins, holding: self.holding.take(), parked: self.parked.get() };
        self.aside.borrow_mut().push(counts);
        self.parks.set(self.parks.get() + 1);
        self.parked.set(self.parks.get());
        if pins > 0 {
            self.part();
        }
    }

    /// Takes the guards of before back, and joins the epoch again for them.
    pub(crate) fn unpark(&self) {
        let Some(before) = self.aside.borrow_mut().pop() else { return };
        self.parked.set(before.parked);
        if self.pins.get() == 0 && before.pins > 0 {
            self.join();
        }
        // Guards that `f` let out live on beside them.
        self.pins.set(self.pins.get() + before.pins);
        self.holding.set(self.holding.get() + before.holding);
    }

    /// A guard no longer holds what it ran. If it was set aside it can be
    /// loaded under again from here on, so it joins the epoch.
    pub(crate) fn end_hold(&self, mark: &Mark) {
        mark.holds.set(false);
        if !self.is_aside(mark) {
            self.holding.set(self.holding.get() - 1);
            return;
        }
        // The innermost park that began after the guard was made, and the
        // level it began in knew the guard.
        let mut aside = self.aside.borrow_mut();
        if let Some(level) = aside.iter_mut().rfind(|level| level.parked <= mark.parks.get()) {
            level.pins -= 1;
            level.holding -= 1;
        }
        drop(aside);
        mark.parks.set(self.parks.get());
        self.enter();
    }

    /// Ends the hold of a guard that is used again although what it ran was never
    /// left: whoever holds it was forgotten.
    #[inline]
    pub(crate) fn end_forgotten_hold(&self, mark: &Mark) {
        if mark.holds.get() {
            self.end_hold(mark);
        }
    }

    /// Lets the epoch move past the outermost pin.
    pub(crate) fn repin(&self) {
        if self.pins.get() > 0 {
            // SAFETY: as in `join`; the pin is there as long as guards are, and
            // `Pin::repin` runs no code of ours.
            unsafe { &mut *self.pin.get().cast::<Pin>() }.repin();
        }
    }
}

/// What tells a guard from others of its thread.
#[derive(Debug)]
pub(crate) struct Mark {
    /// Parks begun when it joined the epoch.
    parks: Cell<u64>,
    /// Whether it counts as holding just what it runs.
    holds: Cell<bool>,
}

/// The guards that a park set aside. Each holds what it runs, but for the one
/// that is parked itself, which nobody can use meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetAside {
    pins: usize,
    holding: usize,
    /// The park around this one, 0 for none.
    parked: u64,
}
