//! Guards: while one lives, nothing that its thread can reach is recycled,
//! `[E1]`.
//!
//! A guard pins the epoch (Fraser, *Practical Lock-Freedom*, 2004, as
//! crossbeam-epoch does it). A thread that loops for long, or sleeps, would
//! hold up everybody's garbage; so a guard can [`enter`](Guard::enter) one
//! executor, and then let go of the epoch and keep just that one.

use core::fmt;
use core::marker::PhantomData;

use crate::arena::ArenaRef;
use crate::executor::{Entry, cast};
use crate::reclaim::hold::HoldIndex;
use crate::slot::Slot;
use crate::thread::{Mark, ThreadState};

/// Keeps what its thread can reach from being recycled. Stays on its thread.
#[must_use = "what was loaded is protected until the guard is dropped"]
pub struct Guard<'t> {
    thread: &'t ThreadState,
    mark: Mark,
    _not_send: PhantomData<*mut ()>,
}

impl<'t> Guard<'t> {
    #[inline]
    pub(crate) fn new(thread: &'t ThreadState) -> Self {
        thread.enter();
        Self { thread, mark: thread.mark(), _not_send: PhantomData }
    }

    #[inline]
    pub(crate) fn is_of(&self, shared: &ArenaRef) -> bool {
        self.thread.is_of(shared.pointer())
    }

    /// Protects what is loaded from here on, also where a [`Running`] of it was
    /// forgotten.
    #[inline]
    pub(crate) fn protect(&self) {
        self.thread.end_forgotten_hold(&self.mark);
    }

    /// Enters what is in the slot: holds that one executor, so that
    /// [`Running::safepoint`] and [`Running::park`] may let go of everything
    /// else. Wait-free; the ninth nested one on a thread allocates.
    #[must_use]
    pub fn enter(&mut self, slot: &Slot) -> Option<Running<'_>> {
        let entry = slot.load_addr(self)?;
        Some(self.hold(entry))
    }

    /// As [`enter`](Self::enter), for clients that keep entries in words of their
    /// own, and not in slots.
    ///
    /// # Safety
    ///
    /// `entry` was loaded under this guard, since its last safepoint, park or
    /// [`Running`] that was forgotten, with Acquire, from a word that executors of
    /// the guard's arena are taken out of before they are retired.
    pub unsafe fn enter_at(&mut self, entry: usize) -> Running<'_> {
        self.protect();
        self.hold(entry)
    }

    /// Holds an executor that was loaded under this pin, `[E2]`.
    fn hold(&mut self, entry: usize) -> Running<'_> {
        let hold = self.thread.record().holds.take(entry);
        self.thread.begin_hold(&self.mark);
        Running { thread: self.thread, entry, hold, mark: &self.mark, _guard: PhantomData }
    }

    /// Lets the epoch move: what was loaded before is no longer protected, and
    /// cannot be used any more (it borrows the guard). Wait-free.
    ///
    /// Does nothing while the thread has another guard that holds no executor.
    pub fn safepoint(&mut self) {
        self.protect();
        if self.thread.only_holds_besides(1) {
            self.thread.repin();
        }
    }

    /// Runs `f`, which may block, without holding up reclamation.
    ///
    /// While the thread has another guard that holds no executor, it stays
    /// pinned.
    pub fn park<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.protect();
        let _parked = Parked::new(self.thread, 1);
        f()
    }

    /// As [`park`](Self::park), until what it returns is dropped: for clients
    /// that cannot pass what they do as a function.
    ///
    /// # Safety
    ///
    /// What it returns is dropped, and not forgotten, before the guard is used
    /// again: until then the guard protects nothing.
    pub unsafe fn set_parked(&mut self) -> Parked<'_> {
        self.protect();
        Parked::new(self.thread, 1)
    }
}

/// A thread that may block without holding up reclamation, until this is dropped.
#[must_use = "the thread is pinned again when it is dropped"]
pub struct Parked<'g> {
    /// `None` if the thread stays pinned.
    thread: Option<&'g ThreadState>,
    _not_send: PhantomData<*mut ()>,
}

impl<'g> Parked<'g> {
    /// Unpins, if all guards but `own` hold just what they run.
    fn new(thread: &'g ThreadState, own: usize) -> Self {
        let parks = thread.only_holds_besides(own);
        if parks {
            thread.park();
        }
        Self { thread: parks.then_some(thread), _not_send: PhantomData }
    }
}

/// Pins again, also on unwinding.
impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread {
            thread.unpark();
        }
    }
}

impl fmt::Debug for Parked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("unpinned", &self.thread.is_some()).finish()
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.protect();
        self.thread.leave();
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// One executor, entered: it stays until this is dropped, across safepoints
/// and parks.
///
/// This is what machine code hands to the helpers it calls.
#[must_use = "the executor is held until this is dropped"]
pub struct Running<'g> {
    thread: &'g ThreadState,
    entry: usize,
    hold: HoldIndex,
    /// The guard's.
    mark: &'g Mark,
    _guard: PhantomData<&'g mut Guard<'g>>,
}

impl Running<'_> {
    /// Address of the first instruction.
    #[must_use]
    pub fn addr(&self) -> usize {
        self.entry
    }

    /// The executor as something to call while this lives.
    #[must_use]
    pub fn entry(&self) -> Entry<'_> {
        Entry::new(self.entry)
    }

    /// The address as a function pointer of type `F`.
    ///
    /// # Safety
    ///
    /// As [`Entry::cast`], with this in place of the guard.
    #[must_use]
    pub unsafe fn cast<F: Copy>(&self) -> F {
        // SAFETY: the caller vouches for the function.
        unsafe { cast(self.entry) }
    }

    /// Lets the epoch move, from inside a long loop. Wait-free.
    ///
    /// Does nothing while the thread has a guard that holds no executor.
    pub fn safepoint(&mut self) {
        if self.thread.only_holds_besides(0) {
            self.thread.repin();
        }
    }

    /// Runs `f`, which may block, without holding up reclamation of anything
    /// but this executor.
    ///
    /// While the thread has a guard that holds no executor, it stays pinned.
    pub fn park<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let _parked = Parked::new(self.thread, 0);
        f()
    }

    /// As [`park`](Self::park), until what it returns is dropped.
    ///
    /// # Safety
    ///
    /// What it returns is dropped, and not forgotten, before a guard of the
    /// thread's is used again, but for guards made since.
    pub unsafe fn set_parked(&mut self) -> Parked<'_> {
        Parked::new(self.thread, 0)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.thread.record().holds.end(self.hold);
        self.thread.end_hold(self.mark);
    }
}

impl fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("entry", &format_args!("{:#x}", self.entry))
            .finish_non_exhaustive()
    }
}
