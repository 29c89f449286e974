//! One thread of the stress test: performs its operations and checks what every
//! call brings back.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use jit_arena::{CodeLayout, Entry, Executor, Reservation, Slot, SlotError, ThreadHandle};

use super::course::{Course, Held, Shared, locked};
use super::ops::{Fate, Op, slot_of};
use super::{Sabotage, ops, profiler};
use crate::check::{self, Bytes, Outcome};
use crate::code::Program;
use crate::failure::Check;
use crate::settle;

/// Most executors a thread keeps.
const KEPT: usize = 32;

/// Why a thread ended.
pub(super) enum Ended {
    /// An operation said so.
    Exit(Course),
    /// The round is over, or a check failed.
    Stopped(Course),
}

/// One thread.
pub(super) struct Worker<'s> {
    shared: &'s Shared,
    handle: ThreadHandle,
    course: Course,
    bytes: Bytes,
}

impl<'s> Worker<'s> {
    /// Runs on the calling thread.
    pub(super) fn run(shared: &'s Shared, course: Course) -> Ended {
        let handle = match shared.arena.attach() {
            Ok(handle) => handle,
            Err(e) => {
                shared.fail(Check::operation("attaching a thread", e));
                return Ended::Stopped(course);
            }
        };
        let mut worker = Self { shared, handle, course, bytes: Bytes::default() };
        // Relaxed: only says when to stop.
        while !shared.stop.load(Ordering::Relaxed) {
            let Some(op) = worker.course.ops.next() else { break };
            worker.course.counts.ops += 1;
            if op == Op::Exit {
                return Ended::Exit(worker.course);
            }
            if let Err(failed) = worker.perform(op) {
                shared.fail(failed);
            }
        }
        Ended::Stopped(worker.course)
    }

    fn perform(&mut self, op: Op) -> Result<(), Check> {
        let shared = self.shared;
        match op {
            Op::Install { program } => self.install(program),
            Op::Replace { program, fate } => self.replace(program, fate),
            Op::Invalidate { slot, fate } => {
                let taken = shared.slots[slot].invalidate();
                self.part(taken, fate);
                Ok(())
            }
            Op::Call { slot, argument, compare } => self.call(slot, argument, compare),
            Op::Stay { slot, argument, safepoints, asleep } => {
                self.stay(slot, argument, safepoints, asleep)
            }
            Op::Park { asleep } => {
                self.course.counts.parks += 1;
                self.handle.pin().park(|| thread::sleep(asleep));
                Ok(())
            }
            Op::Oversleep { asleep } => {
                let _guard = self.handle.pin();
                thread::sleep(asleep);
                Ok(())
            }
            Op::Batch { programs, fate } => self.batch(programs, fate),
            Op::Shrink { program, extra, fate } => self.shrink(program, extra, fate),
            Op::Abandon { program, written } => self.abandon(program, written),
            Op::Keep { program } => self.keep(program),
            Op::Part { argument, fate } => self.part_with_kept(argument, fate),
            Op::Open => {
                let mail = std::mem::take(&mut *locked(&shared.mail));
                drop(mail);
                Ok(())
            }
            Op::Collect => {
                self.handle.collect();
                Ok(())
            }
            Op::Visit { program, argument } => self.visit(program, argument),
            Op::Exit => Ok(()),
        }
    }

    /// Reserves, writes and publishes.
    fn publish(&mut self, program: Program) -> Result<Executor, Check> {
        self.bytes.make(&program);
        let before = Instant::now();
        let layout = layout(program);
        let mut reservation =
            self.handle.reserve(layout).map_err(|e| failed("reserving", program, e))?;
        write(&mut self.handle, &mut reservation, &self.bytes, layout.data_offset())
            .map_err(|e| failed("writing", program, e))?;
        let executor = self.finish(reservation, program)?;
        self.course.counts.install.record(nanoseconds(before));
        Ok(executor)
    }

    fn finish(&mut self, reservation: Reservation, program: Program) -> Result<Executor, Check> {
        let executor = self
            .handle
            .publish(reservation)
            .map_err(|e| failed("publishing", program, format!("{e}: {:?}", e.kind)))?;
        self.course.counts.installs += 1;
        Ok(executor)
    }

    fn install(&mut self, program: Program) -> Result<(), Check> {
        let executor = self.publish(program)?;
        match self.slot(program)?.install(executor) {
            Ok(()) => Ok(()),
            Err(SlotError::Occupied(executor)) => {
                self.part(Some(executor), Fate::Retire);
                Ok(())
            }
            Err(e) => Err(failed("putting into its slot", program, e.to_string())),
        }
    }

    fn replace(&mut self, program: Program, fate: Fate) -> Result<(), Check> {
        let executor = self.publish(program)?;
        self.put(executor, program, fate)
    }

    /// Puts an executor into its slot, in place of another.
    fn put(&mut self, executor: Executor, program: Program, fate: Fate) -> Result<(), Check> {
        let replaced = self
            .slot(program)?
            .replace(executor)
            .map_err(|e| failed("putting into its slot", program, e.to_string()))?;
        self.part(replaced, fate);
        Ok(())
    }

    fn slot(&self, program: Program) -> Result<&'s Slot, Check> {
        slot_of(program.seed)
            .and_then(|slot| self.shared.slots.get(slot))
            .ok_or_else(|| Check::Lost { what: name(program) })
    }

    fn part(&mut self, executor: Option<Executor>, fate: Fate) {
        let Some(executor) = executor else { return };
        profiler::dropping(executor.addr());
        let before = Instant::now();
        match fate {
            Fate::Retire => self.handle.retire(executor),
            Fate::Drop => drop(executor),
            Fate::Mail => return locked(&self.shared.mail).push(executor),
        }
        self.course.counts.drop.record(nanoseconds(before));
    }

    fn call(&mut self, slot: usize, argument: u64, compare: bool) -> Result<(), Check> {
        let before = Instant::now();
        let guard = self.handle.pin();
        let Some(entry) = self.shared.slots[slot].load(&guard) else { return Ok(()) };
        let got = self.outcome(entry, argument);
        self.course.counts.call.record(nanoseconds(before));
        let program = verified(got, argument, Some(slot))?;
        self.course.counts.calls_verified += 1;
        if compare {
            self.bytes.make(&program);
            // SAFETY: the executor's own code says that it is this program,
            // and the answer proves it; the entry is the one it was called at.
            unsafe { self.bytes.compare(entry, || name(program)) }?;
            self.course.counts.bytes_compared += program.shape.bytes();
        }
        Ok(())
    }

    fn outcome(&self, entry: Entry<'_>, argument: u64) -> Outcome {
        // SAFETY: all executors of this arena are programs of the full tier.
        let call = || unsafe { check::call(entry, argument) };
        let mut got = profiler::running(entry.addr(), call);
        if self.shared.sabotage == Some(Sabotage::WrongAnswer) {
            got.answer ^= 1;
        }
        got
    }

    /// Calls, lets go of the epoch or sleeps, and calls again: it must be the
    /// same executor, whatever became of the slot.
    fn stay(
        &mut self,
        slot: usize,
        argument: u64,
        safepoints: u32,
        asleep: Duration,
    ) -> Result<(), Check> {
        let shared = self.shared;
        let mut guard = self.handle.pin();
        let Some(mut running) = guard.enter(&shared.slots[slot]) else { return Ok(()) };
        let program = verified(self.outcome(running.entry(), argument), argument, Some(slot))?;
        for round in 1..=safepoints {
            running.safepoint();
            let argument = argument.wrapping_add(u64::from(round));
            same(program, self.outcome(running.entry(), argument), argument)?;
        }
        if !asleep.is_zero() {
            running.park(|| thread::sleep(asleep));
            same(program, self.outcome(running.entry(), !argument), !argument)?;
            self.course.counts.parks += 1;
        }
        self.course.counts.safepoints += u64::from(safepoints);
        self.course.counts.calls_verified +=
            1 + u64::from(safepoints) + u64::from(!asleep.is_zero());
        Ok(())
    }

    fn batch(&mut self, programs: [Program; 3], fate: Fate) -> Result<(), Check> {
        let mut reservations = Vec::with_capacity(programs.len());
        let mut scope = self.handle.write();
        for program in programs {
            self.bytes.make(&program);
            let layout = layout(program);
            let mut reservation =
                scope.reserve(layout).map_err(|e| failed("reserving", program, e))?;
            scope
                .write_at(&mut reservation, 0, &self.bytes.code)
                .and_then(|()| {
                    // Scopes nest: this one changes nothing but the depth.
                    scope.nest().write_at(&mut reservation, layout.data_offset(), &self.bytes.data)
                })
                .map_err(|e| failed("writing", program, e))?;
            reservations.push((reservation, program));
        }
        drop(scope);
        for (reservation, program) in reservations {
            let executor = self.finish(reservation, program)?;
            self.put(executor, program, fate)?;
        }
        Ok(())
    }

    /// Reserves an upper bound, as a compiler does that does not know yet how
    /// long its code will be; the data is placed when it does.
    fn shrink(&mut self, program: Program, extra: u32, fate: Fate) -> Result<(), Check> {
        self.bytes.make(&program);
        let whole = CodeLayout::new(self.bytes.code.len())
            .data(self.bytes.data.len() + extra as usize, 1)
            .tag(program.seed);
        let mut reservation =
            self.handle.reserve(whole).map_err(|e| failed("reserving", program, e))?;
        let mut scope = self.handle.write();
        let written = scope.bytes(&mut reservation).map(|block| {
            let (code, data) = block.split_at_mut(self.bytes.code.len());
            code.copy_from_slice(&self.bytes.code);
            data[..self.bytes.data.len()].copy_from_slice(&self.bytes.data);
        });
        written
            .and_then(|()| {
                scope.shrink(&mut reservation, self.bytes.code.len(), self.bytes.data.len())
            })
            .map_err(|e| failed("shrinking", program, e))?;
        drop(scope);
        let executor = self.finish(reservation, program)?;
        self.put(executor, program, fate)
    }

    fn abandon(&mut self, program: Program, written: bool) -> Result<(), Check> {
        let layout = layout(program);
        let mut reservation =
            self.handle.reserve(layout).map_err(|e| failed("reserving", program, e))?;
        if written {
            self.bytes.make(&program);
            write(&mut self.handle, &mut reservation, &self.bytes, layout.data_offset())
                .map_err(|e| failed("writing", program, e))?;
        }
        self.course.counts.abandoned += 1;
        Ok(())
    }

    fn keep(&mut self, program: Program) -> Result<(), Check> {
        let executor = self.publish(program)?;
        self.course.kept.push(Held { executor, program });
        if self.course.kept.len() > KEPT {
            let oldest = self.course.kept.remove(0);
            self.part(Some(oldest.executor), Fate::Retire);
        }
        Ok(())
    }

    fn part_with_kept(&mut self, argument: u64, fate: Fate) -> Result<(), Check> {
        let kept = &mut self.course.kept;
        let Some(at) = (argument as usize).checked_rem(kept.len()) else { return Ok(()) };
        let held = kept.swap_remove(at);
        let guard = self.handle.pin();
        let got = self.outcome(held.executor.entry(&guard), argument);
        drop(guard);
        same(held.program, got, argument)?;
        self.course.counts.calls_verified += 1;
        self.part(Some(held.executor), fate);
        Ok(())
    }

    /// A thread that nobody attached: it gets by with the thread-local handle,
    /// and leaves its executor to its last breath.
    fn visit(&mut self, program: Program, argument: u64) -> Result<(), Check> {
        self.course.counts.threads_born += 1;
        self.course.counts.installs += 1;
        self.bytes.make(&program);
        let (arena, bytes) = (&self.shared.arena, &self.bytes);
        let visited = thread::scope(|scope| {
            let visitor =
                thread::Builder::new().name("visitor".to_owned()).spawn_scoped(scope, || {
                    let executor = arena
                        .with_thread(|handle| handle.install(&bytes.code, &bytes.data))
                        .map_err(|e| failed("attaching for", program, e))?
                        .map_err(|e| failed("installing", program, e))?;
                    let got = arena.with_thread(|handle| {
                        let guard = handle.pin();
                        // SAFETY: the executor was made of a full program.
                        unsafe { check::call(executor.entry(&guard), argument) }
                    });
                    let got = got.map_err(|e| failed("attaching for", program, e))?;
                    same(program, got, argument)
                });
            match visitor {
                Ok(visitor) => {
                    visitor.join().unwrap_or_else(|panic| Err(settle::panicked(&*panic)))
                }
                Err(e) => Err(failed("starting a thread for", program, e)),
            }
        });
        self.course.counts.calls_verified += 1;
        visited
    }
}

fn layout(program: Program) -> CodeLayout {
    CodeLayout::new(program.shape.code as usize)
        .data(program.shape.data as usize, 1)
        .tag(program.seed)
}

fn write(
    handle: &mut ThreadHandle,
    reservation: &mut Reservation,
    bytes: &Bytes,
    data_offset: usize,
) -> Result<(), jit_arena::WriteError> {
    let mut scope = handle.write();
    scope.write_at(reservation, 0, &bytes.code)?;
    scope.write_at(reservation, data_offset, &bytes.data)
}

/// Checks what some executor brought back, by the seed it says it has.
fn verified(got: Outcome, argument: u64, slot: Option<usize>) -> Result<Program, Check> {
    let program = ops::program(got.seed);
    if slot_of(got.seed) != slot {
        let what = slot.map_or_else(|| "an executor".to_owned(), |slot| format!("slot {slot}"));
        return Err(Check::WrongSeed { what, got: got.seed });
    }
    same(program, got, argument)?;
    Ok(program)
}

/// Checks what an executor that must be `program` brought back.
fn same(program: Program, got: Outcome, argument: u64) -> Result<(), Check> {
    check::outcome(&program, argument, got, || name(program))
}

fn name(program: Program) -> String {
    format!("executor {:#x}", program.seed)
}

fn failed(
    doing: &str,
    program: Program,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Check {
    Check::operation(format!("{doing} {}", name(program)), source)
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
