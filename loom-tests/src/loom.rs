//! Models explored by loom.

use std::cell::RefCell;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::{Bounds, Explored, Model};

/// What models are run by in this build.
pub const CHECKER: &str = if cfg!(jit_arena_eager) { "loom-eager" } else { "loom-epoch" };

pub use loom::thread;

/// Steps in one schedule; more is taken for a loop without end.
const STEPS: usize = 50_000;

/// Runs a model in every schedule within the bounds, and for every value a
/// load may see in it.
pub fn explore(model: &Model, bounds: Bounds) -> Explored {
    let body = model.body;
    let (start, clock) = (Instant::now(), Clock::start());
    let schedules = Arc::new(AtomicUsize::new(0));
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = Some(bounds.preemptions);
    loom.max_branches = STEPS;
    loom.max_duration = limit();
    // How often the limit is looked at.
    loom.checkpoint_interval = 500;
    announce_failures();
    RUNNING.set(Some((model.name.to_owned(), Arc::clone(&schedules))));
    let counted = Arc::clone(&schedules);
    loom.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body();
    });
    RUNNING.set(None);
    let finished = limit().is_none_or(|limit| start.elapsed() < limit);
    Explored { schedules: schedules.load(Ordering::Relaxed), time: clock.elapsed(), finished }
}

/// `JIT_ARENA_SECONDS`: when to give up on a model, for finding bounds.
fn limit() -> Option<Duration> {
    std::env::var("JIT_ARENA_SECONDS").ok()?.parse().ok().map(Duration::from_secs)
}

std::thread_local! {
    /// The model that this thread explores, and how far it has come.
    static RUNNING: RefCell<Option<(String, Arc<AtomicUsize>)>> = const { RefCell::new(None) };
}

/// Makes a failing model say which it is and in which schedule it failed: in
/// the panic itself, since loom's own unwinding often ends in an abort.
fn announce_failures() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some((name, schedules)) = RUNNING.take() {
                eprintln!("model {name} failed in schedule {}", schedules.load(Ordering::Relaxed));
            }
            before(info);
        }));
    });
}
