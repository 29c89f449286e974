//! Islands: runs of granules that trampolines are written to.
//!
//! A trampoline stays as long as the arena, so trampolines are kept together:
//! one of them alone would keep its whole page from ever emptying. An island is
//! claimed like any hole and handed out front to back, a granule at least at a
//! time, so that nobody writes a line that somebody else runs; a batch shares
//! granules. Where writing flips system pages, what is handed out at once is
//! whole ones, `[W3]`.

use core::ops::Range;
use core::ptr;

use crate::arena::Shared;
use crate::page::bitmap::Run;
use crate::pressure::CommitError;
use crate::reclaim::recycle;
use crate::stats;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering, Watched};
use crate::thread::ThreadState;
use crate::units::{GRANULE, KIB};

/// Length of an island, in granules, if there is a hole so long.
pub(super) const ISLAND: usize = 4 * KIB / GRANULE;

struct Island {
    /// The one before; never changes once pushed.
    older: *mut Island,
    run: Run,
    /// Granules handed out.
    used: AtomicUsize,
    /// Stands for `older` and `run`: the models see who reads them unordered.
    made: Watched,
}

impl Island {
    /// The next `need` granules, if so many are left. Lock-free.
    fn take(&self, need: usize) -> Option<Run> {
        // Relaxed [B1]: the read-modify-write makes the part ours; its memory was
        // made ready before the push.
        let mut used = self.used.load(Ordering::Relaxed);
        while used + need <= self.run.len {
            let taken = self.used.compare_exchange_weak(
                used,
                used + need,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match taken {
                Ok(_) => return Some(Run::new(self.run.start + used, need)),
                Err(now) => used = now,
            }
        }
        None
    }
}

/// The islands of a zone, newest first.
pub(super) struct Islands {
    newest: AtomicPtr<Island>,
    /// Granules of islands that were given back, unseen.
    given_back: AtomicUsize,
}

impl Islands {
    pub(super) fn new() -> Self {
        Self { newest: AtomicPtr::new(ptr::null_mut()), given_back: AtomicUsize::new(0) }
    }

    /// Granules for the calling thread alone, whole write units, at least
    /// `need`, in one of `pages`; `None` if there is no hole so long. They were
    /// never written since they were claimed. Lock-free; makes a system call
    /// when memory must be committed.
    pub(super) fn take(
        &self,
        thread: &ThreadState,
        pages: &Range<usize>,
        need: usize,
    ) -> Result<Option<Run>, CommitError> {
        let need = thread.shared().units.round_up(need);
        loop {
            // Acquire: pairs with the Release of the push: seeing the island is
            // seeing it initialised.
            let newest = self.newest.load(Ordering::Acquire);
            // An older one has room where the next asked for more than was left.
            let mut at = newest;
            // SAFETY: islands are freed only with the list, which is borrowed.
            while let Some(island) = unsafe { at.as_ref() } {
                island.made.read();
                if let Some(part) = island.take(need) {
                    return Ok(Some(part));
                }
                at = island.older;
            }
            let Some(run) = claim(thread, pages, need) else { return Ok(None) };
            if let Err(error) = thread.commit(run) {
                thread.shared().pages.release(run);
                return Err(error);
            }
            let new =
                Island { older: newest, run, used: AtomicUsize::new(need), made: Watched::new() };
            let new = Box::into_raw(Box::new(new));
            // Release: pairs with the Acquire above. Relaxed on failure: the
            // loop loads again.
            let push =
                self.newest.compare_exchange(newest, new, Ordering::Release, Ordering::Relaxed);
            if push.is_ok() {
                stats::add(&thread.tallies().taken, run.len);
                return Ok(Some(Run::new(run.start, need)));
            }
            // SAFETY: ours: made above and never shared.
            drop(unsafe { Box::from_raw(new) });
            thread.shared().pages.release(run);
        }
    }

    /// Gives granules back that [`take`](Self::take) handed out and nobody has
    /// seen since. Wait-free; they become a hole as abandoned reservations do.
    pub(super) fn give_back(&self, thread: &ThreadState, run: Run) {
        thread.abandon(thread.shared().pages.span(run));
        // Relaxed: a statistic.
        self.given_back.fetch_add(run.len, Ordering::Relaxed);
    }

    /// Calls `f` with what was handed out to nobody yet.
    pub(super) fn unused(&self, mut f: impl FnMut(Run)) {
        // Acquire: as in `take`.
        let mut at = self.newest.load(Ordering::Acquire);
        // SAFETY: as in `take`.
        while let Some(island) = unsafe { at.as_ref() } {
            // Relaxed: exact only while nobody takes.
            let used = island.used.load(Ordering::Relaxed);
            f(Run::new(island.run.start + used, island.run.len - used));
            at = island.older;
        }
    }

    /// Granules of all islands.
    pub(super) fn granules(&self) -> usize {
        let mut granules = 0_usize;
        // Acquire: as in `take`.
        let mut at = self.newest.load(Ordering::Acquire);
        // SAFETY: as in `take`.
        while let Some(island) = unsafe { at.as_ref() } {
            island.made.read();
            granules += island.run.len;
            at = island.older;
        }
        // Relaxed: a statistic. Read last, so possibly of an island that is too
        // new to be counted.
        granules.saturating_sub(self.given_back.load(Ordering::Relaxed))
    }
}

/// Claims a hole for an island: a long one if there is one, a new one if that
/// takes only what is dead.
fn claim(thread: &ThreadState, pages: &Range<usize>, need: usize) -> Option<Run> {
    let shared = thread.shared();
    let long = shared.units.round_up(need.max(ISLAND));
    let find = |need| claim_in(shared, pages, need, long);
    find(long).or_else(|| find(need)).or_else(|| {
        // Full, so nothing that could be free may stay retired.
        recycle::reclaim(thread);
        find(need)
    })
}

fn claim_in(shared: &Shared, pages: &Range<usize>, need: usize, want: usize) -> Option<Run> {
    if *pages == (0..shared.pages.count()) {
        return shared.pages.claim(need, want);
    }
    shared.pages.claim_within(pages.clone(), need, want)
}

impl Drop for Islands {
    fn drop(&mut self) {
        // Relaxed: dropping is exclusive. The granules go with the region.
        let mut at = self.newest.load(Ordering::Relaxed);
        while !at.is_null() {
            // SAFETY: pushed as a box, and nobody borrows the list any more.
            let island = unsafe { Box::from_raw(at) };
            at = island.older;
        }
    }
}

// SAFETY: `older` is written before an island is shared and only read after;
// everything else is atomic.
unsafe impl Send for Islands {}
// SAFETY: as above.
unsafe impl Sync for Islands {}
