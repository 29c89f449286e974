//! What the threads of a replay share: where executors are published, how far
//! each thread has come, what failed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_utils::CachePadded;
use jit_arena::{Arena, Slot};

use super::plan::Plan;
use super::{Sabotage, Speed};
use crate::code::Program;
use crate::failure::Failure;
use crate::trace::Trace;

/// What the threads of a replay share.
#[derive(Debug)]
pub(super) struct Shared<'r> {
    pub(super) trace: &'r Trace,
    pub(super) plan: &'r Plan,
    pub(super) arena: &'r Arena,
    pub(super) speed: Speed,
    pub(super) sabotage: Option<Sabotage>,
    /// Where each executor is published.
    pub(super) slots: Vec<Slot>,
    /// Which executors have been installed.
    born: Vec<AtomicBool>,
    /// The next event of each thread.
    positions: Vec<CachePadded<AtomicUsize>>,
    /// Bytes of executors installed and not yet dropped, and the most ever.
    pub(super) live: CachePadded<AtomicU64>,
    pub(super) peak_live: CachePadded<AtomicU64>,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
    pub(super) started: Instant,
}

impl<'r> Shared<'r> {
    pub(super) fn new(
        trace: &'r Trace,
        plan: &'r Plan,
        arena: &'r Arena,
        speed: Speed,
        sabotage: Option<Sabotage>,
    ) -> Self {
        Self {
            trace,
            plan,
            arena,
            speed,
            sabotage,
            slots: trace.executors.iter().map(|_| arena.slot()).collect(),
            born: trace.executors.iter().map(|_| AtomicBool::new(false)).collect(),
            positions: plan.per_thread.iter().map(|_| CachePadded::default()).collect(),
            live: CachePadded::default(),
            peak_live: CachePadded::default(),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            started: Instant::now(),
        }
    }

    /// The program of an executor: its size as recorded, its number as seed.
    pub(super) fn program(&self, executor: u32) -> Program {
        // 0 is what a function that writes no seed leaves.
        let seed = u64::from(executor) + 1;
        Program { seed, shape: self.trace.executors[executor as usize] }
    }

    /// Ends the replay with `failure`, unless it has failed already.
    pub(super) fn fail(&self, failure: Failure) {
        let mut first = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        first.get_or_insert(failure);
        self.stop();
    }

    /// Ends the replay.
    pub(super) fn stop(&self) {
        // Relaxed: only says when to stop.
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What the replay failed with.
    pub(super) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// Whether all are to end.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// An executor has been installed and may be freed from here on.
    pub(super) fn set_born(&self, executor: u32) {
        // Release: pairs with the Acquire of `is_born`.
        self.born[executor as usize].store(true, Ordering::Release);
    }

    /// Whether an executor has been installed.
    pub(super) fn is_born(&self, executor: u32) -> bool {
        // Acquire: pairs with the Release of `set_born`.
        self.born[executor as usize].load(Ordering::Acquire)
    }

    /// A thread is about to perform the event of this index.
    pub(super) fn set_position(&self, thread: usize, event: usize) {
        // Relaxed: how far threads may drift, not what they see.
        self.positions[thread].store(event, Ordering::Relaxed);
    }

    /// Events that every thread has behind it.
    pub(super) fn position(&self) -> usize {
        // Relaxed: as in `set_position`.
        self.positions.iter().map(|at| at.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// What an executor is called in errors.
    pub(super) fn name(&self, executor: u32) -> String {
        format!("{}: executor {executor}", self.trace.name)
    }
}
