//! Reservations whose handle has ended before them.
//!
//! A handle counts its reservations, by which a forked child knows when the last one
//! of before the fork is over. What a handle that ends has left of them is counted on
//! here: by the thread, which no reservation leaves, and which the child has.

use core::cell::RefCell;
use core::ptr::NonNull;

use crate::arena::Shared;
use crate::units::Span;

use super::resolved;

/// What a handle left behind.
struct Stray {
    /// Alive: its reservations see to that.
    arena: NonNull<Shared>,
    handle: u64,
    /// Reservations neither published nor dropped.
    left: u64,
    /// Whether there was a fork since, in whose child this is.
    is_inherited: bool,
}

std::thread_local! {
    static STRAYS: RefCell<Vec<Stray>> = const { RefCell::new(Vec::new()) };
}

/// A handle ends before `left` of its reservations.
#[cold]
pub(crate) fn leave(arena: NonNull<Shared>, handle: u64, left: u64, is_inherited: bool) {
    let stray = Stray { arena, handle, left, is_inherited };
    // A thread that is about to end does not fork.
    let _ = STRAYS.try_with(|strays| strays.borrow_mut().push(stray));
}

/// A reservation is dropped whose handle has ended.
#[cold]
pub(crate) fn give_back(arena: NonNull<Shared>, handle: u64, span: Span) {
    let found = STRAYS.try_with(|strays| {
        let mut strays = strays.borrow_mut();
        let at = strays.iter().position(|one| one.arena == arena && one.handle == handle)?;
        strays[at].left -= 1;
        let (left, is_inherited) = (strays[at].left, strays[at].is_inherited);
        if left == 0 {
            strays.swap_remove(at);
        }
        Some((left, is_inherited))
    });
    if let Ok(Some((left, true))) = found {
        // SAFETY: the reservation keeps it alive.
        resolved(unsafe { arena.as_ref() }, span, left == 0);
    }
}

/// In a forked child, how many handles of an arena's left reservations of before the
/// fork behind.
pub(super) fn inherit(arena: NonNull<Shared>) -> usize {
    let inherit = |strays: &RefCell<Vec<Stray>>| {
        let mut strays = strays.borrow_mut();
        let own = strays.iter_mut().filter(|one| one.arena == arena);
        own.map(|one| one.is_inherited = true).count()
    };
    STRAYS.try_with(inherit).unwrap_or(0)
}
