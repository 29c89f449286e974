//! Giving memory back: how much, from where, and when not to.
//!
//! Committed memory that is free after a lot goes back beyond a watermark:
//! empty code pages first, then whole system pages inside the holes of pages
//! that live on, highest address first, because claims fill the lowest.
//!
//! Some memory is always free: holes that fit nothing just now. Giving those
//! back only to commit them again would cost two system calls and page faults
//! a time. How much that is depends on the workload, so the watermark learns
//! it, as a part of what is committed, the *slack*, which fades as executors
//! are recycled. Two things raise it: a commit although more than the slack is
//! free (the holes do not fit), by all of the commit; and a commit of what was
//! given back of late (the program comes and goes), by a part of it. So a
//! program that shrinks gives back at once; one that stays as it is, or goes up
//! and down in even waves, soon gives back next to nothing; one that just grows
//! teaches nothing. Once a program is known to be [steady](super::steady) nothing
//! goes back, unless half of it is free.

use crate::page::bitmap;
use crate::stats;
use crate::sync::{Ordering, Tally};
use crate::thread::ThreadState;
use crate::units::KIB;

use super::recycle;
use super::steady::Steady;

/// Slack is counted in this many parts of the committed bytes.
const PARTS: usize = 1 << 20;

/// The least slack.
const LEAST: usize = PARTS / 32;

/// Free bytes of which nothing is learnt: of the first few system pages any is a
/// large part, and that would be known of the whole arena for long.
const FEW: usize = 32 * KIB;

/// The most that can be learnt above it.
const MOST: usize = PARTS / 2;

/// Of the slack above the least, the part that fades with each round.
const FADING: usize = 128;

/// Of what is committed again, the part that is learnt.
const AGAIN: usize = 8;

/// Of what was given back, the part that is forgotten with each round.
const FORGETTING: u64 = 4;

/// A round: the part of the committed bytes that is recycled meanwhile.
const ROUND: usize = 8;

/// What the arena has learnt of its slack. Steers policy only, so all accesses
/// are relaxed and rounds may be torn.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// Parts above the least.
    learnt: Tally,
    /// Bytes given back of late and not committed again since.
    owed: Tally,
    /// Bytes recycled in this round.
    recycled: Tally,
    steady: Steady,
}

impl Watermark {
    /// Free bytes to keep of `committed`, learnt ones included.
    fn slack(&self, committed: usize) -> usize {
        let learnt = self.learnt.load(Ordering::Relaxed) as usize;
        (committed as u128 * (LEAST + learnt) as u128 / PARTS as u128) as usize
    }

    /// Notes that `new` bytes were committed while a thread could have had `free`
    /// others, had they fitted. What other threads have teaches nothing: in a small
    /// arena it is most of it, and what is learnt there fades slowly in a large one.
    pub(crate) fn committed(&self, new: usize, free: usize, committed: usize) {
        let owed = self.owed.load(Ordering::Relaxed);
        let again = owed.min(new as u64);
        // Stored, not subtracted: threads that race lose a part of the count,
        // and never take it below zero.
        self.owed.store(owed - again, Ordering::Relaxed);
        let lesson =
            if free > self.slack(committed).max(FEW) { new } else { again as usize / AGAIN };
        let parts = lesson as u128 * PARTS as u128 / committed.max(1) as u128;
        let learnt = self.learnt.load(Ordering::Relaxed) + parts as u64;
        self.learnt.store(learnt.min(MOST as u64), Ordering::Relaxed);
    }

    /// What was learnt, in parts of the committed bytes.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn learnt(&self) -> u64 {
        self.learnt.load(Ordering::Relaxed)
    }

    /// Notes that `bytes` went back.
    fn gave_back(&self, bytes: usize) {
        self.owed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that `bytes` were recycled.
    fn recycled(&self, bytes: usize, committed: usize) {
        let recycled = self.recycled.fetch_add(bytes as u64, Ordering::Relaxed) as usize + bytes;
        if recycled >= committed / ROUND {
            self.recycled.store(0, Ordering::Relaxed);
            let learnt = self.learnt.load(Ordering::Relaxed);
            self.learnt.store(learnt - learnt.div_ceil(FADING as u64), Ordering::Relaxed);
            let owed = self.owed.load(Ordering::Relaxed);
            self.owed.store(owed - owed.div_ceil(FORGETTING), Ordering::Relaxed);
        }
    }
}

/// Gives back what is free beyond the watermark, after a lot of `recycled`
/// bytes.
pub(crate) fn after_lot(thread: &ThreadState, recycled: usize) {
    let shared = thread.shared();
    let committed = shared.pages.committed_bytes();
    shared.watermark.recycled(recycled, committed);
    let free = shared.free_bytes();
    let keep = shared.watermark.slack(committed).max(shared.config.keep_free);
    let is_steady = shared.watermark.steady.note(recycled, committed.saturating_sub(free));
    if is_steady && free < committed / 2 {
        return;
    }
    // Saturating: a client may ask to keep everything.
    if free <= keep.saturating_add((keep / 2).max(committed / 32)) {
        // Too little to be worth the calls.
        return;
    }
    // Whole system pages may lie in its own holes, too.
    recycle::give_up(thread);
    let excess = free - keep;
    let mut trimmed = 0;
    for only_empty in [true, false] {
        for number in (0..shared.pages.high_water()).rev() {
            if trimmed >= excess {
                break;
            }
            let page = shared.pages.page(number);
            // Relaxed: hints; `trim_page` decides granule by granule.
            let is_empty = bitmap::is_clear(page.taken);
            if page.resident.load(Ordering::Relaxed) != 0 && (is_empty || !only_empty) {
                trimmed += shared.pages.trim_page(&shared.region, number, excess - trimmed);
            }
        }
    }
    shared.watermark.gave_back(trimmed);
    shared.budget.gave_back(trimmed);
    stats::add(&thread.tallies().trimmed, trimmed);
}

/// Gives back every system page that is free.
pub(crate) fn everything(thread: &ThreadState) {
    let shared = thread.shared();
    // [F1]: as in `recycle`, which `after_lot` is a part of.
    let Some(_inside) = shared.gate.enter() else { return };
    let trimmed = (0..shared.pages.high_water())
        .map(|number| shared.pages.trim_page(&shared.region, number, usize::MAX))
        .sum();
    shared.budget.gave_back(trimmed);
    stats::add(&thread.tallies().trimmed, trimmed);
}
