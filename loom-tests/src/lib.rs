//! Models of jit-arena: small programs of two or three threads over the
//! library that ships and a simulated machine, run in every way that loom can
//! find, in many ways that shuttle picks, or once.
//!
//! | build | what [`explore`] does |
//! |---|---|
//! | `--cfg jit_arena_loom --cfg jit_arena_eager` | all schedules up to a bound, over the eager scheme |
//! | `--cfg jit_arena_loom --cfg crossbeam_loom` | the same over crossbeam-epoch, to smaller bounds |
//! | `--cfg jit_arena_shuttle` | random and prioritised schedules, with replayable seeds |
//! | none | one run on real threads |
//!
//! `README.md` beside this has commands, bounds, counts and times.

mod clock;
pub mod models;
pub mod mutants;
pub mod record;
mod setup;
pub mod site;

#[cfg(jit_arena_loom)]
#[path = "loom.rs"]
mod checker;
#[cfg(jit_arena_shuttle)]
#[path = "shuttle.rs"]
mod checker;
#[cfg(not(any(jit_arena_loom, jit_arena_shuttle)))]
#[path = "once.rs"]
mod checker;

pub use checker::{CHECKER, explore, thread};
pub use setup::Setup;

/// How far a model is explored, and how much that must come to.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Preemptions in one schedule; loom only.
    pub preemptions: usize,
    /// Schedules there must be at least: a model that explored fewer does not
    /// explore what it says.
    pub least: usize,
}

/// One model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// What it is called, on command lines too.
    pub name: &'static str,
    /// The invariants it would show broken.
    pub checks: &'static [&'static str],
    /// Bounds over the eager scheme under loom; `None` where the state space is
    /// beyond reach.
    pub eager: Option<Bounds>,
    /// Bounds over crossbeam-epoch under loom.
    pub epoch: Option<Bounds>,
    /// The program.
    pub body: fn(),
}

/// What an exploration came to.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    /// Schedules run.
    pub schedules: usize,
    /// The processor time they took.
    pub time: std::time::Duration,
    /// Whether that was all of them.
    pub finished: bool,
}

impl Model {
    /// The model of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        models::all().find(|model| model.name == name)
    }

    /// The bounds that hold for this build; `None` if it does not run there.
    #[must_use]
    pub fn bounds(&self) -> Option<Bounds> {
        let mut bounds = match (cfg!(jit_arena_loom), cfg!(jit_arena_eager)) {
            (true, true) => self.eager?,
            (true, false) => self.epoch?,
            (false, _) => Bounds { preemptions: 0, least: 1 },
        };
        if let Some(preemptions) = asked("JIT_ARENA_PREEMPTIONS") {
            bounds = Bounds { preemptions, least: 1 };
        }
        bounds.preemptions += asked("JIT_ARENA_DEEPER").unwrap_or(0);
        Some(bounds)
    }

    /// Explores the model as far as this build's bounds go.
    ///
    /// # Panics
    ///
    /// If the model fails, or if there were fewer schedules than there must be.
    pub fn run(&self) -> Option<Explored> {
        let bounds = self.bounds()?;
        let explored = explore(self, bounds);
        // A seeded fault is to be noticed, not to change how much there is to see.
        let counts = cfg!(all(jit_arena_loom, not(jit_arena_mutants)));
        let least = if counts { bounds.least } else { 1 };
        assert!(
            explored.schedules >= least,
            "{}: {} schedules where there must be {least}: the checker does not see the model",
            self.name,
            explored.schedules,
        );
        Some(explored)
    }
}

/// `JIT_ARENA_PREEMPTIONS` bounds all models alike, `JIT_ARENA_DEEPER` takes
/// each so many preemptions beyond its own bound.
fn asked(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}
