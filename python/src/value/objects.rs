//! Objects other than lists.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::heap::Heap;
use super::{ExcKind, Value};
use crate::run::world::World;
use crate::syntax::code::Code;
use crate::tier::site::Site;

/// A tuple; never changes.
#[derive(Debug)]
pub(crate) struct Tuple {
    pub(crate) items: Vec<Value>,
}

/// A function, with the places where its machine code is entered.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) code: Arc<Code>,
    pub(crate) sites: Vec<Arc<Site>>,
}

/// An exception.
#[derive(Debug)]
pub(crate) struct Exception {
    pub(crate) kind: ExcKind,
    pub(crate) message: String,
    /// Where it was raised.
    pub(crate) line: u32,
}

/// A lock that is not bound to a scope.
#[derive(Debug, Default)]
pub(crate) struct Lock {
    held: Mutex<bool>,
    released: Condvar,
}

/// What `mutex` protects: nothing in it is ever half changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lock {
    /// Takes it if it is free.
    pub(crate) fn try_acquire(&self) -> bool {
        !core::mem::replace(&mut *locked(&self.held), true)
    }

    /// Waits until it is free, and takes it.
    pub(crate) fn acquire(&self) {
        let mut held = locked(&self.held);
        while *held {
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        *held = true;
    }

    /// Whether it was held.
    pub(crate) fn release(&self) -> bool {
        let was = core::mem::replace(&mut *locked(&self.held), false);
        self.released.notify_one();
        was
    }
}

/// What a thread that ended leaves: its objects, and its exception if it had
/// one.
pub(crate) struct Ended {
    pub(crate) heap: Heap,
    pub(crate) raised: Option<String>,
    pub(crate) escaped: bool,
}

/// A thread object.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) function: Value,
    pub(crate) args: Value,
    /// There from the start of the thread until it is joined.
    pub(crate) running: Mutex<Option<JoinHandle<Ended>>>,
    pub(crate) started: Mutex<bool>,
}

// SAFETY: values are shared between threads, see `Heap`.
unsafe impl Sync for Value {}

impl Function {
    pub(crate) fn new(world: &World, code: Arc<Code>) -> Self {
        let sites = code.sites.iter().map(|pc| Arc::new(Site::new(world, *pc))).collect();
        Self { code, sites }
    }
}
