//! Recorded allocation traces, replayed in order on one thread to see what
//! memory they take over their time: the same result every time. `jit-arena
//! replay` is the full test, with threads and real code; this is for rivals,
//! and for pictures.

use jit_arena_cli::trace::{Op, Trace};

use crate::rival::{Rival, RivalThread, Usage};

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

/// Replays `trace`.
pub fn replay(rival: &impl Rival, trace: &Trace) -> Memory {
    let mut thread = rival.attach();
    let source = vec![0x90; 1 << 20];
    let mut codes: Vec<Option<_>> = trace.executors.iter().map(|_| None).collect();
    let mut memory = Memory::default();
    let (mut live_time, mut committed_time) = (0.0, 0.0);
    let (mut before, mut live) = (0, 0);
    for event in &trace.events {
        let usage = rival.usage();
        let passed = (event.t_ns - before) as f64;
        before = event.t_ns;
        live_time += live as f64 * passed;
        committed_time += usage.committed as f64 * passed;
        memory.curve.push((event.t_ns, live, usage.committed));
        let executor = event.executor as usize;
        let bytes = trace.executors[executor].bytes() as usize;
        match event.op {
            Op::Alloc => {
                live += bytes;
                codes[executor] = Some(thread.install(&source[..bytes]));
            }
            Op::Free => {
                if let Some(code) = codes[executor].take() {
                    live -= bytes;
                    thread.free(code);
                }
            }
        }
    }
    memory.last = rival.usage();
    memory.committed_over_live = committed_time / live_time;
    codes.into_iter().flatten().for_each(|code| thread.free(code));
    memory
}
