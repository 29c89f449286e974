//! What each thread has done: counts that it alone writes.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::value::objects::locked;

/// Records that are kept; if there are more, those of ended threads go.
const KEPT: usize = 1024;

/// One thread's counts.
#[derive(Debug)]
pub(crate) struct Record {
    born: Instant,
    entries: AtomicU64,
    exits: AtomicU64,
    compiled: AtomicU64,
    /// Nanoseconds from birth to end; 0 while it lives.
    lived: AtomicU64,
    over: AtomicBool,
}

/// What a thread has done.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ThreadActivity {
    /// From the start of the runtime.
    pub born: Duration,
    /// `None` while it lives.
    pub lived: Option<Duration>,
    /// Times it entered machine code.
    pub entries: u64,
    /// Times it left machine code for the interpreter in the middle.
    pub exits: u64,
    /// Executors it made.
    pub compiled: u64,
}

/// The records of all threads.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    records: Mutex<Vec<Arc<Record>>>,
    /// Exits of threads whose records are gone.
    exits: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { start: Instant::now(), records: Mutex::default(), exits: AtomicU64::new(0) }
    }
}

impl Activity {
    /// A record for a new thread.
    pub(crate) fn record(&self) -> Arc<Record> {
        let record = Arc::new(Record {
            born: Instant::now(),
            entries: AtomicU64::new(0),
            exits: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
            lived: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let mut records = locked(&self.records);
        if records.len() >= KEPT {
            // Relaxed: counts, and whoever is over writes no more.
            records.retain(|record| {
                let over = record.over.load(Ordering::Relaxed);
                if over {
                    self.exits.fetch_add(record.exits.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                !over
            });
        }
        records.push(Arc::clone(&record));
        record
    }

    /// Keeps all others from the records, across a fork.
    pub(super) fn hold(&self) -> impl Sized + use<'_> {
        let held: MutexGuard<'_, _> = locked(&self.records);
        held
    }

    /// Times that any thread left machine code in the middle.
    pub(crate) fn exits(&self) -> u64 {
        let gone = self.exits.load(Ordering::Relaxed);
        gone + self.read().iter().map(|thread| thread.exits).sum::<u64>()
    }

    pub(crate) fn read(&self) -> Vec<ThreadActivity> {
        // Relaxed: counts.
        let read = |record: &Arc<Record>| ThreadActivity {
            born: record.born.duration_since(self.start),
            lived: record
                .over
                .load(Ordering::Relaxed)
                .then(|| Duration::from_nanos(record.lived.load(Ordering::Relaxed))),
            entries: record.entries.load(Ordering::Relaxed),
            exits: record.exits.load(Ordering::Relaxed),
            compiled: record.compiled.load(Ordering::Relaxed),
        };
        locked(&self.records).iter().map(read).collect()
    }
}

/// Adds one to a count that only the calling thread writes.
#[inline]
fn add(count: &AtomicU64) {
    // Relaxed: a single writer.
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Record {
    #[inline]
    pub(crate) fn entry(&self) {
        add(&self.entries);
    }

    #[inline]
    pub(crate) fn exit(&self) {
        add(&self.exits);
    }

    pub(crate) fn entries(&self) -> u64 {
        // Relaxed: a count.
        self.entries.load(Ordering::Relaxed)
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn compiled(&self) {
        add(&self.compiled);
    }

    pub(crate) fn end(&self) {
        self.lived.store(self.born.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.over.store(true, Ordering::Relaxed);
    }
}
