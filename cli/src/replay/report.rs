//! The outcome of a replay, as JSON and for the table.

use std::time::Duration;

use jit_arena::{Arena, Stats, Strategy};
use serde::{Serialize, Serializer};

use super::measure::Measures;
use super::plan::stock_over_live;
use super::{ReplayOptions, Speed};
use crate::audit::Audit;
use crate::doctor::cores;
use crate::failure::Check;
use crate::trace::Trace;

/// What a replay measured. The fields are the keys of its JSON object; bytes in
/// names end in `_bytes`, nanoseconds in `_ns`, and a ratio `a_over_b` divides
/// sums over the trace's own clock.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayReport {
    kind: &'static str,
    /// Name of the trace.
    pub trace: String,
    /// The protection strategy that was used.
    #[serde(serialize_with = "strategy_name")]
    pub strategy: Strategy,
    /// Threads the events were spread over.
    pub threads: usize,
    /// How fast it was replayed.
    pub speed: &'static str,
    /// Executors installed.
    pub executors: u64,
    /// Installs a second of the time spent in the arena, installing and
    /// dropping: executors ÷ the sum of that time over all threads × the
    /// threads that can run at once. Making, calling and comparing code is not
    /// in it; losing the processor in the middle of an install is.
    pub installs_per_s: f64,
    /// Seconds the replay took, with everything it checks.
    pub wall_s: f64,
    /// Calls whose result was compared with what the code computes.
    pub calls_verified: u64,
    /// Bytes read through the executable view and compared with what was
    /// written.
    pub compared_bytes: u64,
    /// Code memory held from the system ÷ bytes of executors not yet dropped.
    pub committed_over_live: f64,
    /// The most ever held ÷ the most ever live.
    pub peak_committed_over_live: f64,
    /// Resident memory of the region ÷ bytes not yet dropped; `None` where the
    /// system does not tell.
    pub rss_over_live: Option<f64>,
    /// What one mapping per executor holds with 4 KiB pages.
    pub stock_4k_over_live: f64,
    /// What one mapping per executor holds with 16 KiB pages.
    pub stock_16k_over_live: f64,
    /// Bytes dropped that cannot be used again yet ÷ bytes not yet dropped.
    pub retired_over_live: f64,
    /// The most bytes of executors live at once.
    pub peak_live_bytes: u64,
    /// The most code memory held at once.
    pub peak_committed_bytes: u64,
    /// From reserving the place of an executor to having it in its slot.
    pub install_p50_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_p99_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_p999_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_max_ns: u64,
    /// From emptying an executor's slot to having it retired.
    pub drop_p50_ns: u64,
    /// See [`drop_p50_ns`](Self::drop_p50_ns).
    pub drop_p99_ns: u64,
    /// See [`drop_p50_ns`](Self::drop_p50_ns).
    pub drop_p999_ns: u64,
    /// See [`drop_p50_ns`](Self::drop_p50_ns).
    pub drop_max_ns: u64,
    /// Executors dropped, all of them by the end.
    pub retired: u64,
    /// Executors whose memory became usable again, all of them by the end.
    pub recycled: u64,
    /// Lots they were recycled in.
    pub recycled_lots: u64,
    /// Bytes given back to the system.
    pub trimmed_bytes: u64,
    /// Different mappings of the process seen writable and executable; `None`
    /// where the system does not tell.
    pub wx_mappings_seen: Option<usize>,
    /// How the audit of the mappings went.
    pub wx_audit: String,
    /// How often the mappings were read.
    pub wx_readings: u64,
    #[serde(skip)]
    audit: Audit,
}

/// Serialises a strategy by its name.
pub(crate) fn strategy_name<S: Serializer>(strategy: &Strategy, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(strategy.name())
}

impl ReplayReport {
    pub(super) fn new(
        trace: &Trace,
        options: ReplayOptions,
        arena: &Arena,
        measures: &Measures,
        peak_live: u64,
        last: &Stats,
        wall: Duration,
    ) -> Self {
        let executors = trace.executors.len() as u64;
        let in_arena_s = measures.in_arena as f64 / 1e9;
        let at_once = options.threads.min(cores());
        let held = &measures.held;
        Self {
            kind: "replay",
            trace: trace.name.clone(),
            strategy: arena.report().strategy,
            threads: options.threads,
            speed: match options.speed {
                Speed::Max => "max",
                Speed::Recorded => "recorded",
            },
            executors,
            installs_per_s: executors as f64 * at_once as f64 / in_arena_s,
            wall_s: wall.as_secs_f64(),
            calls_verified: measures.calls_verified,
            compared_bytes: measures.bytes_compared,
            committed_over_live: held.committed_over_live(),
            peak_committed_over_live: measures.peak_committed as f64 / peak_live as f64,
            rss_over_live: cfg!(target_os = "linux").then(|| held.resident_over_live()),
            stock_4k_over_live: stock_over_live(trace, 4 << 10),
            stock_16k_over_live: stock_over_live(trace, 16 << 10),
            retired_over_live: held.retired_over_live(),
            peak_live_bytes: peak_live,
            peak_committed_bytes: measures.peak_committed,
            install_p50_ns: measures.install.quantile(0.5),
            install_p99_ns: measures.install.quantile(0.99),
            install_p999_ns: measures.install.quantile(0.999),
            install_max_ns: measures.install.max(),
            drop_p50_ns: measures.drop.quantile(0.5),
            drop_p99_ns: measures.drop.quantile(0.99),
            drop_p999_ns: measures.drop.quantile(0.999),
            drop_max_ns: measures.drop.max(),
            retired: last.retires,
            recycled: last.recycles,
            recycled_lots: last.recycled_lots,
            trimmed_bytes: last.trimmed_bytes,
            wx_mappings_seen: None,
            wx_audit: String::new(),
            wx_readings: 0,
            audit: Audit::default(),
        }
    }

    pub(super) fn set_audit(&mut self, audit: Audit) {
        self.wx_mappings_seen = audit.wx_mappings_seen();
        self.wx_audit = audit.describe(self.strategy);
        self.wx_readings = audit.readings;
        self.audit = audit;
    }

    /// What the audit saw.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The checks that a finished replay can still fail.
    ///
    /// # Errors
    ///
    /// A mapping was writable and executable, and the strategy promises that
    /// none ever is.
    pub fn check(&self) -> Result<(), Check> {
        self.audit.check(self.strategy)
    }
}
