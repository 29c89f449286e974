//! The outcome of a stress test, as JSON and for the table.

use std::time::Duration;

use jit_arena::{Arena, Stats, Strategy};
use serde::Serialize;

use super::course::Counts;
use super::{Seen, StressOptions};
use crate::audit::Audit;
use crate::failure::Check;
use crate::replay::strategy_name;

/// What a stress test did and saw. The fields are the keys of its JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct StressReport {
    kind: &'static str,
    /// The protection strategy that was used.
    #[serde(serialize_with = "strategy_name")]
    pub strategy: Strategy,
    /// Threads at a time.
    pub threads: usize,
    /// How long they ran.
    pub seconds: f64,
    /// What their operations were drawn from.
    pub seed: u64,
    /// A value for each thread that tells its first thousand operations from
    /// any others: equal for equal seeds. `None` if it did fewer.
    pub fingerprints: Vec<Option<String>>,
    /// Times that all threads ended and everything was counted.
    pub rounds: u64,
    /// Operations performed.
    pub operations: u64,
    /// Executors installed.
    pub installs: u64,
    /// Installs a second, with everything else that went on.
    pub installs_per_s: f64,
    /// Calls whose result was compared with what the code computes.
    pub calls_verified: u64,
    /// Bytes read through the executable view and compared with what was
    /// written.
    pub compared_bytes: u64,
    /// Reservations let go unpublished.
    pub abandoned: u64,
    /// Safepoints passed inside an executor.
    pub safepoints: u64,
    /// Sleeps while parked.
    pub parks: u64,
    /// Threads born, and ended.
    pub threads_born: u64,
    /// Executors dropped, all of them by the end.
    pub retired: u64,
    /// Executors whose memory became usable again, all of them by the end.
    pub recycled: u64,
    /// Lots they were recycled in.
    pub recycled_lots: u64,
    /// Bytes given back to the system.
    pub trimmed_bytes: u64,
    /// The most bytes of executors seen live at once.
    pub peak_live_bytes: u64,
    /// The most code memory seen held at once.
    pub peak_committed_bytes: u64,
    /// From reserving the place of an executor to having it published.
    pub install_p50_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_p99_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_p999_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_max_ns: u64,
    /// From pinning to the result of the call.
    pub call_max_ns: u64,
    /// Dropping or retiring an executor.
    pub drop_max_ns: u64,
    /// Signals whose handlers looked the interrupted place up.
    pub profiled_signals: u64,
    /// Those that interrupted code of the arena, all of it found.
    pub profiled_in_code: u64,
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

impl StressReport {
    pub(super) fn new(
        options: StressOptions,
        arena: &Arena,
        counts: &Counts,
        fingerprints: Vec<Option<u64>>,
        seen: Seen,
        last: &Stats,
        time: Duration,
    ) -> Self {
        let hex = |fingerprint: u64| format!("{fingerprint:016x}");
        Self {
            kind: "stress",
            strategy: arena.report().strategy,
            threads: options.threads,
            seconds: time.as_secs_f64(),
            seed: options.seed,
            fingerprints: fingerprints.into_iter().map(|f| f.map(hex)).collect(),
            rounds: seen.rounds,
            operations: counts.ops,
            installs: counts.installs,
            installs_per_s: counts.installs as f64 / time.as_secs_f64(),
            calls_verified: counts.calls_verified,
            compared_bytes: counts.bytes_compared,
            abandoned: counts.abandoned,
            safepoints: counts.safepoints,
            parks: counts.parks,
            threads_born: counts.threads_born,
            retired: last.retires,
            recycled: last.recycles,
            recycled_lots: last.recycled_lots,
            trimmed_bytes: last.trimmed_bytes,
            peak_live_bytes: seen.peak_live,
            peak_committed_bytes: seen.peak_committed,
            install_p50_ns: counts.install.quantile(0.5),
            install_p99_ns: counts.install.quantile(0.99),
            install_p999_ns: counts.install.quantile(0.999),
            install_max_ns: counts.install.max(),
            call_max_ns: counts.call.max(),
            drop_max_ns: counts.drop.max(),
            profiled_signals: seen.profile.signals,
            profiled_in_code: seen.profile.inside,
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

    /// What the audit of the mappings saw.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The checks that a finished run can still fail.
    ///
    /// # Errors
    ///
    /// A mapping was writable and executable, and the strategy promises that
    /// none ever is.
    pub fn check(&self) -> Result<(), Check> {
        self.audit.check(self.strategy)
    }
}
