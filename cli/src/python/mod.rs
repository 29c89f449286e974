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

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::{Arena, Strategy};
use jit_arena_python::{Options, Runtime};

pub use page::Page;
pub use report::PythonReport;

use crate::audit::Auditor;
use crate::failure::{Check, Failure, Request, chain};
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
}

/// A run that has ended, well or not.
#[derive(Debug)]
pub struct Ended {
    /// What it did and saw.
    pub report: PythonReport,
    /// What did not hold, or was refused, and ended it. What a run can find only
    /// when it is over is left to [`PythonReport::check`].
    pub held: Result<(), Failure>,
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
/// It cannot begin: the arena cannot be built here, or what programs print is not
/// known. What went wrong later is [told](Ended::held) with the report.
pub fn run(options: &PythonOptions, progress: &mut dyn FnMut(&Live)) -> Result<Ended, Failure> {
    let auditor =
        Auditor::start().map_err(|source| Failure::System { what: "start the auditor", source })?;
    let outcome = Oracle::new().and_then(|oracle| audited(options, oracle, progress));
    let audit = auditor.finish();
    let mut ended = outcome?;
    ended.report.set_audit(audit);
    Ok(ended)
}

fn audited(
    options: &PythonOptions,
    oracle: Oracle,
    progress: &mut dyn FnMut(&Live),
) -> Result<Ended, Failure> {
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
    let time = samples.time();
    let failure = locked(&stage.failure).take();
    if failure.is_none() {
        stage.children.finish();
    }
    let Stage { runtime, oracle, pool, children, .. } = stage;
    let held = match failure {
        Some(failure) => Err(failure),
        None => {
            drop(pool);
            settle_all(options, runtime.arena(), &samples).map_err(Failure::from)
        }
    };
    let (last, counted) = (runtime.arena().stats(), (done, children.outcome()));
    let mut report =
        PythonReport::new(options, &runtime, &oracle, &crew, samples, counted, &last, time);
    report.failure = held.as_ref().err().map(|failure| chain(failure));
    Ok(Ended { report, held })
}

/// Checks that nothing is left of a run that has gone well, and that nothing was
/// too much while it went.
fn settle_all(options: &PythonOptions, arena: &Arena, samples: &Samples) -> Result<(), Check> {
    settle::settle(arena, arena.stats().installs)?;
    samples.check_committed(samples.peak_threads.max(options.threads as u64) * CLAIM)?;
    signals::check(arena)
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
            let body = move || {
                chaos.reign(stage, crew);
                chaos.done
            };
            thread::Builder::new().name("chaos".to_owned()).spawn_scoped(scope, body)
        });
        let disturbs = match disturbs.transpose() {
            Ok(disturbs) => disturbs,
            Err(source) => {
                stage.fail(Failure::System { what: "start a thread", source });
                None
            }
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_fails_has_a_report_and_a_page() {
        let mut oracle = Oracle::new().unwrap();
        for known in &mut oracle.known {
            known.results.fill("never".to_owned());
        }
        let options = PythonOptions {
            threads: 2,
            time: Duration::from_secs(600),
            seed: 1,
            strategy: None,
            chaos: false,
            forks: false,
        };
        let Ended { report, held } = audited(&options, oracle, &mut |_| ()).unwrap();
        let failure = held.unwrap_err();
        assert!(matches!(failure, Failure::Check(Check::WrongOutput { .. })), "{failure}");
        assert_eq!(report.failure, Some(failure.to_string()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page.html");
        Page::create(&path).unwrap().write(&report).unwrap();
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page.contains("<td>failed: program ") && page.ends_with("</html>\n"), "{page}");
    }
}
