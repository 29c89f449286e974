//! How long dropped code takes to become usable again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jit_arena::{CodeInfo, Span, Symbol, Tool};

use super::histogram::Histogram;
use crate::value::objects::locked;

/// Measures from the drop of an executor to its recycling.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    died: Mutex<HashMap<usize, Instant>>,
    /// In nanoseconds.
    pub(crate) reclaims: Histogram,
    /// Whether this is a forked child, where the lock may be another thread's
    /// for ever. It cannot be held across a fork, which waits for recyclers.
    muted: AtomicBool,
}

impl Recorder {
    /// How long ago the oldest of those died that are not recycled yet.
    pub(crate) fn lag(&self) -> Duration {
        if self.is_muted() {
            return Duration::ZERO;
        }
        let oldest = locked(&self.died).values().min().copied();
        oldest.map_or(Duration::ZERO, |died| died.elapsed())
    }

    /// The executor entered at `entry` is about to be dropped.
    pub(crate) fn died(&self, entry: usize) {
        if self.is_muted() {
            return;
        }
        locked(&self.died).insert(entry, Instant::now());
    }

    /// Measures nothing from here on: this is a forked child.
    pub(crate) fn mute(&self) {
        // Relaxed: the child has one thread, which starts all others.
        self.muted.store(true, Ordering::Relaxed);
    }

    fn is_muted(&self) -> bool {
        // Relaxed: see `mute`.
        self.muted.load(Ordering::Relaxed)
    }
}

impl Tool for Recorder {
    fn published(&self, _code: &CodeInfo, _bytes: &[u8], _symbol: &Symbol<'_>) {}

    fn recycled(&self, entry: usize) {
        if self.is_muted() {
            return;
        }
        let died = locked(&self.died).remove(&entry);
        if let Some(died) = died {
            self.reclaims.record(died.elapsed().as_nanos() as u64);
        }
    }

    fn unmapped(&self, _region: Span) {
        if !self.is_muted() {
            locked(&self.died).clear();
        }
    }
}
