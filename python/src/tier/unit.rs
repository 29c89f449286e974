//! A unit: one executor as the runtime knows it, with where it can be left.
//!
//! A unit is not freed with its executor: code that still runs names it when it
//! is left. It lasts as long as its world.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use jit_arena::{Arena, Executor, Slot};

use super::site::Site;
use crate::runtime::Shared;
use crate::value::objects::locked;

/// Where a unit's executor is put.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    /// The entry of a function or loop.
    Site(Weak<Site>),
    /// A way out of another unit: a side trace.
    Exit { parent: Weak<Unit>, number: usize },
}

/// A way out of machine code, back to the interpreter or on to a side trace.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The operation at which the interpreter goes on.
    pub(crate) pc: u32,
    /// The side trace that goes on in its place.
    pub(crate) slot: Slot,
    pub(crate) taken: AtomicU32,
    pub(crate) making: AtomicBool,
    side: Mutex<Option<Arc<Unit>>>,
}

/// One executor.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) exits: Vec<Exit>,
    pub(crate) home: Home,
    /// Units from the function's own to this one.
    pub(crate) depth: u32,
    dead: AtomicBool,
    runtime: Weak<Shared>,
}

impl Exit {
    pub(crate) fn new(arena: &Arena, pc: u32) -> Self {
        Self {
            pc,
            slot: arena.slot(),
            taken: AtomicU32::new(0),
            making: AtomicBool::new(false),
            side: Mutex::default(),
        }
    }
}

impl Unit {
    pub(crate) fn new(runtime: &Arc<Shared>, exits: Vec<Exit>, home: Home, depth: u32) -> Self {
        let runtime = Arc::downgrade(runtime);
        Self { exits, home, depth, dead: AtomicBool::new(false), runtime }
    }

    pub(crate) fn is_dead(&self) -> bool {
        // Acquire: pairs with the swap in `kill`.
        self.dead.load(Ordering::Acquire)
    }

    /// The site whose code this is, directly or as a side trace of it.
    pub(crate) fn site(&self) -> Option<Arc<Site>> {
        match &self.home {
            Home::Site(site) => site.upgrade(),
            Home::Exit { parent, .. } => parent.upgrade()?.site(),
        }
    }

    /// Notes a side trace; `false` if this unit has died meanwhile.
    pub(crate) fn adopt(&self, number: usize, side: &Arc<Self>) -> bool {
        *locked(&self.exits[number].side) = Some(Arc::clone(side));
        // Who kills it looks at the sides after having set the mark: either
        // this sees the mark, or that sees the side.
        !self.is_dead()
    }

    /// Takes the executor out of its place and lets it die, and all side traces
    /// with it. Whether it was alive.
    pub(crate) fn kill(&self) -> bool {
        // AcqRel: pairs with `is_dead`.
        if self.dead.swap(true, Ordering::AcqRel) {
            return false;
        }
        match &self.home {
            Home::Site(site) => {
                if let Some(site) = site.upgrade() {
                    self.drop_code(site.take());
                }
            }
            Home::Exit { parent, number } => {
                if let Some(parent) = parent.upgrade() {
                    self.drop_code(parent.exits[*number].slot.invalidate());
                }
            }
        }
        for exit in &self.exits {
            let side = locked(&exit.side).take();
            if let Some(side) = side {
                side.kill();
            }
        }
        true
    }

    /// Drops what was in its place: its executor, or one that has taken that
    /// place this moment and will be made again.
    fn drop_code(&self, executor: Option<Executor>) {
        if let Some(executor) = executor {
            if let Some(runtime) = self.runtime.upgrade() {
                runtime.recorder.died(executor.addr());
            }
            drop(executor);
        }
    }
}
