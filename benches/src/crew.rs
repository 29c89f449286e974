//! Crews of threads that churn in rounds.
//!
//! A crew is one rival with its threads, each waiting for the next round, so
//! that several crews can take turns ([`crate::race`]): only one works at a
//! time, and what is compared is a round of one with the round of another right
//! after it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;

use crate::rival::{Rival, Room, Usage};

use crate::workload;

mod hand;

use hand::{Hand, Mailbox};

/// What a crew is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Threads.
    pub threads: usize,
    /// Live executors in all.
    pub live: usize,
    /// How dead ones travel.
    pub frees: Frees,
    /// Whether to take the time of each operation.
    pub latency: bool,
}

impl Plan {
    /// Each thread frees what it made; operations are not timed one by one.
    #[must_use]
    pub fn new(threads: usize, live: usize) -> Self {
        Self { threads, live, frees: Frees::Direct, latency: false }
    }

    /// The same, with the time of each operation taken.
    #[must_use]
    pub fn timed(self) -> Self {
        Self { latency: true, ..self }
    }

    /// What a rival needs room for.
    #[must_use]
    pub fn room(&self) -> Room {
        Room { bytes: (self.live as f64 * workload::MEAN) as usize, threads: self.threads }
    }
}

/// How dead executors travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frees {
    /// Each is freed at once, by the thread that made it.
    Direct,
    /// So many in a hundred go through a mailbox to the thread that frees
    /// them: another one, or (to pay for the mailbox just the same) oneself.
    Mailed {
        /// In a hundred.
        percent: u32,
        /// Whether the mailbox is another thread's.
        to_other: bool,
    },
}

/// What one round took.
#[derive(Clone, Debug)]
pub struct Round {
    /// Operations in all.
    pub ops: usize,
    /// From the first thread's start to the last one's end.
    pub wall: Duration,
    /// Processor time of all threads.
    pub cpu: Duration,
    /// Nanoseconds of single operations, if they were to be taken.
    pub latency: Option<Histogram<u64>>,
}

impl Round {
    /// Processor time of an operation, in nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.ops as f64
    }

    /// Time of an operation, in nanoseconds: with several threads, the inverse
    /// of their throughput together.
    #[must_use]
    pub fn wall_ns(&self) -> f64 {
        self.wall.as_nanos() as f64 / self.ops as f64
    }

    /// What a thousandth of the operations exceed, in nanoseconds; NaN where
    /// they were not timed.
    #[must_use]
    pub fn p999_ns(&self) -> f64 {
        self.latency.as_ref().map_or(f64::NAN, |it| it.value_at_quantile(0.999) as f64)
    }
}

enum Task {
    Churn(usize),
    /// Frees so many in a hundred, at random.
    Thin(u32),
    Collect,
}

/// Ends the program when its thread panics: the others would wait for it for
/// ever.
struct EndTogether;

impl Drop for EndTogether {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

struct Report {
    start: Instant,
    end: Instant,
    cpu: Duration,
    ops: usize,
    latency: Option<Histogram<u64>>,
}

/// A rival at work. See the module.
pub struct Crew {
    name: String,
    tasks: Vec<Sender<Task>>,
    reports: Receiver<Report>,
    workers: Vec<JoinHandle<()>>,
    usage: Box<dyn Fn() -> (Usage, String)>,
}

impl Crew {
    /// Starts the threads and fills all slots.
    pub fn new<R: Rival + Clone>(rival: R, plan: Plan) -> Self {
        let (report, reports) = channel();
        let start = Arc::new(Barrier::new(plan.threads));
        let mail: Arc<Vec<Mailbox<R>>> =
            Arc::new((0..plan.threads).map(|_| ArrayQueue::new(4)).collect());
        let mut tasks = Vec::new();
        let mut workers = Vec::new();
        for index in 0..plan.threads {
            let (task, inbox) = channel();
            tasks.push(task);
            let (rival, report) = (rival.clone(), report.clone());
            let (start, mail) = (Arc::clone(&start), Arc::clone(&mail));
            workers.push(thread::spawn(move || {
                let _whole = EndTogether;
                let mut hand = Hand::new(&rival, plan, index, mail);
                while let Ok(task) = inbox.recv() {
                    start.wait();
                    if report.send(hand.work(&task)).is_err() {
                        return;
                    }
                }
            }));
        }
        let name = rival.name();
        let crew = Self {
            name,
            tasks,
            reports,
            workers,
            usage: Box::new(move || (rival.usage(), rival.note())),
        };
        // Hands answer only once they are full.
        crew.churn(plan.threads);
        crew
    }

    /// Replacements that take about `millis`, by a short trial.
    #[must_use]
    pub fn ops_in(&self, millis: f64) -> usize {
        let trial = self.churn(1000 * self.tasks.len());
        (millis * 1e6 / trial.wall_ns()).clamp(100.0, 1e7) as usize
    }

    /// The rival's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the rival holds now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        (self.usage)().0
    }

    /// What else the rival has to say.
    #[must_use]
    pub fn note(&self) -> String {
        (self.usage)().1
    }

    /// Replaces `ops` executors in all.
    pub fn churn(&self, ops: usize) -> Round {
        let each = ops.div_ceil(self.tasks.len());
        self.all(|| Task::Churn(each))
    }

    /// Frees `percent` of the executors at random, and has the rival give back
    /// to the system what it can.
    pub fn thin(&self, percent: u32) {
        self.all(|| Task::Thin(percent));
        for _ in 0..4 {
            self.all(|| Task::Collect);
        }
    }

    fn all(&self, task: impl Fn() -> Task) -> Round {
        for sender in &self.tasks {
            sender.send(task()).expect("worker is gone");
        }
        let reports: Vec<Report> =
            self.tasks.iter().map(|_| self.reports.recv().expect("worker is gone")).collect();
        let start = reports.iter().map(|it| it.start).min().expect("no worker");
        let end = reports.iter().map(|it| it.end).max().expect("no worker");
        let mut latency = None;
        for histogram in reports.iter().filter_map(|it| it.latency.as_ref()) {
            latency.get_or_insert_with(new_histogram).add(histogram).expect("same range");
        }
        Round {
            ops: reports.iter().map(|it| it.ops).sum(),
            wall: end - start,
            cpu: reports.iter().map(|it| it.cpu).sum(),
            latency,
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.tasks.clear();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds")
}
