//! Replays a recorded trace through the arena: every executor of the trace is
//! made of real machine code, installed, called, verified and dropped in the
//! order of the recording.
//!
//! [`plan`] decides what which thread does, [`worker`] does it, [`measure`]
//! adds up. Around them this file builds the arena, has the mappings audited
//! from beginning to end, and settles accounts when the trace is over: what
//! the arena counts is what the replay counted, nothing is left when the last
//! executor is dropped, and the arena's own invariants hold.

mod measure;
mod plan;
mod report;
mod shared;
mod worker;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::{Arena, Strategy};

pub use measure::Latencies;
use measure::Measures;
use plan::Plan;
pub use report::ReplayReport;
pub(crate) use report::strategy_name;
use shared::Shared;
use worker::Worker;

use crate::audit::Auditor;
use crate::failure::{Check, Failure, Request};
use crate::settle;
use crate::trace::Trace;

/// How fast to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Speed {
    /// One event after the other.
    Max,
    /// Each event at the time it was recorded.
    Recorded,
}

/// A check made to fail on purpose, to show that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// Take calls to have returned something else.
    WrongAnswer,
    /// Take other bytes to have been written.
    WrongByte,
    /// Keep an executor when all should be dropped.
    Leak,
    /// Have a mapping that is writable and executable.
    Wx,
    /// Have the first thread panic.
    Panic,
}

/// What is to be replayed how.
#[derive(Clone, Copy, Debug)]
pub struct ReplayOptions {
    /// Threads to spread the events over, at least 1.
    pub threads: usize,
    /// The protection strategy; the arena's choice if there is none.
    pub strategy: Option<Strategy>,
    /// How fast.
    pub speed: Speed,
    /// Whether where code lies is left to chance.
    pub random_placement: bool,
    /// For tests of the checks.
    pub sabotage: Option<Sabotage>,
}

/// 1,024 KiB, in bytes.
const MIB: u64 = 1 << 20;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(50);

/// Replays `trace`; `progress` is told now and then how many events are done.
///
/// # Errors
///
/// The arena cannot be built here, an operation of it failed, or a check did
/// not hold. A mapping seen writable and executable is no error of this
/// function: see [`ReplayReport::check`].
pub fn run(
    trace: &Trace,
    options: ReplayOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<ReplayReport, Failure> {
    let auditor =
        Auditor::start().map_err(|source| Failure::System { what: "start the auditor", source })?;
    let outcome = audited(trace, options, progress);
    let audit = auditor.finish();
    let mut report = outcome?;
    report.set_audit(audit);
    Ok(report)
}

fn audited(
    trace: &Trace,
    options: ReplayOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<ReplayReport, Failure> {
    let arena = build(trace, options)?;
    let plan = Plan::new(trace, options.threads);
    let _wx = (options.sabotage == Some(Sabotage::Wx)).then(settle::WxMapping::new);
    let started = Instant::now();
    let shared = Shared::new(trace, &plan, &arena, options.speed, options.sabotage);
    let measures = work(&shared, options.threads, progress)?;
    let wall = started.elapsed();

    // Everything is quiet: the counts are exact.
    let stats = arena.stats();
    let installs = trace.executors.len() as u64;
    // Relaxed: all threads have been joined.
    let live = shared.live.load(Ordering::Relaxed);
    settle::count("bytes live", stats.live_bytes, live)?;
    settle::count("installs", stats.installs, installs)?;
    arena.verify().map_err(Check::from)?;

    let peak_live = shared.peak_live.load(Ordering::Relaxed);
    let mut rest: Vec<_> = shared.slots.iter().filter_map(|slot| slot.invalidate()).collect();
    settle::count("executors never dropped", rest.len() as u64, stats.live_executors)?;
    let kept = if options.sabotage == Some(Sabotage::Leak) { rest.pop() } else { None };
    drop(rest);
    drop(shared);
    let last = settle::settle(&arena, installs)?;
    drop(kept);
    Ok(ReplayReport::new(trace, options, &arena, &measures, peak_live, &last, wall))
}

/// Runs the threads of a replay to their end.
fn work(
    shared: &Shared<'_>,
    threads: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Measures, Failure> {
    let mut measures = Measures::default();
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for index in 0..threads {
            let spawned = thread::Builder::new()
                .name(format!("replay-{index}"))
                .spawn_scoped(scope, move || Worker::run(shared, index));
            match spawned {
                Ok(worker) => workers.push(worker),
                Err(source) => {
                    shared.fail(Failure::System { what: "start a thread", source });
                    break;
                }
            }
        }
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(TICK);
            progress(shared.position());
        }
        for worker in workers {
            match worker.join() {
                Ok(done) => measures.add(&done),
                Err(panic) => shared.fail(settle::panicked(panic.as_ref()).into()),
            }
        }
    });
    shared.take_failure().map_or(Ok(measures), Err)
}

/// An arena with room for the trace: three times what lives at once covers
/// what is retired and not yet reusable.
fn build(trace: &Trace, options: ReplayOptions) -> Result<Arena, Failure> {
    const LEAST: u64 = 64 * MIB;
    const MOST: u64 = 2048 * MIB;
    let reserve = (3 * trace.peak_live()).next_multiple_of(MIB) + LEAST;
    let mut builder = Arena::builder()
        .reserve(reserve.min(MOST) as usize)
        .random_placement(options.random_placement);
    if let Some(strategy) = options.strategy {
        builder = builder.strategy(strategy);
    }
    Ok(builder.build().map_err(Request::from)?)
}
