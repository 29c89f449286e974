//! The stress test: threads that install, replace, invalidate, call, sleep, end
//! and are born, all on the same slots of one arena, with every result checked.
//!
//! [`ops`] draws what each thread does from the seed; [`worker`] does it, and
//! when a thread ends its successor follows the same [`course`]. The
//! test runs in rounds. In a round threads do as they like; between rounds
//! none is left, all counts must be exact, and the arena's invariants must
//! hold. The mappings are audited from beginning to end, and all threads are
//! [profiled](profiler) by signal.

mod course;
mod ops;
mod profiler;
mod report;
mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::{Arena, Executor, Strategy, ThreadHandle};

use course::{Counts, Course, Shared, locked};
use ops::SLOTS;
use profiler::{Profile, Profiler};
pub use report::StressReport;

use crate::audit::Auditor;
use crate::check;
use crate::failure::{Check, Failure, Request};
use crate::settle;

/// A check made to fail on purpose, to show that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// Take calls to have returned something else.
    WrongAnswer,
    /// Keep an executor when all should be dropped.
    Leak,
    /// Have a mapping that is writable and executable.
    Wx,
    /// Take lookups in signal handlers to have found something else.
    WrongLookup,
}

/// What is to be stressed how.
#[derive(Clone, Copy, Debug)]
pub struct StressOptions {
    /// Threads at a time, at least 1.
    pub threads: usize,
    /// How long.
    pub time: Duration,
    /// What the operations of every thread are drawn from.
    pub seed: u64,
    /// The protection strategy; the arena's choice if there is none.
    pub strategy: Option<Strategy>,
    /// For tests of the checks.
    pub sabotage: Option<Sabotage>,
}

/// Length of a round.
const ROUND: Duration = Duration::from_secs(1);

/// How often progress is told and the arena's size looked at.
const TICK: Duration = Duration::from_millis(50);

/// What is seen of the arena from outside the threads.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    rounds: u64,
    peak_committed: u64,
    peak_live: u64,
    profile: Profile,
}

/// Runs the stress test; `progress` is told now and then how long it has run.
///
/// # Errors
///
/// The arena cannot be built here, an operation of it failed, or a check did
/// not hold. A mapping seen writable and executable is no error of this
/// function: see [`StressReport::check`].
pub fn run(
    options: StressOptions,
    progress: &mut dyn FnMut(Duration),
) -> Result<StressReport, Failure> {
    let auditor =
        Auditor::start().map_err(|source| Failure::System { what: "start the auditor", source })?;
    let outcome = audited(options, progress);
    let audit = auditor.finish();
    let mut report = outcome?;
    report.set_audit(audit);
    Ok(report)
}

fn audited(
    options: StressOptions,
    progress: &mut dyn FnMut(Duration),
) -> Result<StressReport, Failure> {
    let mut builder = Arena::builder();
    if let Some(strategy) = options.strategy {
        builder = builder.strategy(strategy);
    }
    let arena = builder.build().map_err(Request::from)?;
    let _wx = (options.sabotage == Some(Sabotage::Wx)).then(settle::WxMapping::new);
    let shared = Shared {
        slots: (0..SLOTS).map(|_| arena.slot()).collect(),
        arena,
        mail: Mutex::new(Vec::new()),
        ended: Mutex::new(Vec::new()),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
        sabotage: options.sabotage,
    };
    let wrong_lookup = options.sabotage == Some(Sabotage::WrongLookup);
    let profiler = Profiler::start(&shared.arena, wrong_lookup)
        .map_err(|source| Failure::System { what: "start the profiler", source })?;
    let mut courses: Vec<_> =
        (0..options.threads).map(|thread| Course::new(options.seed, thread)).collect();
    let mut seen = Seen::default();
    let started = Instant::now();
    while started.elapsed() < options.time {
        let end = (started.elapsed() + ROUND).min(options.time);
        round(&shared, &mut courses, &mut seen, &mut || {
            progress(started.elapsed());
            started.elapsed() < end
        });
        if let Some(failure) = locked(&shared.failure).take() {
            return Err(failure);
        }
        check_round(&shared, &courses)?;
        seen.profile = profiler.check()?;
        // This thread is not attached: what is mailed last is dropped where
        // nobody has a handle.
        drop(std::mem::take(&mut *locked(&shared.mail)));
    }
    let time = started.elapsed();
    drop(profiler);
    settle(shared, courses, seen, options, time)
}

/// Lets all threads run while `go_on`, and waits for them.
fn round(
    shared: &Shared,
    courses: &mut Vec<Course>,
    seen: &mut Seen,
    go_on: &mut dyn FnMut() -> bool,
) {
    // Relaxed: spawning the threads orders it.
    shared.stop.store(false, Ordering::Relaxed);
    thread::scope(|scope| {
        for course in courses.drain(..) {
            course.follow(shared, scope);
        }
        while !shared.stop.load(Ordering::Relaxed) && go_on() {
            let stats = shared.arena.stats();
            seen.peak_committed = seen.peak_committed.max(stats.committed_bytes);
            seen.peak_live = seen.peak_live.max(stats.live_bytes);
            thread::sleep(TICK);
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    seen.rounds += 1;
    courses.append(&mut locked(&shared.ended));
    courses.sort_by_key(|course| course.thread);
}

/// Checks all that must be exact while no thread runs.
fn check_round(shared: &Shared, courses: &[Course]) -> Result<(), Check> {
    let arena = &shared.arena;
    arena.verify()?;
    let stats = arena.stats();
    let counted: u64 = courses.iter().map(|course| course.counts.installs).sum();
    settle::count("installs", stats.installs, counted)?;

    let handle = arena.attach().map_err(|e| Check::operation("attaching a thread", e))?;
    let (mut executors, mut bytes) = (0, 0);
    let mut count = |seed: u64| {
        executors += 1;
        bytes += ops::program(seed).shape.bytes();
    };
    let guard = handle.pin();
    for slot in &shared.slots {
        if let Some(entry) = slot.load(&guard) {
            // SAFETY: all executors of this arena are programs of the full tier.
            count(unsafe { check::call(entry, 0) }.seed);
        }
    }
    drop(guard);
    locked(&shared.mail).iter().for_each(|executor| count(seed(&handle, executor)));
    for held in courses.iter().flat_map(|course| &course.kept) {
        count(held.program.seed);
    }
    drop(handle);
    settle::count("executors live", stats.live_executors, executors)?;
    settle::count("bytes live", stats.live_bytes, bytes)
}

/// The seed of an executor nobody else has.
fn seed(handle: &ThreadHandle, executor: &Executor) -> u64 {
    let guard = handle.pin();
    // SAFETY: as in `check_round`.
    unsafe { check::call(executor.entry(&guard), 0) }.seed
}

/// Drops everything and checks that nothing is left.
fn settle(
    shared: Shared,
    courses: Vec<Course>,
    seen: Seen,
    options: StressOptions,
    time: Duration,
) -> Result<StressReport, Failure> {
    let Shared { arena, slots, .. } = shared;
    let mut counts = Counts::default();
    let mut fingerprints = Vec::new();
    let mut kept = Vec::new();
    for course in courses {
        counts.add(&course.counts);
        fingerprints.push(course.ops.fingerprint());
        kept.extend(course.kept.into_iter().map(|held| held.executor));
    }
    let mut rest: Vec<Executor> = slots.iter().filter_map(|slot| slot.invalidate()).collect();
    let leaked = if options.sabotage == Some(Sabotage::Leak) { rest.pop() } else { None };
    // Half of what is left goes with its owner, half on a thread without a handle.
    drop(kept);
    drop(rest);
    drop(slots);
    let last = settle::settle(&arena, counts.installs)?;
    drop(leaked);
    Ok(StressReport::new(options, &arena, &counts, fingerprints, seen, &last, time))
}
