//! How long dropped code takes to become usable again.

use std::collections::HashMap;
use std::sync::Mutex;
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
}

impl Recorder {
    /// How long ago the oldest of those died that are not recycled yet.
    pub(crate) fn lag(&self) -> Duration {
        let oldest = locked(&self.died).values().min().copied();
        oldest.map_or(Duration::ZERO, |died| died.elapsed())
    }

    /// The executor entered at `entry` is about to be dropped.
    pub(crate) fn died(&self, entry: usize) {
        locked(&self.died).insert(entry, Instant::now());
    }
}

impl Tool for Recorder {
    fn published(&self, _code: &CodeInfo, _bytes: &[u8], _symbol: &Symbol<'_>) {}

    fn recycled(&self, entry: usize) {
        let died = locked(&self.died).remove(&entry);
        if let Some(died) = died {
            self.reclaims.record(died.elapsed().as_nanos() as u64);
        }
    }

    fn unmapped(&self, _region: Span) {
        locked(&self.died).clear();
    }
}
