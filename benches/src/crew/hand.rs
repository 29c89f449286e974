//! One thread of a crew: its slots, and what it does in a round.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Frees, Plan, Report, Task, new_histogram};
use crate::rival::{Rival, RivalThread};
use crate::sample::cpu_time;
use crate::workload::{self, Churn, Op};

/// Where executors wait for the thread that frees them.
pub(super) type Mailbox<R> = ArrayQueue<Vec<<<R as Rival>::Thread as RivalThread>::Code>>;

/// Executors in one piece of mail.
const LETTER: usize = 32;

type Code<R> = <<R as Rival>::Thread as RivalThread>::Code;

/// One thread of a crew.
pub(super) struct Hand<R: Rival> {
    plan: Plan,
    churn: Churn,
    desk: Desk<R>,
}

/// What a thread works with.
struct Desk<R: Rival> {
    thread: R::Thread,
    slots: Vec<Option<Code<R>>>,
    source: Vec<u8>,
    mail: Arc<Vec<Mailbox<R>>>,
    index: usize,
    letter: Vec<Code<R>>,
}

impl<R: Rival> Hand<R> {
    pub(super) fn new(rival: &R, plan: Plan, index: usize, mail: Arc<Vec<Mailbox<R>>>) -> Self {
        let slots = (plan.live / plan.threads).max(1);
        let percent = match plan.frees {
            Frees::Direct => 0,
            Frees::Mailed { percent, .. } => percent,
        };
        let mut desk = Desk {
            thread: rival.attach(),
            slots: Vec::with_capacity(slots),
            source: workload::source(),
            mail,
            index,
            letter: Vec::with_capacity(LETTER),
        };
        let mut sizes = Churn::new(index as u64 + 1007, slots, 0);
        for _ in 0..slots {
            let code = desk.install(sizes.next(1)[0]);
            desk.slots.push(Some(code));
        }
        Self { plan, churn: Churn::new(index as u64 + 7, slots, percent), desk }
    }

    pub(super) fn work(&mut self, task: &Task) -> Report {
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
                let mut rng = SmallRng::seed_from_u64(self.desk.index as u64);
                for slot in &mut self.desk.slots {
                    if rng.random_range(0..100) < percent
                        && let Some(code) = slot.take()
                    {
                        self.desk.thread.free(code);
                    }
                }
            }
            Task::Collect => self.desk.thread.collect(),
        }
        let end = Instant::now();
        Report { start, end, cpu: cpu_time().saturating_sub(cpu), ops, latency }
    }

    /// Replaces `count` executors: `dispose` gets each old one, and `done` is
    /// told of each that is replaced.
    #[inline(always)]
    fn replace(
        &mut self,
        mut count: usize,
        mut dispose: impl FnMut(&mut Desk<R>, Op, Code<R>),
        mut done: impl FnMut(&mut Desk<R>),
    ) {
        while count > 0 {
            let ops = self.churn.next(count);
            count -= ops.len();
            for &op in ops {
                let slot = op.slot as usize;
                if let Some(code) = self.desk.slots[slot].take() {
                    dispose(&mut self.desk, op, code);
                }
                self.desk.slots[slot] = Some(self.desk.install(op));
                done(&mut self.desk);
            }
        }
    }

    // Out of line, so that a profiler can be told to look at nothing else.
    #[inline(never)]
    fn churn_direct(&mut self, count: usize) {
        self.replace(count, |desk, _, code| desk.thread.free(code), |_| {});
    }

    fn churn_timed(&mut self, count: usize, histogram: &mut Histogram<u64>) {
        let mut before = Instant::now();
        let record = |_: &mut Desk<R>| {
            let now = Instant::now();
            histogram.saturating_record((now - before).as_nanos() as u64);
            before = now;
        };
        self.replace(count, |desk, _, code| desk.thread.free(code), record);
    }

    fn churn_mailed(&mut self, count: usize, to_other: bool) {
        let dispose = |desk: &mut Desk<R>, op: Op, code| {
            if op.remote {
                desk.letter.push(code);
            } else {
                desk.thread.free(code);
            }
        };
        let post = |desk: &mut Desk<R>| {
            if desk.letter.len() == LETTER {
                desk.post((desk.index + usize::from(to_other)) % desk.mail.len());
            }
        };
        self.replace(count, dispose, post);
    }
}

impl<R: Rival> Desk<R> {
    #[inline(always)]
    fn install(&mut self, op: Op) -> Code<R> {
        self.thread.install(&self.source[..op.size as usize])
    }

    /// Sends the letter, and frees what came in another.
    fn post(&mut self, neighbour: usize) {
        // The letter that came is the paper of the next one.
        let mut came = self.mail[self.index].pop().unwrap_or_default();
        came.drain(..).for_each(|code| self.thread.free(code));
        let letter = std::mem::replace(&mut self.letter, came);
        if let Err(letter) = self.mail[neighbour].push(letter) {
            // The neighbour is behind, or done with its round.
            letter.into_iter().for_each(|code| self.thread.free(code));
        }
    }
}

impl<R: Rival> Drop for Desk<R> {
    fn drop(&mut self) {
        for code in self.slots.iter_mut().filter_map(Option::take).chain(self.letter.drain(..)) {
            self.thread.free(code);
        }
        while let Some(letter) = self.mail[self.index].pop() {
            letter.into_iter().for_each(|code| self.thread.free(code));
        }
    }
}
