//! A thread's part of an arena: its claim, its batch of retired executors, its
//! place in the epoch, its record.
//!
//! A [`ThreadHandle`] never leaves its thread. What others may see of it is in
//! its [`Record`]; everything else is plain cells. Executors dropped on the
//! thread find its state through one thread-local pointer, and where there is
//! none (never attached, or already exiting) they are orphaned instead.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

use crate::arena::{ArenaRef, Shared, drop_refs};
use crate::claim::Claim;
use crate::error::{AttachError, InstallError, PublishError, PublishErrorKind, ReserveError};
use crate::executor::Executor;
use crate::guard::Guard;
use crate::layout::CodeLayout;
use crate::protect::Window;
use crate::reclaim::recycle;
use crate::reclaim::retire::{Batch, Dead, Ripe};
use crate::reclaim::scheme::{Local, Pin};
use crate::registry::Record;
use crate::reservation::Reservation;
use crate::scope::{OpenWindow, WriteScope};
use crate::stats::{self, Tallies};
use crate::sync::thread_local;
use crate::units::Span;

/// Arena handles a thread draws at a time.
const STOCK: usize = 1024;

/// A thread's own state. Reached by the thread alone: through its handle, and
/// through [`ATTACHED`] when it drops executors.
pub(crate) struct ThreadState {
    shared: NonNull<Shared>,
    record: *const Record,
    /// Tells this handle from every other of the arena.
    id: u64,
    /// Gone before the handle on the arena is.
    pub(crate) local: ManuallyDrop<Local>,
    /// The outermost pin, and how many guards share it.
    pin: UnsafeCell<Option<Pin>>,
    pins: Cell<usize>,
    /// Guards of those that hold the one executor they run.
    pub(crate) holding: Cell<usize>,
    /// Parks begun so far, and the number of the one under way, 0 for none.
    /// Guards are marked with the former: see [`is_aside`](Self::is_aside).
    parks: Cell<u64>,
    parked: Cell<u64>,
    /// The guards that each park under way has set aside, outermost first.
    aside: RefCell<Vec<GuardCounts>>,
    pub(crate) claim: Cell<Claim>,
    /// Bytes the next claim should have.
    pub(crate) appetite: Cell<usize>,
    /// Write scopes opened so far: tells reservations of one from another.
    pub(crate) scopes: Cell<u64>,
    /// Write scopes open now.
    pub(crate) open_scopes: Cell<usize>,
    /// The window open in them.
    pub(crate) window: Cell<Option<OpenWindow>>,
    batch: Cell<Option<Box<Batch>>>,
    /// Given up inside the write scopes open now, whose windows may cover it;
    /// see [`abandon`](Self::abandon).
    pub(crate) withheld: RefCell<Vec<Span>>,
    /// An empty one for after that.
    spare: Cell<Option<Box<Batch>>>,
    /// Windows the system refused to close.
    pub(crate) unsealed: RefCell<Vec<Window>>,
    /// Arena handles drawn and not yet given out.
    stock: Cell<usize>,
    /// The next older state of this thread.
    next: Cell<*const ThreadState>,
}

thread_local! {
    /// The states of the current thread, newest first.
    static ATTACHED: Cell<*const ThreadState> = const { Cell::new(ptr::null()) };

    /// Handles made by [`with_kept_handle`].
    static KEPT: RefCell<Vec<ThreadHandle>> = const { RefCell::new(Vec::new()) };
}

impl ThreadState {
    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: the handle that owns this state owns an arena handle.
        unsafe { self.shared.as_ref() }
    }

    pub(crate) fn record(&self) -> &Record {
        // SAFETY: records live as long as the arena, and this one is ours.
        unsafe { &*self.record }
    }

    pub(crate) fn tallies(&self) -> &Tallies {
        &self.record().tallies
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    #[inline]
    pub(crate) fn is_of(&self, shared: NonNull<Shared>) -> bool {
        self.shared == shared
    }

    /// An arena handle out of the stock. Wait-free.
    pub(crate) fn draw_ref(&self) -> ArenaRef {
        if self.stock.get() == 0 {
            self.shared().add_refs(STOCK);
            self.stock.set(STOCK);
        }
        self.stock.set(self.stock.get() - 1);
        ArenaRef::from_owned(self.shared)
    }

    /// Puts an arena handle into the stock. Wait-free.
    pub(crate) fn return_ref(&self, shared: ArenaRef) {
        let owned = shared.into_owned();
        debug_assert_eq!(owned, self.shared);
        self.stock.set(self.stock.get() + 1);
        if self.stock.get() > 2 * STOCK {
            self.stock.set(self.stock.get() - STOCK);
            // SAFETY: these handles were in the stock.
            unsafe { drop_refs(self.shared, STOCK) };
        }
    }

    /// Joins the epoch, if this is the outermost guard.
    #[inline]
    pub(crate) fn enter(&self) {
        if self.pins.get() == 0 {
            self.set_pin(Some(self.local.pin()));
        }
        self.pins.set(self.pins.get() + 1);
    }

    /// Leaves the epoch, if this was the last guard.
    #[inline]
    pub(crate) fn leave(&self) {
        self.pins.set(self.pins.get() - 1);
        if self.pins.get() == 0 {
            self.set_pin(None);
        }
    }

    /// Whether all guards but `own` many hold just the executor they run.
    pub(crate) fn only_holds_besides(&self, own: usize) -> bool {
        self.pins.get() == self.holding.get() + own
    }

    /// Replaces the pin; the old one ends after the new one has begun.
    #[inline]
    pub(crate) fn set_pin(&self, pin: Option<Pin>) {
        // SAFETY: the cell is this thread's, and no reference into it outlives
        // a statement of this file.
        let before = unsafe { ptr::replace(self.pin.get(), pin) };
        drop(before);
    }

    /// The mark of a guard made now.
    pub(crate) fn mark(&self) -> u64 {
        self.parks.get()
    }

    /// Whether a park under way has set a guard with this mark aside: it was
    /// made before the park began, so the epoch does not know of it.
    fn is_aside(&self, mark: u64) -> bool {
        mark < self.parked.get()
    }

    /// Leaves the epoch in the middle of guards that hold what they run, and
    /// sets them aside. Guards made from here to [`unpark`](Self::unpark) join
    /// it anew.
    pub(crate) fn park(&self) {
        let counts = GuardCounts {
            pins: self.pins.take(),
            holding: self.holding.take(),
            parked: self.parked.get(),
        };
        self.aside.borrow_mut().push(counts);
        self.parks.set(self.parks.get() + 1);
        self.parked.set(self.parks.get());
        self.set_pin(None);
    }

    /// Takes the guards of before back, and joins the epoch again for them.
    pub(crate) fn unpark(&self) {
        let Some(before) = self.aside.borrow_mut().pop() else { return };
        self.parked.set(before.parked);
        if self.pins.get() == 0 && before.pins > 0 {
            self.set_pin(Some(self.local.pin()));
        }
        // Guards that `f` let out live on beside them.
        self.pins.set(self.pins.get() + before.pins);
        self.holding.set(self.holding.get() + before.holding);
    }

    /// A guard no longer holds what it ran. If it was set aside it can be
    /// loaded under again from here on, so it joins the epoch.
    pub(crate) fn end_hold(&self, mark: &Cell<u64>) {
        if !self.is_aside(mark.get()) {
            self.holding.set(self.holding.get() - 1);
            return;
        }
        // The innermost park that began after the guard was made, and the
        // level it began in knew the guard.
        let mut aside = self.aside.borrow_mut();
        if let Some(level) = aside.iter_mut().rfind(|level| level.parked <= mark.get()) {
            level.pins -= 1;
            level.holding -= 1;
        }
        drop(aside);
        mark.set(self.mark());
        self.enter();
    }

    /// Lets the epoch move past the outermost pin.
    pub(crate) fn repin(&self) {
        // SAFETY: as in `set_pin`; `Pin::repin` runs no code of ours.
        if let Some(pin) = unsafe { &mut *self.pin.get() } {
            pin.repin();
        }
    }

    /// Counts an executor of `bytes` as retired.
    pub(crate) fn count_retired(&self, bytes: usize) {
        stats::add(&self.tallies().retires, 1);
        stats::add(&self.tallies().retired_bytes, bytes);
    }

    /// Retires what nobody can newly reach. O(1); now and then hands a batch
    /// to the epoch.
    pub(crate) fn retire(&self, dead: Dead) {
        let mut batch = self.batch.take().or_else(|| self.spare.take()).unwrap_or_else(Batch::new);
        batch.push(dead, self.shared().weight(dead));
        let full = batch.is_full() || batch.bytes() >= recycle::seal_bytes(self.shared());
        self.batch.set(Some(batch));
        if full {
            self.seal();
        }
    }

    /// Defers the current batch: it ripens once every pin of now has ended.
    pub(crate) fn seal(&self) {
        if let Some(batch) = self.batch.take() {
            if batch.is_empty() {
                return;
            }
            self.defer(batch);
        }
    }

    /// Defers a batch of executors that were unreachable before this call.
    pub(crate) fn defer(&self, batch: Box<Batch>) {
        let ripe = RipePointer(NonNull::from(&*self.shared().ripe));
        let bytes = batch.bytes();
        self.shared().ripe.expect(bytes);
        let pin = self.local.pin();
        let handover = move || {
            let RipePointer(ripe) = { ripe };
            // SAFETY: deferred work runs before the collector is gone, and the
            // arena drops that before anything else.
            let ripe = unsafe { ripe.as_ref() };
            ripe.arrive(batch);
        };
        // SAFETY: [D2] the handover may run on any thread: it owns what it
        // moves, and only pushes it.
        unsafe { pin.defer(handover) };
        pin.flush();
    }

    /// Takes over a batch that has been recycled.
    pub(crate) fn keep_spare(&self, batch: Box<Batch>) {
        self.spare.set(batch.recycled());
    }

    /// Bytes retired that no grace period has begun for.
    pub(crate) fn batch_bytes(&self) -> usize {
        let batch = self.batch.take();
        let bytes = batch.as_ref().map_or(0, |batch| batch.bytes());
        self.batch.set(batch);
        bytes
    }

    /// Begins the grace period of what threads without a handle dropped.
    pub(crate) fn adopt_orphans(&self) {
        for batch in self.shared().orphans.take_all() {
            self.defer(batch);
        }
    }
}

/// The guards that a park set aside. Each holds what it runs, but for the one
/// that is parked itself, which nobody can use meanwhile.
#[derive(Clone, Copy, Debug)]
struct GuardCounts {
    pins: usize,
    holding: usize,
    /// The park around this one, 0 for none.
    parked: u64,
}

/// A pointer that a deferred closure may carry to another thread.
struct RipePointer(NonNull<Ripe>);

// SAFETY: `Ripe` is made of atomics.
unsafe impl Send for RipePointer {}

/// Runs `f` with the calling thread's state for an arena, if it has one.
pub(crate) fn with_attached<R>(
    shared: NonNull<Shared>,
    f: impl FnOnce(&ThreadState) -> R,
) -> Option<R> {
    let mut at = ATTACHED.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: states leave the list before they are freed, on this thread.
    while let Some(state) = unsafe { at.as_ref() } {
        if state.is_of(shared) {
            return Some(f(state));
        }
        at = state.next.get();
    }
    None
}

/// As [`with_attached`], with the state of handle `id` if that is one of them.
pub(crate) fn with_handle<R>(
    shared: NonNull<Shared>,
    id: u64,
    f: impl FnOnce(&ThreadState) -> R,
) -> Option<R> {
    let mut found = ptr::null();
    let mut at = ATTACHED.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: as in `with_attached`.
    while let Some(state) = unsafe { at.as_ref() } {
        if state.is_of(shared) {
            found = at;
            if state.id == id {
                break;
            }
        }
        at = state.next.get();
    }
    // SAFETY: null, or of the list; as above.
    unsafe { found.as_ref() }.map(f)
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

/// The calling thread's handle on an arena.
///
/// Installs code, opens write scopes, pins. Never leaves its thread:
///
/// ```compile_fail
/// fn needs_send<T: Send>(_: T) {}
/// needs_send(jit_arena::Arena::new().unwrap().attach().unwrap());
/// ```
pub struct ThreadHandle {
    /// A box, reached through [`ATTACHED`] as well; not `Send`.
    state: NonNull<ThreadState>,
}

impl ThreadHandle {
    pub(crate) fn attach(shared: &ArenaRef) -> Result<Self, AttachError> {
        let arena = shared.get();
        arena.region.protection().attach(arena.region.platform());
        let state = Box::leak(Box::new(ThreadState {
            shared: shared.clone().into_owned(),
            record: arena.threads.take(),
            id: arena.threads.next_id(),
            local: ManuallyDrop::new(arena.collector.register()),
            pin: UnsafeCell::new(None),
            pins: Cell::new(0),
            holding: Cell::new(0),
            parks: Cell::new(0),
            parked: Cell::new(0),
            aside: RefCell::new(Vec::new()),
            claim: Cell::new(Claim::EMPTY),
            appetite: Cell::new(0),
            scopes: Cell::new(0),
            open_scopes: Cell::new(0),
            window: Cell::new(None),
            batch: Cell::new(None),
            withheld: RefCell::new(Vec::new()),
            spare: Cell::new(None),
            unsealed: RefCell::new(Vec::new()),
            stock: Cell::new(0),
            next: Cell::new(ptr::null()),
        }));
        // Where thread-locals are gone, drops on this thread are orphaned.
        let state = NonNull::from(state);
        let handle = Self { state };
        let _ = ATTACHED.try_with(|newest| handle.state().next.set(newest.replace(state.as_ptr())));
        Ok(handle)
    }

    fn state(&self) -> &ThreadState {
        // SAFETY: allocated by `attach`, freed by `drop` only.
        unsafe { self.state.as_ref() }
    }

    /// Reserves place for an executor; its address is known from now on.
    ///
    /// Lock-free; makes a system call when memory must be committed. Dropping
    /// the reservation gives the bytes back.
    ///
    /// # Errors
    ///
    /// A layout that no arena takes, a region that has no such hole left, or a
    /// system that has no memory to back it. Nothing has changed then.
    pub fn reserve(&mut self, layout: CodeLayout) -> Result<Reservation, ReserveError> {
        self.state().reserve(layout)
    }

    /// Opens a write scope: from here to its end this thread, and no other,
    /// may write what it reserved. Wait-free.
    ///
    /// Code cannot be run inside it, because pinning needs the handle that the
    /// scope borrows:
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
    pub fn write(&mut self) -> WriteScope<'_> {
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
    /// Hands the reservation back if nothing was written to it, if it belongs
    /// to another arena, or if the system refused to seal it.
    #[expect(clippy::result_large_err, reason = "hands back what it was given")]
    pub fn publish(&mut self, reservation: Reservation) -> Result<Executor, PublishError> {
        let state = self.state();
        if !reservation.is_of(state) {
            return Err(PublishError { kind: PublishErrorKind::Foreign, reservation });
        }
        if !reservation.is_written() {
            return Err(PublishError { kind: PublishErrorKind::Unwritten, reservation });
        }
        if let Err(os) = state.close_unsealed(reservation.span()) {
            return Err(PublishError { kind: PublishErrorKind::Os(os), reservation });
        }
        let shared = state.shared();
        let code = Span::new(reservation.entry(), reservation.len());
        // SAFETY: the bytes lie in the executable view, and were written.
        unsafe { shared.region.platform().invalidate_instruction_cache(code.start, code.len) };
        shared.pages.add_executor(shared.pages.run(reservation.span()));
        stats::add(&state.tallies().installs, 1);
        stats::add(&state.tallies().installed_bytes, reservation.bytes());
        Ok(reservation.into_executor())
    }

    /// Reserves, writes and publishes `code` with `data` straight behind it,
    /// both as they are.
    ///
    /// # Errors
    ///
    /// As the three steps; nothing has changed then.
    pub fn install(&mut self, code: &[u8], data: &[u8]) -> Result<Executor, InstallError> {
        let layout = CodeLayout::new(code.len()).data(data.len(), 1);
        let mut reservation = self.reserve(layout)?;
        let mut scope = self.write();
        scope.write_at(&mut reservation, 0, code)?;
        if !data.is_empty() {
            scope.write_at(&mut reservation, code.len(), data)?;
        }
        drop(scope);
        Ok(self.publish(reservation)?)
    }

    /// Joins the epoch: what can be reached from here on stays until the guard
    /// is dropped. Wait-free.
    pub fn pin(&self) -> Guard<'_> {
        Guard::new(self.state())
    }

    /// Retires an executor: the same as dropping it on this thread, without
    /// the look for the thread's handle. An executor of another arena is just
    /// dropped.
    pub fn retire(&mut self, executor: Executor) {
        executor.retire_on(self.state());
    }

    /// Pushes reclamation as far as it goes at this moment, and gives all free
    /// system pages back to the system.
    ///
    /// Executors that other threads may be running stay, and so does what
    /// other threads have retired but not handed over yet. Lock-free; makes
    /// system calls.
    pub fn collect(&mut self) {
        self.state().return_claim();
        recycle::collect(self.state());
    }
}

impl ThreadState {
    /// Tries again to close windows that overlap `span`.
    fn close_unsealed(&self, span: Span) -> Result<(), crate::platform::OsError> {
        let mut unsealed = self.unsealed.borrow_mut();
        if unsealed.is_empty() {
            return Ok(());
        }
        let region = &self.shared().region;
        let mut result = Ok(());
        unsealed.retain(|window| {
            if window.span.end() <= span.start || span.end() <= window.span.start {
                return true;
            }
            // SAFETY: the window was never closed, and is dropped once it is.
            let closed = unsafe { region.protection().close_window(region.platform(), *window) };
            if let Err(error) = closed {
                result = Err(error);
            }
            closed.is_err()
        });
        result
    }
}

impl Drop for ThreadHandle {
    fn drop(&mut self) {
        let state = self.state();
        // Unlinks itself: usually the newest.
        let _ = ATTACHED.try_with(|newest| {
            let this: *const ThreadState = self.state.as_ptr();
            if newest.get() == this {
                newest.set(state.next.get());
                return;
            }
            let mut at = newest.get();
            // SAFETY: states leave the list before they are freed.
            while let Some(other) = unsafe { at.as_ref() } {
                if other.next.get() == this {
                    other.next.set(state.next.get());
                    return;
                }
                at = other.next.get();
            }
        });
        state.return_claim();
        state.seal();
        // What the system still refuses to close stays counted in the stats.
        let _ = state.close_unsealed(state.shared().region.span());
        state.record().give_back();
        // SAFETY: a box of `attach`; nothing points to it any more: it is off
        // the thread's list, and guards and scopes borrow this handle.
        drop(unsafe { Box::from_raw(self.state.as_ptr()) });
    }
}

impl Drop for ThreadState {
    fn drop(&mut self) {
        self.set_pin(None);
        // SAFETY: dropped nowhere else. Before the handle below: what it has
        // deferred goes to the collector while that, and the arena, exist.
        unsafe { ManuallyDrop::drop(&mut self.local) };
        // SAFETY: the stock, and the handle of this state itself.
        unsafe { drop_refs(self.shared, self.stock.get() + 1) };
    }
}

impl fmt::Debug for ThreadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadHandle")
            .field("claim", &self.state().claim.get())
            .field("guards", &self.state().pins.get())
            .finish_non_exhaustive()
    }
}
