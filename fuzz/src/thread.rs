//! A virtual thread: a handle together with the guards and scopes that borrow
//! it, so that a program can hold them across operations and drop guards in
//! any order.
//!
//! The borrow checker cannot express that in one value; what it would insist
//! on is upheld here by hand, and nothing more than it would allow is done: a
//! handle is used mutably only while nothing borrows it, a guard only while its
//! [`Running`] does not, an outer scope only while no inner one lives.

use core::ptr::NonNull;

use jit_arena::{Guard, Running, ThreadHandle, WriteScope};

use crate::oracle::ThreadKey;
use crate::oracle::guards::GuardKey;

/// A box that may be borrowed for as long as its owner says, moved or not.
#[derive(Debug)]
struct Pinned<T>(NonNull<T>);

impl<T> Pinned<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    /// # Safety
    ///
    /// No `&mut` lives beside it, and it ends before the box does.
    unsafe fn get<'a>(&self) -> &'a T {
        // SAFETY: the box is there while `self` is; the rest is the caller's.
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    ///
    /// No other reference lives beside it, and it ends before the box does.
    unsafe fn get_mut<'a>(&mut self) -> &'a mut T {
        // SAFETY: as in `get`.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: leaked in `new`, and nothing borrows it (see `get`).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A guard, and the executor it runs. Fields drop in this order.
#[derive(Debug)]
pub struct HeldGuard {
    running: Option<Running<'static>>,
    guard: Pinned<Guard<'static>>,
    /// Tells guards apart.
    pub key: GuardKey,
}

impl HeldGuard {
    /// The guard, unless an executor runs under it.
    pub fn guard(&mut self) -> Option<&mut Guard<'static>> {
        if self.running.is_some() {
            return None;
        }
        // SAFETY: nothing borrows the guard, and the result borrows `self`.
        Some(unsafe { self.guard.get_mut() })
    }

    /// The running executor.
    pub fn running(&mut self) -> Option<&mut Running<'static>> {
        self.running.as_mut()
    }

    /// Enters what is in `slot`; false if nothing is. For a guard that runs
    /// nothing.
    pub fn enter(&mut self, slot: &jit_arena::Slot) -> bool {
        if self.running.is_none() {
            // SAFETY: nothing borrows the guard now, and `running` is dropped
            // before it.
            self.running = unsafe { self.guard.get_mut() }.enter(slot);
        }
        self.running.is_some()
    }

    /// Leaves what runs; false if nothing does.
    pub fn leave(&mut self) -> bool {
        self.running.take().is_some()
    }
}

/// See the module. Fields are dropped by `Drop`, innermost first.
#[derive(Debug)]
pub struct Virtual {
    /// Tells virtual threads apart.
    pub key: ThreadKey,
    /// Which arena it is attached to.
    pub arena: usize,
    /// Outermost write scopes opened so far.
    pub scopes_opened: u64,
    scopes: Vec<Pinned<WriteScope<'static>>>,
    /// Its guards; never beside scopes.
    guards: Vec<HeldGuard>,
    /// Guards taken out for a park.
    parked: usize,
    handle: Pinned<ThreadHandle>,
}

impl Virtual {
    /// A virtual thread that has just attached.
    #[must_use]
    pub fn new(key: ThreadKey, arena: usize, handle: ThreadHandle) -> Self {
        let handle = Pinned::new(handle);
        Self {
            key,
            arena,
            scopes_opened: 0,
            scopes: Vec::new(),
            guards: Vec::new(),
            parked: 0,
            handle,
        }
    }

    /// Whether nothing borrows the handle.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scopes.is_empty() && self.guards.is_empty() && self.parked == 0
    }

    /// The handle, if nothing borrows it.
    pub fn handle(&mut self) -> Option<&mut ThreadHandle> {
        if !self.is_idle() {
            return None;
        }
        // SAFETY: nothing borrows the handle, and the result borrows `self`.
        Some(unsafe { self.handle.get_mut() })
    }

    /// The innermost write scope.
    pub fn scope(&mut self) -> Option<&mut WriteScope<'static>> {
        // SAFETY: no scope inside it, and the result borrows `self`.
        self.scopes.last_mut().map(|scope| unsafe { scope.get_mut() })
    }

    /// Write scopes open.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.scopes.len()
    }

    /// Opens a write scope, or one inside the innermost; false where a guard
    /// forbids it.
    pub fn open(&mut self) -> bool {
        let scope = if let Some(outer) = self.scopes.last_mut() {
            // SAFETY: the outer scope is used again only once this is closed.
            unsafe { outer.get_mut() }.nest()
        } else if self.is_idle() {
            self.scopes_opened += 1;
            // SAFETY: nothing borrows the handle, and nothing else will until
            // the scope is closed.
            unsafe { self.handle.get_mut() }.write()
        } else {
            return false;
        };
        self.scopes.push(Pinned::new(scope));
        true
    }

    /// Closes the innermost write scope; false if there is none.
    pub fn close(&mut self) -> bool {
        self.scopes.pop().is_some()
    }

    /// One more guard; false where a write scope forbids it.
    pub fn pin(&mut self, key: GuardKey) -> bool {
        if !self.scopes.is_empty() {
            return false;
        }
        // SAFETY: guards borrow the handle shared; they are dropped before it.
        let guard = unsafe { self.handle.get() }.pin();
        self.guards.push(HeldGuard { running: None, guard: Pinned::new(guard), key });
        true
    }

    /// The guards.
    pub fn guards(&mut self) -> &mut Vec<HeldGuard> {
        &mut self.guards
    }

    /// Takes a guard out, to park it.
    pub fn take_parked(&mut self, at: usize) -> HeldGuard {
        self.parked += 1;
        self.guards.swap_remove(at)
    }

    /// Puts a guard back after its park.
    pub fn put_parked(&mut self, guard: HeldGuard) {
        self.parked -= 1;
        self.guards.push(guard);
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        while self.scopes.pop().is_some() {}
        self.guards.clear();
    }
}
