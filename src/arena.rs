//! The arena: wires region, pages, reclamation and threads together, and lives
//! as long as anything that came from it.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

use crate::config::{Builder, Config};
use crate::dump::{self, Dump};
use crate::error::{AttachError, BuildError, VerifyError};
use crate::evacuation::{self, NearlyEmpty};
use crate::fork::{self, Gate, Inherited, Renewable};
use crate::lookup::{self, CodeInfo, Lookups};
use crate::page::Pages;
use crate::page::unit::Units;
use crate::platform::{OsError, Platform};
use crate::pressure::Budget;
use crate::reclaim::depot::Depot;
use crate::reclaim::retire::{Attempts, Batch, Dead, Ripe, Stack};
use crate::reclaim::scheme::Collector;
use crate::reclaim::sync::Syncs;
use crate::reclaim::trim::Watermark;
use crate::region::{Region, RegionRequest};
use crate::registry::Registry;
use crate::report::Report;
use crate::slot::Slot;
use crate::stats::{Stats, Tallies, Totals};
use crate::sync::{AtomicUsize, Ordering, fence};
use crate::thread::{self, ThreadHandle};
use crate::trampoline::{self, Trampoline, TrampolineError, Trampolines};
use crate::units::{GRANULE, Span};
use crate::verify;

/// Code memory for all threads of a process, or for one of its runtimes.
///
/// Cheap to clone; clones are the same arena. The memory goes back to the
/// system when the last clone, thread handle, executor, reservation and slot
/// is gone.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let arena = jit_arena::Arena::new()?;
/// println!("{}", arena.report());
/// # Ok(())
/// # }
/// ```
pub struct Arena {
    shared: ArenaRef,
}

/// What all handles of an arena point to.
pub(crate) struct Shared {
    /// Handles of all kinds; see [`ArenaRef`].
    refs: CachePadded<AtomicUsize>,
    /// [`Arena`] values.
    arenas: AtomicUsize,
    pub(crate) region: Region,
    pub(crate) report: Report,
    pub(crate) config: Config,
    pub(crate) pages: Pages,
    pub(crate) units: Units,
    pub(crate) threads: Registry,
    /// Taken out and dropped first: what it still defers lands with
    /// the threads' records.
    pub(crate) collector: Renewable<Collector>,
    /// Batches that a sleeping thread holds, or that could not be filled.
    pub(crate) waiting: Stack,
    /// Batches of threads that are not attached, or that are one of many: no
    /// grace period has begun for them yet.
    pub(crate) gathering: CachePadded<Stack>,
    /// Those for which one was begun together.
    pub(crate) ripe: CachePadded<Ripe>,
    /// Attempts to make holes before the arena grows.
    pub(crate) pushes: Attempts,
    /// Waits for pinned threads that were in vain.
    pub(crate) waits: Attempts,
    /// Holes beyond what their threads may keep.
    pub(crate) depot: CachePadded<Depot>,
    /// Counts of threads that are not attached; several may write it.
    pub(crate) unattached: Unattached,
    /// Core synchronisations that recycled memory waits for.
    pub(crate) syncs: Syncs,
    /// How much free memory to keep.
    pub(crate) watermark: Watermark,
    /// By which lookups know what they read.
    pub(crate) lookups: CachePadded<Lookups>,
    pub(crate) trampolines: Trampolines,
    pub(crate) budget: Budget,
    /// Closed while a fork needs what is published to stay as it is.
    pub(crate) gate: Gate,
    /// In a forked child, what it cannot tell from its own yet.
    pub(crate) inherited: Inherited,
    /// In a forked child that got no memory of its own, why, `[F3]`.
    pub(crate) lost: OnceLock<OsError>,
}

/// What threads that are not attached have done.
#[derive(Debug, Default)]
pub(crate) struct Unattached(Tallies);

impl Unattached {
    pub(crate) fn count_retired(&self, bytes: usize) {
        // Relaxed: statistics.
        self.0.retires.fetch_add(1, Ordering::Relaxed);
        self.0.retired_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn tallies(&self) -> &Tallies {
        &self.0
    }
}

impl Shared {
    /// Totals over all threads, attached or not.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.threads.totals();
        totals.add(&self.unattached.0);
        totals.stats.claimed_bytes += self.depot.bytes() as u64;
        totals
    }

    pub(crate) fn stats(&self) -> Stats {
        let (committed, reserved) = (self.pages.committed_bytes(), self.region.span().len);
        let mut stats = self.totals().finish(committed, reserved, self.trampolines.bytes());
        stats.huge_bytes = self.region.huge_bytes() as u64;
        stats
    }

    /// Bytes of committed memory that no executor occupies: holes, everybody's
    /// and threads' own.
    pub(crate) fn free_bytes(&self) -> usize {
        let totals = self.totals();
        self.free_of(&totals, totals.stats.claimed_bytes)
    }

    /// As [`free_bytes`](Self::free_bytes), less what other threads have than the
    /// one with these tallies.
    pub(crate) fn free_bytes_for(&self, tallies: &Tallies) -> usize {
        // Relaxed: a statistic.
        self.free_of(&self.totals(), tallies.unused.load(Ordering::Relaxed))
    }

    /// Committed bytes that nobody has, and `unused` of those that threads have.
    fn free_of(&self, totals: &Totals, unused: u64) -> usize {
        let used = totals.taken_bytes().saturating_sub(unused);
        self.pages.committed_bytes().saturating_sub(used as usize)
    }

    /// Hands an executor over that a thread without a handle dropped. Its
    /// grace period begins when an attached thread defers it. Lock-free.
    pub(crate) fn orphan(&self, dead: Dead) {
        self.gathering.push(Batch::of(dead, self.weight(dead)));
    }

    /// As [`orphan`](Self::orphan), with what nobody ever ran: no grace period is
    /// to begin. Lock-free.
    pub(crate) fn abandon(&self, dead: Dead) {
        self.ripe.batches().push(Batch::of(dead, self.weight(dead)));
    }

    /// Bytes that become free with `dead`, which may be more than its own where
    /// writing takes whole system pages.
    #[inline]
    pub(crate) fn weight(&self, dead: Dead) -> usize {
        self.units.weight(self.pages.run(dead.span)) * GRANULE
    }

    /// Adds `n` to the handles.
    pub(crate) fn add_refs(&self, n: usize) {
        // Relaxed: the caller has a handle, so the count is not zero.
        self.refs.fetch_add(n, Ordering::Relaxed);
    }

    /// In a forked child, gives back `n` handles of threads that are not there.
    /// The last one stays, if it is among them: then nobody can ask for more.
    pub(crate) fn drop_refs_of_others(&self, n: usize) {
        // Relaxed: of the only thread.
        let left = self.refs.load(Ordering::Relaxed).saturating_sub(n);
        self.refs.store(left.max(1), Ordering::Relaxed);
    }

    /// Whether forked children are to have nothing of the arena: its views are not
    /// there.
    pub(crate) fn is_kept_from_children(&self) -> bool {
        self.config.sealed || !self.config.forks
    }

    /// Whether no [`Arena`] value is left, only what came from it.
    pub(crate) fn is_abandoned(&self) -> bool {
        // Relaxed: decides only when to let go of an unused thread handle.
        self.arenas.load(Ordering::Relaxed) == 0
    }
}

/// Gives `n` handles back; frees the arena with the last. Wait-free but for that
/// one, which takes the lock of the arenas that forks know, so may wait for the
/// copy of a fork under way, and makes system calls.
///
/// # Safety
///
/// The caller owns `n` handles and does not use them again.
pub(crate) unsafe fn drop_refs(shared: NonNull<Shared>, n: usize) {
    // SAFETY: the handles being dropped keep it alive.
    let refs = unsafe { &shared.as_ref().refs };
    // Release: pairs with the fence below; all uses come before the freeing.
    if refs.fetch_sub(n, Ordering::Release) == n {
        // Acquire: pairs with the Release of every other handle's end.
        fence(Ordering::Acquire);
        let held_off = fork::ForksHeldOff::forget(shared);
        let shared = shared.as_ptr();
        // SAFETY: this was the last handle: nobody else has a reference.
        let collector = unsafe { &(*shared).collector };
        // SAFETY: taken here only, and never used in place again.
        let collector = unsafe { collector.take() };
        // What it still defers goes to records: everything else is in place.
        drop(collector);
        // SAFETY: as above; only read here.
        let last = unsafe { &*shared };
        // What the client gave is dropped last: it may have an arena of its own.
        let config = last.config.clone();
        config.tools.unmapped(last.region.span());
        // SAFETY: allocated by `Arena::create` as a box.
        drop(unsafe { Box::from_raw(shared) });
        drop(held_off);
        drop(config);
    }
}

/// One counted handle.
///
/// Executors do not hold one of these each: a thread draws handles in stocks
/// and gives them out one by one, so that installing touches no line that all
/// threads write (see `thread`).
pub(crate) struct ArenaRef(NonNull<Shared>);

// SAFETY: `Shared` is made of atomics and of parts that are Sync; the pointer
// keeps it alive by count.
unsafe impl Send for ArenaRef {}
// SAFETY: as above.
unsafe impl Sync for ArenaRef {}

impl ArenaRef {
    pub(crate) fn get(&self) -> &Shared {
        // SAFETY: the handle keeps it alive.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn pointer(&self) -> NonNull<Shared> {
        self.0
    }

    /// Takes over a handle that the caller owns.
    pub(crate) fn from_owned(shared: NonNull<Shared>) -> Self {
        Self(shared)
    }

    /// Gives the handle to the caller.
    pub(crate) fn into_owned(self) -> NonNull<Shared> {
        ManuallyDrop::new(self).0
    }
}

impl Clone for ArenaRef {
    fn clone(&self) -> Self {
        self.get().add_refs(1);
        Self(self.0)
    }
}

impl Drop for ArenaRef {
    fn drop(&mut self) {
        // SAFETY: this handle ends here.
        unsafe { drop_refs(self.0, 1) };
    }
}

impl Arena {
    pub(crate) fn handle(&self) -> &ArenaRef {
        &self.shared
    }

    /// An arena with the defaults of [`Builder`]. Makes system calls.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`].
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// Sets an arena up.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn create(
        platform: Arc<dyn Platform>,
        request: &RegionRequest<'_>,
        config: Config,
    ) -> Result<Self, BuildError> {
        // Before there is memory that a child could get and nobody in it know of.
        let held_off = fork::ForksHeldOff::new(&*platform).map_err(BuildError::Fork)?;
        let (mut region, report) = Region::create(platform, request)?;
        if config.sealed {
            // Which hides it from children, too.
            region.seal(report.memory).map_err(BuildError::Seal)?;
        } else if !config.forks {
            region.hide_from_children().map_err(BuildError::Fork)?;
        }
        let pages = Pages::new(&region, config.code_page, config.page_order);
        let units = Units::new(region.unit(), region.span().len / GRANULE);
        let trampolines = Trampolines::new(region.span().len, config.branch_reach);
        let budget = Budget::new(config.code_budget);
        let depot = CachePadded::new(Depot::new(region.span().len / GRANULE));
        let shared = Box::new(Shared {
            refs: CachePadded::new(AtomicUsize::new(1)),
            arenas: AtomicUsize::new(1),
            region,
            report,
            config,
            pages,
            units,
            threads: Registry::new(),
            collector: Renewable::new(Collector::new()),
            waiting: Stack::new(),
            gathering: CachePadded::new(Stack::new()),
            ripe: CachePadded::new(Ripe::new()),
            pushes: Attempts::default(),
            waits: Attempts::from_the_first(),
            depot,
            unattached: Unattached::default(),
            syncs: Syncs::new(),
            watermark: Watermark::default(),
            lookups: CachePadded::new(Lookups::new()),
            trampolines,
            budget,
            gate: Gate::new(),
            inherited: Inherited::default(),
            lost: OnceLock::new(),
        });
        let arena = Self { shared: ArenaRef(NonNull::from(Box::leak(shared))) };
        held_off.watch(arena.shared.pointer());
        Ok(arena)
    }

    /// Attaches the calling thread: gives it what it needs to install and run
    /// code. Lock-free; allocates.
    ///
    /// Dropping the handle hands its claim and its retired executors over.
    /// A thread may have several handles.
    ///
    /// # Errors
    ///
    /// None at present on the platforms supported.
    pub fn attach(&self) -> Result<ThreadHandle, AttachError> {
        ThreadHandle::attach(&self.shared)
    }

    /// Runs `f` with a handle of the calling thread's that is made on first
    /// use and kept.
    ///
    /// A kept handle keeps the arena's memory, like any other. It is dropped when
    /// the thread exits, or as the thread next calls this, of whichever arena, once
    /// no `Arena` is left of its own.
    ///
    /// Inside `f` the handle is away; a nested call uses another.
    ///
    /// # Errors
    ///
    /// [`AttachError::ThreadExiting`] where thread-locals are gone already.
    pub fn with_thread<R>(&self, f: impl FnOnce(&mut ThreadHandle) -> R) -> Result<R, AttachError> {
        thread::with_kept_handle(&self.shared, f)
    }

    /// An empty slot for executors of this arena.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::new(self.shared.clone())
    }

    /// The region in the executable view.
    #[must_use]
    pub fn span(&self) -> Span {
        self.shared.get().region.span()
    }

    /// What to add to the address that code runs at to get the one it is written
    /// at inside a write scope, if that is the same as long as the arena lives: 0
    /// where there is one view, `None` where windows for writing come and go.
    ///
    /// For clients that write by address what they reserved. They ask for its
    /// [`WriteScope::bytes`](crate::WriteScope::bytes) in the same scope, which
    /// writes what stands in front of the code and has what was written cleaned
    /// out of caches where that takes an instruction.
    #[must_use]
    pub fn write_offset(&self) -> Option<isize> {
        let at = self.span().start;
        let writable = self.shared.get().region.protection().writable_at(at)?;
        Some(writable.wrapping_sub(at).cast_signed())
    }

    /// Whether `address` lies in the arena's code memory. Wait-free and
    /// async-signal-safe: one comparison.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        lookup::contains(self.shared.get(), address)
    }

    /// The executor that `address` lies in: its code, its data, or what is
    /// between. Wait-free and async-signal-safe: it loads, and only where dead
    /// executors are recycled as fast as it looks does it add to a count.
    ///
    /// An executor that was published before the call and cannot be recycled
    /// until it returns is found: the thread that calls, or the one that it
    /// interrupted, runs it under a guard, holds it, or owns its handle. For
    /// any other address the answer is an executor that was there at some
    /// moment of the call (retired already, perhaps), or none: what nobody
    /// keeps alive may be gone, and its memory another's, before the caller
    /// looks at the answer.
    ///
    /// # Examples
    ///
    /// ```
    /// use jit_arena::{Arena, CodeLayout};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let arena = Arena::new()?;
    /// let mut thread = arena.attach()?;
    /// let mut place = thread.reserve(CodeLayout::new(1).data(8, 8).tag(77))?;
    /// thread.write().write_at(&mut place, 0, &[0xC3])?;
    /// let executor = thread.publish(place)?;
    ///
    /// // As a signal handler would, with the program counter it was given.
    /// let found = arena.lookup(executor.addr()).ok_or("not found")?;
    /// assert_eq!((found.entry(), found.tag), (executor.addr(), 77));
    /// assert!(arena.lookup(main as fn() -> _ as usize).is_none());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn lookup(&self, address: usize) -> Option<CodeInfo> {
        lookup::lookup(self.shared.get(), address)
    }

    /// The trampoline to `target`: a jump that a direct branch from any place in
    /// the arena reaches. The same one for all who ask; it stays as long as the
    /// arena.
    ///
    /// Wait-free where there is one already; otherwise lock-free, and writes it
    /// in a write scope of its own. It changes no register on x86-64, and x16 on
    /// aarch64.
    ///
    /// Under [`Strategy::Mprotect`](crate::Strategy::Mprotect) one that is made
    /// alone takes a system page: make many with
    /// [`make_trampolines`](Self::make_trampolines).
    ///
    /// # Errors
    ///
    /// A region longer than branches reach (more than 128 MiB on aarch64: use
    /// [`call_target`](Self::call_target)), a full one, or a refusal of the
    /// system. Nothing has changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// extern "C" fn helper() -> u32 {
    ///     42
    /// }
    ///
    /// let arena = jit_arena::Arena::new()?;
    /// let helper = helper as extern "C" fn() -> u32 as usize;
    /// let jump = arena.trampoline(helper)?;
    /// assert_eq!(arena.trampoline(helper)?, jump);
    ///
    /// let mut thread = arena.attach()?;
    /// let mut place = thread.reserve(jit_arena::CodeLayout::new(5))?;
    /// let mut code = vec![0xE9]; // x86-64: jmp rel32
    /// code.extend((jump as i64 - (place.entry() + 5) as i64).to_le_bytes()[..4].iter());
    /// thread.write().write_at(&mut place, 0, &code)?;
    /// let executor = thread.publish(place)?;
    ///
    /// let guard = thread.pin();
    /// let function: extern "C" fn() -> u32 = unsafe { executor.entry(&guard).cast() };
    /// assert_eq!(function(), 42);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_arch = "x86_64"))]
    /// # fn main() {}
    /// ```
    pub fn trampoline(&self, target: usize) -> Result<usize, TrampolineError> {
        trampoline::trampoline(&self.shared, target)
    }

    /// What a direct branch at `from` should branch to in order to get to `to`:
    /// `to` itself if it reaches that, otherwise a trampoline it reaches.
    ///
    /// Progress as [`trampoline`](Self::trampoline). May be asked inside a write
    /// scope, of a place that is only reserved yet.
    ///
    /// # Errors
    ///
    /// A branch outside the arena that does not reach; otherwise as
    /// [`trampoline`](Self::trampoline), but for long regions.
    pub fn call_target(&self, from: usize, to: usize) -> Result<usize, TrampolineError> {
        trampoline::call_target(&self.shared, from, to)
    }

    /// Makes trampolines to all these targets, in write scopes of up to 256, and
    /// four to a granule: for the helpers that a runtime knows when it starts.
    ///
    /// # Errors
    ///
    /// As [`trampoline`](Self::trampoline), but for long regions, which get one
    /// of each for every stretch that branches reach. What was made before the
    /// error stays.
    pub fn make_trampolines(&self, targets: &[usize]) -> Result<(), TrampolineError> {
        trampoline::make(&self.shared, targets)
    }

    /// All trampolines made so far, by address.
    #[must_use]
    pub fn trampolines(&self) -> Vec<Trampoline> {
        self.shared.get().trampolines.list()
    }

    /// Copies all live code, and what trampolines there are. Threads may go on:
    /// what is installed or dropped meanwhile may be in it or not, and what is in
    /// it is whole.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn dump(&self) -> Result<Dump, AttachError> {
        dump::dump(&self.shared)
    }

    /// Code pages on which no more than `most_bytes` are alive, fewest first: what
    /// a runtime that drops those few executors, or compiles them anew, gets
    /// back. Threads may go on meanwhile, so it is what was true at some moment.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn evacuation_candidates(
        &self,
        most_bytes: usize,
    ) -> Result<Vec<NearlyEmpty>, AttachError> {
        evacuation::candidates(&self.shared, most_bytes)
    }

    /// Which strategy was chosen, what was tried before it, and why each
    /// better one was refused.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.shared.get().report
    }

    /// What the arena holds and has done. Reads each attached thread's counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.get().stats()
    }

    /// Checks every invariant of pages, executors, index and accounts.
    ///
    /// Meaningful only while no thread installs, drops or collects; threads
    /// that merely run code do not disturb it. Takes time in proportion to the
    /// memory in use.
    ///
    /// # Errors
    ///
    /// The first invariant found broken, by its id in DESIGN.md.
    pub fn verify(&self) -> Result<(), VerifyError> {
        verify::verify(self.shared.get())
    }

    /// As [`ThreadHandle::collect`], with the thread's kept handle.
    ///
    /// # Errors
    ///
    /// As [`with_thread`](Self::with_thread).
    pub fn collect(&self) -> Result<(), AttachError> {
        self.with_thread(ThreadHandle::collect)
    }
}

impl Clone for Arena {
    fn clone(&self) -> Self {
        // Relaxed: as `is_abandoned`.
        self.shared.get().arenas.fetch_add(1, Ordering::Relaxed);
        Self { shared: self.shared.clone() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Relaxed: as `is_abandoned`.
        self.shared.get().arenas.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("strategy", &self.shared.get().region.protection().strategy())
            .field("span", &self.span())
            .finish_non_exhaustive()
    }
}
