//! Global variables: read without a lock, watched by machine code.
//!
//! A global is a sequence lock (Boehm, *Can Seqlocks Get Along With Programming
//! Language Memory Models?*, 2012) whose count is also its *version*. Machine
//! code that took the value for a constant compares the version where it uses
//! it; and the executors that did so are known here, so that a change drops
//! them at once.

use core::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, Weak};

use crate::tier::unit::Unit;
use crate::value::objects::locked;
use crate::value::{Value, tag};

/// Changes after which a global no longer counts as a constant.
const RESTLESS: u32 = 200;

/// Who is to be told of a change.
#[derive(Debug, Default)]
struct Watch {
    units: Vec<Weak<Unit>>,
    changes: u32,
}

/// A global variable. Machine code knows the first field.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Global {
    /// Odd while it is written.
    pub(crate) version: AtomicU64,
    tag: AtomicU64,
    bits: AtomicU64,
    watch: Mutex<Watch>,
}

impl Global {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            tag: AtomicU64::new(tag::UNDEF),
            bits: AtomicU64::new(0),
            watch: Mutex::default(),
        }
    }

    /// Its value at some moment, with the version it had then.
    pub(crate) fn read(&self) -> (Value, u64) {
        loop {
            // Acquire: pairs with the last Release of `store`.
            let version = self.version.load(Ordering::Acquire);
            // Acquire: with the Release of `store`, so that the object is seen
            // too; both come before the second look.
            let tag = self.tag.load(Ordering::Acquire);
            let bits = self.bits.load(Ordering::Acquire);
            // Relaxed: the Acquire loads above keep it behind them.
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return (Value { tag, bits }, version);
            }
            core::hint::spin_loop();
        }
    }

    pub(crate) fn load(&self) -> Value {
        self.read().0
    }

    /// Sets it, and drops what took it for a constant. Returns how many
    /// executors that were.
    pub(crate) fn store(&self, value: Value) -> usize {
        self.change(|_| value)
    }

    /// Sets it to what it is.
    pub(crate) fn touch(&self) -> usize {
        self.change(|value| value)
    }

    fn change(&self, to: impl FnOnce(Value) -> Value) -> usize {
        let mut watch = locked(&self.watch);
        // Relaxed: only written under the lock.
        let now = Value {
            tag: self.tag.load(Ordering::Relaxed),
            bits: self.bits.load(Ordering::Relaxed),
        };
        let value = to(now);
        // Relaxed: only written under the lock.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        // Release: who sees one of the stores below sees the odd version.
        fence(Ordering::Release);
        self.tag.store(value.tag, Ordering::Release);
        self.bits.store(value.bits, Ordering::Release);
        // Release: pairs with the first Acquire of `read`.
        self.version.store(version + 2, Ordering::Release);
        watch.changes += 1;
        let units = core::mem::take(&mut watch.units);
        drop(watch);
        units.iter().filter_map(Weak::upgrade).filter(|unit| unit.kill()).count()
    }

    /// Whether it changes too often to be taken for a constant.
    pub(crate) fn is_restless(&self) -> bool {
        locked(&self.watch).changes > RESTLESS
    }

    /// Tells `unit` of the next change; `false` if it has changed since it had
    /// `version`.
    pub(crate) fn watch(&self, version: u64, unit: Weak<Unit>) -> bool {
        let mut watch = locked(&self.watch);
        // Relaxed: only written under the lock.
        if self.version.load(Ordering::Relaxed) != version {
            return false;
        }
        // Those that are gone are forgotten before the list grows.
        if watch.units.len() == watch.units.capacity() {
            watch.units.retain(|unit| unit.strong_count() > 0);
        }
        watch.units.push(unit);
        true
    }
}
