//! The outcome of the stress test with programs, as JSON and as text.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jit_arena::{Stats, Strategy};
use jit_arena_python::Runtime;
use serde::Serialize;

use super::chaos;
use super::children::Outcome;
use super::crew::Crew;
use super::oracle::Oracle;
use super::sample::Samples;
use super::{PythonOptions, signals};
use crate::audit::Audit;
use crate::failure::Check;
use crate::human::{bytes, count, duration};
use crate::replay::strategy_name;

/// What a stress test did and saw. The fields are the keys of its JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct PythonReport {
    kind: &'static str,
    /// The protection strategy that was used.
    #[serde(serialize_with = "strategy_name")]
    pub strategy: Strategy,
    /// Threads at a time, without those that programs started.
    pub threads: usize,
    /// How long they ran.
    pub seconds: f64,
    /// What they drew from.
    pub seed: u64,
    /// Whether they were disturbed.
    pub chaos: bool,
    /// Programs that there are.
    pub programs: usize,
    /// Whether `python3` was asked what they print.
    pub python_asked: bool,
    /// Calls whose result was compared.
    pub calls_verified: u64,
    /// Threads born, those that programs started among them.
    pub threads_born: u64,
    /// Executors made.
    pub installs: u64,
    /// Executors made a second, with everything else that went on.
    pub installs_per_s: f64,
    /// Side traces among them.
    pub side_traces: u64,
    /// Times that no executor could be made for want of memory, or because a
    /// global had changed meanwhile.
    pub refused: u64,
    /// Executors dropped because a global changed.
    pub invalidated: u64,
    /// Executors dropped for want of memory.
    pub evicted: u64,
    /// Times that machine code was left in the middle.
    pub exits: u64,
    /// Executors whose memory became usable again, all of them by the end.
    pub recycled: u64,
    /// Globals rebound from outside.
    pub rebound: u64,
    /// Signals sent.
    pub signals: u64,
    /// Signals that interrupted machine code.
    pub signals_in_code: u64,
    /// Executors found from there.
    pub signals_found: u64,
    /// Children forked, each of which went on running programs.
    pub children: u64,
    /// Those that failed.
    pub children_failed: u64,
    /// Calls of theirs whose result was compared.
    pub children_calls: u64,
    /// Executors that they made.
    pub children_installs: u64,
    /// Children that ran executors of before the fork.
    pub children_inherited: u64,
    /// The most bytes of executors seen live at once.
    pub peak_live_bytes: u64,
    /// The most bytes of dropped executors seen waiting.
    pub peak_retired_bytes: u64,
    /// The most code memory seen held at once.
    pub peak_committed_bytes: u64,
    /// The longest that a dropped executor was seen waiting, in milliseconds.
    pub peak_lag_ms: u64,
    /// From the decision to compile to the code being there.
    pub install_p50_ns: u64,
    /// See [`install_p50_ns`](Self::install_p50_ns).
    pub install_p99_ns: u64,
    /// From the drop of an executor to its memory being usable again.
    pub reclaim_p50_ns: u64,
    /// See [`reclaim_p50_ns`](Self::reclaim_p50_ns).
    pub reclaim_p99_ns: u64,
    /// Different mappings of the process seen writable and executable; `None`
    /// where the system does not tell.
    pub wx_mappings_seen: Option<usize>,
    /// How often the mappings were read.
    pub wx_readings: u64,
    /// What went wrong, if anything did: what is told is then what there was when
    /// it ended.
    pub failure: Option<String>,
    #[serde(skip)]
    audit: Audit,
    #[serde(skip)]
    outcome: Outcome,
    #[serde(skip)]
    pub(super) seen: Seen,
}

/// What goes into plots only.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) samples: Samples,
    pub(super) installs: Vec<(u64, u64)>,
    pub(super) reclaims: Vec<(u64, u64)>,
}

impl PythonReport {
    #[expect(clippy::too_many_arguments, reason = "one of each part of the run")]
    pub(super) fn new(
        options: &PythonOptions,
        runtime: &Runtime,
        oracle: &Oracle,
        crew: &Crew,
        samples: Samples,
        (chaos, children): (chaos::Done, Outcome),
        last: &Stats,
        time: Duration,
    ) -> Self {
        let done = runtime.done();
        let signals = signals::counts();
        let (installs, reclaims) = (runtime.installs(), runtime.reclaims());
        Self {
            kind: "python",
            strategy: runtime.arena().report().strategy,
            threads: options.threads,
            seconds: time.as_secs_f64(),
            seed: options.seed,
            chaos: options.chaos,
            programs: oracle.known.len(),
            python_asked: oracle.python,
            calls_verified: crew.calls().iter().sum(),
            threads_born: crew.born.load(Ordering::Relaxed) + done.born,
            installs: last.installs,
            installs_per_s: last.installs as f64 / time.as_secs_f64().max(0.001),
            side_traces: done.sides,
            refused: done.refused,
            invalidated: done.invalidated,
            evicted: done.evicted,
            exits: runtime.exits(),
            recycled: last.recycles,
            rebound: chaos.rebound,
            signals: chaos.signals,
            signals_in_code: signals.inside,
            signals_found: signals.found,
            children: children.forked,
            children_failed: children.failed,
            children_calls: children.calls,
            children_installs: children.installs,
            children_inherited: children.inherited,
            peak_live_bytes: samples.peak_live,
            peak_retired_bytes: samples.peak_retired,
            peak_committed_bytes: samples.peak_committed,
            peak_lag_ms: samples.peak_lag.as_millis() as u64,
            install_p50_ns: installs.quantile(0.5),
            install_p99_ns: installs.quantile(0.99),
            reclaim_p50_ns: reclaims.quantile(0.5),
            reclaim_p99_ns: reclaims.quantile(0.99),
            wx_mappings_seen: None,
            wx_readings: 0,
            failure: None,
            audit: Audit::default(),
            outcome: children,
            seen: Seen { samples, installs: installs.classes(), reclaims: reclaims.classes() },
        }
    }

    pub(super) fn set_audit(&mut self, audit: Audit) {
        self.wx_mappings_seen = audit.wx_mappings_seen();
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
    /// A forked child failed; or a mapping was writable and executable, and the
    /// strategy promises that none ever is.
    pub fn check(&self) -> Result<(), Check> {
        self.outcome.check()?;
        self.audit.check(self.strategy)
    }

    fn end(&self) -> String {
        match &self.failure {
            Some(failure) => format!("failed: {failure}"),
            None => "verified, nothing live, nothing retired".to_owned(),
        }
    }

    fn children_row(&self) -> String {
        if self.children == 0 {
            return "none".to_owned();
        }
        format!(
            "{} forked, {} failed; {} calls compared, {} installed, {} ran inherited code",
            count(self.children),
            count(self.children_failed),
            count(self.children_calls),
            count(self.children_installs),
            count(self.children_inherited)
        )
    }

    /// What it did, row by row, for people.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let python = if self.python_asked {
            "the interpreter and python3"
        } else {
            "the interpreter (no python3 here)"
        };
        let mut rows = vec![
            ("strategy", self.strategy.to_string()),
            ("threads", format!("{}, {} born", self.threads, count(self.threads_born))),
            ("time", format!("{:.1} s", self.seconds)),
            ("seed", self.seed.to_string()),
            ("calls, as they should be", format!("{}, by {python}", count(self.calls_verified))),
            (
                "executors",
                format!(
                    "{} installed, {}/s, {} of them side traces",
                    count(self.installs),
                    count(self.installs_per_s as u64),
                    count(self.side_traces)
                ),
            ),
            (
                "dropped",
                format!(
                    "{} as globals changed, {} as memory was short",
                    count(self.invalidated),
                    count(self.evicted)
                ),
            ),
            ("not made", count(self.refused)),
            ("machine code left midway", count(self.exits)),
            (
                "at most",
                format!(
                    "{} live, {} retired, {} committed",
                    bytes(self.peak_live_bytes),
                    bytes(self.peak_retired_bytes),
                    bytes(self.peak_committed_bytes)
                ),
            ),
            (
                "install",
                format!(
                    "{} median, {} p99, compiling included",
                    duration(self.install_p50_ns),
                    duration(self.install_p99_ns)
                ),
            ),
            (
                "reclaim",
                format!(
                    "{} median, {} p99 from drop to use",
                    duration(self.reclaim_p50_ns),
                    duration(self.reclaim_p99_ns)
                ),
            ),
            ("at the end", self.end()),
        ];
        if self.chaos {
            rows.insert(
                9,
                (
                    "chaos",
                    format!(
                        "{} globals rebound, {} signals ({} in machine code, {} found)",
                        count(self.rebound),
                        count(self.signals),
                        count(self.signals_in_code),
                        count(self.signals_found)
                    ),
                ),
            );
            rows.insert(10, ("children", self.children_row()));
        }
        rows
    }
}
