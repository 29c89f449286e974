//! Claims: the runs of granules that threads bump-allocate in.
//!
//! Threads share code pages; what a thread owns is one run of granules inside
//! one, a few KiB at first and more as its appetite grows. Reserving moves the
//! claim's cursor and touches nothing shared. Where the claim is too short, its
//! rest goes back and the next hole is claimed, lowest address first (after
//! Immix: Blackburn and McKinley, PLDI 2008, with granules for lines).

use core::time::Duration;

use crate::error::ReserveError;
use crate::layout::CodeLayout;
use crate::page::bitmap::Run;
use crate::pressure::{self, CommitError};
use crate::reclaim::recycle;
use crate::reclaim::retire::{Dead, Was};
use crate::reclaim::share;
use crate::reservation::Reservation;
use crate::stats;
use crate::sync::{Ordering, PATIENCE, mutant, yield_now};
use crate::thread::{self, ThreadState};
use crate::units::{GRANULE, KIB, Span};

/// Smallest and largest appetite, in bytes.
const LEAST: usize = 4 * KIB;
pub(crate) const MOST: usize = 32 * KIB;

/// How often a thread looks for something to recycle while it claims a lot of its
/// own holes.
const LOOKS_A_LOT: usize = 8;

/// Times that a thread which finds the region full yields before it sleeps.
const YIELDS: usize = 16;

/// A thread's private run of granules: addresses in the executable view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// Everything from here on is unpublished: a window may cover it.
    start: usize,
    /// Everything from here on is free.
    cursor: usize,
    end: usize,
}

impl Claim {
    /// Holds nothing: the first reservation misses and claims.
    pub(crate) const EMPTY: Self = Self { start: 0, cursor: 0, end: 0 };

    /// The whole claim.
    pub(crate) fn span(&self) -> Span {
        Span::new(self.start, self.end - self.start)
    }

    /// The part that no reservation occupies.
    pub(crate) fn rest(&self) -> Span {
        Span::new(self.cursor, self.end - self.cursor)
    }
}

impl ThreadState {
    /// See [`ThreadHandle::reserve`](crate::ThreadHandle::reserve).
    #[inline]
    pub(crate) fn reserve(&self, layout: CodeLayout) -> Result<Reservation, ReserveError> {
        let layout = layout.validate()?;
        let (span, entry) = layout.place(self.claim.get().cursor);
        if span.end() <= self.claim.get().end {
            return Ok(self.bump(&layout, span, entry));
        }
        if let Err(error) = self.refill(&layout) {
            self.account_unused();
            return Err(error);
        }
        let (span, entry) = layout.place(self.claim.get().cursor);
        Ok(self.bump(&layout, span, entry))
    }

    /// Moves the cursor past `span`, which lies in the claim's rest.
    #[inline(always)]
    fn bump(&self, layout: &CodeLayout, span: Span, entry: usize) -> Reservation {
        let mut claim = self.claim.get();
        debug_assert!(claim.rest().contains(span));
        let skipped = Span::new(claim.cursor, span.start - claim.cursor);
        claim.cursor = span.end();
        self.claim.set(claim);
        if skipped.len > 0 {
            self.put_aside(skipped);
        }
        self.account_unused();
        if self.open_scopes.get() == 0 {
            // Outside a scope each reservation is sealed on its own.
            self.close_unit();
        }
        Reservation::new(self, layout.block(), span, entry)
    }

    /// Accounts for what the thread has and no executor occupies. Whoever
    /// changes that calls it when done.
    #[inline]
    pub(crate) fn account_unused(&self) {
        let unused = self.claim.get().rest().len
            + self.holes.borrow().bytes()
            + self.unsynced.borrow().bytes();
        // Relaxed: a statistic of this thread's.
        self.tallies().unused.store(unused as u64, Ordering::Relaxed);
    }

    /// Gets a claim that `layout` fits in: a hole of the thread's own, one of the
    /// depot's, or one of those that all threads share.
    ///
    /// Lock-free; makes a system call when a lot is recycled or the hole's
    /// memory must be committed.
    #[inline(never)]
    fn refill(&self, layout: &CodeLayout) -> Result<(), ReserveError> {
        let (units, region) = (&self.shared().units, self.shared().region.span());
        let need = units.round_up(layout.granules());
        if need * GRANULE > region.len {
            let bytes = layout.block().bytes();
            return Err(ReserveError::TooLarge { bytes, max: region.len });
        }
        if units.are_coarse() {
            // What is set aside must not be under a window of ours.
            self.close_window();
        }
        self.put_claim_aside();
        if (!self.is_time_to_look(need) && self.claim_kept(need))
            || self.claim_recycled(need)
            || (recycle::settle_now(self) && self.claim_kept(need))
        {
            return Ok(());
        }
        self.claim_shared(need)
    }

    /// Whether to look for something to recycle, as now and then is often enough
    /// while the thread has holes of its own.
    fn is_time_to_look(&self, need: usize) -> bool {
        let left = self.until_look.get().checked_sub(need * GRANULE);
        self.until_look.set(left.unwrap_or_else(|| share::lot(self.share.get()) / LOOKS_A_LOT));
        left.is_none()
    }

    fn claim_recycled(&self, need: usize) -> bool {
        recycle::before_claim(self);
        self.claim_kept(need)
    }

    /// Makes a hole of the thread's own the claim, or else one of the depot's;
    /// false if none is long enough.
    fn claim_kept(&self, need: usize) -> bool {
        let own = self.holes.borrow_mut().take(need);
        let hole = own.or_else(|| self.shared().depot.take(need));
        hole.is_some_and(|hole| {
            self.begin_claim(hole);
            true
        })
    }

    /// Claims a hole of those that belong to nobody.
    #[cold]
    fn claim_shared(&self, need: usize) -> Result<(), ReserveError> {
        let shared = self.shared();
        if let Some(&lost) = shared.lost.get() {
            return Err(ReserveError::Os(lost));
        }
        // Holes of its own are to be used up first.
        let has_none = self.holes.borrow().count() == 0;
        let want = if has_none { self.next_appetite(need) } else { need };
        let mut run = shared.pages.claim(need, want);
        let grows = |run: Option<Run>| run.is_none_or(|run| !shared.pages.is_committed(run));
        if grows(run) && recycle::push(self) {
            // Better a hole that just came to be than more memory.
            if let Some(run) = run {
                shared.pages.release(run);
            }
            if self.claim_kept(need) {
                return Ok(());
            }
            run = shared.pages.claim(need, want);
        }
        if run.is_none() {
            run = self.claim_in_time(need, want);
        }
        let Some(mut run) = run else {
            let stats = shared.stats();
            return Err(ReserveError::Exhausted {
                bytes: need * GRANULE,
                live: stats.live_bytes as usize,
                retired: stats.retired_bytes as usize,
                holes: shared
                    .region
                    .span()
                    .len
                    .saturating_sub((stats.committed_bytes - stats.hole_bytes) as usize),
                reserved: shared.region.span().len,
            });
        };
        let mut committed = self.commit(run);
        if committed.is_err() && run.len > need {
            // There may be room for what is needed, and not for all that was claimed.
            shared.pages.release(Run::new(run.start + need, run.len - need));
            run = Run::new(run.start, need);
            committed = self.commit_all(run);
        }
        if let Err(error) = committed {
            shared.pages.release(run);
            let bytes = need * GRANULE;
            return Err(match error {
                CommitError::Os(error) => ReserveError::Os(error),
                CommitError::OverBudget { committed, budget } => {
                    ReserveError::OverBudget { bytes, committed, budget }
                }
            });
        }
        stats::add(&self.tallies().claims, 1);
        stats::add(&self.tallies().taken, run.len);
        self.begin_claim(run);
        Ok(())
    }

    /// Claims in a region that is full, so that nothing that could be free may stay
    /// retired. A thread that lost the processor inside a pin holds all of it up: it
    /// is let run. Where that was in vain, it is slept for again when more waits.
    fn claim_in_time(&self, need: usize, want: usize) -> Option<Run> {
        let shared = self.shared();
        let sleeps = shared.waits.has_come(recycle::pending(shared), share::MOST_LOT);
        for attempt in 0..PATIENCE {
            if attempt >= YIELDS && !sleeps && !shared.gate.is_closed() {
                return None;
            }
            if attempt > 0 {
                self.let_run(attempt);
            }
            // Before: what another thread held up as it was looked for is free by
            // the time it has left.
            let is_alone = self.is_alone();
            let any = recycle::reclaim(self);
            let run = shared.pages.claim(need, want);
            if run.is_some() {
                return run;
            }
            if !any && is_alone && !self.is_held_up_by_others() && !shared.gate.is_closed() {
                // Nobody to wait for, and no fork.
                return None;
            }
        }
        if self.is_held_up_by_others() {
            shared.waits.note(recycle::pending(shared));
        }
        None
    }

    /// Lets other threads run. Yielding returns at once where the thread that
    /// holds something up waits for another processor, so as long as something
    /// is held up later attempts sleep: half a second, all of them together.
    fn let_run(&self, attempt: usize) {
        if attempt < YIELDS || !self.is_held_up_by_others() {
            yield_now();
        } else {
            std::thread::sleep(Duration::from_millis((attempt / YIELDS) as u64));
        }
    }

    /// Whether no other thread is attached, by as many handles as this one may be.
    fn is_alone(&self) -> bool {
        let mut own = 0;
        thread::for_each_attached(self.shared().into(), |_| own += 1);
        self.shared().threads.attached() <= own.max(1)
    }

    /// Whether something is held up, and this thread is pinned by none of its
    /// handles. One that has just left may be pinned for a moment: the epoch sees
    /// it out.
    fn is_held_up_by_others(&self) -> bool {
        let mut guards = 0;
        thread::for_each_attached(self.shared().into(), |state| guards += state.guards());
        guards == 0 && recycle::is_held_up(self.shared())
    }

    fn begin_claim(&self, run: Run) {
        let span = self.shared().pages.span(run);
        self.claim.set(Claim { start: span.start, cursor: span.start, end: span.end() });
    }

    /// Commits a run, and with it what is free behind it, so that a growing
    /// program makes a system call for several executors and not for each;
    /// where the system has no memory, or the budget no room, the run alone, and
    /// that once more after giving back what is free.
    pub(crate) fn commit(&self, run: Run) -> Result<(), CommitError> {
        let shared = self.shared();
        let pages = &shared.pages;
        if pages.is_committed(run) {
            // Acquires what `is_committed` has only looked at.
            return pages.commit(&shared.region, run, &mut 0).map_err(CommitError::Os);
        }
        let ahead = self.next_appetite(run.len) - run.len;
        let behind = pages.claim_behind(run, ahead);
        let with_behind = behind.map(|behind| Run::new(run.start, run.len + behind.len));
        let mut result = self.commit_all(with_behind.unwrap_or(run));
        if result.is_err() && behind.is_some() {
            result = self.commit_all(run);
        }
        if let Some(behind) = behind {
            pages.release(behind);
        }
        result.or_else(|_| {
            recycle::collect(self);
            self.commit_all(run)
        })
    }

    fn commit_all(&self, run: Run) -> Result<(), CommitError> {
        let shared = self.shared();
        let committed = shared.budget.commit(shared, run)?;
        if committed > 0 {
            pressure::committed(shared, committed);
            let before = shared.free_bytes_for(self.tallies()).saturating_sub(committed);
            shared.watermark.committed(committed, before, shared.pages.committed_bytes());
        }
        Ok(())
    }

    /// Granules the next claim should have: twice the last one's, bounded, and
    /// small while the whole arena is.
    fn next_appetite(&self, need: usize) -> usize {
        let shared = self.shared();
        let bound = (shared.pages.committed_bytes() / 64).clamp(LEAST, MOST);
        let appetite = (self.appetite.get() * 2).clamp(LEAST, bound);
        self.appetite.set(appetite);
        shared.units.round_up(need.max(appetite / GRANULE))
    }

    /// Whether a window may be open that is going to flip pages of the claim as it
    /// closes, `[W3]`.
    pub(crate) fn is_claim_under_window(&self) -> bool {
        self.shared().units.are_coarse() && self.window.get().is_some()
    }

    /// Puts the rest of the claim with the thread's own holes; not
    /// [under a window](Self::is_claim_under_window).
    pub(crate) fn put_claim_aside(&self) {
        debug_assert!(!self.is_claim_under_window());
        let claim = self.claim.get();
        if !mutant("claim-returned-twice") {
            self.claim.set(Claim::EMPTY);
        }
        if claim.rest().len > 0 {
            self.put_aside(claim.rest());
        }
    }

    /// Puts granules that were not written since they were claimed with the
    /// thread's own holes.
    fn put_aside(&self, span: Span) {
        let (units, pages) = (&self.shared().units, &self.shared().pages);
        let mut free = span;
        if units.are_coarse() {
            // Units begun stay until the rest of them is dead.
            let start = free.start.next_multiple_of(units.bytes()).min(free.end());
            let end = (free.end() & !(units.bytes() - 1)).max(start);
            self.bury(Span::new(free.start, start - free.start));
            self.bury(Span::new(end, free.end() - end));
            free = Span::new(start, end - start);
        }
        if free.len > 0 && !self.withhold(free) {
            self.holes.borrow_mut().add(pages.run(free));
        }
    }

    /// Keeps granules from everybody that a window is going to flip as it closes;
    /// false if none is.
    fn withhold(&self, span: Span) -> bool {
        let is_under_window = self.is_under_window(span);
        if is_under_window {
            self.withheld.borrow_mut().push(span);
        }
        is_under_window
    }

    /// Gives granules back that may have been written but never published: nobody
    /// runs them, so they wait for nobody's pin.
    ///
    /// Where units are system pages and a write scope is open, it may have a
    /// window on them, or open one on the whole claim yet, which will flip those pages
    /// when it closes, as one will that could not be closed: until then they must not
    /// become anybody else's, `[W3]`.
    pub(crate) fn abandon(&self, span: Span) {
        let is_in_scope = self.shared().units.are_coarse() && self.open_scopes.get() > 0;
        let may_be_flipped = is_in_scope || self.is_under_window(span);
        if may_be_flipped && !mutant("abandoned-inside-scope") {
            self.withheld.borrow_mut().push(span);
            return;
        }
        self.retire_ripe(Dead { span, was: Was::Abandoned });
    }

    /// Gives back what was withheld, as far as no window that could not be closed
    /// covers it; no write scope is open any more.
    #[inline]
    pub(crate) fn abandon_withheld(&self) {
        if self.shared().units.are_coarse() {
            self.abandon_all_withheld();
        }
    }

    fn abandon_all_withheld(&self) {
        for span in self.withheld.take() {
            self.abandon(span);
        }
    }

    /// Leaves part of a unit to die with the rest of it.
    fn bury(&self, span: Span) {
        if span.len == 0 {
            return;
        }
        let pages = &self.shared().pages;
        self.shared().units.bury(pages.run(span), |whole| {
            let span = pages.span(whole);
            if !self.withhold(span) {
                self.retire(Dead { span, was: Was::Unit });
            }
        });
    }

    /// Starts a new unit: nothing reserved from here on shares one with what
    /// was reserved before. Does nothing where units are granules.
    #[inline]
    pub(crate) fn close_unit(&self) {
        if self.shared().units.are_coarse() && !mutant("unit-left-open") {
            self.close_coarse_unit();
        }
    }

    fn close_coarse_unit(&self) {
        let units = &self.shared().units;
        let mut claim = self.claim.get();
        let begun = claim.cursor;
        // Claims are whole units, so this stays inside.
        claim.cursor = begun.next_multiple_of(units.bytes());
        claim.start = claim.cursor;
        self.claim.set(claim);
        self.account_unused();
        self.bury(Span::new(begun, claim.cursor - begun));
    }

    /// Moves the cursor back over `span` if that was reserved last and never
    /// written; false if it was not.
    pub(crate) fn unbump(&self, span: Span) -> bool {
        let mut claim = self.claim.get();
        if span.len == 0 || claim.cursor != span.end() || span.start < claim.start {
            return false;
        }
        claim.cursor = span.start;
        self.claim.set(claim);
        self.account_unused();
        // Inside a scope a window may cover the claim, and somebody write through
        // it: then the end of the scope does this.
        if self.open_scopes.get() == 0 {
            self.share_long_claim();
        }
        true
    }

    /// Gives up a claim that was made for one long reservation, if what is left of it
    /// is more than a thread may have for itself. No window is open.
    #[inline]
    pub(crate) fn share_long_claim(&self) {
        if self.claim.get().rest().len > self.share.get().max(MOST) {
            self.share_claim();
        }
    }

    #[cold]
    fn share_claim(&self) {
        self.put_claim_aside();
        recycle::keep_share(self);
        self.account_unused();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use crate::{Arena, Strategy};

    #[test]
    fn what_other_threads_have_teaches_the_watermark_nothing() {
        let arena = Arena::builder().strategy(Strategy::DualOpen).build().unwrap();
        // Each claims more than it needs, and commits it as the others did.
        let mut handles: Vec<_> = (0..64).map(|_| arena.attach().unwrap()).collect();
        let install = |handle: &mut crate::ThreadHandle| handle.install(&[0x90; 100], &[]).unwrap();
        let executors: Vec<_> = handles.iter_mut().map(install).collect();
        assert_eq!(handles[0].state().shared().watermark.learnt(), 0);
        drop(executors);
    }
}
