//! What disturbs: invalidation storms, eviction, signals, children, and crowds
//! in one program.
//!
//! Guards that fail at random, threads that end, and little memory are set up
//! with the runtime and the crew.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::crew::Crew;
use super::{Stage, signals};

/// Between two disturbances, at most.
const PAUSE: Duration = Duration::from_millis(4);

/// Disturbances that are about one program above all.
const TURNS: u32 = 100;

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) rebound: u64,
    pub(crate) signals: u64,
}

/// The conductor.
#[derive(Debug)]
pub(crate) struct Chaos {
    random: fastrand::Rng,
    forks: bool,
    pub(crate) done: Done,
}

impl Chaos {
    pub(crate) fn new(seed: u64, forks: bool) -> Self {
        Self { random: fastrand::Rng::with_seed(seed ^ 0xC4A0), forks, done: Done::default() }
    }

    /// Disturbs until all are told to stop.
    pub(crate) fn reign(&mut self, stage: &Stage, crew: &Crew) {
        let mut turn = 0_u32;
        if self.forks {
            stage.children.want();
        }
        while stage.goes_on() {
            if turn.is_multiple_of(TURNS) {
                // Many threads in the same code, as it comes and goes. One with
                // leaves, which no hold protects, has its turn more often.
                let leaves = stage.oracle.known.iter().position(|k| k.bundled.name == "leaves");
                let any = self.random.usize(..stage.oracle.known.len());
                let focus = leaves.filter(|_| self.random.u8(..3) == 0).unwrap_or(any);
                // Relaxed: a hint.
                stage.focus.store(focus, Ordering::Relaxed);
            }
            turn = turn.wrapping_add(1);
            match self.random.u32(..100) {
                0..30 => self.storm(stage),
                30..95 => {
                    for _ in 0..self.random.u32(1..8) {
                        self.done.signals +=
                            u64::from(crew.signal(&mut self.random, signals::LOOK));
                    }
                }
                95..98 => {
                    stage.runtime.evict();
                }
                _ if self.forks => stage.children.want(),
                _ => {}
            }
            if !stage.children.reap() {
                // The report tells.
                stage.stop.store(true, Ordering::Relaxed);
            }
            thread::sleep(PAUSE.mul_f64(self.random.f64()));
        }
    }

    /// Rebinds globals of a world, functions among them, to what they are.
    fn storm(&mut self, stage: &Stage) {
        let number = stage.draw(&mut self.random);
        let Some(shared) = stage.pool.look(number) else { return };
        for _ in 0..self.random.u32(1..12) {
            if let Some(name) = self.random.choice(shared.world.globals())
                && shared.world.rebind(name).is_some()
            {
                self.done.rebound += 1;
            }
        }
    }
}
