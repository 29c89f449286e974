//! A thread's part of an arena.
//!
//! A [`ThreadHandle`] never leaves its thread. What it keeps for itself (its
//! claim, its batch of retired executors, its place in the epoch) is in plain
//! cells, [`state`]; its guards are counted in [`pins`]; what others must see
//! of it is in its [`Record`](crate::registry::Record). Executors dropped on
//! the thread find the state through one thread-local pointer, [`attached`],
//! and where there is none (never attached, or already exiting) they are
//! orphaned instead.

use core::fmt;
use core::ptr::NonNull;

use crate::arena::ArenaRef;
use crate::error::{AttachError, InstallError, PublishError, ReserveError};
use crate::executor::Executor;
use crate::guard::Guard;
use crate::layout::CodeLayout;
use crate::lookup::CodeInfo;
use crate::reclaim::recycle;
use crate::reservation::Reservation;
use crate::scope::WriteScope;
use crate::sync::mutant;
use crate::tools::Symbol;

mod attached;
pub(crate) mod holes;
mod pins;
mod state;

pub(crate) use attached::{
    for_each_attached, is_in_another_scope, with_attached, with_handle, with_kept_handle,
};
pub(crate) use pins::Mark;
pub(crate) use state::ThreadState;

/// The calling thread's handle on an arena.
///
/// Installs code, opens write scopes, pins. Never leaves its thread:
///
/// ```compile_fail
/// fn needs_send<T: Send>(_: T) {}
/// needs_send(jit_arena::Arena::new().unwrap().attach().unwrap());
/// ```
pub struct ThreadHandle {
    /// A box, reached through the thread's list as well; not `Send`.
    state: NonNull<ThreadState>,
}

impl ThreadHandle {
    pub(crate) fn attach(shared: &ArenaRef) -> Result<Self, AttachError> {
        let handle = Self { state: NonNull::from(Box::leak(Box::new(ThreadState::new(shared)))) };
        let state = handle.state();
        attached::link(state);
        if !mutant("inherited-rights-kept") {
            // A thread born inside another's scope has that scope's rights.
            state.close_rights();
        }
        state.show_in_record(true);
        Ok(handle)
    }

    #[inline]
    pub(crate) fn state(&self) -> &ThreadState {
        // SAFETY: allocated by `attach`, freed by `drop` only.
        unsafe { self.state.as_ref() }
    }

    /// Reserves place for an executor; its address is known from now on.
    ///
    /// Dropping the reservation gives the bytes back.
    ///
    /// Wait-free within the thread's claim; otherwise lock-free, now and then with
    /// system calls, under every strategy: to commit memory, and to synchronise
    /// cores where memory is used again. May yield the processor then. Where the
    /// region is full it lets other threads run before it fails: it yields, and
    /// sleeps up to about half a second if one of them holds reclamation up, or
    /// some seconds while a fork is copied.
    ///
    /// # Errors
    ///
    /// A layout that no arena takes, a region that has no such hole left, a
    /// [budget](crate::Builder::code_budget) that would be passed, or a system that
    /// has no memory to back it. Nothing has changed then.
    #[inline]
    pub fn reserve(&mut self, layout: CodeLayout) -> Result<Reservation, ReserveError> {
        self.state().end_forgotten_scopes();
        self.state().reserve(layout)
    }

    /// Opens a write scope: from here to its end this thread, and no other,
    /// may write what it reserved. Wait-free.
    ///
    /// Code cannot be run inside it through the same handle, because pinning
    /// needs what the scope borrows. A thread that has another handle on the arena
    /// can; its rights end with the last scope that is open on any of them.
    ///
    /// ```compile_fail
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut thread = jit_arena::Arena::new()?.attach()?;
    /// let scope = thread.write();
    /// let guard = thread.pin();
    /// drop(scope);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn write(&mut self) -> WriteScope<'_> {
        self.state().end_forgotten_scopes();
        WriteScope::open(self.state())
    }

    /// Publishes what was written: from here on it can be run, and only read.
    /// Wait-free but where a window must be closed again.
    ///
    /// The bytes happen before whatever the caller does with the executor; a
    /// [`Slot`](crate::Slot) passes that on to other threads.
    ///
    /// # Errors
    ///
    /// Hands the reservation back if nothing was written to it, if another handle
    /// made it, or if the system refused to seal it.
    #[expect(clippy::result_large_err, reason = "hands back what it was given")]
    pub fn publish(&mut self, reservation: Reservation) -> Result<Executor, PublishError> {
        self.state().end_forgotten_scopes();
        match self.state().publish(&reservation) {
            Ok(()) => Ok(reservation.into_executor()),
            Err(kind) => Err(PublishError { kind, reservation }),
        }
    }

    /// As [`publish`](Self::publish), and tells the arena's
    /// [tools](crate::Builder::tool) what the code is. The same as that, but for
    /// one look, if there are none; a tool may lock.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    #[expect(clippy::result_large_err, reason = "hands back what it was given")]
    pub fn publish_named(
        &mut self,
        reservation: Reservation,
        symbol: &Symbol<'_>,
    ) -> Result<Executor, PublishError> {
        let code = CodeInfo::new(reservation.entry(), &reservation.block());
        let executor = self.publish(reservation)?;
        let shared = self.state().shared();
        if !shared.config.tools.is_empty() {
            // So that in a forked child no tool is left locked by another thread.
            let _inside = shared.gate.enter_in_time();
            shared.config.tools.published(&code, symbol);
        }
        Ok(executor)
    }

    /// Reserves, writes and publishes `code` with `data` straight behind it,
    /// both as they are.
    ///
    /// # Errors
    ///
    /// As the three steps; nothing has changed then.
    // With all that it calls but what is seldom: a value passed through memory is
    // stored by the word and loaded by two, and right behind the copy of the code
    // such a load waits for all of the copy's stores.
    #[inline]
    pub fn install(&mut self, code: &[u8], data: &[u8]) -> Result<Executor, InstallError> {
        let layout = CodeLayout::new(code.len()).data(data.len(), 1);
        let state = self.state();
        state.end_forgotten_scopes();
        let mut reservation = state.reserve(layout)?;
        let mut scope = WriteScope::open(state);
        scope.write_at(&mut reservation, 0, code)?;
        if !data.is_empty() {
            scope.write_at(&mut reservation, code.len(), data)?;
        }
        if mutant("publish-before-close") {
            state.publish(&reservation).map_err(InstallError::Publish)?;
            return Ok(reservation.into_executor());
        }
        drop(scope);
        // Dropped if that fails: its bytes go back.
        state.publish(&reservation).map_err(InstallError::Publish)?;
        Ok(reservation.into_executor())
    }

    /// Joins the epoch: what can be reached from here on stays until the guard
    /// is dropped. Wait-free, but for every 128th, which helps reclamation and is
    /// lock-free.
    #[inline]
    pub fn pin(&self) -> Guard<'_> {
        self.state().end_forgotten_scopes();
        Guard::new(self.state())
    }

    /// Retires an executor: the same as dropping it on this thread, without
    /// the look for the thread's handle. An executor of another arena is just
    /// dropped.
    #[inline]
    pub fn retire(&mut self, executor: Executor) {
        self.state().end_forgotten_scopes();
        executor.retire_on(self.state());
    }

    /// Pushes reclamation as far as it goes at this moment, and gives all free
    /// system pages back to the system.
    ///
    /// Executors that other threads may be running stay, and so does what
    /// other threads have retired but not handed over yet. Lock-free; makes
    /// system calls.
    pub fn collect(&mut self) {
        self.state().end_forgotten_scopes();
        recycle::collect(self.state());
    }
}

impl Drop for ThreadHandle {
    fn drop(&mut self) {
        let state = self.state();
        state.end_forgotten_scopes();
        state.leave_reservations();
        state.show_in_record(false);
        attached::unlink(state);
        recycle::hand_over(state);
        if !mutant("batch-lost-at-exit") {
            state.seal();
        }
        if state.shared().threads.leave() {
            // Nobody is there who could have what is in the depot.
            recycle::give_up(state);
        }
        state.give_up_unsealed();
        state.shared().threads.give_back(state.record());
        // SAFETY: a box of `attach`; nothing points to it any more: it is off
        // the thread's list, and guards and scopes borrow this handle.
        drop(unsafe { Box::from_raw(self.state.as_ptr()) });
    }
}

impl fmt::Debug for ThreadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadHandle")
            .field("claim", &self.state().claim.get())
            .field("guards", &self.state().guards())
            .finish_non_exhaustive()
    }
}
