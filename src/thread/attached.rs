//! How a thread finds its own state: by one thread-local pointer.

use core::cell::{Cell, RefCell};
use core::ptr::{self, NonNull};

use crate::arena::{ArenaRef, Shared};
use crate::error::AttachError;
use crate::sync::thread_local;

use super::ThreadHandle;
use super::state::ThreadState;

thread_local! {
    /// The states of the current thread, newest first.
    static ATTACHED: Cell<*const ThreadState> = const { Cell::new(ptr::null()) };

    /// Handles made by [`with_kept_handle`].
    static KEPT: RefCell<Vec<ThreadHandle>> = const { RefCell::new(Vec::new()) };
}

/// Puts a state on its thread's list. Where thread-locals are gone it is not
/// found, and what the thread drops is orphaned.
pub(super) fn link(state: &ThreadState) {
    let _ = ATTACHED.try_with(|newest| state.next.set(newest.replace(state)));
}

/// Takes a state off its thread's list; usually it is the newest.
pub(super) fn unlink(state: &ThreadState) {
    let _ = ATTACHED.try_with(|newest| {
        if ptr::eq(newest.get(), state) {
            newest.set(state.next.get());
            return;
        }
        let mut at = newest.get();
        // SAFETY: states leave the list before they are freed.
        while let Some(other) = unsafe { at.as_ref() } {
            if ptr::eq(other.next.get(), state) {
                other.next.set(state.next.get());
                return;
            }
            at = other.next.get();
        }
    });
}

/// The first of the calling thread's states that `is_it` is true of, newest first.
#[inline]
fn find(mut is_it: impl FnMut(&ThreadState) -> bool) -> Option<NonNull<ThreadState>> {
    let mut at = ATTACHED.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: states leave the list before they are freed, on this thread.
    while let Some(state) = unsafe { at.as_ref() } {
        if is_it(state) {
            return Some(NonNull::from(state));
        }
        at = state.next.get();
    }
    None
}

/// Runs `f` with the calling thread's state for an arena, if it has one.
pub(crate) fn with_attached<R>(
    shared: NonNull<Shared>,
    f: impl FnOnce(&ThreadState) -> R,
) -> Option<R> {
    // SAFETY: as in `find`.
    find(|state| state.is_of(shared)).map(|state| f(unsafe { state.as_ref() }))
}

/// Calls `f` with each state that the calling thread has for an arena.
pub(crate) fn for_each_attached(shared: NonNull<Shared>, mut f: impl FnMut(&ThreadState)) {
    find(|state| {
        if state.is_of(shared) {
            f(state);
        }
        false
    });
}

/// Whether the calling thread is in a write scope of another handle than `own`, one
/// of those that `counts` is true of.
#[inline]
pub(crate) fn is_in_another_scope(
    own: &ThreadState,
    counts: impl Fn(&ThreadState) -> bool,
) -> bool {
    find(|state| state.open_scopes.get() > 0 && !ptr::eq(state, own) && counts(state)).is_some()
}

/// As [`with_attached`], with the state of handle `id` if that is one of them.
pub(crate) fn with_handle<R>(
    shared: NonNull<Shared>,
    id: u64,
    f: impl FnOnce(&ThreadState) -> R,
) -> Option<R> {
    let own = find(|state| state.is_of(shared) && state.id() == id);
    let found = own.or_else(|| find(|state| state.is_of(shared)));
    // SAFETY: as in `find`.
    found.map(|state| f(unsafe { state.as_ref() }))
}

/// See [`Arena::with_thread`](crate::Arena::with_thread).
pub(crate) fn with_kept_handle<R>(
    shared: &ArenaRef,
    f: impl FnOnce(&mut ThreadHandle) -> R,
) -> Result<R, AttachError> {
    /// Puts the handle back, also when `f` unwinds.
    struct Kept(Option<ThreadHandle>);
    impl Drop for Kept {
        fn drop(&mut self) {
            let handle = self.0.take();
            // Where thread-locals are gone the handle is just dropped.
            let _ = KEPT.try_with(|kept| kept.borrow_mut().extend(handle));
        }
    }

    let found = KEPT
        .try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let at = kept.iter().position(|handle| handle.state().is_of(shared.pointer()));
            let found = at.map(|at| kept.swap_remove(at));
            let abandoned: Vec<_> =
                kept.extract_if(.., |handle| handle.state().shared().is_abandoned()).collect();
            (found, abandoned)
        })
        .map_err(|_| AttachError::ThreadExiting)?;
    let (found, abandoned) = found;
    // Outside the borrow: dropping a handle may free an arena.
    drop(abandoned);
    let handle = match found {
        Some(handle) => handle,
        None => ThreadHandle::attach(shared)?,
    };
    let mut kept = Kept(Some(handle));
    match &mut kept.0 {
        Some(handle) => Ok(f(handle)),
        None => Err(AttachError::ThreadExiting),
    }
}
