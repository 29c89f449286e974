//! Executes programs on real arenas, with the oracle beside it.
//!
//! Everything runs on one OS thread, but for drops on threads of their own: the
//! virtual threads are handles, so a failing program fails the same way every
//! time. (Real threads are `tests/threads.rs`'s business.)

use std::sync::{Mutex, PoisonError};
use std::vec;

use jit_arena::{Arena, Executor, Reservation, Slot};

use crate::Outcome;
use crate::code;
use crate::ops::{Op, Pick, Program, Setup};
use crate::oracle::{Id, Oracle, ThreadKey};
use crate::thread::Virtual;

mod end;
mod place;
mod reach;

/// Environment variable that makes programs print each operation before they
/// execute it.
pub const TRACE_VARIABLE: &str = "JIT_ARENA_FUZZ_TRACE";

/// Virtual threads, reservations, executors and slots at most.
const MAX_THREADS: usize = 4;
const MAX_RESERVATIONS: usize = 32;
const MAX_EXECUTORS: usize = 2048;
const MAX_SLOTS: usize = 4;
const MAX_GUARDS: usize = 12;
/// Parks inside parks, and threads spawned for a drop.
const MAX_DEPTH: usize = 4;
const MAX_SPAWNS: usize = 8;

/// An arena, or what is left of it.
#[derive(Debug)]
struct Place {
    number: usize,
    arena: Option<Arena>,
    span: jit_arena::Span,
    /// Whether this OS thread has a kept handle on it.
    is_kept: bool,
}

/// What a program has made and not dropped.
#[derive(Debug)]
pub struct World {
    oracle: Oracle,
    places: Vec<Place>,
    threads: Vec<Virtual>,
    reservations: Vec<(Id, Reservation)>,
    executors: Vec<(Id, Executor)>,
    slots: Vec<(usize, Slot, Option<Id>)>,
    ops: vec::IntoIter<Op>,
    compare_every: usize,
    verify_every: usize,
    steps: usize,
    built: usize,
    keys: ThreadKey,
    depth: usize,
    spawns: usize,
    settled: usize,
    seed: u64,
    trace: bool,
}

/// Programs check that regions are unmapped, so one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Executes a program and drops everything that is left in the end.
///
/// # Panics
///
/// If a check fails; the message says which step it was.
pub fn run(program: Program) -> Outcome {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World {
        oracle: Oracle::default(),
        places: Vec::new(),
        threads: Vec::new(),
        reservations: Vec::new(),
        executors: Vec::new(),
        slots: Vec::new(),
        ops: program.ops.into_iter(),
        compare_every: program.compare_every,
        verify_every: program.verify_every,
        steps: 0,
        built: 0,
        keys: 0,
        depth: 0,
        spawns: 0,
        settled: 0,
        seed: 0,
        trace: std::env::var_os(TRACE_VARIABLE).is_some(),
    };
    if !world.build(program.setup) {
        return Outcome::NotRun;
    }
    while world.step() {}
    let steps = world.steps;
    world.end(program.ending);
    Outcome::Ran { steps }
}

impl World {
    /// Executes the next operation and checks everything; false at the end.
    fn step(&mut self) -> bool {
        let Some(op) = self.ops.next() else { return false };
        if self.trace {
            eprintln!("{:4} {}{op:?}", self.steps, "  ".repeat(self.depth));
        }
        self.steps += 1;
        self.seed = self.seed.wrapping_add(0x1_0001);
        self.execute(op);
        self.check();
        true
    }

    /// What must be true after every operation.
    fn check(&mut self) {
        self.oracle.sweep();
        if self.steps.is_multiple_of(self.compare_every) {
            self.oracle.compare_all();
        }
        for place in &self.places {
            let Some(arena) = &place.arena else { continue };
            self.oracle.check_stats(place.number, arena.span(), &arena.stats());
            if self.steps.is_multiple_of(self.verify_every) {
                verify(arena);
                self.oracle.check_lookups(place.number, arena);
            }
        }
        if self.steps.is_multiple_of(self.verify_every) {
            self.oracle.compare_all();
            for (id, executor) in &self.executors {
                self.oracle.check_executor(*id, executor);
            }
        }
        self.bury_arenas();
    }

    fn execute(&mut self, op: Op) {
        match op {
            Op::Build(setup) => {
                self.build(setup);
            }
            Op::DropArena(place) => {
                if let Some(at) = self.pick_arena(place) {
                    self.places[at].arena = None;
                }
            }
            Op::Attach(place) => self.attach(place),
            Op::Detach(thread) => self.detach(thread),
            Op::Reserve(thread, layout) => self.reserve(thread, layout),
            Op::Install(thread, code, data, seed) => self.install(thread, code, data, seed),
            Op::InstallKept(place, code, seed) => self.install_kept(place, code, seed),
            Op::Open(thread) => {
                if let Some(at) = thread.of(self.threads.len()) {
                    self.threads[at].open();
                }
            }
            Op::Close(thread) => {
                if let Some(at) = thread.of(self.threads.len()) {
                    self.threads[at].close();
                }
            }
            Op::Write(thread, it, at, len, seed) => self.write(thread, it, at, len, seed),
            Op::Fill(thread, it, seed) => self.fill(thread, it, seed),
            Op::Shrink(thread, it, code, data) => self.shrink(thread, it, code, data),
            Op::Publish(thread, it) => self.publish(thread, it),
            Op::Abandon(it) => {
                if let Some(at) = it.of(self.reservations.len()) {
                    let (id, reservation) = self.reservations.swap_remove(at);
                    self.oracle.abandoned(id);
                    drop(reservation);
                }
            }
            Op::Drop(it, way) => {
                if let Some(at) = it.of(self.executors.len()) {
                    self.drop_executor(at, way);
                }
            }
            Op::NewSlot(place) => {
                if let Some(at) = self.pick_arena(place).filter(|_| self.slots.len() < MAX_SLOTS) {
                    let place = &self.places[at];
                    self.slots
                        .extend(place.arena.as_ref().map(|it| (place.number, it.slot(), None)));
                }
            }
            Op::DropSlot(slot) => {
                if let Some(at) = slot.of(self.slots.len()) {
                    let (_, slot, holds) = self.slots.swap_remove(at);
                    holds.into_iter().for_each(|id| self.oracle.retired(id));
                    drop(slot);
                }
            }
            Op::Put(slot, it) => self.put(slot, it),
            Op::Replace(slot, it) => self.replace(slot, it),
            Op::Turn(thread, slot, seed) => self.turn(thread, slot, seed),
            Op::Invalidate(slot) => self.invalidate(slot),
            Op::Pin(thread) => self.pin(thread),
            Op::Unpin(thread, guard) => self.unpin(thread, guard),
            Op::Load(thread, guard, slot) => self.load(thread, guard, slot),
            Op::Call(thread, guard, it) => self.call(thread, guard, it),
            Op::Enter(thread, guard, slot) => self.enter(thread, guard, slot),
            Op::Leave(thread, guard) => self.leave(thread, guard),
            Op::Safepoint(thread, guard) => self.safepoint(thread, guard),
            Op::Park(thread, guard, steps) => self.park(thread, guard, steps),
            Op::Collect(thread) => {
                if let Some(at) = thread.of(self.threads.len()) {
                    self.threads[at].handle().into_iter().for_each(|it| it.collect());
                }
            }
            Op::CollectKept(place) => {
                if let Some(at) = self.pick_arena(place) {
                    self.keep_handle(at);
                    let arena = self.places[at].arena.as_ref();
                    arena.into_iter().for_each(|it| it.collect().expect("not exiting"));
                }
            }
            Op::Settle(place) => {
                if let Some(at) = place.of(self.places.len()) {
                    self.settle(self.places[at].number);
                }
            }
            Op::Verify(place) => {
                if let Some(at) = self.pick_arena(place) {
                    self.places[at].arena.as_ref().into_iter().for_each(verify);
                }
            }
            Op::Burst(thread, count, code, batch) => self.burst(thread, count, code, batch),
            Op::Cull(first, every, count) => {
                for _ in 0..=count {
                    let Some(at) = first.of(self.executors.len()) else { break };
                    let at = (at + usize::from(every)) % self.executors.len();
                    self.drop_executor(at, crate::ops::Way::Here);
                }
            }
        }
    }

    /// Builds an arena, if there is room for one; false if that is impossible
    /// here.
    fn build(&mut self, setup: Setup) -> bool {
        if self.places.len() >= 2 {
            return true;
        }
        let built = Arena::builder()
            .strategy(setup.strategy)
            .code_page(setup.code_page)
            .reserve(setup.reserve)
            .keep_free(setup.keep_free)
            .build();
        let arena = match built {
            Ok(arena) => arena,
            Err(error) => {
                eprintln!("not run: {}: {error}", setup.strategy);
                return false;
            }
        };
        let number = self.built;
        self.built += 1;
        self.oracle.built(number, setup, arena.span());
        let span = arena.span();
        self.places.push(Place { number, arena: Some(arena), span, is_kept: false });
        true
    }

    /// An arena that has not been dropped.
    fn pick_arena(&self, pick: Pick) -> Option<usize> {
        pick.of(self.places.len()).filter(|&at| self.places[at].arena.is_some())
    }

    fn attach(&mut self, pick: Pick) {
        let Some(at) = self.pick_arena(pick).filter(|_| self.threads.len() < MAX_THREADS) else {
            return;
        };
        let number = self.places[at].number;
        let Some(arena) = &self.places[at].arena else { return };
        let handle = arena.attach().expect("attaching never fails here");
        let key = self.key();
        self.threads.push(Virtual::new(key, number, handle));
        self.oracle.attached(key, number);
    }

    fn detach(&mut self, pick: Pick) {
        if let Some(at) = pick.of(self.threads.len()).filter(|&at| self.threads[at].is_idle()) {
            let thread = self.threads.swap_remove(at);
            self.oracle.detached(thread.key);
            drop(thread);
        }
    }

    fn key(&mut self) -> ThreadKey {
        self.keys += 1;
        self.keys
    }

    /// Notes that this OS thread now has a kept handle on an arena, and none
    /// on those that have been dropped.
    fn keep_handle(&mut self, at: usize) {
        if !self.places[at].is_kept {
            self.places[at].is_kept = true;
            self.oracle.counts(self.places[at].number).threads += 1;
        }
        for place in &mut self.places {
            place.is_kept &= place.arena.is_some();
        }
    }

    /// Whether something of an arena is left besides the arena itself.
    fn has_offspring(&self, number: usize) -> bool {
        let of = |id: &Id| self.oracle.block(*id).arena == number;
        self.threads.iter().any(|thread| thread.arena == number)
            || self.reservations.iter().any(|(id, _)| of(id))
            || self.executors.iter().any(|(id, _)| of(id))
            || self.slots.iter().any(|(arena, ..)| *arena == number)
    }

    /// An arena's memory is there as long as anything of it, and no longer.
    fn bury_arenas(&mut self) {
        let mut at = 0;
        while at < self.places.len() {
            let place = &self.places[at];
            let (number, start) = (place.number, place.span.start);
            if place.arena.is_some() || self.has_offspring(number) {
                assert!(code::is_mapped(start), "the region went before what is in it");
                at += 1;
                continue;
            }
            if place.is_kept {
                end::let_go_of_kept_handles();
            }
            assert!(!code::is_mapped(start), "nothing is left of an arena but its region");
            self.oracle.gone(number);
            self.places.swap_remove(at);
        }
    }
}

/// The arena's own walk.
fn verify(arena: &Arena) {
    if let Err(error) = arena.verify() {
        panic!("{error}");
    }
}
