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
//!             filled with traps ──▶ granules free ──▶ filed as holes
//! ```
//!
//! Order is everything: marks go before the granules are anybody's, or they
//! would be the next owner's, `[D1]`; every core has synchronised before that,
//! `[X2]`; and traps are in place before the granules are free, `[D3]`.

use crate::arch;
use crate::arena::Shared;
use crate::page::bitmap::Run;
use crate::platform::OsResult;
use crate::pressure;
use crate::stats;
use crate::sync::{PATIENCE, mutant};
use crate::thread::ThreadState;
use crate::units::{GRANULE, KIB, MIB};

use super::retire::{Batch, Dead, Stack, Was};
use super::sync::Ticket;
use super::trim;

/// Farthest apart and longest that spans share a write window where neighbours
/// may run meanwhile, in bytes: one mapping for many fills.
const WINDOW_GAP: usize = 64 * KIB;
const WINDOW_LEN: usize = MIB;

/// Granules that a recycled run is joined with on a side.
const MOST_AROUND: usize = 512;

/// Least and most that is a thread's share, in bytes.
const LEAST_SHARE: usize = 8 * KIB;
const MOST_SHARE: usize = 4 * MIB;

/// Most bytes in a lot: what one takes is what an install may have to wait.
const MOST_LOT: usize = 128 * KIB;

/// Bytes that all threads together may keep of what they recycle.
fn shares(shared: &Shared) -> usize {
    shared.pages.committed_bytes() / 16
}

/// Bytes of holes that a thread keeps for itself: all threads together have
/// [`shares`].
pub(crate) fn share(shared: &Shared) -> usize {
    (shares(shared) / shared.threads.attached().max(1)).clamp(LEAST_SHARE, MOST_SHARE)
}

/// Bytes of a lot, of a thread that has such a share.
pub(crate) fn lot(share: usize) -> usize {
    (share / 2).min(MOST_LOT)
}

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
    if shared.orphans.bytes() > 0 {
        thread.adopt_orphans();
    }
    let ripe = &thread.record().ripe;
    let lot = lot(thread.share.get());
    if ripe.pending() >= lot {
        if ripe.batches().bytes() < lot {
            // Its grace period may be over for all we know.
            thread.local.pin().flush();
        }
        if ripe.batches().bytes() >= lot {
            recycle(thread, Of::ThisThread);
        }
    }
    if thread.unsynced.borrow().bytes > 0 {
        settle(thread);
    }
}

/// Tries to make holes now, before the arena grows; whether it made any.
pub(crate) fn push(thread: &ThreadState) -> bool {
    let shared = thread.shared();
    let pending: usize = shared.threads.records().map(|record| record.ripe.pending()).sum();
    if pending + thread.batch_bytes() < shares(shared).clamp(16 * KIB, 128 * KIB) / 2 {
        return false;
    }
    thread.seal();
    // A batch ripens after two advances of the epoch, and each flush makes one
    // at most.
    thread.local.pin().flush();
    thread.local.pin().flush();
    recycle(thread, Of::AllThreads) > 0 && synchronise(thread)
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
    thread.put_claim_aside();
    thread.adopt_orphans();
    thread.seal();
    let mut any = thread.holes.borrow().count() > 0 || thread.unsynced.borrow().bytes() > 0;
    // A batch ripens within three advances if nobody is pinned; each flush
    // runs a bounded part of what is ripe, so it goes on while that helps, and
    // for a while where something is known to be on its way: threads that ended
    // leave much to run that hands nothing over.
    let is_pending = || shared.threads.records().any(|record| record.ripe.pending() > 0);
    let mut idle = 0;
    while idle < 4 || (idle < 4 + PATIENCE && is_pending()) {
        thread.local.pin().flush();
        idle = if recycle(thread, Of::AllThreads) > 0 { 0 } else { idle + 1 };
        any |= idle == 0;
    }
    synchronise(thread);
    give_up(thread, 0);
    thread.account_unused();
    any
}

/// Gives up what a thread has for itself, for it is about to end.
pub(crate) fn hand_over(thread: &ThreadState) {
    if !mutant("claim-lost-at-exit") {
        thread.put_claim_aside();
    }
    settle(thread);
    give_up(thread, 0);
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

/// Whose ripe batches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Those of the calling thread: it installed most of what it retires, so
    /// it touches metadata and code that no other thread does.
    ThisThread,
    AllThreads,
}

/// Recycles ripe batches, a lot; returns the bytes of it, less what the system
/// refused.
fn recycle(thread: &ThreadState, whose: Of) -> usize {
    let shared = thread.shared();
    // [F1]: a fork needs what was published as it was.
    let Some(_inside) = shared.gate.enter() else { return 0 };
    let own = thread.record();
    let theirs = shared.threads.records().filter(|record| !core::ptr::eq(*record, own));
    let theirs = theirs.take(if whose == Of::AllThreads { usize::MAX } else { 0 });
    let ripe = core::iter::once(own).chain(theirs).map(|record| record.ripe.batches());
    let mut waiting: Option<Box<Batch>> = None;
    let mut unsynced = thread.unsynced.borrow_mut();
    let (known, before) = (unsynced.runs.len(), unsynced.bytes);
    for batch in ripe.chain([&shared.waiting]).flat_map(Stack::take_all) {
        // [E2]: after the batch was taken, so every hold on a part of it that
        // was published under a pin is seen.
        let held = if mutant("holds-not-looked-at") { vec![] } else { shared.threads.held() };
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
    thread.share.set(share(shared));
    stats::add(&thread.tallies().lots, 1);
    trim::after_lot(thread, recycled);
    pressure::fell(shared);
    recycled
}

/// Makes what a synchronisation has covered the thread's own holes; gives up
/// what is more than its share.
fn settle(thread: &ThreadState) {
    let shared = thread.shared();
    let mut unsynced = thread.unsynced.borrow_mut();
    if !shared.syncs.covers(unsynced.ticket) && !mutant("cores-not-waited-for") {
        return;
    }
    let mut holes = thread.holes.borrow_mut();
    for run in unsynced.runs.drain(..) {
        // So that what is free in a row is one hole, whoever has it.
        let whole = shared.pages.claim_around(&shared.region, run, MOST_AROUND);
        stats::add(&thread.tallies().taken, whole.len - run.len);
        holes.add(whole);
    }
    unsynced.bytes = 0;
    let share = thread.share.get();
    let has_surplus = holes.bytes() > share;
    drop((unsynced, holes));
    thread.account_unused();
    if has_surplus {
        // Some more, so that it is not soon there again.
        give_up(thread, share - share / 16);
    }
}

/// Synchronises all cores where that gives the thread more than it has: what is
/// missed until then is found among everybody's, and a synchronisation of
/// another thread's may come first. Whether anything became a hole.
pub(crate) fn settle_now(thread: &ThreadState) -> bool {
    thread.unsynced.borrow().bytes > thread.holes.borrow().bytes() && synchronise(thread)
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

/// Makes the highest of a thread's own holes everybody's, until it has no more
/// than `keep` bytes of them.
pub(crate) fn give_up(thread: &ThreadState, keep: usize) {
    let mut surplus = Vec::new();
    thread.holes.borrow_mut().drain(keep, &mut surplus);
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

/// Fills runs with traps. Those that the system refuses to open are taken out,
/// and wait for somebody to try again.
fn fill(thread: &ThreadState, runs: &mut Vec<Run>) {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    runs.sort_unstable_by_key(|run| run.start);
    let mut refused: Option<Box<Batch>> = None;
    let mut filled = 0;
    let before = protection.open(platform);
    let mut at = 0;
    while at < runs.len() {
        let group = at..at + group_len(shared, &runs[at..]);
        at = group.end;
        if fill_group(thread, &runs[group.clone()]).is_ok() {
            runs.copy_within(group.clone(), filled);
            filled += group.len();
            continue;
        }
        stats::add(&thread.tallies().refusals, 1);
        for run in &runs[group] {
            let span = shared.pages.span(*run);
            refused.get_or_insert_with(Batch::new).push(Dead { span, was: Was::Unit }, span.len);
        }
    }
    protection.close(platform, before);
    runs.truncate(filled);
    for run in runs {
        let span = shared.pages.span(*run);
        // SAFETY: memory of the region, executable again now that the rights
        // are closed: where one toggle serves a whole thread it was not before.
        unsafe { platform.invalidate_instruction_cache(span.start, span.len) };
    }
    if let Some(refused) = refused {
        shared.waiting.push(refused);
    }
}

/// How many of the first runs share a window. At least one.
fn group_len(shared: &Shared, runs: &[Run]) -> usize {
    let coarse = shared.units.are_coarse();
    let start = runs[0].start;
    let mut end = runs[0].end();
    1 + runs[1..]
        .iter()
        .take_while(|next| {
            let near = (next.start - end) * GRANULE <= WINDOW_GAP
                && (next.end() - start) * GRANULE <= WINDOW_LEN;
            let shares = if coarse { next.start == end } else { near };
            end = next.end();
            shares
        })
        .count()
}

/// Fills runs that share a window; nothing, if the system refuses that.
fn fill_group(thread: &ThreadState, group: &[Run]) -> OsResult<()> {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    let (start, end) = (group[0].start, group[group.len() - 1].end());
    let around = shared.pages.span(Run::new(start, end - start));
    // SAFETY: [W3] the span begins and ends with dead granules in whole units;
    // where units are coarse all of it is dead.
    let window = unsafe { protection.window(platform, around) }?;
    for run in group {
        let span = shared.pages.span(*run);
        let to = window.writable_at(span.start);
        // SAFETY: [E2] nobody runs it, [B1] nobody else owns it, and the
        // window is open.
        unsafe { platform.fill_traps(to, span.len) };
        // SAFETY: just written through the same window.
        unsafe { platform.clean_data_cache(to, span.len) };
    }
    // SAFETY: opened above, and not used again.
    if unsafe { protection.close_window(platform, window) }.is_err() {
        stats::add(&thread.tallies().refusals, 1);
        thread.unsealed.borrow_mut().push(window);
    }
    Ok(())
}
