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

use crate::rival::{Rival, RivalThread, Room, Usage};
use crate::sample::cpu_time;
use crate::workload::{self, Churn};

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

type Mailbox<R> = ArrayQueue<Vec<<<R as Rival>::Thread as RivalThread>::Code>>;

/// Executors in one piece of mail.
const LETTER: usize = 32;

/// One thread of a crew.
struct Hand<R: Rival> {
    thread: R::Thread,
    slots: Vec<Option<<R::Thread as RivalThread>::Code>>,
    churn: Churn,
    source: Vec<u8>,
    plan: Plan,
    mail: Arc<Vec<Mailbox<R>>>,
    index: usize,
    letter: Vec<<R::Thread as RivalThread>::Code>,
}

impl<R: Rival> Hand<R> {
    fn new(rival: &R, plan: Plan, index: usize, mail: Arc<Vec<Mailbox<R>>>) -> Self {
        let slots = (plan.live / plan.threads).max(1);
        let percent = match plan.frees {
            Frees::Direct => 0,
            Frees::Mailed { percent, .. } => percent,
        };
        let mut hand = Self {
            thread: rival.attach(),
            slots: (0..slots).map(|_| None).collect(),
            churn: Churn::new(index as u64 + 7, slots, percent),
            source: workload::source(),
            plan,
            mail,
            index,
            letter: Vec::with_capacity(LETTER),
        };
        let mut sizes = Churn::new(index as u64 + 1007, slots, 0);
        for slot in 0..slots {
            let size = sizes.next(1)[0].size as usize;
            hand.slots[slot] = Some(hand.thread.install(&hand.source[..size]));
        }
        hand
    }

    fn work(&mut self, task: &Task) -> Report {
        let mut latency = None;
        let cpu = cpu_time();
        let start = Instant::now();
        let mut ops = 0;
        match *task {
            Task::Churn(count) => {
                ops = count;
                match self.plan.frees {
                    Frees::Direct if self.plan.latency => {
                        let histogram = latency.insert(new_histogram());
                        self.churn_timed(count, histogram);
                    }
                    Frees::Direct => self.churn_direct(count),
                    Frees::Mailed { to_other, .. } => self.churn_mailed(count, to_other),
                }
            }
            Task::Thin(percent) => {
                for (at, op) in self.churn.next(usize::MAX).iter().enumerate() {
                    if at >= self.slots.len() {
                        break;
                    }
                    if op.size * 7919 % 100 < percent
                        && let Some(code) = self.slots[at].take()
                    {
                        self.thread.free(code);
                    }
                }
            }
            Task::Collect => self.thread.collect(),
        }
        let end = Instant::now();
        Report { start, end, cpu: cpu_time().saturating_sub(cpu), ops, latency }
    }

    // Out of line, so that a profiler can be told to look at nothing else.
    #[inline(never)]
    fn churn_direct(&mut self, mut count: usize) {
        while count > 0 {
            let ops = self.churn.next(count);
            count -= ops.len();
            for op in ops {
                let slot = &mut self.slots[op.slot as usize];
                if let Some(code) = slot.take() {
                    self.thread.free(code);
                }
                *slot = Some(self.thread.install(&self.source[..op.size as usize]));
            }
        }
    }

    fn churn_timed(&mut self, mut count: usize, histogram: &mut Histogram<u64>) {
        let mut before = Instant::now();
        while count > 0 {
            let ops = self.churn.next(count);
            count -= ops.len();
            for op in ops {
                let slot = &mut self.slots[op.slot as usize];
                if let Some(code) = slot.take() {
                    self.thread.free(code);
                }
                *slot = Some(self.thread.install(&self.source[..op.size as usize]));
                let now = Instant::now();
                histogram.saturating_record((now - before).as_nanos() as u64);
                before = now;
            }
        }
    }

    fn churn_mailed(&mut self, mut count: usize, to_other: bool) {
        let neighbour = (self.index + usize::from(to_other)) % self.mail.len();
        while count > 0 {
            let ops = self.churn.next(count);
            count -= ops.len();
            for op in ops {
                let slot = &mut self.slots[op.slot as usize];
                match slot.take() {
                    Some(code) if op.remote => self.letter.push(code),
                    Some(code) => self.thread.free(code),
                    None => {}
                }
                *slot = Some(self.thread.install(&self.source[..op.size as usize]));
                if self.letter.len() == LETTER {
                    // The letter that came is the paper of the next one.
                    let mut came = self.mail[self.index].pop().unwrap_or_default();
                    for code in came.drain(..) {
                        self.thread.free(code);
                    }
                    let letter = std::mem::replace(&mut self.letter, came);
                    if let Err(letter) = self.mail[neighbour].push(letter) {
                        // The neighbour is behind, or done with its round.
                        for code in letter {
                            self.thread.free(code);
                        }
                    }
                }
            }
        }
    }
}

impl<R: Rival> Drop for Hand<R> {
    fn drop(&mut self) {
        for code in self.slots.iter_mut().filter_map(Option::take).chain(self.letter.drain(..)) {
            self.thread.free(code);
        }
        while let Some(letter) = self.mail[self.index].pop() {
            for code in letter {
                self.thread.free(code);
            }
        }
    }
}
