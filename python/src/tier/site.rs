//! Where machine code of a function is entered: its start, and each loop.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jit_arena::{Executor, Slot};

use super::unit::Unit;
use crate::run::world::World;
use crate::value::objects::locked;

/// An entry, shared by all threads that run the function.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) pc: u32,
    pub(crate) slot: Slot,
    /// Times the interpreter came by while there was no code.
    pub(crate) passed: AtomicU32,
    /// Passes after which code is made.
    pub(crate) patience: AtomicU32,
    /// One thread makes code at a time.
    pub(crate) making: AtomicBool,
    /// Whether its code was entered since eviction last looked.
    pub(crate) used: AtomicBool,
    /// Where the code of a leaf is, for machine code that calls it under its own
    /// guard: nonzero only while the code is in the slot. Written under the lock.
    pub(crate) direct: AtomicUsize,
    /// What is in the slot.
    pub(crate) unit: Mutex<Option<Arc<Unit>>>,
}

/// The most passes that a site waits for code.
const MOST_PATIENCE: u32 = 4096;

impl Site {
    pub(crate) fn new(world: &World, pc: u32) -> Self {
        let options = &world.runtime.options;
        Self {
            pc,
            slot: world.runtime.arena.slot(),
            passed: AtomicU32::new(0),
            patience: AtomicU32::new(if pc == 0 { options.warm_calls } else { options.warm_loops }),
            making: AtomicBool::new(false),
            used: AtomicBool::new(false),
            direct: AtomicUsize::new(0),
            unit: Mutex::default(),
        }
    }

    /// Counts a pass; whether it is time for code and this thread is to make
    /// it. Then [`Site::made`] has to be called.
    pub(crate) fn is_hot(&self) -> bool {
        // Relaxed, here and below: counts that may be off, and a flag that
        // decides only who makes code; the slot publishes it.
        let passed = self.passed.load(Ordering::Relaxed).saturating_add(1);
        self.passed.store(passed, Ordering::Relaxed);
        passed >= self.patience.load(Ordering::Relaxed)
            && !self.making.swap(true, Ordering::Relaxed)
    }

    /// Puts an executor into the slot; returns what was in it.
    pub(crate) fn put(&self, executor: Executor, is_leaf: bool) -> Option<Executor> {
        let _changing = locked(&self.unit);
        let address = executor.addr();
        // Release, here and below: who sees the address sees the code, and who
        // sees that it is gone has nothing to see. It is gone before the code
        // is dropped, so that whoever saw it under a guard is protected by that.
        self.direct.store(0, Ordering::Release);
        // Of the same arena.
        let replaced = self.slot.replace(executor).ok().flatten();
        if is_leaf {
            self.direct.store(address, Ordering::Release);
        }
        replaced
    }

    /// Takes what is in the slot.
    pub(crate) fn take(&self) -> Option<Executor> {
        let _changing = locked(&self.unit);
        self.direct.store(0, Ordering::Release);
        self.slot.invalidate()
    }

    /// Code was made, or not.
    pub(crate) fn made(&self, unit: Option<Arc<Unit>>) {
        self.passed.store(0, Ordering::Relaxed);
        if unit.is_none() {
            // Next time later.
            let patience = self.patience.load(Ordering::Relaxed);
            self.patience.store((patience * 2).min(MOST_PATIENCE), Ordering::Relaxed);
        }
        *locked(&self.unit) = unit;
        self.making.store(false, Ordering::Relaxed);
    }

    /// Notes that the code is in use, without writing a shared line each time.
    #[inline]
    pub(crate) fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}
