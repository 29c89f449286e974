//! The arenas of the process, by handle and by address.
//!
//! A handle is a number in the shape of a pointer: a slot of a table, and which
//! of the arenas that slot has had. It is looked up and never followed, so a
//! handle of an arena that is gone is an error like any other.
//!
//! Threads look a handle up once, when they attach; from then on they have the
//! arena in a thread-local and only compare the slot's number. What looks at the
//! table itself ([`with`], [`with_arena_at`]) counts itself in and out of the
//! slot, and closing waits for those inside: some loads, or an attach. That is
//! all there is to wait for, and it makes lookups work in signal handlers, where
//! neither thread-locals nor locks do.

use core::cell::UnsafeCell;
use core::hint;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Once;

use jit_arena::Arena;

use crate::status::{Failure, JITA_ERROR_HANDLE, JITA_ERROR_TOO_MANY};

/// An arena. A handle is never followed: any value is safe to pass, and a wrong
/// one is an error.
#[derive(Debug)]
pub struct jita_arena {
    _private: (),
}

/// Arenas at a time.
const SLOTS: usize = 256;

/// What the library keeps of an arena.
pub(crate) struct Open {
    pub(crate) arena: Arena,
    /// Whether threads attach only when they say so.
    pub(crate) explicit: bool,
}

/// Which arena: its slot in the low byte, above that a count, which is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u64);

impl Id {
    pub(crate) fn of(handle: *const jita_arena) -> Self {
        Self(handle.addr() as u64)
    }

    pub(crate) fn handle(self) -> *mut jita_arena {
        ptr::without_provenance_mut(self.0 as usize)
    }

    fn slot(self) -> &'static Slot {
        &TABLE[self.0 as usize % SLOTS]
    }

    /// Whether the arena has not been destroyed. Wait-free.
    pub(crate) fn is_open(self) -> bool {
        // Relaxed: a thread that has the arena in hand may come late.
        self.0 >= SLOTS as u64 && self.slot().id.load(Ordering::Relaxed) == self.0
    }
}

/// A slot without an arena, and one that is being filled or emptied.
const EMPTY: u64 = 0;
const CHANGING: u64 = 1;

#[repr(align(128))]
struct Slot {
    id: AtomicU64,
    /// Callers that look at the arena.
    users: AtomicUsize,
    /// Some while `id` is an arena's.
    open: UnsafeCell<Option<Open>>,
    /// Where its code memory is.
    start: AtomicUsize,
    len: AtomicUsize,
}

// SAFETY: `open` is written only while `id` is CHANGING, by the one caller that
// made it so, and with no user; and read only by users that saw another `id`.
unsafe impl Sync for Slot {}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        id: AtomicU64::new(EMPTY),
        users: AtomicUsize::new(0),
        open: UnsafeCell::new(None),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
    }
}; SLOTS];

/// Slots in use are below this.
static USED: AtomicUsize = AtomicUsize::new(0);

static COUNT: AtomicU64 = AtomicU64::new(1);

/// Counts a caller in, and out again when it is dropped.
struct User(&'static Slot);

impl User {
    fn new(slot: &'static Slot) -> Self {
        // SeqCst: with the load of `id` that follows, against the exchange of
        // `id` and the load of `users` in `close`: one of the two is seen.
        slot.users.fetch_add(1, Ordering::SeqCst);
        Self(slot)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Release: pairs with the SeqCst load in `close`: all uses come before.
        self.0.users.fetch_sub(1, Ordering::Release);
    }
}

/// Runs `f` with the arena of a slot if `id` is its number. Async-signal-safe if
/// `f` is.
fn with_slot<R>(slot: &'static Slot, id: u64, f: impl FnOnce(&Open) -> R) -> Option<R> {
    let _user = User::new(slot);
    // SeqCst: see `User::new`; and Acquire of what `add` has written.
    if slot.id.load(Ordering::SeqCst) != id {
        return None;
    }
    // SAFETY: the number is an arena's and this caller is counted, so nobody
    // writes it until the count is taken back.
    let open = unsafe { &*slot.open.get() };
    open.as_ref().map(f)
}

/// Runs `f` with an arena, if there is one. Async-signal-safe if `f` is.
pub(crate) fn look<R>(id: Id, f: impl FnOnce(&Open) -> R) -> Option<R> {
    if id.0 >= SLOTS as u64 { with_slot(id.slot(), id.0, f) } else { None }
}

/// As [`look`], with an error if there is none.
pub(crate) fn with<R>(id: Id, f: impl FnOnce(&Open) -> R) -> Result<R, Failure> {
    look(id, f).ok_or_else(|| no_such(id))
}

pub(crate) fn no_such(id: Id) -> Failure {
    Failure::new(
        JITA_ERROR_HANDLE,
        format!("{:#x} is no arena's handle: it was destroyed, or never was one", id.0),
    )
}

/// Runs `f` with the arena whose code memory `address` is in. Async-signal-safe
/// if `f` is.
pub(crate) fn with_arena_at<R>(address: usize, f: impl FnOnce(Id, &Open) -> R) -> Option<R> {
    // Acquire: pairs with the Release in `add`.
    let used = USED.load(Ordering::Acquire).min(SLOTS);
    let slot = TABLE[..used].iter().find(|slot| {
        // Relaxed: looked at again under the count.
        let start = slot.start.load(Ordering::Relaxed);
        address.wrapping_sub(start) < slot.len.load(Ordering::Relaxed)
    })?;
    // Acquire: of what `add` has written.
    let id = slot.id.load(Ordering::Acquire);
    if id < SLOTS as u64 {
        return None;
    }
    with_slot(slot, id, |open| open.arena.contains(address).then(|| f(Id(id), open)))?
}

/// Has a forked child count anew: threads that were in a slot are not there.
fn count_anew_in_children() {
    unsafe extern "C" fn child() {
        for slot in &TABLE {
            // Relaxed: the child has one thread.
            slot.users.store(0, Ordering::Relaxed);
        }
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: what it registers only stores. If there is no memory for it, a
        // child's `close` may wait for ever: as it would without.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
}

/// Enters an arena.
pub(crate) fn add(open: Open) -> Result<Id, Failure> {
    count_anew_in_children();
    let span = open.arena.span();
    let taken = TABLE.iter().position(|slot| {
        // Acquire: pairs with the Release at the end of `close`.
        let taken = slot.id.compare_exchange(EMPTY, CHANGING, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok()
    });
    let Some(number) = taken else {
        return Err(Failure::new(
            JITA_ERROR_TOO_MANY,
            format!("there are {SLOTS} arenas: destroy one"),
        ));
    };
    let slot = &TABLE[number];
    // SAFETY: the exchange made the slot this caller's, and users that come
    // meanwhile do not look at it.
    unsafe { *slot.open.get() = Some(open) };
    slot.start.store(span.start, Ordering::Relaxed);
    slot.len.store(span.len, Ordering::Relaxed);
    // Relaxed: only distinctness matters.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = count * SLOTS as u64 + number as u64;
    // Release: pairs with the loads in `with_slot` and `with_arena_at`.
    slot.id.store(id, Ordering::Release);
    USED.fetch_max(number + 1, Ordering::Release);
    Ok(Id(id))
}

/// Takes an arena out. Threads that are attached keep it until they leave.
pub(crate) fn close(id: Id) -> Result<Open, Failure> {
    let closed = id.0 >= SLOTS as u64 && {
        // SeqCst: see `User::new`. Of several callers one succeeds.
        let exchange =
            id.slot().id.compare_exchange(id.0, CHANGING, Ordering::SeqCst, Ordering::Relaxed);
        exchange.is_ok()
    };
    if !closed {
        return Err(no_such(id));
    }
    let slot = id.slot();
    let mut spins = 0_u32;
    // SeqCst: see `User::new`; and Acquire of what users did.
    while slot.users.load(Ordering::SeqCst) != 0 {
        spins += 1;
        if spins.is_multiple_of(64) { std::thread::yield_now() } else { hint::spin_loop() }
    }
    slot.start.store(0, Ordering::Relaxed);
    slot.len.store(0, Ordering::Relaxed);
    // SAFETY: this caller's since the exchange, and nobody looks at it.
    let open = unsafe { &mut *slot.open.get() }.take();
    // Release: pairs with the Acquire in `add`.
    slot.id.store(EMPTY, Ordering::Release);
    open.ok_or_else(|| no_such(id))
}
