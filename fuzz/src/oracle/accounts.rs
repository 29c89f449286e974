//! Counts that must be exact after every step.

use jit_arena::{Span, Stats};

use super::Oracle;

/// What an arena's statistics must say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Executors published.
    pub installs: u64,
    /// Executors dropped.
    pub retires: u64,
    /// Bytes of those that live.
    pub live_bytes: u64,
    /// Handles.
    pub threads: u64,
}

impl Counts {
    /// An executor of `bytes` was published.
    pub fn install(&mut self, bytes: usize) {
        self.installs += 1;
        self.live_bytes += bytes as u64;
    }

    /// An executor of `bytes` was dropped.
    pub fn retire(&mut self, bytes: usize) {
        self.retires += 1;
        self.live_bytes -= bytes as u64;
    }
}

impl Oracle {
    /// Compares an arena's statistics with the model's.
    pub fn check_stats(&self, arena: usize, span: Span, stats: &Stats) {
        let model = self.arena(arena);
        let counts = &model.counts;
        assert_eq!(span, model.span);
        assert_eq!(stats.reserved_bytes, span.len as u64, "{stats:?}");
        assert_eq!(stats.installs, counts.installs, "installs: {stats:?}");
        assert_eq!(stats.retires, counts.retires, "retires: {stats:?}");
        assert_eq!(stats.live_executors, counts.installs - counts.retires, "live: {stats:?}");
        assert_eq!(stats.live_bytes, counts.live_bytes, "live bytes: {stats:?}");
        assert_eq!(stats.attached_threads, counts.threads, "threads: {stats:?}");
        assert_eq!(stats.retired_executors, stats.retires - stats.recycles, "{stats:?}");
        let protected = self.protected(arena) as u64;
        assert!(stats.retired_executors >= protected, "{protected} are protected: {stats:?}");
        // Every committed byte is one thing and one only. Were a count too
        // high, the remainder below it would have been cut off at zero.
        let parts = stats.live_bytes
            + stats.retired_bytes
            + stats.claimed_bytes
            + stats.hole_bytes
            + stats.padding_bytes;
        assert_eq!(stats.committed_bytes, parts, "[A1] parts and whole: {stats:?}");
        assert!(stats.committed_bytes <= stats.reserved_bytes, "{stats:?}");
        assert_eq!(stats.refusals, 0, "the system refused something: {stats:?}");
    }
}
