//! Recorded allocation traces, replayed to see what memory they take.
//!
//! A trace is gzipped CSV: time in nanoseconds, thread, operation (`a`llocated
//! or `f`reed), executor, bytes of code, bytes of data, bytes that CPython
//! mapped for it. Replay is in order on one thread, with an own handle for each
//! thread of the trace: its result is the same every time.

use std::fs::File;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::rival::{Rival, RivalThread, Usage};

/// One row of a trace.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Nanoseconds from the start.
    pub time: u64,
    /// Which thread.
    pub thread: usize,
    /// Which executor.
    pub id: usize,
    /// Its bytes of code and data; `None` where it is freed.
    pub born: Option<usize>,
}

/// Reads a trace.
///
/// # Errors
///
/// What kept it from being read.
pub fn read(path: &Path) -> Result<Vec<Event>, String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut rows = csv::Reader::from_reader(GzDecoder::new(file));
    let mut events = Vec::new();
    for row in rows.records() {
        let row = row.map_err(|error| format!("{}: {error}", path.display()))?;
        let field = |at: usize| row.get(at).and_then(|field| field.parse::<u64>().ok());
        let event = (|| {
            let born = match row.get(2)? {
                "a" => Some((field(4)? + field(5)?) as usize),
                "f" => None,
                _ => return None,
            };
            Some(Event {
                time: field(0)?,
                thread: field(1)? as usize,
                id: field(3)? as usize,
                born,
            })
        })();
        events.push(event.ok_or_else(|| format!("{}: bad row {row:?}", path.display()))?);
    }
    Ok(events)
}

/// What a trace took over its time.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Bytes committed for each live byte, weighted by time.
    pub committed_over_live: f64,
    /// Time, live and committed bytes, along the way.
    pub curve: Vec<(u64, usize, usize)>,
    /// At the end.
    pub last: Usage,
}

/// Replays `events`.
pub fn replay(rival: &impl Rival, events: &[Event]) -> Memory {
    let mut handles: Vec<Option<_>> = Vec::new();
    let source = vec![0x90; 1 << 20];
    let mut codes: Vec<Option<_>> = Vec::new();
    let mut memory = Memory::default();
    let (mut live_time, mut committed_time) = (0.0, 0.0);
    let mut before = 0;
    for event in events {
        let usage = rival.usage();
        let passed = (event.time - before) as f64;
        before = event.time;
        live_time += usage.live as f64 * passed;
        committed_time += usage.committed as f64 * passed;
        memory.curve.push((event.time, usage.live, usage.committed));
        if handles.len() <= event.thread {
            handles.resize_with(event.thread + 1, || None);
        }
        let handle = handles[event.thread].get_or_insert_with(|| rival.attach());
        if codes.len() <= event.id {
            codes.resize_with(event.id + 1, || None);
        }
        match event.born {
            Some(bytes) => codes[event.id] = Some(handle.install(&source[..bytes])),
            None => {
                if let Some(code) = codes[event.id].take() {
                    handle.free(code);
                }
            }
        }
    }
    memory.last = rival.usage();
    memory.committed_over_live = committed_time / live_time;
    if let Some(handle) = handles.iter_mut().flatten().next() {
        for code in codes.into_iter().flatten() {
            handle.free(code);
        }
    }
    memory
}
