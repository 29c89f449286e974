//! Worlds that threads share: one of each program at a time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jit_arena_python::programs::BUNDLED;
use jit_arena_python::{Thread, World};

use super::oracle::Known;
use super::{Stage, wrong};
use crate::failure::Check;

/// Calls after which a world makes way for a new one.
const CALLS: u32 = 400;

/// A world that has started.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) world: World,
    /// Held by who calls, if the program can have only one call at a time.
    pub(crate) alone: Mutex<()>,
    calls: AtomicU32,
}

/// The worlds.
#[derive(Debug)]
pub(crate) struct Pool {
    places: Vec<RwLock<Option<Arc<Shared>>>>,
}

impl Default for Pool {
    fn default() -> Self {
        let places = BUNDLED.iter().map(|_| RwLock::default()).collect();
        Self { places }
    }
}

impl Pool {
    /// The world of a program, a new one if there is none or it is worn out.
    pub(crate) fn world(
        &self,
        stage: &Stage,
        thread: &mut Thread,
        number: usize,
    ) -> Result<Arc<Shared>, Check> {
        if let Some(shared) = self.look(number)
            // Relaxed: how often is not exact.
            && shared.calls.fetch_add(1, Ordering::Relaxed) < CALLS
        {
            return Ok(shared);
        }
        let known = &stage.oracle.known[number];
        let shared = Arc::new(Shared {
            world: start(stage, thread, known)?,
            alone: Mutex::new(()),
            calls: AtomicU32::new(0),
        });
        let place = &self.places[number];
        let old =
            place.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&shared));
        // It goes when its last call is over, wherever that is.
        drop(old);
        Ok(shared)
    }

    /// The world of a program, if there is one.
    pub(crate) fn look(&self, number: usize) -> Option<Arc<Shared>> {
        self.places[number].read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs a program from the top and compares what it prints.
pub(super) fn start(stage: &Stage, thread: &mut Thread, known: &Known) -> Result<World, Check> {
    let world = stage.runtime.world(&known.program);
    let name = known.bundled.name;
    thread
        .start(&world)
        .map_err(|raised| wrong(name, "from the top", raised, known.output.clone()))?;
    let output = world.take_output();
    if output != known.output {
        return Err(wrong(name, "from the top", output, known.output.clone()));
    }
    Ok(world)
}
