//! Putting an arena's books in order in a forked child, `[F2]`.
//!
//! The child has one thread. What the others had is found by comparison: a
//! taken granule that belongs to no executor, no trampoline and none of this
//! thread's handles was some other thread's claim, hole, reservation, or on its
//! way from one to another, and becomes a hole. An executor marked as retired
//! is retired anew, whatever list it was on. Counts are counted.
//!
//! What this thread has itself stays as it is, in the midst of a write scope or
//! of running an executor too: addresses do not change. Only its reservations
//! are not known here one by one (that would cost every install). While it has
//! any, what may be one of them is set aside, and becomes holes when the last
//! of those reservations is published or dropped.

use core::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use crate::arena::Shared;
use crate::executor::read_header;
use crate::page::bitmap::{self, Run, WORD};
use crate::platform::{Access, OsError, OsResult};
use crate::protect::{Fresh, Window, take_away};
use crate::reclaim::retire::{BATCH, Batch, Dead, Was};
use crate::reclaim::scheme::Collector;
use crate::registry::{LeftBehind, Record};
use crate::stats::{Tallies, Totals};
use crate::sync::Ordering;
use crate::thread::{self, ThreadState};
use crate::units::{GRANULE, Span};

use super::{Renewable, strays};

/// What the child may find nobody's, while it cannot tell.
#[derive(Debug)]
pub(crate) struct Inherited(Renewable<Mutex<SetAside>>);

#[derive(Debug, Default)]
struct SetAside {
    runs: Vec<Run>,
    /// Handles with reservations of before the fork, ended ones among them.
    handles: usize,
}

/// What is in use, seen from the executors.
#[derive(Default)]
struct Seen {
    /// Bits of all granules that belong to somebody who is here.
    known: Vec<u64>,
    retired: Vec<Dead>,
    live: u64,
    live_bytes: u64,
    retired_bytes: u64,
}

impl Seen {
    fn mark(&mut self, run: Run) {
        for granule in run.start..run.end() {
            if let Some(word) = self.known.get_mut(granule / WORD) {
                *word |= 1 << (granule % WORD);
            }
        }
    }
}

/// Makes an arena the child's own. Where it could not have memory, or somebody
/// was recycling when the fork came, the arena is *lost*: what the thread runs
/// may be gone with its memory, nothing is recycled, and installs fail with the
/// reason, `[F3]`.
///
/// # Safety
///
/// In a child just forked, nobody else is in this process; `fresh` is a whole
/// copy.
pub(super) unsafe fn settle(arena: NonNull<Shared>, fresh: Option<Fresh>, is_quiet: bool) {
    // SAFETY: arenas on the list are alive.
    let shared = unsafe { arena.as_ref() };
    // SAFETY: from the caller.
    let own = unsafe { own_states(arena) };
    let windows: Vec<Window> = own.iter().flat_map(|state| state.windows()).collect();
    // SAFETY: from the caller.
    let memory = unsafe { take_memory(shared, fresh, &windows) };
    let _ = shared.region.platform().register_sync_core();
    let fault = match memory {
        Ok(()) if is_quiet => None,
        Ok(()) => Some(OsError { call: "fork", bytes: 0, errno: libc::EBUSY }),
        Err(error) => Some(error),
    };
    if let Some(error) = fault {
        let _ = shared.lost.set(error);
    }
    let lost = shared.lost.get().is_some();
    let seen = if lost { Seen::default() } else { look(shared, &own) };
    // SAFETY: from the caller.
    let left = unsafe { forget_others(shared, &own, lost) };
    // SAFETY: nobody else is there, and this thread has it locked only for a moment.
    unsafe { shared.inherited.after_fork() };
    shared.units.after_fork();
    shared.lookups.after_fork();
    if lost {
        shared.pages.take_everything();
    } else {
        adopt(shared, &own, &seen);
    }
    shared.pages.recount(&shared.region);
    shared.budget.after_fork(shared.pages.committed_bytes());
    if !lost {
        balance(shared, &own, &seen, left.counts);
    }
    shared.gate.reset(lost);
    shared.drop_refs_of_others(left.handles);
}

/// Has the child of an arena that children are to have nothing of let go of what it
/// inherited all the same: what can be written, and what would be written when it
/// drops what it has. Copies nothing, and leaves the books as they are.
///
/// # Safety
///
/// As [`settle`], in a child that the views were kept out of.
pub(super) unsafe fn forgo(arena: NonNull<Shared>) {
    /// What it says from then on.
    const ABSENT: OsError = OsError { call: "fork", bytes: 0, errno: libc::ENOTSUP };
    // SAFETY: arenas on the list are alive.
    let shared = unsafe { arena.as_ref() };
    // SAFETY: from the caller.
    let own = unsafe { own_states(arena) };
    let windows: Vec<Window> = own.iter().flat_map(|state| state.windows()).collect();
    // SAFETY: from the caller.
    unsafe { shared.region.forgo(&windows) };
    let _ = shared.lost.set(ABSENT);
    // SAFETY: from the caller.
    let left = unsafe { forget_others(shared, &own, true) };
    for state in own {
        state.window.forget();
        state.unsealed.borrow_mut().clear();
    }
    shared.gate.reset(true);
    shared.drop_refs_of_others(left.handles);
}

/// Begins a new epoch for the calling thread, which has the states `own`, pinned as it
/// was, and forgets what other threads were about to do; returns what they left.
///
/// # Safety
///
/// As [`settle`].
unsafe fn forget_others(shared: &Shared, own: &[&ThreadState], lost: bool) -> LeftBehind {
    // Before anybody may be told of a grace period: what this thread protects
    // it goes on protecting.
    // SAFETY: other threads' participants are nobody's, and this thread is in
    // no call of the collector's.
    unsafe { shared.collector.renew(Collector::new()) };
    for state in own {
        // SAFETY: as above.
        unsafe { state.after_fork(lost) };
    }
    // Batches of others: their executors are marked, the rest is found.
    drop_batches(shared);
    let is_own = |record: &Record| own.iter().any(|state| ptr::eq(state.record(), record));
    shared.threads.after_fork(is_own)
}

/// The calling thread's states.
///
/// # Safety
///
/// As [`settle`].
unsafe fn own_states<'a>(arena: NonNull<Shared>) -> Vec<&'a ThreadState> {
    let mut own = Vec::new();
    thread::for_each_attached(arena, |state| own.push(NonNull::from(state)));
    // SAFETY: of this thread, which is in the midst of its fork.
    own.iter().map(|state| unsafe { state.as_ref() }).collect()
}

/// Puts fresh memory in place, or none.
///
/// # Safety
///
/// As [`settle`].
unsafe fn take_memory(shared: &Shared, fresh: Option<Fresh>, windows: &[Window]) -> OsResult<()> {
    let (region, platform) = (&shared.region, shared.region.platform());
    if let Some(fresh) = &fresh {
        clean(shared, fresh);
    }
    let is_anonymous = fresh.as_ref().is_some_and(Fresh::is_anonymous);
    // SAFETY: from the caller.
    let taken = unsafe { region.protection().after_fork(platform, fresh, windows) };
    let (executable, writable) = region.protection().views();
    if taken.is_err() && region.protection().is_shared() {
        // Neither the parent's memory, nor any that runs.
        let open = windows.iter().map(|window| Span::new(window.writable, window.span.len));
        let lasting = [executable].into_iter().chain(writable).map(|view| view.span);
        for view in open.chain(lasting) {
            // SAFETY: views of the region, and windows of the only thread.
            unsafe { take_away(platform, view, Access::ReadWrite) };
        }
    }
    if is_anonymous {
        platform.name_memory(executable.span.start, executable.span.len, region.name());
    }
    // What is there otherwise may not be read.
    taken?;
    for span in shared.pages.resident_spans() {
        // SAFETY: in the executable view.
        unsafe { platform.invalidate_instruction_cache(span.start, span.len) };
    }
    Ok(())
}

/// Has free granules of the fresh memory hold traps, `[D3]`, and nothing where
/// nothing is committed: the parent's threads went on while it copied.
fn clean(shared: &Shared, fresh: &Fresh) {
    let (pages, platform) = (&shared.pages, shared.region.platform());
    let span = shared.region.span();
    let resident = pages.resident_spans();
    let mut from = span.start;
    for part in resident.iter().copied().chain([Span::new(span.end(), 0)]) {
        if part.start > from {
            let to = fresh.staging_at(from - span.start);
            // Refused, it holds what somebody began to install: no harm.
            // SAFETY: whole system pages of the staging view.
            let _ = unsafe { platform.discard(to, part.start - from) };
        }
        from = part.end();
    }
    let unit = platform.system_page();
    for number in 0..pages.high_water() {
        for hole in bitmap::clear_runs(pages.page(number).taken) {
            let run = Run::new(number * pages.granules() + hole.start, hole.len);
            let hole = pages.span(run);
            let mut at = hole.start;
            while at < hole.end() {
                let end = ((at / unit + 1) * unit).min(hole.end());
                let part = Span::new(at, end - at);
                if pages.is_committed(pages.run(part)) {
                    // SAFETY: present, and in the staging view.
                    unsafe {
                        platform.fill_traps(fresh.staging_at(at - span.start), part.len);
                    }
                }
                at = end;
            }
        }
    }
    for part in resident {
        let to = fresh.staging_at(part.start - span.start);
        // SAFETY: present, and written through the staging view.
        unsafe { platform.clean_data_cache(to, part.len) };
    }
}

/// Finds all executors, and what else belongs to somebody.
fn look(shared: &Shared, own: &[&ThreadState]) -> Seen {
    let pages = &shared.pages;
    let used = (0..pages.count()).rev().find(|&number| !bitmap::is_clear(pages.page(number).taken));
    let used = used.map_or(0, |last| last + 1);
    let mut seen = Seen { known: vec![0; used * pages.granules() / WORD], ..Seen::default() };
    for start in pages.marks.starts(0..used * pages.granules()) {
        let Some((entry, block)) = read_header(shared, pages.address(start)) else {
            // No published executor is without.
            pages.marks.clear(start);
            continue;
        };
        let (span, bytes) = (block.span_at(entry), block.bytes());
        seen.mark(pages.run(span));
        if pages.marks.is_live(start) {
            seen.live += 1;
            seen.live_bytes += bytes as u64;
        } else {
            seen.retired_bytes += bytes as u64;
            seen.retired.push(Dead { span, was: Was::Executor { entry, bytes } });
        }
    }
    for trampoline in shared.trampolines.list() {
        seen.mark(Run::new(pages.granule(trampoline.address), 1));
    }
    shared.trampolines.unused(|run| seen.mark(run));
    for state in own {
        state.for_each_own(|run| seen.mark(run));
    }
    seen
}

/// Forgets batches that wait for something, whole.
fn drop_batches(shared: &Shared) {
    shared.waiting.reset();
    shared.gathering.reset();
    // What arrives with a collector that is gone arrives never.
    shared.ripe.reset();
    // Its holes are found, too.
    shared.depot.reset();
}

/// Retires what was retired anew, and makes holes of what is nobody's.
fn adopt(shared: &Shared, own: &[&ThreadState], seen: &Seen) {
    // Threads may have been inside: their pins count from when a thread adopts
    // them. This thread's are older, `[E1]`.
    for some in seen.retired.chunks(BATCH) {
        let mut batch = Batch::new();
        for &dead in some {
            batch.push(dead, shared.weight(dead));
        }
        shared.gathering.push(batch);
    }
    let mut runs: Vec<Run> = Vec::new();
    for (at, known) in seen.known.iter().enumerate() {
        let (number, word) = (at * WORD / shared.pages.granules(), at % words(shared));
        let taken = shared.pages.page(number).taken[word].load(Ordering::Relaxed);
        let mut nobodys = taken & !known;
        while nobodys != 0 {
            let low = nobodys.trailing_zeros() as usize;
            let len = (nobodys >> low).trailing_ones() as usize;
            nobodys &= u64::MAX.checked_shl((low + len) as u32).unwrap_or(0);
            let run = Run::new(at * WORD + low, len);
            match runs.last_mut() {
                Some(last) if last.end() == run.start => last.len += len,
                _ => runs.push(run),
            }
        }
    }
    free_uncommitted(shared, &mut runs);
    let handles =
        own.iter().filter(|state| state.inherit()).count() + strays::inherit(NonNull::from(shared));
    let mut aside = shared.inherited.lock();
    *aside = SetAside { runs, handles };
    if handles == 0 {
        release(shared, &mut aside);
    }
}

/// Frees what somebody had claimed and not committed yet, `[P2]`, and leaves the
/// rest: nothing was ever written there.
fn free_uncommitted(shared: &Shared, runs: &mut Vec<Run>) {
    let pages = &shared.pages;
    let unit = shared.region.platform().system_page() / GRANULE;
    for run in core::mem::take(runs) {
        let mut at = run.start;
        while at < run.end() {
            let part = Run::new(at, ((at / unit + 1) * unit).min(run.end()) - at);
            at = part.end();
            if !pages.is_committed(part) {
                pages.release(part);
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end() == part.start => last.len += part.len,
                _ => runs.push(part),
            }
        }
    }
}

/// Words of bitmap a page.
fn words(shared: &Shared) -> usize {
    shared.pages.granules() / WORD
}

impl Default for Inherited {
    fn default() -> Self {
        Self(Renewable::new(Mutex::default()))
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        // SAFETY: exclusive, and not used again.
        drop(unsafe { self.0.take() });
    }
}

impl Inherited {
    /// Forgets all, and who had it locked.
    ///
    /// # Safety
    ///
    /// No other thread is there, and this one has it not.
    unsafe fn after_fork(&self) {
        // SAFETY: from the caller.
        unsafe { self.0.renew(Mutex::default()) };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SetAside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reservation of before the fork has come to its end, or a part of one;
/// `was_last` of its handle.
#[cold]
pub(crate) fn resolved(shared: &Shared, span: Span, was_last: bool) {
    let mut aside = shared.inherited.lock();
    let gone = shared.pages.run(span);
    for run in core::mem::take(&mut aside.runs) {
        if run.end() <= gone.start || gone.end() <= run.start {
            aside.runs.push(run);
            continue;
        }
        let below = Run::new(run.start, gone.start.saturating_sub(run.start));
        let above = Run::new(gone.end(), run.end().saturating_sub(gone.end()));
        aside.runs.extend([below, above].into_iter().filter(|part| part.len > 0));
    }
    if was_last {
        aside.handles -= 1;
        if aside.handles == 0 {
            release(shared, &mut aside);
        }
    }
}

/// Makes holes of what was set aside, once somebody recycles.
fn release(shared: &Shared, aside: &mut SetAside) {
    let mut batch = Batch::new();
    for run in aside.runs.drain(..) {
        shared.units.bury(run, |whole| {
            let span = shared.pages.span(whole);
            batch.push(Dead { span, was: Was::Unit }, span.len);
        });
    }
    if !batch.is_empty() {
        shared.waiting.push(batch);
    }
}

/// Makes the accounts agree with what was seen, `[A1]`: what threads that are
/// gone counted, and what they had not yet, is now counted as unattached.
fn balance(shared: &Shared, own: &[&ThreadState], seen: &Seen, left: Totals) {
    let (mut all, mut mine) = (left, Totals::default());
    all.add(shared.unattached.tallies());
    for state in own {
        mine.add(state.tallies());
        all.add(state.tallies());
    }
    let taken: usize = (0..shared.pages.count())
        .map(|number| bitmap::count(shared.pages.page(number).taken))
        .sum();
    let recycles = all.stats.recycles;
    let retires = recycles + seen.retired.len() as u64;
    let retired_bytes = all.recycled_bytes + seen.retired_bytes;
    let set = |of: fn(&Tallies) -> &crate::sync::Tally, all: u64, mine: u64| {
        of(shared.unattached.tallies()).store(all.saturating_sub(mine), Ordering::Relaxed);
    };
    let (stats, own) = (&all.stats, &mine.stats);
    set(|to| &to.installs, retires + seen.live, own.installs);
    set(|to| &to.installed_bytes, retired_bytes + seen.live_bytes, mine.installed_bytes);
    set(|to| &to.retires, retires, own.retires);
    set(|to| &to.retired_bytes, retired_bytes, mine.retired_bytes);
    set(|to| &to.recycles, recycles, own.recycles);
    set(|to| &to.recycled_bytes, all.recycled_bytes, mine.recycled_bytes);
    set(|to| &to.lots, stats.recycled_lots, own.recycled_lots);
    set(|to| &to.claims, stats.claims, own.claims);
    set(|to| &to.taken, all.released + taken as u64, mine.taken);
    set(|to| &to.released, all.released, mine.released);
    set(|to| &to.trimmed, stats.trimmed_bytes, own.trimmed_bytes);
    set(|to| &to.refusals, stats.refusals, own.refusals);
}
