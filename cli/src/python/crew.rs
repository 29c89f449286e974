//! The threads that run programs and compare.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Scope};

use jit_arena_python::{THREAD_STACK, Thread};

use super::oracle::ARGUMENTS;
use super::{PythonOptions, Stage, child, locked, wrong};
use crate::failure::{Check, Failure};

/// Calls of a life, at most, under chaos.
const LIFE: u32 = 60;

/// The threads.
#[derive(Debug)]
pub(crate) struct Crew {
    seed: u64,
    /// Whether threads end and others take their places.
    mortal: bool,
    /// Those alive, by number; a thread is gone from here before it ends.
    alive: Mutex<BTreeMap<usize, libc::pthread_t>>,
    pub(crate) born: AtomicU64,
    /// Calls whose result was compared, by number.
    calls: Vec<AtomicU64>,
}

impl Crew {
    pub(crate) fn new(options: &PythonOptions) -> Self {
        Self {
            seed: options.seed,
            mortal: options.chaos,
            alive: Mutex::default(),
            born: AtomicU64::new(0),
            calls: (0..options.threads).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many are alive.
    pub(crate) fn alive(&self) -> usize {
        locked(&self.alive).len()
    }

    /// Calls that each number has made so far, its predecessors' too.
    pub(crate) fn calls(&self) -> Vec<u64> {
        // Relaxed: counts.
        self.calls.iter().map(|calls| calls.load(Ordering::Relaxed)).collect()
    }

    /// Sends a signal to one of the threads; whether there was one.
    pub(crate) fn signal(&self, random: &mut fastrand::Rng, signal: libc::c_int) -> bool {
        let alive = locked(&self.alive);
        let Some(thread) = random.choice(alive.values()) else { return false };
        // SAFETY: threads leave the list before they end, under its lock.
        unsafe { libc::pthread_kill(*thread, signal) == 0 }
    }

    /// Lets a thread be born, and its successors, until all are told to stop.
    pub(crate) fn send<'scope>(
        &'scope self,
        stage: &'scope Stage,
        scope: &'scope Scope<'scope, '_>,
        number: usize,
    ) {
        let life = self.born.fetch_add(1, Ordering::Relaxed);
        let body = move || {
            // SAFETY: always works.
            let this = unsafe { libc::pthread_self() };
            locked(&self.alive).insert(number, this);
            let lived = self.live(stage, number, life);
            locked(&self.alive).remove(&number);
            match lived {
                Ok(()) if stage.goes_on() => self.send(stage, scope, number),
                Ok(()) => {}
                Err(check) => stage.fail(check),
            }
        };
        let born = thread::Builder::new()
            .name(format!("crew-{number}"))
            .stack_size(THREAD_STACK)
            .spawn_scoped(scope, body);
        if let Err(source) = born {
            stage.fail(Failure::System { what: "start a thread", source });
        }
    }

    fn live(&self, stage: &Stage, number: usize, life: u64) -> Result<(), Check> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (number as u64) << 32 ^ life);
        let mut thread =
            stage.runtime.attach().map_err(|e| Check::operation("attaching a thread", e))?;
        let calls = if self.mortal { random.u32(1..=LIFE) } else { u32::MAX };
        for _ in 0..calls {
            if !stage.goes_on() {
                break;
            }
            if stage.children.is_wanted() {
                child::fork(stage, &mut thread, &mut random)?;
            }
            if self.call(stage, &mut thread, &mut random)? {
                self.calls[number].fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Calls a program and compares; whether there was a world free for that.
    fn call(
        &self,
        stage: &Stage,
        thread: &mut Thread,
        random: &mut fastrand::Rng,
    ) -> Result<bool, Check> {
        let number = stage.draw(random);
        let known = &stage.oracle.known[number];
        let shared = stage.pool.world(stage, thread, number)?;
        let alone = if known.bundled.reentrant {
            None
        } else {
            match shared.alone.try_lock() {
                Ok(guard) => Some(guard),
                Err(_) => return Ok(false),
            }
        };
        let n = random.i64(ARGUMENTS);
        let expected = &known.results[(n - ARGUMENTS.start()) as usize];
        let mut result = thread.call(&shared.world, "run", n);
        // What a thread of the program raised is told there.
        let told = shared.world.take_output();
        if !told.is_empty() {
            result = Err(told);
        }
        drop(alone);
        if result.as_ref() != Ok(expected) {
            let got = result.unwrap_or_else(|raised| raised);
            let what = format!("run({n})");
            return Err(wrong(known.bundled.name, &what, got, expected.clone()));
        }
        Ok(true)
    }
}
