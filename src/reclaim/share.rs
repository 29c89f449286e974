//! How much of what is recycled who may keep, and how much is a lot.
//!
//! All of it is policy: what it says decides when something is done, never
//! whether it may be.

use crate::arena::Shared;
use crate::units::{KIB, MIB};

/// Least and most that is a thread's share, in bytes, and least if it is the only
/// thread, up to a part of the region: of a small arena a twelfth makes lots of a few
/// executors, and a lot costs the same whatever is in it.
const LEAST_SHARE: usize = 8 * KIB;
const LEAST_OF_ONE: usize = 64 * KIB;
const PART_OF_ONE: usize = 16;
const MOST_SHARE: usize = 4 * MIB;

/// Least that there is to share, in bytes, for threads to do it in common, and
/// that each of them has.
const LEAST_SHARES: usize = 2 * KIB;
const LEAST_OF_MANY: usize = 512;

/// Most bytes in a lot: what one takes is what an install may have to wait.
pub(crate) const MOST_LOT: usize = 128 * KIB;

/// Of what there is to share, the parts that threads have that are too many to
/// recycle each on its own, and the depot.
const OF_MANY: usize = 4;
const OF_DEPOT: usize = 2;

/// Threads from which on they are many, and how many of those there are for each lot
/// between attempts to advance the epoch, which look at all of them.
const MANY: usize = 16;
const A_LOT: usize = 8;

/// Lots that wait for their grace period when something seems to hold it up: it
/// is over after two more are deferred, by then.
const HELD_UP: usize = 4;

/// Bytes that all threads together may keep of what they recycle.
pub(super) fn shares(shared: &Shared) -> usize {
    shared.pages.committed_bytes() / 12
}

/// What each has if they share alike.
fn equal(shared: &Shared) -> usize {
    shares(shared) / shared.threads.attached().max(1)
}

/// Bytes of holes that a thread keeps for itself.
pub(crate) fn of_thread(shared: &Shared) -> usize {
    let share = equal(shared);
    if is_alone(shared, share) {
        let is_only = shared.threads.attached() <= 1;
        let part = if is_only { shared.region.span().len / PART_OF_ONE } else { 0 };
        share.clamp(part.clamp(LEAST_SHARE, LEAST_OF_ONE), MOST_SHARE)
    } else {
        (share / OF_MANY).max(LEAST_OF_MANY)
    }
}

/// Bytes of a lot, of a thread that has such a share.
#[inline]
pub(crate) fn lot(share: usize) -> usize {
    (share / 2).min(MOST_LOT)
}

/// Bytes of a lot that threads recycle for each other.
pub(crate) fn common_lot(shared: &Shared) -> usize {
    lot(shares(shared))
}

/// Whether threads are so many that most of them wait for a processor, on most machines.
pub(super) fn are_many(shared: &Shared) -> bool {
    shared.threads.attached() >= MANY
}

/// Of what threads defer together, bytes of which another quarter must wait before the
/// next attempt to advance the epoch: a lot, and more where threads are many.
pub(super) fn attempt(shared: &Shared) -> usize {
    let lot = common_lot(shared);
    if !are_many(shared) {
        return lot;
    }
    // No less than a lot: there are two for sixteen threads, and in the shares.
    (lot * (shared.threads.attached() / A_LOT)).min(shares(shared))
}

/// Whether so many bytes that wait, of which a lot or an attempt is `lot`, seem to be
/// held up.
pub(super) fn are_held_up(waiting: usize, lot: usize) -> bool {
    waiting >= HELD_UP * lot
}

/// Whether a thread with such a share recycles on its own: what a lot costs
/// depends on how many threads there are, not on how much is in it, so small ones
/// are put together, unless all of it is next to nothing.
pub(crate) fn is_alone(shared: &Shared, share: usize) -> bool {
    shares(shared) < LEAST_SHARES || lot(share) >= common_lot(shared)
}

/// Bytes of holes in the depot, at most.
pub(super) fn of_depot(shared: &Shared) -> usize {
    if is_alone(shared, equal(shared)) { 0 } else { shares(shared) / OF_DEPOT }
}
