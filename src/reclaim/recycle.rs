//! Recycling: how ripe batches become holes, and empty pages go back.
//!
//! All of it happens on the allocating side, never inside anybody's pin, and
//! in lots: one look at the holds, one core synchronisation at most.
//!
//! ```text
//! ripe ──▶ held by a sleeper? ──yes──▶ waiting
//!              │ no
//!              ▼
//!          marks cleared ──▶ unsynced: all cores synchronise, for this lot or
//!                               │       for another thread's that came later
//!                               ▼
//!                  holes of the thread's own, to be written over
//!                               │ beyond its share, or when it ends
//!                               ▼
//!                  the depot, for threads that are many
//!                               │ beyond what that may have
//!                               ▼
//!             filled with traps ──▶ granules free ──▶ filed as holes
//! ```
//!
//! A thread whose share of the free memory makes lots that are worth their while
//! works by itself: it installed most of what it retires, so it touches metadata
//! and code that no other thread does. Where threads are too many for that, they
//! defer together, one of them recycles for all, and what each has beyond a
//! little is in the [depot](super::depot).
//!
//! Order is everything: marks go before the granules are anybody's, or they
//! would be the next owner's, `[D1]`; every core has synchronised before that,
//! `[X2]`; and traps are in place before the granules are free, `[D3]`.

use crate::arch;
use crate::arena::Shared;
use crate::page::bitmap::Run;
use crate::pressure;
use crate::stats;
use crate::sync::{PATIENCE, mutant, yield_now};
use crate::thread::ThreadState;
use crate::units::{GRANULE, KIB};

use super::fill::fill;
use super::retire::{Batch, Batches, Dead, Ripe, Was};
use super::share;
use super::sync::Ticket;
use super::trim;

/// Granules that a recycled run is joined with on a side.
const MOST_AROUND: usize = 512;

/// What a thread has recycled and must not write yet, `[X2]`.
#[derive(Debug)]
pub(crate) struct Unsynced {
    runs: Vec<Run>,
    bytes: usize,
    /// When the last of it was recycled.
    ticket: Ticket,
}

impl Default for Unsynced {
    fn default() -> Self {
        Self { runs: Vec::new(), bytes: 0, ticket: Ticket::NONE }
    }
}

impl Unsynced {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    fn push(&mut self, run: Run) {
        self.bytes += run.len * GRANULE;
        self.runs.push(run);
    }
}

/// What a thread does for reclamation each time it needs a new claim.
pub(crate) fn before_claim(thread: &ThreadState) {
    let shared = thread.shared();
    let mut common = share::common_lot(shared);
    defer_if_due(thread);
    let stock = shared.depot.bytes();
    if common == share::MOST_LOT && stock > 0 && stock >= share::of_depot(shared) / 2 {
        // Nobody waits for it, and two lots take one synchronisation.
        common *= 2;
    }
    let attempt = share::attempt(shared).max(common);
    ripen(thread, &shared.ripe, common, attempt, attempt / 4);
    let lot = share::lot(thread.share.get());
    ripen(thread, &thread.record().ripe, lot, lot, 0);
    let share = thread.share.get();
    let unsynced = thread.unsynced.borrow().bytes;
    if unsynced > share {
        // More than it needs: others wait for it.
        synchronise(thread);
    } else if unsynced > 0 {
        settle(thread);
    }
    keep_share(thread);
}

/// Shares holes of the thread's out if they are more than its share.
pub(crate) fn keep_share(thread: &ThreadState) {
    let share = thread.share.get();
    if thread.holes.borrow().bytes() > share {
        // Some more, so that it is not soon there again.
        share_out(thread, share - share / 16);
    }
}

/// Defers what all threads have gathered, if that is a lot.
pub(crate) fn defer_if_due(thread: &ThreadState) {
    let shared = thread.shared();
    let is_due = || shared.gathering.bytes() >= share::common_lot(shared).max(1);
    // Another thread may have done it meanwhile.
    if is_due() && (!start_afresh(thread) || is_due()) {
        thread.defer_gathered();
    }
}

/// Where threads are many, lets those that wait for a processor run before this one
/// pins for the arena: who loses it while pinned holds up all, for as long as it takes
/// all others to have their turns, and who has just got it does not lose it soon.
/// Whether it did.
fn start_afresh(thread: &ThreadState) -> bool {
    let yields = share::are_many(thread.shared()) && thread.guards() == 0;
    if yields {
        yield_now();
    }
    yields
}

/// Recycles what is ripe, if that is a lot; if it may soon be, tries to advance
/// the epoch, and again when `step` bytes more wait, or a quarter of an `attempt`
/// where so many of those wait that something seems to hold them up.
fn ripen(thread: &ThreadState, ripe: &Ripe, lot: usize, attempt: usize, step: usize) {
    let pending = ripe.pending();
    if pending < lot {
        return;
    }
    let is_held_up = share::are_held_up(pending, attempt);
    let step = if is_held_up { attempt / 4 } else { step };
    if ripe.batches().bytes() < lot && ripe.attempts.is_time(pending, step) {
        if !start_afresh(thread) && is_held_up && thread.guards() == 0 {
            // Not by this thread; most likely by one that lost the processor
            // while it was pinned: it is let run.
            yield_now();
        }
        // Its grace period may be over for all we know.
        thread.local.pin().flush();
    }
    if ripe.batches().bytes() >= lot {
        recycle(thread, [ripe]);
    }
}

/// Tries to make holes now, before the arena grows; whether it made any.
pub(crate) fn push(thread: &ThreadState) -> bool {
    let shared = thread.shared();
    let waiting = pending(shared) + shared.gathering.bytes() + thread.batch_bytes();
    let least = share::shares(shared).clamp(16 * KIB, 128 * KIB) / 2;
    let attempt = share::attempt(shared);
    let step = match share::are_many(shared) {
        true => attempt / 4,
        false if share::are_held_up(waiting, attempt) => least,
        false => 0,
    };
    if waiting < least || !shared.pushes.is_time(waiting, step) {
        return false;
    }
    start_afresh(thread);
    thread.defer_gathered();
    // A batch ripens after two advances of the epoch, and each flush makes one
    // at most.
    thread.local.pin().flush();
    thread.local.pin().flush();
    let any = recycle(thread, all_ripe(shared)) > 0 && synchronise(thread);
    // What the next claim would take all of.
    keep_share(thread);
    any
}

/// See [`ThreadHandle::collect`](crate::ThreadHandle::collect).
pub(crate) fn collect(thread: &ThreadState) {
    reclaim(thread);
    trim::everything(thread);
    pressure::fell(thread.shared());
}

/// Makes holes of all that nobody can be running at this moment, and gives
/// the thread's own holes to all; whether there were any.
pub(crate) fn reclaim(thread: &ThreadState) -> bool {
    let shared = thread.shared();
    shared.gate.wait_a_little();
    if !thread.is_claim_under_window() {
        thread.put_claim_aside();
    }
    thread.defer_gathered();
    let mut any = thread.holes.borrow().count() > 0
        || thread.unsynced.borrow().bytes() > 0
        || shared.depot.bytes() > 0;
    // A batch ripens within three advances if nobody is pinned; each flush
    // runs a bounded part of what is ripe, so it goes on while that helps, and
    // for a while where something is known to be on its way: threads that ended
    // leave much to run that hands nothing over. Not for ever: once it has
    // recycled as much as there was, others retire as fast as it recycles.
    let (mut left, mut idle) = (pending(shared) + shared.waiting.bytes(), 0);
    for round in 0.. {
        let patience = if pending(shared) > 0 { 4 + PATIENCE } else { 4 };
        if idle >= patience || (left == 0 && round >= patience) {
            break;
        }
        thread.local.pin().flush();
        let recycled = recycle(thread, all_ripe(shared));
        left = left.saturating_sub(recycled);
        idle = if recycled > 0 { 0 } else { idle + 1 };
        any |= recycled > 0;
    }
    synchronise(thread);
    give_up(thread);
    thread.account_unused();
    any
}

/// Bytes whose grace period is not over, or whose batches are not taken.
pub(crate) fn pending(shared: &Shared) -> usize {
    all_ripe(shared).map(Ripe::pending).sum()
}

/// Whether memory waits for what takes threads a moment: their pins, and lookups.
pub(crate) fn is_held_up(shared: &Shared) -> bool {
    pending(shared) > 0 || shared.lookups.are_announced()
}

/// Gives up what a thread has for itself, for it is about to end.
pub(crate) fn hand_over(thread: &ThreadState) {
    if !mutant("claim-lost-at-exit") {
        thread.put_claim_aside();
    }
    settle(thread);
    share_out(thread, 0);
    let rest = core::mem::take(&mut *thread.unsynced.borrow_mut());
    let mut batch = Batch::new();
    for run in rest.runs {
        let span = thread.shared().pages.span(run);
        batch.push(Dead { span, was: Was::Unit }, span.len);
    }
    thread.account_unused();
    if !batch.is_empty() {
        // Its grace period was over when the thread recycled it.
        thread.record().ripe.batches().push(batch);
    }
}

/// What is ripe, all threads' and each one's.
fn all_ripe(shared: &Shared) -> impl Iterator<Item = &Ripe> {
    let own = shared.threads.records().map(|record| &*record.ripe);
    core::iter::once(&*shared.ripe).chain(own)
}

/// Recycles ripe batches, a lot; returns the bytes of it, less what the system
/// refused.
fn recycle<'a>(thread: &'a ThreadState, ripe: impl IntoIterator<Item = &'a Ripe>) -> usize {
    let shared = thread.shared();
    // [F1]: a fork needs what was published as it was.
    let Some(_inside) = shared.gate.enter() else { return 0 };
    let ripe = ripe.into_iter().map(Ripe::batches);
    let mut waiting: Option<Box<Batch>> = None;
    let mut unsynced = thread.unsynced.borrow_mut();
    let (known, before) = (unsynced.runs.len(), unsynced.bytes);
    let mut lot = Batches::default();
    ripe.chain([&shared.waiting]).for_each(|stack| lot.append(stack.take_all()));
    if lot.is_empty() {
        return 0;
    }
    // [E2]: after all of it was taken, so every hold on a part of it that was
    // published under a pin is seen.
    let held = if mutant("holds-not-looked-at") { vec![] } else { shared.threads.held() };
    for batch in lot {
        if !shared.config.tools.is_empty() {
            tell_tools(shared, batch.dead(), &held);
        }
        for &dead in batch.dead() {
            if dead.is_held(&held) {
                waiting.get_or_insert_with(Batch::new).push(dead, dead.span.len);
            } else {
                take_off(thread, dead, &mut unsynced);
            }
        }
        thread.keep_spare(batch);
    }
    // [L1]: after the last mark is cleared, before the first byte changes. What
    // lookups may be reading is left to the next lot.
    if unsynced.bytes > before && !shared.lookups.let_wipe() {
        for run in unsynced.runs.drain(known..) {
            let span = shared.pages.span(run);
            waiting.get_or_insert_with(Batch::new).push(Dead { span, was: Was::Unit }, span.len);
        }
        unsynced.bytes = before;
    }
    if let Some(waiting) = waiting {
        shared.waiting.push(waiting);
    }
    if unsynced.bytes > before && !arch::DROPS_STALE_FETCHES {
        let mut lot = unsynced.runs.split_off(known);
        fill(thread, &mut lot);
        unsynced.runs.append(&mut lot);
        unsynced.bytes = unsynced.runs.iter().map(|run| run.len * GRANULE).sum();
    }
    // Without what could not be filled: who goes on while something is recycled
    // would go on for ever.
    let recycled = unsynced.bytes - before;
    if recycled == 0 {
        return 0;
    }
    // [X2]: after the last run of it, which the grace period and the holds
    // tell, and on processors that must not fetch what follows, after its end.
    unsynced.ticket = shared.syncs.ticket();
    drop(unsynced);
    thread.account_unused();
    thread.share.set(share::of_thread(shared));
    stats::add(&thread.tallies().lots, 1);
    trim::after_lot(thread, recycled);
    pressure::fell(shared);
    recycled
}

/// Makes what a synchronisation has covered the thread's own holes.
fn settle(thread: &ThreadState) {
    let shared = thread.shared();
    let mut unsynced = thread.unsynced.borrow_mut();
    if !shared.syncs.covers(unsynced.ticket) && !mutant("cores-not-waited-for") {
        return;
    }
    let mut holes = thread.holes.borrow_mut();
    // A lot that was recycled for all.
    let depot = (unsynced.bytes > thread.share.get()).then_some(&shared.depot);
    let most = share::of_depot(shared);
    for run in unsynced.runs.drain(..) {
        // So that what is free in a row is one hole, whoever has it.
        let whole = shared.pages.claim_around(&shared.region, run, MOST_AROUND);
        stats::add(&thread.tallies().taken, whole.len - run.len);
        if !depot.is_some_and(|depot| depot.bytes() < most && depot.put(whole)) {
            holes.add(whole);
        }
    }
    unsynced.bytes = 0;
    drop((unsynced, holes));
    thread.account_unused();
}

/// Synchronises all cores where that gives the thread more than it has, and half
/// its share: what is missed until then is found among everybody's, and a
/// synchronisation of another thread's may come first. Whether anything became a
/// hole.
pub(crate) fn settle_now(thread: &ThreadState) -> bool {
    let unsynced = thread.unsynced.borrow().bytes;
    let is_worth_it =
        unsynced > thread.holes.borrow().bytes() && unsynced >= thread.share.get() / 2;
    is_worth_it && synchronise(thread)
}

/// Synchronises all cores, unless nothing waits for it; whether anything became
/// a hole. A system call.
pub(crate) fn synchronise(thread: &ThreadState) -> bool {
    if thread.unsynced.borrow().bytes == 0 {
        return false;
    }
    let shared = thread.shared();
    if shared.syncs.synchronise(shared.region.platform()).is_err() {
        // Later, perhaps: until then it is nobody's to write.
        stats::add(&thread.tallies().refusals, 1);
        return false;
    }
    settle(thread);
    true
}

/// Tells tools of executors whose memory is about to be used again, `[N1]`.
#[cold]
fn tell_tools(shared: &Shared, batch: &[Dead], held: &[usize]) {
    for dead in batch.iter().filter(|dead| !dead.is_held(held)) {
        if let Was::Executor { entry, .. } = dead.was {
            shared.config.tools.recycled(entry);
        }
    }
}

/// Shares the highest of a thread's own holes out, until it has no more than
/// `keep` bytes of them: to the depot as far as that has room, or to everybody.
fn share_out(thread: &ThreadState, keep: usize) {
    let (depot, most) = (&thread.shared().depot, share::of_depot(thread.shared()));
    let mut surplus = Vec::new();
    thread.holes.borrow_mut().drain(keep, &mut surplus);
    surplus.retain(|&run| depot.bytes() >= most || !depot.put(run));
    if most == 0 {
        // Threads have become few.
        depot.drain(&mut surplus);
    }
    thread.account_unused();
    free(thread, surplus);
}

/// Makes all of a thread's own holes everybody's, and those in the depot.
pub(crate) fn give_up(thread: &ThreadState) {
    let mut surplus = Vec::new();
    thread.holes.borrow_mut().drain(0, &mut surplus);
    thread.shared().depot.drain(&mut surplus);
    free(thread, surplus);
}

/// Makes granules of the thread's everybody's.
fn free(thread: &ThreadState, mut surplus: Vec<Run>) {
    if surplus.is_empty() {
        return;
    }
    if mutant("hole-kept-and-given") {
        surplus.iter().for_each(|&run| thread.holes.borrow_mut().add(run));
    }
    let is_early = mutant("freed-before-traps");
    let release = |run: &Run| {
        stats::add(&thread.tallies().released, run.len);
        thread.shared().pages.release(*run);
    };
    if is_early {
        surplus.iter().for_each(release);
    }
    fill(thread, &mut surplus);
    if !is_early {
        surplus.iter().for_each(release);
    }
    thread.account_unused();
}

/// Clears the mark of what is dead; adds the granules that are now the thread's
/// to what it has recycled.
fn take_off(thread: &ThreadState, dead: Dead, recycled: &mut Unsynced) {
    let pages = &thread.shared().pages;
    let run = pages.run(dead.span);
    match dead.was {
        Was::Unit => return recycled.push(run),
        Was::Abandoned => {}
        Was::Executor { bytes, .. } => {
            pages.marks.clear(run.start);
            stats::add(&thread.tallies().recycles, 1);
            stats::add(&thread.tallies().recycled_bytes, bytes);
        }
    }
    thread.shared().units.bury(run, |whole| recycled.push(whole));
}
