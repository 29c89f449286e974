//! One thread of a replay: performs its events in the order of the trace.
//!
//! Threads do not run in lockstep. Each tells how far it has come; none runs
//! further ahead of the slowest than the plan's window, and a free waits for
//! its allocation on whichever thread. The earliest event not yet performed
//! never has to wait for another, so somebody always gets on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;
use jit_arena::{CodeLayout, Guard, Slot, ThreadHandle};

use super::measure::Measures;
use super::shared::Shared;
use super::{Sabotage, Speed};
use crate::check::{self, Bytes};
use crate::code::{Tier, Words};
use crate::failure::{Check, Failure};
use crate::resident::resident_bytes;
use crate::trace::{Event, Op};

/// Longest sleep at recorded speed before looking whether to stop.
const NAP: Duration = Duration::from_millis(20);

/// Of so many events, one is followed by a call of some executor installed
/// earlier.
const RECALL_EVERY: u32 = 2;

/// Why a thread ends early.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another thread failed.
    Stopped,
    /// This one did.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

/// Ends the replay when its thread panics: the others would wait for it.
struct StopOnPanic<'r>(&'r Shared<'r>);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// One thread.
#[derive(Debug)]
pub(super) struct Worker<'r> {
    shared: &'r Shared<'r>,
    index: usize,
    handle: ThreadHandle,
    measures: Measures,
    bytes: Bytes,
    /// Picks executors to call again, and arguments.
    words: Words,
    /// Executors of this trace up to here may have been born.
    seen: u32,
    /// Every thread has come at least so far.
    slowest: usize,
}

impl<'r> Worker<'r> {
    /// Runs on the calling thread.
    pub(super) fn run(shared: &'r Shared<'r>, index: usize) -> Measures {
        let _stop = StopOnPanic(shared);
        let attached = shared.arena.attach();
        let handle = match attached {
            Ok(handle) => handle,
            Err(e) => {
                shared.fail(Check::operation("attaching a thread", e).into());
                return Measures::default();
            }
        };
        let mut worker = Self {
            shared,
            index,
            handle,
            measures: Measures::default(),
            bytes: Bytes::default(),
            words: Words::new(index as u64),
            seen: 0,
            slowest: 0,
        };
        let plan = shared.plan;
        for &event in &plan.per_thread[index] {
            match worker.event(event as usize) {
                Ok(()) => {}
                Err(Ended::Stopped) => break,
                Err(Ended::Failed(failure)) => {
                    shared.fail(failure);
                    break;
                }
            }
        }
        shared.set_position(index, plan.weight.len());
        worker.measures
    }

    fn event(&mut self, index: usize) -> Result<(), Ended> {
        self.shared.set_position(self.index, index);
        self.wait_for_others(index)?;
        let event = self.shared.trace.events[index];
        let panics = self.index == 0 && self.shared.sabotage == Some(Sabotage::Panic);
        assert!(!panics, "as it was asked to");
        self.wait_for_time(event)?;
        match event.op {
            Op::Alloc => self.install(event.executor)?,
            Op::Free => self.drop_executor(event.executor)?,
        }
        self.measure(index)?;
        if (index as u32).is_multiple_of(RECALL_EVERY) {
            self.recall()?;
        }
        Ok(())
    }

    /// Waits until no thread is further behind than the window.
    fn wait_for_others(&mut self, index: usize) -> Result<(), Ended> {
        let backoff = Backoff::new();
        while index > self.slowest + self.shared.plan.window {
            if self.shared.stopped() {
                return Err(Ended::Stopped);
            }
            self.slowest = self.shared.position();
            backoff.snooze();
        }
        Ok(())
    }

    /// At recorded speed, waits for the event's time.
    fn wait_for_time(&self, event: Event) -> Result<(), Ended> {
        if self.shared.speed == Speed::Max {
            return if self.shared.stopped() { Err(Ended::Stopped) } else { Ok(()) };
        }
        let first = self.shared.trace.events[0].t_ns;
        let due = Duration::from_nanos(event.t_ns - first);
        loop {
            if self.shared.stopped() {
                return Err(Ended::Stopped);
            }
            let Some(left) = due.checked_sub(self.shared.started.elapsed()) else { return Ok(()) };
            std::thread::sleep(left.min(NAP));
        }
    }

    fn install(&mut self, executor: u32) -> Result<(), Ended> {
        let shared = self.shared;
        let program = shared.program(executor);
        self.bytes.make(&program);
        let slot = &shared.slots[executor as usize];

        let before = Instant::now();
        install(&mut self.handle, &self.bytes, program.seed, slot)
            .map_err(|failure| failure.of(&shared.name(executor)))?;
        let took = elapsed(before);

        self.measures.install.record(took);
        self.measures.in_arena += took;
        // Relaxed: sums of what threads count; nothing hangs on their order.
        let live = shared.live.fetch_add(program.shape.bytes(), Ordering::Relaxed);
        shared.peak_live.fetch_max(live + program.shape.bytes(), Ordering::Relaxed);
        self.seen = self.seen.max(executor + 1);
        self.verify(executor)?;
        shared.set_born(executor);
        Ok(())
    }

    fn drop_executor(&mut self, executor: u32) -> Result<(), Ended> {
        let shared = self.shared;
        let backoff = Backoff::new();
        while !shared.is_born(executor) {
            if shared.stopped() {
                return Err(Ended::Stopped);
            }
            backoff.snooze();
        }
        self.bytes.make(&shared.program(executor));
        self.verify(executor)?;

        let before = Instant::now();
        let dropped = shared.slots[executor as usize].invalidate();
        let Some(dropped) = dropped else {
            return Err(Check::Lost { what: shared.name(executor) }.into());
        };
        self.handle.retire(dropped);
        let took = elapsed(before);

        self.measures.drop.record(took);
        self.measures.in_arena += took;
        shared.live.fetch_sub(shared.program(executor).shape.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Calls an executor that must be there and compares its bytes with those
    /// in `self.bytes`.
    fn verify(&mut self, executor: u32) -> Result<(), Ended> {
        let shared = self.shared;
        let argument = self.words.next_word();
        let guard = self.handle.pin();
        match call(shared, &guard, executor, argument)? {
            Called::NotThere => return Err(Check::Lost { what: shared.name(executor) }.into()),
            Called::NoFunction => {}
            Called::Verified => self.measures.calls_verified += 1,
        }
        let Some(entry) = shared.slots[executor as usize].load(&guard) else {
            return Err(Check::Lost { what: shared.name(executor) }.into());
        };
        if shared.sabotage == Some(Sabotage::WrongByte) {
            let last = self.bytes.code.len() - 1;
            self.bytes.code[last] ^= 1;
        }
        // SAFETY: the slot only ever holds this executor, made of these bytes.
        unsafe { self.bytes.compare(entry, || shared.name(executor)) }?;
        self.measures.bytes_compared += shared.program(executor).shape.bytes();
        Ok(())
    }

    /// Calls some executor installed earlier, perhaps by another thread, which
    /// perhaps drops it at this moment.
    fn recall(&mut self) -> Result<(), Ended> {
        let pick = self.words.next_word();
        let argument = self.words.next_word();
        // The latest die soonest, so half of the calls go to them.
        let from = if pick & 1 == 0 { self.seen.saturating_sub(64) } else { 0 };
        let Some(executor) = (pick >> 1).checked_rem(u64::from(self.seen - from)) else {
            return Ok(());
        };
        let guard = self.handle.pin();
        if let Called::Verified = call(self.shared, &guard, from + executor as u32, argument)? {
            self.measures.calls_verified += 1;
        }
        Ok(())
    }

    /// Counts what the arena holds after an event, for as long as the trace
    /// stays so.
    fn measure(&mut self, index: usize) -> Result<(), Ended> {
        let shared = self.shared;
        let stats = shared.arena.stats();
        let live = shared.live.load(Ordering::Relaxed);
        let weight = shared.plan.weight[index];
        self.measures.held.count(weight, live, stats.committed_bytes, stats.retired_bytes);
        self.measures.peak_committed = self.measures.peak_committed.max(stats.committed_bytes);
        let weight = shared.plan.resident_weight[index];
        if weight > 0 && cfg!(target_os = "linux") {
            let span = shared.arena.span();
            let resident = resident_bytes(span.start, span.len)
                .map_err(|source| Failure::System { what: "read /proc/self/smaps", source })?;
            self.measures.held.count_resident(weight, live, resident);
        }
        Ok(())
    }
}

/// What became of a call.
enum Called {
    /// The slot is empty.
    NotThere,
    /// The executor is too small to be called.
    NoFunction,
    /// It answered as it should.
    Verified,
}

fn call(
    shared: &Shared<'_>,
    guard: &Guard<'_>,
    executor: u32,
    argument: u64,
) -> Result<Called, Check> {
    let Some(entry) = shared.slots[executor as usize].load(guard) else {
        return Ok(Called::NotThere);
    };
    let program = shared.program(executor);
    if program.tier() == Tier::Nothing {
        return Ok(Called::NoFunction);
    }
    // SAFETY: the slot holds this program, which is a function.
    let mut got = unsafe { check::call(entry, argument) };
    if shared.sabotage == Some(Sabotage::WrongAnswer) {
        got.answer ^= 1;
    }
    check::outcome(&program, argument, got, || shared.name(executor))?;
    Ok(Called::Verified)
}

/// A step of an install that failed, without the executor it was about.
struct InstallFailed {
    step: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl InstallFailed {
    fn at(step: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { step, source: source.into() }
    }

    fn of(self, what: &str) -> Check {
        Check::operation(format!("{} {what}", self.step), self.source)
    }
}

/// The whole path of an executor into a slot: what a replay's install latency
/// measures.
fn install(
    handle: &mut ThreadHandle,
    bytes: &Bytes,
    tag: u64,
    slot: &Slot,
) -> Result<(), InstallFailed> {
    let layout = CodeLayout::new(bytes.code.len()).data(bytes.data.len(), 1).tag(tag);
    let mut reservation = handle.reserve(layout).map_err(|e| InstallFailed::at("reserving", e))?;
    let mut scope = handle.write();
    let written = scope
        .write_at(&mut reservation, 0, &bytes.code)
        .and_then(|()| scope.write_at(&mut reservation, layout.data_offset(), &bytes.data));
    drop(scope);
    written.map_err(|e| InstallFailed::at("writing", e))?;
    let executor = handle
        .publish(reservation)
        .map_err(|e| InstallFailed::at("publishing", format!("{e}: {:?}", e.kind)))?;
    slot.install(executor).map_err(|e| InstallFailed::at("putting into its slot", e.to_string()))
}

fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
