//! The threads of an arena: one record each, for what others must be able to
//! see of it.
//!
//! Records are pushed onto a list and never leave it while the arena lives; a
//! thread that attaches takes one over that is free. So the list is as long as
//! the most threads ever attached at once, and walking it needs no protection.

use core::{ptr, sync};

use crossbeam_utils::CachePadded;

use crate::reclaim::hold::Holds;
use crate::reclaim::retire::Ripe;
use crate::stats::{Tallies, Totals};
use crate::sync::{AtomicPtr, AtomicUsize, Ordering, Tally, Watched};
use crate::thread::ThreadState;

/// What other threads see of an attached thread. On cache lines of its own (two:
/// processors fetch them in pairs).
#[repr(align(128))]
pub(crate) struct Record {
    /// The next older record; never changes once pushed.
    next: *mut Record,
    /// 1 while a thread has it.
    in_use: AtomicUsize,
    /// Stands for what only the owner changes, its counts above all: the models
    /// see whether one owner's end comes before the next one's beginning.
    owned: Watched,
    /// Its thread's state, for who is left alone with it, [`crate::fork`]. Of
    /// `core`: no thread reads what another wrote.
    pub(crate) state: sync::atomic::AtomicPtr<ThreadState>,
    pub(crate) holds: Holds,
    pub(crate) tallies: Tallies,
    /// What the thread retired and nobody can be running any more. Whoever
    /// ends a grace period puts it there.
    pub(crate) ripe: CachePadded<Ripe>,
}

// SAFETY: `next` is written before the record is shared and only read after;
// everything else is atomic.
unsafe impl Sync for Record {}

/// All records of an arena.
pub(crate) struct Registry {
    head: AtomicPtr<Record>,
    /// Handles ever made.
    ids: Tally,
    /// Records in use.
    attached: Tally,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), ids: Tally::new(0), attached: Tally::new(0) }
    }

    /// A number no other handle of the arena has.
    pub(crate) fn next_id(&self) -> u64 {
        // Relaxed: only distinctness matters.
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        // Acquire: pairs with the Release of the push in `take`.
        let mut at = self.head.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: records are freed only with the registry, which `self`
            // borrows.
            let record: &Record = unsafe { at.as_ref() }?;
            at = record.next;
            Some(record)
        })
    }

    /// A record for the calling thread alone. Lock-free.
    ///
    /// It stays valid as long as the registry.
    pub(crate) fn take(&self) -> *const Record {
        // Relaxed: steers policy.
        self.attached.fetch_add(1, Ordering::Relaxed);
        for record in self.records() {
            // Acquire: pairs with the Release in `give_back`: the last owner's
            // counts and holds come before ours.
            if record.in_use.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                record.owned.write();
                return record;
            }
        }
        let new = Box::into_raw(Box::new(Record {
            next: ptr::null_mut(),
            in_use: AtomicUsize::new(1),
            owned: Watched::new(),
            state: sync::atomic::AtomicPtr::new(ptr::null_mut()),
            holds: Holds::new(),
            tallies: Tallies::default(),
            ripe: CachePadded::new(Ripe::new()),
        }));
        // Relaxed: only compared and stored in `next`.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: `new` is ours until it is pushed.
            unsafe { (*new).next = head };
            // Release: pairs with the Acquire in `records`.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                // SAFETY: just allocated, and freed only with the registry.
                Ok(_) => return unsafe { &*new },
                Err(now) => head = now,
            }
        }
    }

    /// Threads attached now.
    pub(crate) fn attached(&self) -> usize {
        // Relaxed: steers policy.
        self.attached.load(Ordering::Relaxed) as usize
    }

    /// Counts the calling thread out; whether it was the last. By a thread that
    /// leaves nothing more behind.
    pub(crate) fn leave(&self) -> bool {
        // AcqRel: pairs with itself; the last one sees what the others left.
        self.attached.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Frees a record for another thread. By its owner, which has
    /// [left](Self::leave), holds nothing and does not use it again.
    pub(crate) fn give_back(&self, record: &Record) {
        record.owned.write();
        // Release: pairs with the Acquire in `take`.
        record.in_use.store(0, Ordering::Release);
    }

    /// In a forked child, whose thread has the records that `is_own` says, frees
    /// the others; returns what was in them.
    pub(crate) fn after_fork(&self, is_own: impl Fn(&Record) -> bool) -> LeftBehind {
        let mut left = LeftBehind { counts: Totals::default(), handles: 0 };
        let mut attached = 0;
        // Relaxed, all of it: of the only thread.
        for record in self.records() {
            // What arrives with a collector that is gone arrives never.
            record.ripe.reset();
            if is_own(record) {
                attached += 1;
                continue;
            }
            record.holds.clear();
            left.counts.add(&record.tallies);
            record.tallies.clear();
            let state = record.state.swap(ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: of a thread that is gone and did not get to free it.
            left.handles += unsafe { state.as_ref() }.map_or(0, ThreadState::handles);
            record.in_use.store(0, Ordering::Relaxed);
        }
        self.attached.store(attached, Ordering::Relaxed);
        left
    }

    /// Entries held by any thread, sorted.
    pub(crate) fn held(&self) -> Vec<usize> {
        let mut held = Vec::new();
        for record in self.records() {
            record.holds.collect(&mut held);
        }
        held.sort_unstable();
        held
    }

    /// Adds up all threads' counts.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for record in self.records() {
            totals.add(&record.tallies);
            // Relaxed: a statistic.
            totals.stats.attached_threads += record.in_use.load(Ordering::Relaxed) as u64;
        }
        totals
    }
}

/// What threads that are gone had in their records.
pub(crate) struct LeftBehind {
    pub(crate) counts: Totals,
    /// Arena handles.
    pub(crate) handles: usize,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Relaxed: dropping is exclusive.
        let mut at = self.head.load(Ordering::Relaxed);
        while !at.is_null() {
            // SAFETY: pushed as a box, and nobody borrows it any more.
            let record = unsafe { Box::from_raw(at) };
            at = record.next;
        }
    }
}
