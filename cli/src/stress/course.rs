//! What outlives a thread of the stress test: what all threads share, and the
//! course that a thread follows and its successor goes on with.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};

use jit_arena::{Arena, Executor, Slot};

use super::Sabotage;
use super::ops::Ops;
use super::worker::{Ended, Worker};
use crate::code::Program;
use crate::failure::Failure;
use crate::replay::Latencies;

/// An executor that no slot holds, with what it is.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) executor: Executor,
    pub(super) program: Program,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) arena: Arena,
    pub(super) slots: Vec<Slot>,
    pub(super) mail: Mutex<Vec<Executor>>,
    /// The threads that have ended for good in this round.
    pub(super) ended: Mutex<Vec<Course>>,
    pub(super) stop: AtomicBool,
    pub(super) failure: Mutex<Option<Failure>>,
    pub(super) sabotage: Option<Sabotage>,
}

impl Shared {
    pub(super) fn fail(&self, failure: impl Into<Failure>) {
        locked(&self.failure).get_or_insert(failure.into());
        // Relaxed: only says when to stop.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What `mutex` protects: nothing in it is ever half changed.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Counts of one course; summed up at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) ops: u64,
    pub(super) installs: u64,
    pub(super) calls_verified: u64,
    pub(super) bytes_compared: u64,
    pub(super) abandoned: u64,
    pub(super) safepoints: u64,
    pub(super) parks: u64,
    pub(super) threads_born: u64,
    pub(super) install: Latencies,
    pub(super) call: Latencies,
    pub(super) drop: Latencies,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.installs += other.installs;
        self.calls_verified += other.calls_verified;
        self.bytes_compared += other.bytes_compared;
        self.abandoned += other.abandoned;
        self.safepoints += other.safepoints;
        self.parks += other.parks;
        self.threads_born += other.threads_born;
        self.install.add(&other.install);
        self.call.add(&other.call);
        self.drop.add(&other.drop);
    }
}

/// What outlives a thread and goes on in its successor: the sequence of
/// operations, and the executors kept.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) thread: usize,
    pub(super) ops: Ops,
    pub(super) kept: Vec<Held>,
    pub(super) counts: Counts,
}

impl Course {
    pub(super) fn new(seed: u64, thread: usize) -> Self {
        let counts = Counts::default();
        Self { thread, ops: Ops::new(seed, thread), kept: Vec::new(), counts }
    }

    /// Lets a thread be born that follows this course, and its successors,
    /// until all are told to stop.
    pub(super) fn follow<'scope>(
        mut self,
        shared: &'scope Shared,
        scope: &'scope Scope<'scope, '_>,
    ) {
        self.counts.threads_born += 1;
        let name = format!("stress-{}", self.thread);
        let born =
            thread::Builder::new().name(name).spawn_scoped(scope, move || {
                match Worker::run(shared, self) {
                    Ended::Exit(course) => course.follow(shared, scope),
                    Ended::Stopped(course) => locked(&shared.ended).push(course),
                }
            });
        if let Err(source) = born {
            shared.fail(Failure::System { what: "start a thread", source });
        }
    }
}
