//! Models explored by loom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{Bounds, Explored};

/// What models are run by in this build.
pub const CHECKER: &str = if cfg!(jit_arena_eager) { "loom, eager" } else { "loom, crossbeam" };

pub use loom::thread;

/// Steps in one schedule; more is taken for a loop without end.
const STEPS: usize = 50_000;

/// Runs a model in every schedule within the bounds, and for every value a
/// load may see in it.
pub fn explore(name: &str, bounds: Bounds, body: fn()) -> Explored {
    let start = Instant::now();
    let schedules = Arc::new(AtomicUsize::new(0));
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = Some(bounds.preemptions);
    loom.max_branches = STEPS;
    loom.max_duration = limit();
    // How often the limit is looked at.
    loom.checkpoint_interval = 500;
    let failure = Failure { name: name.to_owned(), schedules: Arc::clone(&schedules) };
    let counted = Arc::clone(&schedules);
    loom.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body();
    });
    drop(failure);
    let time = start.elapsed();
    let finished = limit().is_none_or(|limit| time < limit);
    Explored { schedules: schedules.load(Ordering::Relaxed), time, finished }
}

/// `JIT_ARENA_SECONDS`: when to give up on a model, for finding bounds.
fn limit() -> Option<Duration> {
    std::env::var("JIT_ARENA_SECONDS").ok()?.parse().ok().map(Duration::from_secs)
}

/// Says where it was when a model fails.
struct Failure {
    name: String,
    schedules: Arc<AtomicUsize>,
}

impl Drop for Failure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let schedules = self.schedules.load(Ordering::Relaxed);
            eprintln!("model {} failed in schedule {schedules}", self.name);
        }
    }
}
