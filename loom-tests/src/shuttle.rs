//! Models scheduled by shuttle: at random, and by prioritised schedules with
//! two to four changes of priority (PCT: Burckhardt et al., ASPLOS 2010), which
//! find most of what random ones miss.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner};

use crate::{Bounds, Explored};

/// What models are run by in this build.
pub const CHECKER: &str = "shuttle";

pub use shuttle::thread;

/// Schedules of each kind, unless `JIT_ARENA_SCHEDULES` says how many.
const SCHEDULES: usize = 500;

/// Runs a model in many schedules; a failure prints the one that failed, and
/// `JIT_ARENA_REPLAY` set to that runs it alone.
pub fn explore(name: &str, _bounds: Bounds, body: fn()) -> Explored {
    let start = Instant::now();
    if let Ok(schedule) = std::env::var("JIT_ARENA_REPLAY") {
        shuttle::replay(body, &schedule);
        return Explored { schedules: 1, time: start.elapsed(), finished: true };
    }
    let count = std::env::var("JIT_ARENA_SCHEDULES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(SCHEDULES);
    let schedules = Arc::new(AtomicUsize::new(0));
    let counted = {
        let schedules = Arc::clone(&schedules);
        move || {
            schedules.fetch_add(1, Ordering::Relaxed);
            body();
        }
    };
    let ran = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut config = Config::new();
        config.failure_persistence = FailurePersistence::Print;
        Runner::new(RandomScheduler::new(count), config.clone()).run(counted.clone());
        for depth in 2..=4 {
            Runner::new(PctScheduler::new(depth, count), config.clone()).run(counted.clone());
        }
    }));
    if let Err(failure) = ran {
        eprintln!("model {name} failed in schedule {}", schedules.load(Ordering::Relaxed));
        panic::resume_unwind(failure);
    }
    Explored { schedules: schedules.load(Ordering::Relaxed), time: start.elapsed(), finished: true }
}
