//! The stress test with a language: programs in a small free-threaded Python,
//! on as many threads as are asked for, all their hot code in one arena.
//!
//! The [`oracle`] knows what each program prints; a [`pool`] has a world of each
//! that threads share; the [`crew`] runs them and compares; [`chaos`] disturbs
//! them, and has [`children`] forked, each of which is a [`child`] that goes on;
//! [`sample`] looks on. At the end nothing may be left, and a [`report`]
//! tells, as text, as JSON and as a [`page`] with plots.

mod chaos;
mod child;
mod children;
mod crew;
mod oracle;
mod page;
mod plots;
mod pool;
mod report;
mod sample;
mod signals;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::{Arena, Strategy};
use jit_arena_python::{Options, Runtime};

pub use report::PythonReport;

use crate::audit::Auditor;
use crate::failure::{Check, Failure, Request};
use crate::settle;
use chaos::{Chaos, Done};
use children::{Children, LIMIT};
use crew::Crew;
use oracle::Oracle;
use pool::Pool;
use sample::Samples;

/// What is to be stressed how.
#[derive(Clone, Debug)]
pub struct PythonOptions {
    /// Threads at a time, at least 1; programs start more.
    pub threads: usize,
    /// How long.
    pub time: Duration,
    /// What threads and chaos draw from. Threads meet as the system has it, so
    /// that no two runs are the same.
    pub seed: u64,
    /// The protection strategy; the arena's choice if there is none.
    pub strategy: Option<Strategy>,
    /// Whether to disturb.
    pub chaos: bool,
    /// Whether to fork, with chaos.
    pub forks: bool,
    /// Where to put a page with plots.
    pub page: Option<PathBuf>,
}

/// How often the arena is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Bytes of code that may be committed under chaos: little more than what is
/// live, so that code is made and dropped all the time.
const BUDGET: usize = 1536 << 10;

/// Bytes of live code under chaos above which cold code is dropped.
const LIVE_GOAL: u64 = 384 << 10;

/// The most that a thread's claim takes, in bytes.
const CLAIM: u64 = 32 << 10;

/// What threads and conductor share.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) oracle: Oracle,
    pub(crate) pool: Pool,
    /// The program that chaos has gather, if any: a number beyond all for none.
    pub(crate) focus: AtomicUsize,
    pub(crate) stop: AtomicBool,
    pub(crate) children: Children,
    pub(crate) failure: Mutex<Option<Failure>>,
}

impl Stage {
    pub(crate) fn fail(&self, failure: impl Into<Failure>) {
        locked(&self.failure).get_or_insert(failure.into());
        // Relaxed: only says when to stop.
        self.stop.store(true, Ordering::Relaxed);
    }

    /// A program at random; every second time the one that chaos has in mind.
    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let all = self.oracle.known.len();
        let any = random.usize(..all);
        // Relaxed: a hint.
        let focus = self.focus.load(Ordering::Relaxed);
        if focus < all && random.bool() { focus } else { any }
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// What `mutex` protects: nothing in it is ever half changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What is told while it runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// How long it has run.
    pub time: Duration,
    /// What is going on, in a line.
    pub text: String,
}

/// Runs the stress test; `progress` is told now and then how it goes.
///
/// # Errors
///
/// The arena cannot be built here, an operation of it failed, or a check did
/// not hold. A mapping seen writable and executable is no error of this
/// function: see [`PythonReport::check`].
pub fn run(
    options: &PythonOptions,
    progress: &mut dyn FnMut(&Live),
) -> Result<PythonReport, Failure> {
    let auditor =
        Auditor::start().map_err(|source| Failure::System { what: "start the auditor", source })?;
    let outcome = audited(options, progress);
    let audit = auditor.finish();
    let mut report = outcome?;
    report.set_audit(audit);
    if let Some(path) = &options.page {
        page::write(path, &report).map_err(Failure::Output)?;
    }
    Ok(report)
}

fn audited(
    options: &PythonOptions,
    progress: &mut dyn FnMut(&Live),
) -> Result<PythonReport, Failure> {
    let oracle = Oracle::new()?;
    let mut builder = Arena::builder();
    if let Some(strategy) = options.strategy {
        builder = builder.strategy(strategy);
    }
    let mut runs = Options { warm_calls: 20, warm_loops: 60, warm_exits: 20, ..Options::default() };
    if options.chaos {
        builder = builder.code_budget(BUDGET);
        runs.force_exits = Some(2000);
        runs.live_goal = Some(LIVE_GOAL);
    }
    let runtime = Runtime::new(builder, runs).map_err(Request::from)?;
    let stage = Stage {
        runtime,
        oracle,
        pool: Pool::default(),
        focus: AtomicUsize::new(usize::MAX),
        stop: AtomicBool::new(false),
        children: Children::new(LIMIT)?,
        failure: Mutex::new(None),
    };
    let _signals = signals::Handlers::install(stage.runtime.arena())
        .map_err(|source| Failure::System { what: "install signal handlers", source })?;
    let (crew, samples, done) = perform(&stage, options, progress);
    if let Some(failure) = locked(&stage.failure).take() {
        return Err(failure);
    }
    let time = samples.time();
    stage.children.finish();
    let Stage { runtime, oracle, pool, children, .. } = stage;
    drop(pool);
    let installs = runtime.arena().stats().installs;
    let last = settle::settle(runtime.arena(), installs)?;
    samples.check_committed(samples.peak_threads.max(options.threads as u64) * CLAIM)?;
    signals::check(runtime.arena())?;
    let children = children.outcome();
    Ok(PythonReport::new(options, &runtime, &oracle, &crew, samples, (done, children), &last, time))
}

/// Lets all threads run for as long as is asked.
fn perform(
    stage: &Stage,
    options: &PythonOptions,
    progress: &mut dyn FnMut(&Live),
) -> (Crew, Samples, Done) {
    let crew = Crew::new(options);
    let mut samples = Samples::new();
    let started = Instant::now();
    let done = thread::scope(|scope| {
        for number in 0..options.threads {
            crew.send(stage, scope, number);
        }
        let disturbs = options.chaos.then(|| {
            let (mut chaos, crew) = (Chaos::new(options.seed, options.forks), &crew);
            scope.spawn(move || {
                chaos.reign(stage, crew);
                chaos.done
            })
        });
        let mut told = Duration::ZERO;
        while stage.goes_on() && started.elapsed() < options.time {
            thread::sleep(TICK);
            let elapsed = started.elapsed();
            samples.take(elapsed, &stage.runtime, &crew);
            samples.map_once(elapsed > options.time.mul_f64(0.6), stage.runtime.arena());
            if elapsed.saturating_sub(told) >= 4 * TICK {
                told = elapsed;
                progress(&Live { time: elapsed, text: samples.line() });
            }
        }
        stage.stop.store(true, Ordering::Relaxed);
        match disturbs.map(thread::ScopedJoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(payload)) => {
                stage.fail(settle::panicked(&*payload));
                Done::default()
            }
            None => Done::default(),
        }
    });
    (crew, samples, done)
}

/// A call brought something else than it should.
fn wrong(program: &str, what: &str, got: String, expected: String) -> Check {
    Check::WrongOutput { program: program.to_owned(), what: what.to_owned(), got, expected }
}
