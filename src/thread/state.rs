//! What a thread keeps for itself: its claim, its batch, its stock of arena
//! handles, its place in the epoch.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};

use crate::arena::{ArenaRef, Shared, drop_refs};
use crate::claim::Claim;
use crate::error::PublishErrorKind;
use crate::fork::{self, Renewable};
use crate::page::bitmap::Run;
use crate::platform::OsError;
use crate::pressure;
use crate::protect::Window;
use crate::reclaim::recycle::{self, Unsynced};
use crate::reclaim::retire::{Batch, Batches, Dead, Ripe};
use crate::reclaim::scheme::{Local, Pin};
use crate::reclaim::share;
use crate::registry::Record;
use crate::reservation::Reservation;
use crate::scope::OpenWindow;
use crate::stats::{self, Tallies};
use crate::sync::mutant;
use crate::units::Span;

use super::holes::Holes;
use super::pins::SetAside;

/// Set in a forked child while some reservations are of before the fork.
const INHERITED: u64 = 1 << 63;

/// Arena handles a thread draws at a time.
const STOCK: usize = 1024;

/// A thread's own state. Reached by the thread alone: through its handle, and
/// through [`attached`](super::attached) when it drops executors.
pub(crate) struct ThreadState {
    shared: NonNull<Shared>,
    record: *const Record,
    /// Tells this handle from every other of the arena.
    id: u64,
    /// Gone before the handle on the arena is.
    pub(crate) local: Renewable<Local>,
    /// The pin of all guards: there as long as there are any.
    pub(super) pin: UnsafeCell<MaybeUninit<Pin>>,
    pub(super) pins: Cell<usize>,
    /// Guards of those that hold the one executor they run.
    pub(crate) holding: Cell<usize>,
    /// Parks begun so far, and the number of the one under way, 0 for none.
    /// Guards are marked with the former: see [`is_aside`](Self::is_aside).
    pub(super) parks: Cell<u64>,
    pub(super) parked: Cell<u64>,
    /// The guards that each park under way has set aside, outermost first.
    pub(super) aside: RefCell<Vec<SetAside>>,
    pub(crate) claim: Cell<Claim>,
    /// What it can claim without asking anybody.
    pub(crate) holes: RefCell<Holes>,
    /// Bytes to claim of its own holes before it looks what it can recycle.
    pub(crate) until_look: Cell<usize>,
    /// Bytes the next claim should have.
    pub(crate) appetite: Cell<usize>,
    /// What it has recycled and no synchronisation of all cores has covered yet.
    pub(crate) unsynced: RefCell<Unsynced>,
    /// Write scopes opened so far: tells reservations of one from another.
    pub(crate) scopes: Cell<u64>,
    /// Write scopes open now.
    pub(crate) open_scopes: Cell<usize>,
    /// The window open in them.
    pub(crate) window: OpenWindow,
    /// What it has dropped and not yet deferred.
    batch: Cell<Option<Box<Batch>>>,
    /// Bytes a batch has at most, about; see [`share::of_thread`].
    pub(crate) share: Cell<usize>,
    /// An empty batch for after that.
    spare: Cell<Option<Box<Batch>>>,
    /// Given up while a window that is open, or could not be closed, may cover it;
    /// see [`abandon`](Self::abandon).
    pub(crate) withheld: RefCell<Vec<Span>>,
    /// Windows the system refused to close.
    pub(crate) unsealed: RefCell<Vec<Window>>,
    /// Arena handles drawn and not yet given out.
    stock: Cell<usize>,
    /// Reservations neither published nor dropped, and [`INHERITED`].
    reservations: Cell<u64>,
    /// The next older state of this thread.
    pub(super) next: Cell<*const ThreadState>,
}

impl ThreadState {
    /// The state of a new handle.
    pub(super) fn new(shared: &ArenaRef) -> Self {
        let arena = shared.get();
        Self {
            shared: shared.clone().into_owned(),
            record: arena.threads.take(),
            id: arena.threads.next_id(),
            local: Renewable::new(arena.collector.register()),
            pin: UnsafeCell::new(MaybeUninit::uninit()),
            pins: Cell::new(0),
            holding: Cell::new(0),
            parks: Cell::new(0),
            parked: Cell::new(0),
            aside: RefCell::new(Vec::new()),
            claim: Cell::new(Claim::EMPTY),
            holes: RefCell::default(),
            until_look: Cell::new(0),
            appetite: Cell::new(0),
            unsynced: RefCell::default(),
            scopes: Cell::new(0),
            open_scopes: Cell::new(0),
            window: OpenWindow::none(),
            batch: Cell::new(None),
            share: Cell::new(share::of_thread(arena)),
            spare: Cell::new(None),
            withheld: RefCell::new(Vec::new()),
            unsealed: RefCell::new(Vec::new()),
            stock: Cell::new(0),
            reservations: Cell::new(0),
            next: Cell::new(ptr::null()),
        }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: the handle that owns this state owns an arena handle.
        unsafe { self.shared.as_ref() }
    }

    #[inline]
    pub(crate) fn record(&self) -> &Record {
        // SAFETY: records live as long as the arena, and this one is ours.
        unsafe { &*self.record }
    }

    #[inline]
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
    #[inline]
    pub(crate) fn draw_ref(&self) -> ArenaRef {
        if self.stock.get() == 0 {
            self.shared().add_refs(STOCK);
            self.stock.set(STOCK);
        }
        self.stock.set(self.stock.get() - 1);
        ArenaRef::from_owned(self.shared)
    }

    /// Puts an arena handle into the stock. Wait-free.
    #[inline]
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

    /// Publishes what was written; see
    /// [`ThreadHandle::publish`](crate::ThreadHandle::publish).
    #[inline]
    pub(super) fn publish(&self, reservation: &Reservation) -> Result<(), PublishErrorKind> {
        if !reservation.is_of(self) {
            return Err(PublishErrorKind::Foreign);
        }
        if !reservation.is_written() {
            return Err(PublishErrorKind::Unwritten);
        }
        let shared = self.shared();
        if let Some(&lost) = shared.lost.get() {
            // Where it was written is the parent's, `[F3]`.
            return Err(PublishErrorKind::Os(lost));
        }
        if !self.unsealed.borrow().is_empty() {
            self.close_unsealed(reservation.span()).map_err(PublishErrorKind::Os)?;
            self.abandon_withheld();
        }
        let code = Span::new(reservation.entry(), reservation.len());
        // SAFETY: the bytes lie in the executable view, and were written.
        unsafe { shared.region.platform().invalidate_instruction_cache(code.start, code.len) };
        shared.pages.marks.publish(shared.pages.granule(reservation.span().start));
        self.unreserved(reservation.span());
        stats::add(&self.tallies().installs, 1);
        stats::add(&self.tallies().installed_bytes, reservation.bytes());
        Ok(())
    }

    /// Counts a reservation.
    #[inline]
    pub(crate) fn reserved(&self) {
        self.reservations.set(self.reservations.get() + 1);
    }

    /// A reservation is published or dropped.
    #[inline]
    pub(crate) fn unreserved(&self, span: Span) {
        let left = self.reservations.get() - 1;
        self.reservations.set(left);
        if left >= INHERITED {
            if left == INHERITED {
                self.reservations.set(0);
            }
            fork::resolved(self.shared(), span, left == INHERITED);
        }
    }

    /// A part of a reservation falls off.
    pub(crate) fn unreserved_part(&self, span: Span) {
        if self.reservations.get() >= INHERITED {
            fork::resolved(self.shared(), span, false);
        }
    }

    /// Has its reservations counted without it: it ends.
    pub(super) fn leave_reservations(&self) {
        let count = self.reservations.get();
        if count > 0 {
            let is_inherited = count >= INHERITED;
            fork::strays::leave(self.shared, self.id, count & !INHERITED, is_inherited);
        }
    }

    /// Puts itself into its record for others to find in a forked child, or takes
    /// itself out.
    pub(super) fn show_in_record(&self, shown: bool) {
        let state = if shown { ptr::from_ref(self).cast_mut() } else { ptr::null_mut() };
        // Relaxed: read only where no other thread is.
        self.record().state.store(state, core::sync::atomic::Ordering::Relaxed);
    }

    /// Arena handles it has, its own among them.
    pub(crate) fn handles(&self) -> usize {
        self.stock.get() + 1
    }

    /// Windows that are open, or could not be closed.
    pub(crate) fn windows(&self) -> Vec<Window> {
        self.unsealed.borrow().iter().copied().chain(self.window.get()).collect()
    }

    /// Calls `f` with granules that are its own, but for its reservations.
    pub(crate) fn for_each_own(&self, mut f: impl FnMut(Run)) {
        let pages = &self.shared().pages;
        let rest = self.claim.get().rest();
        if rest.len > 0 {
            f(pages.run(rest));
        }
        self.holes.borrow().for_each(&mut f);
        self.unsynced.borrow().runs().iter().for_each(|run| f(*run));
        self.withheld.borrow().iter().for_each(|span| f(pages.run(*span)));
    }

    /// Whether it has reservations, which then count as of before the fork.
    pub(crate) fn inherit(&self) -> bool {
        let count = self.reservations.get() & !INHERITED;
        self.reservations.set(if count > 0 { count | INHERITED } else { 0 });
        count > 0
    }

    /// Joins the new collector of a forked child, pinned if it was. What it was
    /// about to retire is retired anew. Keeps no claim if the arena is lost.
    ///
    /// # Safety
    ///
    /// No other thread is there, and this one is in no call of the collector's.
    pub(crate) unsafe fn after_fork(&self, lost: bool) {
        // SAFETY: from the caller.
        unsafe { self.local.renew(self.shared().collector.register()) };
        self.join_anew();
        drop(self.batch.take());
        if lost {
            self.claim.set(Claim::EMPTY);
            drop((self.holes.take(), self.unsynced.take()));
        }
    }

    /// Counts an executor of `bytes` as retired.
    #[inline]
    pub(crate) fn count_retired(&self, bytes: usize) {
        stats::add(&self.tallies().retires, 1);
        stats::add(&self.tallies().retired_bytes, bytes);
    }

    /// Retires what nobody can newly reach. O(1); now and then hands batches
    /// to the epoch.
    #[inline]
    pub(crate) fn retire(&self, dead: Dead) {
        let mut batch = self.batch.take().or_else(|| self.spare.take()).unwrap_or_else(Batch::new);
        batch.push(dead, self.shared().weight(dead));
        let full = batch.is_full() || batch.bytes() >= share::lot(self.share.get());
        self.batch.set(Some(batch));
        if full {
            self.seal();
        }
    }

    /// Retires what nobody runs, can reach or looks at any more. Lock-free;
    /// allocates.
    pub(crate) fn retire_ripe(&self, dead: Dead) {
        let batch = Batch::of(dead, self.shared().weight(dead));
        self.record().ripe.batches().push(batch);
    }

    fn sealed_batch(&self) -> Option<Box<Batch>> {
        self.batch.take().filter(|batch| !batch.is_empty())
    }

    /// Ends the current batch: it is deferred, at once where it makes a lot by
    /// itself, with those of other threads where these make one together.
    pub(crate) fn seal(&self) {
        let Some(batch) = self.sealed_batch() else { return };
        let shared = self.shared();
        if share::is_alone(shared, self.share.get()) {
            self.defer(batch.into(), &self.record().ripe);
        } else {
            shared.gathering.push(batch);
            recycle::defer_if_due(self);
        }
        self.share.set(share::of_thread(shared));
    }

    /// Defers what all threads have gathered, and the current batch with it.
    pub(crate) fn defer_gathered(&self) {
        let shared = self.shared();
        let mut batches = shared.gathering.take_all();
        if let Some(batch) = self.sealed_batch() {
            batches.append(batch.into());
        }
        if mutant("orphan-without-grace") {
            shared.ripe.batches().push_all(batches);
            return;
        }
        if !batches.is_empty() {
            self.defer(batches, &shared.ripe);
        }
    }

    /// Defers batches of executors that were unreachable before this call: they
    /// are `ripe` once every pin of now has ended.
    fn defer(&self, batches: Batches, ripe: &Ripe) {
        let bytes = batches.bytes();
        ripe.expect(bytes);
        pressure::retired(self.shared(), bytes);
        let ripe = RipePointer(NonNull::from(ripe));
        let pin = self.local.pin();
        let handover = move || {
            let RipePointer(ripe) = { ripe };
            // SAFETY: deferred work runs before the collector is gone; the
            // arena drops that before the records and itself.
            let ripe = unsafe { ripe.as_ref() };
            ripe.arrive(batches);
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

    /// Tries again to close windows that overlap `span`.
    #[cold]
    fn close_unsealed(&self, span: Span) -> Result<(), OsError> {
        let mut unsealed = self.unsealed.borrow_mut();
        let region = &self.shared().region;
        let mut result = Ok(());
        unsealed.retain(|window| {
            if !window.span.overlaps(span) {
                return true;
            }
            // SAFETY: the window was never closed, and is dropped once it is.
            let closed = unsafe { region.protection().close_window(region.platform(), window) };
            if let Err(error) = closed {
                result = Err(error);
            }
            closed.is_err()
        });
        result
    }

    /// Tries a last time to close windows; what the system still refuses stays
    /// counted in the stats, and what was withheld on their account is given back:
    /// nobody tries again.
    pub(super) fn give_up_unsealed(&self) {
        if !self.unsealed.borrow().is_empty() {
            let _ = self.close_unsealed(self.shared().region.span());
            self.unsealed.borrow_mut().clear();
        }
        self.abandon_withheld();
    }

    /// Whether a window of this thread's is going to flip pages of `span` as it
    /// closes, `[W3]`: it is open, or could not be closed.
    pub(crate) fn is_under_window(&self, span: Span) -> bool {
        let covers = |window: &Window| window.span.overlaps(span);
        self.shared().units.are_coarse()
            && (self.window.get().as_ref().is_some_and(covers)
                || self.unsealed.borrow().iter().any(covers))
    }
}

impl Drop for ThreadState {
    fn drop(&mut self) {
        self.forget_guards();
        // SAFETY: dropped nowhere else. Before the handle below: what it has
        // deferred goes to the collector while that, and the arena, exist.
        drop(unsafe { self.local.take() });
        // SAFETY: the stock, and the handle of this state itself.
        unsafe { drop_refs(self.shared, self.stock.get() + 1) };
    }
}

/// A pointer that a deferred closure may carry to another thread.
struct RipePointer(NonNull<Ripe>);

// SAFETY: `Ripe` is made of atomics.
unsafe impl Send for RipePointer {}
