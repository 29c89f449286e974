//! What the targets share: who is measured, how long, and what was found.

use std::collections::BTreeMap;

use jit_arena::{Arena, Strategy, ThreadHandle};
use jit_arena_benches::machine;
use jit_arena_benches::race::{Effort, Entry, Race};
use jit_arena_benches::rival::Room;
use jit_arena_benches::rival::arena::Ours;

use crate::cost::Cost;
use crate::memory::Curve;
use crate::report::Report;
use crate::threads::Throughput;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Smoke,
    Quick,
    Full,
}

/// One run of targets.
pub(crate) struct Bench {
    pub(crate) length: Length,
    /// Our fastest strategy here that keeps what it promises, and its limit.
    pub(crate) ours: &'static str,
    pub(crate) probe: &'static str,
    pub(crate) report: Report,
    /// Races by live executors, one thread; run when first asked for.
    costs: BTreeMap<usize, Race>,
    /// For the plots.
    pub(crate) throughputs: Vec<Throughput>,
    pub(crate) curves: Vec<Curve>,
}

/// Of an arena that is measured by itself.
pub(crate) const ROOM: Room = Room { bytes: 64 << 20, threads: 1 };

/// Whom we are compared with.
pub(crate) const PEERS: [&str; 7] =
    ["asmjit", "jit-allocator", "talc-rwx", "alias", "flip", "mapping", "cranelift"];

impl Bench {
    pub(crate) fn new(length: Length) -> Self {
        let keys = machine::has_keys();
        let (ours, probe) = if keys { ("dual-pkey", "probe-pkey") } else { ("dual-open", "probe") };
        if !keys {
            println!("not run: dual-pkey, single-pkey, probe-pkey: no protection keys here");
        }
        Self {
            length,
            ours,
            probe,
            report: Report::default(),
            costs: BTreeMap::new(),
            throughputs: Vec::new(),
            curves: Vec::new(),
        }
    }

    /// One of three, by the length of the run.
    pub(crate) fn pick<T>(&self, smoke: T, quick: T, full: T) -> T {
        match self.length {
            Length::Smoke => smoke,
            Length::Quick => quick,
            Length::Full => full,
        }
    }

    /// Rounds of a race.
    pub(crate) fn effort(&self) -> Effort {
        Effort { rounds: self.pick(3, 11, 41), millis: self.pick(1.0, 10.0, 10.0) }
    }

    pub(crate) fn race(&self, entries: &[Entry<'_>]) -> Race {
        Race::run(entries, self.effort())
    }

    /// The race of all rivals with so many live executors on one thread.
    pub(crate) fn cost(&mut self, live: usize) -> &Race {
        if !self.costs.contains_key(&live) {
            let race = Cost::race(self, live).dismissed();
            self.costs.insert(live, race);
        }
        &self.costs[&live]
    }

    /// The races run so far.
    pub(crate) fn costs(&self) -> impl Iterator<Item = (usize, &Race)> {
        self.costs.iter().map(|(live, race)| (*live, race))
    }

    /// An arena in our strategy, with a handle of this thread's.
    pub(crate) fn attach(&self) -> Result<(Arena, ThreadHandle), String> {
        let ours = Ours::new(self.ours, ROOM).map_err(|why| why.to_string())?;
        let thread = ours.arena().attach().map_err(|error| error.to_string())?;
        Ok((ours.arena().clone(), thread))
    }

    /// Our strategy, for a builder.
    pub(crate) fn strategy(&self) -> Strategy {
        self.ours.parse().expect("a strategy's name")
    }
}
