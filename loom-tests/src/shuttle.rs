//! Models scheduled by shuttle: at random, and by prioritised schedules with
//! two to four changes of priority (PCT: Burckhardt et al., ASPLOS 2010), which
//! find most of what random ones miss.
//!
//! What is run is the same each time: the seed is fixed unless
//! `JIT_ARENA_SEED` gives another.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::clock::Clock;
use crate::{Bounds, Explored, Model, asked};

/// What models are run by in this build.
pub const CHECKER: &str = "shuttle";

pub use shuttle::thread;

/// Schedules of each kind of a model that loom explores too, and of a crowd,
/// each of which takes thousands of operations.
const SCHEDULES: usize = 500;
const OF_CROWDS: usize = 25;

/// Steps in one schedule; more is taken for a loop without end.
const STEPS: usize = 20_000_000;

/// Runs a model in many schedules; a failure prints the one that failed, and
/// `JIT_ARENA_REPLAY` set to that, or to the name of a file that it is in, runs
/// it alone.
pub fn explore(model: &Model, _bounds: Bounds) -> Explored {
    let start = Clock::start();
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.failure_persistence = match std::env::var_os("JIT_ARENA_SCHEDULE_DIR") {
        Some(place) => FailurePersistence::File(Some(place.into())),
        None => FailurePersistence::Print,
    };
    if let Ok(schedule) = std::env::var("JIT_ARENA_REPLAY") {
        match std::fs::read_to_string(&schedule) {
            Ok(schedule) => shuttle::replay(model.body, schedule.trim()),
            Err(_) => shuttle::replay(model.body, &schedule),
        }
        return Explored { schedules: 1, time: start.elapsed(), finished: true };
    }
    let of_each = if model.eager.is_none() { OF_CROWDS } else { SCHEDULES };
    let of_each = asked("JIT_ARENA_SCHEDULES").unwrap_or(of_each);
    let seed = asked("JIT_ARENA_SEED").unwrap_or(1) as u64;
    let schedules = Arc::new(AtomicUsize::new(0));
    let counted = {
        let (schedules, body) = (Arc::clone(&schedules), model.body);
        move || {
            schedules.fetch_add(1, Ordering::Relaxed);
            body();
        }
    };
    let ran = panic::catch_unwind(AssertUnwindSafe(|| {
        let random = RandomScheduler::new_from_seed(seed, of_each);
        Runner::new(random, config.clone()).run(counted.clone());
        for depth in 2..=4 {
            let prioritised = PctScheduler::new_from_seed(seed, depth, of_each);
            Runner::new(prioritised, config.clone()).run(counted.clone());
        }
    }));
    let schedules = schedules.load(Ordering::Relaxed);
    if let Err(failure) = ran {
        eprintln!("model {} failed in schedule {schedules} of seed {seed}", model.name);
        panic::resume_unwind(failure);
    }
    Explored { schedules, time: start.elapsed(), finished: true }
}
