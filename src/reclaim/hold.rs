//! Holds: what keeps one executor alive while its thread is not pinned.
//!
//! A thread that runs an executor across a safepoint or sleeps inside it says
//! so in its own record, and unpins. The epoch then moves on, and only that
//! executor waits: the recycler looks through all records before it touches a
//! ripe batch, `[E2]`. It is a hazard pointer (Michael, *Hazard Pointers*,
//! 2004) that needs no fence: it is published while pinned, and a batch is
//! ripe only after every pin that could have seen its executors has ended.
//!
//! The hold stays until its [`Running`](crate::Running) ends, not only until
//! the thread is pinned again: a later pin does not cover what was retired
//! before it.

use core::ptr;

use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

/// Holds in one chunk: executors a thread may be nested in before it needs
/// another.
const CHUNK: usize = 8;

/// The holds of one thread. Written by that thread only.
pub(crate) struct Holds {
    entries: [AtomicUsize; CHUNK],
    more: AtomicPtr<Holds>,
}

/// Names a hold of the thread that took it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldIndex(usize);

impl Holds {
    pub(crate) fn new() -> Self {
        Self {
            entries: core::array::from_fn(|_| AtomicUsize::new(0)),
            more: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&Self> {
        // Acquire: pairs with the Release in `take`; seeing the chunk is
        // seeing it initialised.
        let more = self.more.load(Ordering::Acquire);
        // SAFETY: chunks are freed only with the first, which `self` borrows.
        unsafe { more.as_ref() }
    }

    /// Holds the executor entered at `entry`. By the owning thread, pinned.
    pub(crate) fn take(&self, entry: usize) -> HoldIndex {
        let (mut chunk, mut before) = (self, 0);
        loop {
            for (index, slot) in chunk.entries.iter().enumerate() {
                // Relaxed: only this thread stores here.
                if slot.load(Ordering::Relaxed) == 0 {
                    // Relaxed [E2]: this thread is pinned, and its unpinning (or
                    // repinning) happens before any batch with this executor
                    // can ripen: that makes it seen in time.
                    slot.store(entry, Ordering::Relaxed);
                    return HoldIndex(before + index);
                }
            }
            before += CHUNK;
            chunk = chunk.next().unwrap_or_else(|| {
                let more = Box::into_raw(Box::new(Self::new()));
                // Release: pairs with the Acquire in `next`.
                chunk.more.store(more, Ordering::Release);
                // SAFETY: just allocated, and freed only with `self`.
                unsafe { &*more }
            });
        }
    }

    /// Ends a hold. By the owning thread.
    pub(crate) fn end(&self, hold: HoldIndex) {
        let (mut chunk, mut index) = (self, hold.0);
        while index >= CHUNK {
            let Some(next) = chunk.next() else { return };
            (chunk, index) = (next, index - CHUNK);
        }
        // Release [E2]: pairs with the Acquire in `collect`: who sees the hold
        // gone comes after everything the thread ran under it.
        chunk.entries[index].store(0, Ordering::Release);
    }

    /// Ends all of them. By a thread that is alone.
    pub(crate) fn clear(&self) {
        let mut chunk = Some(self);
        while let Some(holds) = chunk {
            // Relaxed: nobody else is there.
            holds.entries.iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
            chunk = holds.next();
        }
    }

    /// Adds the entries held now to `held`.
    pub(crate) fn collect(&self, held: &mut Vec<usize>) {
        let mut chunk = Some(self);
        while let Some(holds) = chunk {
            for slot in &holds.entries {
                // Acquire [E2]: pairs with the Release in `end`. What the caller
                // buries, another thread may write over by what it knows of the
                // burial.
                let entry = slot.load(Ordering::Acquire);
                if entry != 0 {
                    held.push(entry);
                }
            }
            chunk = holds.next();
        }
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        let mut more = core::mem::replace(&mut self.more, AtomicPtr::new(ptr::null_mut()));
        loop {
            // Relaxed: dropping is exclusive.
            let next = more.load(Ordering::Relaxed);
            if next.is_null() {
                return;
            }
            // SAFETY: allocated as a box in `take`, and nobody borrows it.
            let mut chunk = unsafe { Box::from_raw(next) };
            more = core::mem::replace(&mut chunk.more, AtomicPtr::new(ptr::null_mut()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::{explore, thread};

    #[test]
    fn e2_who_sees_a_hold_gone_comes_after_what_was_run_under_it() {
        explore(|| {
            let shared = Arc::new((Holds::new(), AtomicUsize::new(0)));
            let hold = shared.0.take(64);
            let runner = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    // Relaxed: what is under test orders it.
                    shared.1.store(1, Ordering::Relaxed);
                    shared.0.end(hold);
                })
            };
            let mut held = Vec::new();
            shared.0.collect(&mut held);
            let has_run = shared.1.load(Ordering::Relaxed) == 1;
            assert!(has_run || held == [64], "[E2] gone, and not known to have run");
            runner.join().unwrap();
        });
    }
}
