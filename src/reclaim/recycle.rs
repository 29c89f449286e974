//! Recycling: how ripe batches become holes, and empty pages go back.
//!
//! All of it happens on the allocating side, never inside anybody's pin, and
//! in lots: one write scope, one core synchronisation, one look at the holds.
//!
//! ```text
//! ripe ──▶ held by a sleeper? ──yes──▶ waiting
//!              │ no
//!              ▼
//!          off its pages (marks, live counts) ──▶ filled with traps
//!              ──▶ all cores synchronised ──▶ granules free ──▶ filed as holes
//! ```
//!
//! Order is everything: marks go before the granules are free, or they would
//! be the next owner's, `[D1]`; traps are in place and every core has
//! synchronised before the granules are free, `[D3]`.

use crate::arena::Shared;
use crate::stats;
use crate::thread::ThreadState;
use crate::units::{KIB, MIB, Span};

use super::retire::{Batch, Dead, Was};
use super::trim;

/// Farthest apart and longest that spans share a write window where neighbours
/// may run meanwhile, in bytes: one mapping for many fills.
const WINDOW_GAP: usize = 64 * KIB;
const WINDOW_LEN: usize = MIB;

/// Bytes at which a thread hands its batch to the epoch.
pub(crate) fn seal_bytes(shared: &Shared) -> usize {
    (shared.pages.committed_bytes() / 128).clamp(4 * KIB, 256 * KIB)
}

/// Ripe bytes worth a lot of their own.
fn lot_bytes(shared: &Shared) -> usize {
    (shared.pages.committed_bytes() / 16).clamp(16 * KIB, 128 * KIB)
}

/// What a thread does for reclamation each time it needs a new claim.
pub(crate) fn before_claim(thread: &ThreadState) {
    let shared = thread.shared();
    if shared.orphans.bytes() > 0 {
        thread.adopt_orphans();
    }
    if shared.ripe.batches().bytes() >= lot_bytes(shared) {
        recycle(thread);
    }
}

/// Tries to make holes now, before the arena grows; whether it made any.
pub(crate) fn push(thread: &ThreadState) -> bool {
    let shared = thread.shared();
    if shared.ripe.pending() + thread.batch_bytes() < lot_bytes(shared) / 2 {
        return false;
    }
    thread.seal();
    // A batch ripens after two advances of the epoch, and each flush makes one
    // at most.
    thread.local.pin().flush();
    thread.local.pin().flush();
    recycle(thread) > 0
}

/// See [`ThreadHandle::collect`](crate::ThreadHandle::collect).
pub(crate) fn collect(thread: &ThreadState) {
    reclaim(thread);
    trim::everything(thread);
}

/// Makes holes of all that nobody can be running at this moment; whether it
/// made any.
pub(crate) fn reclaim(thread: &ThreadState) -> bool {
    thread.adopt_orphans();
    thread.seal();
    let mut any = false;
    // A batch ripens within three advances if nobody is pinned; each flush
    // runs a bounded part of what is ripe, so it goes on while that helps.
    let mut idle = 0;
    while idle < 4 {
        thread.local.pin().flush();
        idle = if recycle(thread) > 0 { 0 } else { idle + 1 };
        any |= idle == 0;
    }
    any
}

/// Turns all ripe batches into holes; returns the bytes of them.
pub(crate) fn recycle(thread: &ThreadState) -> usize {
    let shared = thread.shared();
    let mut lot: Vec<Dead> = Vec::new();
    for stack in [shared.ripe.batches(), &shared.waiting] {
        for batch in stack.take_all() {
            lot.extend_from_slice(batch.dead());
            thread.keep_spare(batch);
        }
    }
    if lot.is_empty() {
        return 0;
    }
    // [E2]: after the batches were taken, so every hold on one of them that
    // was published under a pin is seen.
    let held = shared.threads.held();
    let mut waiting: Option<Box<Batch>> = None;
    let mut ready: Vec<Span> = Vec::with_capacity(lot.len());
    for dead in lot {
        if dead.is_held(&held) {
            waiting.get_or_insert_with(Batch::new).push(dead, dead.span.len);
        } else {
            take_off(thread, dead, &mut ready);
        }
    }
    ready.sort_unstable_by_key(|span| span.start);
    let mut refused = fill(thread, &mut ready);
    if !ready.is_empty() && shared.region.platform().sync_core().is_err() {
        stats::add(&thread.tallies().refusals, 1);
        refused.append(&mut ready);
    }
    for span in refused {
        let dead = Dead { span, was: Was::Unit };
        waiting.get_or_insert_with(Batch::new).push(dead, span.len);
    }
    if let Some(waiting) = waiting {
        shared.waiting.push(waiting);
    }
    let recycled = release(thread, &ready);
    if recycled > 0 {
        stats::add(&thread.tallies().lots, 1);
        trim::after_lot(thread, recycled);
    }
    recycled
}

/// Removes what is dead from its pages' marks and counts; adds the granules
/// that are now nobody's to `ready`.
fn take_off(thread: &ThreadState, dead: Dead, ready: &mut Vec<Span>) {
    let pages = &thread.shared().pages;
    let run = pages.run(dead.span);
    match dead.was {
        Was::Unit => {
            ready.push(dead.span);
            return;
        }
        Was::Abandoned => {}
        Was::Executor { bytes, .. } => {
            pages.remove_executor(run);
            stats::add(&thread.tallies().recycles, 1);
            stats::add(&thread.tallies().recycled_bytes, bytes);
        }
    }
    thread.shared().units.bury(run, |whole| ready.push(pages.span(whole)));
}

/// Fills `ready`, sorted by address, with traps; moves out of it what the
/// system refused to open, and returns that.
fn fill(thread: &ThreadState, ready: &mut Vec<Span>) -> Vec<Span> {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    let coarse = shared.units.are_coarse();
    let share = |open: Span, next: Span| {
        if coarse {
            next.start == open.end()
        } else {
            next.start - open.end() <= WINDOW_GAP && next.end() - open.start <= WINDOW_LEN
        }
    };
    let mut refused = Vec::new();
    let mut filled = Vec::with_capacity(ready.len());
    let before = protection.open(platform);
    let mut rest = ready.as_slice();
    while let Some((first, _)) = rest.split_first() {
        let mut around = *first;
        let mut count = 1;
        while let Some(next) = rest.get(count).filter(|next| share(around, **next)) {
            around.len = next.end() - around.start;
            count += 1;
        }
        let (group, after) = rest.split_at(count);
        rest = after;
        // SAFETY: [W3] the span begins and ends with dead granules in whole
        // units; where units are coarse all of it is dead.
        match unsafe { protection.window(platform, around) } {
            Err(_) => {
                stats::add(&thread.tallies().refusals, 1);
                refused.extend_from_slice(group);
            }
            Ok(window) => {
                for span in group {
                    let to = window.writable_at(span.start);
                    // SAFETY: [E2] nobody runs it, [B1] nobody else owns it,
                    // and the window is open.
                    unsafe { platform.fill_traps(to, span.len) };
                    // SAFETY: just written through the same window.
                    unsafe { platform.clean_data_cache(to, span.len) };
                }
                // SAFETY: opened above, and not used again.
                if unsafe { protection.close_window(platform, window) }.is_err() {
                    stats::add(&thread.tallies().refusals, 1);
                    thread.unsealed.borrow_mut().push(window);
                }
                filled.extend_from_slice(group);
            }
        }
    }
    protection.close(platform, before);
    for span in &filled {
        // SAFETY: memory of the region, executable again now that the rights
        // are closed: where one toggle serves a whole thread it was not before.
        unsafe { platform.invalidate_instruction_cache(span.start, span.len) };
    }
    *ready = filled;
    refused
}

/// Makes holes of `ready`, sorted by address; returns the bytes.
fn release(thread: &ThreadState, ready: &[Span]) -> usize {
    let pages = &thread.shared().pages;
    let mut bytes = 0;
    let mut spans = ready.iter().copied().peekable();
    while let Some(mut span) = spans.next() {
        while let Some(next) = spans.next_if(|next| next.start == span.end()) {
            span.len += next.len;
        }
        bytes += span.len;
        let run = pages.run(span);
        stats::add(&thread.tallies().released, run.len);
        pages.release(run);
    }
    bytes
}
