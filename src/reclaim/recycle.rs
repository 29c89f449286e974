//! Recycling: how ripe batches become holes, and empty pages go back.
//!
//! All of it happens on the allocating side, never inside anybody's pin, and
//! in lots: one write scope, one core synchronisation, one look at the holds.
//!
//! ```text
//! ripe ──▶ held by a sleeper? ──yes──▶ waiting
//!              │ no
//!              ▼
//!          off its pages (marks, live counts) ──▶ joined with its neighbours
//!              │                                  and the thread's own holes
//!              ├── a share, the lowest: all cores synchronised
//!              │       ──▶ the thread's own, to be written over
//!              └── the others: filled with traps ──▶ all cores synchronised
//!                      ──▶ granules free ──▶ filed as holes
//! ```
//!
//! Order is everything: marks go before the granules are anybody's, or they
//! would be the next owner's, `[D1]`; every core has synchronised before that,
//! `[X2]`; and traps are in place before the granules are free, `[D3]`.

use crate::arch;
use crate::arena::Shared;
use crate::page::bitmap::Run;
use crate::platform::OsResult;
use crate::stats;
use crate::thread::ThreadState;
use crate::thread::holes::Hole;
use crate::units::{GRANULE, KIB, MIB};

use super::retire::{Batch, Dead, Stack, Was};
use super::trim;

/// Farthest apart and longest that spans share a write window where neighbours
/// may run meanwhile, in bytes: one mapping for many fills.
const WINDOW_GAP: usize = 64 * KIB;
const WINDOW_LEN: usize = MIB;

/// Shortest hole worth keeping, in granules: what is shorter is of more use
/// when it becomes one with what dies beside it.
const LEAST_OWN: usize = 4;

/// Most holes a thread keeps to itself between lots.
const MOST_OWN: usize = 256;

/// Bytes that are worth recycling: a part of what is committed.
fn lot_bytes(shared: &Shared) -> usize {
    shared.pages.committed_bytes() / 16
}

/// Bytes of a thread's lot, and of the holes it keeps: all threads together
/// have [`lot_bytes`], and none so much that its lot takes it long.
pub(crate) fn share(shared: &Shared) -> usize {
    (lot_bytes(shared) / shared.threads.attached().max(1)).clamp(4 * KIB, 128 * KIB)
}

/// What a thread does for reclamation each time it needs a new claim.
pub(crate) fn before_claim(thread: &ThreadState) {
    let shared = thread.shared();
    if shared.orphans.bytes() > 0 {
        thread.adopt_orphans();
    }
    let ripe = &thread.record().ripe;
    let share = thread.share.get();
    if ripe.pending() >= share {
        if ripe.batches().bytes() < share {
            // Its grace period may be over for all we know.
            thread.local.pin().flush();
        }
        if ripe.batches().bytes() >= share {
            recycle(thread, Of::ThisThread);
        }
    }
    if thread.holes.borrow().count() > MOST_OWN {
        turn(thread, &mut core::iter::empty(), share / 2);
    }
}

/// Tries to make holes now, before the arena grows; whether it made any.
pub(crate) fn push(thread: &ThreadState) -> bool {
    let shared = thread.shared();
    let pending: usize = shared.threads.records().map(|record| record.ripe.pending()).sum();
    if pending + thread.batch_bytes() < lot_bytes(shared).clamp(16 * KIB, 128 * KIB) / 2 {
        return false;
    }
    thread.seal();
    // A batch ripens after two advances of the epoch, and each flush makes one
    // at most.
    thread.local.pin().flush();
    thread.local.pin().flush();
    recycle(thread, Of::AllThreads) > 0
}

/// See [`ThreadHandle::collect`](crate::ThreadHandle::collect).
pub(crate) fn collect(thread: &ThreadState) {
    reclaim(thread);
    trim::everything(thread);
}

/// Makes holes of all that nobody can be running at this moment, and gives
/// the thread's own holes to all; whether there were any.
pub(crate) fn reclaim(thread: &ThreadState) -> bool {
    thread.put_claim_aside();
    thread.adopt_orphans();
    thread.seal();
    let mut any = thread.holes.borrow().count() > 0;
    // A batch ripens within three advances if nobody is pinned; each flush
    // runs a bounded part of what is ripe, so it goes on while that helps.
    let mut idle = 0;
    while idle < 4 {
        thread.local.pin().flush();
        idle = if recycle(thread, Of::AllThreads) > 0 { 0 } else { idle + 1 };
        any |= idle == 0;
    }
    turn(thread, &mut core::iter::empty(), 0);
    any
}

/// Gives up what a thread has for itself, for it is about to end. What is not
/// filled with traps yet is left to whoever recycles next.
pub(crate) fn hand_over(thread: &ThreadState) {
    thread.put_claim_aside();
    let mut unfilled = Batch::new();
    thread.holes.borrow_mut().drain(|hole| {
        if hole.is_filled() {
            release(thread, hole);
        } else {
            let span = thread.shared().pages.span(hole.run());
            unfilled.push(Dead { span, was: Was::Unit }, span.len);
        }
    });
    thread.account_unused();
    if !unfilled.is_empty() {
        // Its grace period was over when the thread got it.
        thread.record().ripe.batches().push(unfilled);
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

/// Turns ripe batches into holes; returns the bytes of them.
fn recycle(thread: &ThreadState, whose: Of) -> usize {
    let shared = thread.shared();
    let own = thread.record();
    let theirs = shared.threads.records().filter(|record| !core::ptr::eq(*record, own));
    let theirs = theirs.take(if whose == Of::AllThreads { usize::MAX } else { 0 });
    let ripe = core::iter::once(own).chain(theirs).map(|record| record.ripe.batches());
    let mut batches = ripe.chain([&shared.waiting]).flat_map(Stack::take_all).peekable();
    if batches.peek().is_none() { 0 } else { turn(thread, &mut batches, share(shared)) }
}

/// Turns a lot, which may be empty, into holes; returns the bytes of them.
/// About `keep` bytes of these and of the thread's own stay with the thread,
/// the lowest, and the others become everybody's.
fn turn(thread: &ThreadState, lot: &mut dyn Iterator<Item = Box<Batch>>, keep: usize) -> usize {
    let shared = thread.shared();
    let mut holes = thread.lot.take();
    let mut waiting: Option<Box<Batch>> = None;
    for batch in lot {
        // [E2]: after the batch was taken, so every hold on a part of it that
        // was published under a pin is seen.
        let held = shared.threads.held();
        if !shared.config.tools.is_empty() {
            tell_tools(shared, batch.dead(), &held);
        }
        for &dead in batch.dead() {
            if dead.is_held(&held) {
                waiting.get_or_insert_with(Batch::new).push(dead, dead.span.len);
            } else {
                take_off(thread, dead, &mut holes);
            }
        }
        thread.keep_spare(batch);
    }
    // [L1]: after the last mark is cleared, before the first byte changes.
    shared.generation.advance();
    let recycled = holes.iter().map(|hole| hole.bytes()).sum();
    thread.holes.borrow_mut().drain(|hole| holes.push(hole));
    join(&mut holes);
    let mut refused = Vec::new();
    if !arch::DROPS_STALE_FETCHES {
        fill(thread, &mut holes, &mut refused);
    }
    divide(thread, &mut holes, keep);
    fill(thread, &mut holes, &mut refused);
    if recycled > 0 && shared.region.platform().sync_core().is_err() {
        stats::add(&thread.tallies().refusals, 1);
        thread.holes.borrow_mut().drain(|hole| refused.push(hole));
        refused.append(&mut holes);
    }
    thread.account_unused();
    for hole in refused {
        let span = shared.pages.span(hole.run());
        waiting.get_or_insert_with(Batch::new).push(Dead { span, was: Was::Unit }, span.len);
    }
    if let Some(waiting) = waiting {
        shared.waiting.push(waiting);
    }
    for hole in holes.drain(..) {
        release(thread, hole);
    }
    thread.lot.replace(holes);
    thread.share.set(share(shared));
    if recycled > 0 {
        stats::add(&thread.tallies().lots, 1);
        trim::after_lot(thread, recycled);
    }
    recycled
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

/// Sorts holes by address and joins neighbours.
fn join(holes: &mut Vec<Hole>) {
    holes.sort_unstable();
    holes.dedup_by(|next, hole| {
        let joined = hole.joined(*next);
        *hole = joined.unwrap_or(*hole);
        joined.is_some()
    });
}

/// Leaves the lowest of some holes to the thread, `keep` bytes at most; the
/// others stay where they are.
fn divide(thread: &ThreadState, holes: &mut Vec<Hole>, keep: usize) {
    let mut own = thread.holes.borrow_mut();
    holes.retain(|&hole| {
        let stays = hole.run().len >= LEAST_OWN && own.bytes() + hole.bytes() <= keep;
        if stays {
            own.push(hole);
        }
        !stays
    });
}

/// Removes what is dead from its pages' marks and counts; adds the granules
/// that are now the thread's to `holes`.
fn take_off(thread: &ThreadState, dead: Dead, holes: &mut Vec<Hole>) {
    let pages = &thread.shared().pages;
    let run = pages.run(dead.span);
    match dead.was {
        Was::Unit => {
            holes.push(Hole::new(run, false));
            return;
        }
        Was::Abandoned => {}
        Was::Executor { bytes, .. } => {
            pages.marks.clear(run.start);
            stats::add(&thread.tallies().recycles, 1);
            stats::add(&thread.tallies().recycled_bytes, bytes);
        }
    }
    thread.shared().units.bury(run, |whole| holes.push(Hole::new(whole, false)));
}

/// Fills holes, sorted by address, with traps; moves those to `refused` that
/// the system refused to open.
fn fill(thread: &ThreadState, holes: &mut Vec<Hole>, refused: &mut Vec<Hole>) {
    if holes.iter().all(|hole| hole.is_filled()) {
        return;
    }
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    let before = protection.open(platform);
    let known = refused.len();
    let mut rest = holes.as_slice();
    while !rest.is_empty() {
        let (group, after) = rest.split_at(group_len(shared, rest));
        rest = after;
        if fill_group(thread, group).is_err() {
            stats::add(&thread.tallies().refusals, 1);
            refused.extend_from_slice(group);
        }
    }
    protection.close(platform, before);
    if refused.len() > known {
        holes.retain(|hole| !refused.contains(hole));
    }
    for hole in holes.iter_mut().filter(|hole| !hole.is_filled()) {
        let span = shared.pages.span(hole.run());
        // SAFETY: memory of the region, executable again now that the rights
        // are closed: where one toggle serves a whole thread it was not before.
        unsafe { platform.invalidate_instruction_cache(span.start, span.len) };
        *hole = Hole::new(hole.run(), true);
    }
}

/// How many of the first holes share a window. At least one.
fn group_len(shared: &Shared, holes: &[Hole]) -> usize {
    let coarse = shared.units.are_coarse();
    let start = holes[0].run().start;
    let mut end = holes[0].run().end();
    1 + holes[1..]
        .iter()
        .take_while(|next| {
            let next = next.run();
            let near = (next.start - end) * GRANULE <= WINDOW_GAP
                && (next.end() - start) * GRANULE <= WINDOW_LEN;
            let shares = if coarse { next.start == end } else { near };
            end = next.end();
            shares
        })
        .count()
}

/// Fills holes that share a window; nothing, if the system refuses that.
fn fill_group(thread: &ThreadState, group: &[Hole]) -> OsResult<()> {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    let mut unfilled = group.iter().filter(|hole| !hole.is_filled()).map(|hole| hole.run());
    let Some(first) = unfilled.next() else { return Ok(()) };
    let end = unfilled.clone().next_back().unwrap_or(first).end();
    let around = shared.pages.span(Run::new(first.start, end - first.start));
    // SAFETY: [W3] the span begins and ends with dead granules in whole units;
    // where units are coarse all of it is dead.
    let window = unsafe { protection.window(platform, around) }?;
    for run in core::iter::once(first).chain(unfilled) {
        let span = shared.pages.span(run);
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

/// Makes a hole that is filled with traps everybody's.
fn release(thread: &ThreadState, hole: Hole) {
    stats::add(&thread.tallies().released, hole.run().len);
    thread.shared().pages.release(hole.run());
}
