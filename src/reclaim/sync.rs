//! Core synchronisations, shared by all threads of an arena.
//!
//! Before recycled memory is written again every core synchronises, `[X2]`. What
//! that costs depends on how many cores run the process, not on how much memory
//! waits for it, and it serves whatever waits: so each is numbered, whoever
//! recycles draws a [`Ticket`], and any later number will do.

use crate::platform::{OsResult, Platform};
use crate::sync::{AtomicU64, Ordering};

/// The synchronisations of one arena.
pub(crate) struct Syncs {
    /// How many have begun.
    begun: AtomicU64,
    /// The greatest number of one that is over.
    done: AtomicU64,
}

/// A moment: every synchronisation that had begun has a number up to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// Before everything.
    pub(crate) const NONE: Self = Self(0);
}

impl Syncs {
    pub(crate) fn new() -> Self {
        Self { begun: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    /// Now. Wait-free.
    pub(crate) fn ticket(&self) -> Ticket {
        // AcqRel [X2]: a read-modify-write, so that the next one to begin
        // follows it in the order of `begun`, and reads what this releases:
        // that nobody runs what the caller recycles.
        Ticket(self.begun.fetch_add(0, Ordering::AcqRel))
    }

    /// Whether a synchronisation that began after `ticket` is over. Wait-free.
    pub(crate) fn covers(&self, ticket: Ticket) -> bool {
        // Acquire [X2]: pairs with the Release in `synchronise`: what is written
        // from here on comes after the synchronisation.
        self.done.load(Ordering::Acquire) > ticket.0
    }

    /// Synchronises all cores. Makes a system call.
    pub(crate) fn synchronise(&self, platform: &dyn Platform) -> OsResult<()> {
        // AcqRel [X2]: see `ticket`.
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        platform.sync_core()?;
        // Release [X2]: pairs with the Acquire in `covers`.
        self.done.fetch_max(number, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x2_a_synchronisation_covers_what_came_before_it_began() {
        crate::sync::explore(|| {
            let syncs = Syncs::new();
            let first = syncs.ticket();
            assert!(!syncs.covers(first) && !syncs.covers(Ticket::NONE));
            // One that has begun already does not count.
            let running = syncs.begun.fetch_add(1, Ordering::Relaxed) + 1;
            let second = syncs.ticket();
            syncs.done.store(running, Ordering::Relaxed);
            assert!(syncs.covers(first) && !syncs.covers(second));
            // The last to begin may be the first to end.
            syncs.done.fetch_max(running + 2, Ordering::Relaxed);
            syncs.done.fetch_max(running + 1, Ordering::Relaxed);
            assert!(syncs.covers(second));
        });
    }
}
