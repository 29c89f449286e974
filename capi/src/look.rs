//! Lookups and trampolines.

use core::ffi::{c_int, c_void};

use jit_arena::Arena;

use crate::registry::{self, Id, jita_arena};
use crate::status::{Failure, JITA_EMPTY, JITA_OK, border, jita_status, null};

/// What jita_lookup found. Plain addresses, which keep nothing alive.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct jita_code {
    /// The first instruction.
    pub code: *const c_void,
    /// Bytes of code.
    pub code_len: usize,
    /// The data behind it.
    pub data: *const c_void,
    /// Bytes of data, 0 for none.
    pub data_len: usize,
    /// The tag of its jita_layout.
    pub tag: u64,
}

/// Looks for the code that `address` lies in, of any arena, and stores what it is
/// to `code`; JITA_EMPTY if there is none. Any thread, attached or not, and signal
/// handlers. Wait-free.
///
/// Code that cannot be freed meanwhile is found: that which the calling thread, or
/// the one that a signal has interrupted, runs between jita_enter and jita_exit. For
/// any other address the answer is what was there at some moment.
///
/// Errors: JITA_ERROR_NULL alone, without a message and a log, for signal handlers.
///
/// # Safety
///
/// `code` is null or points to a jita_code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_lookup(address: *const c_void, code: *mut jita_code) -> jita_status {
    // No border: nothing here panics, allocates or touches a thread-local.
    if code.is_null() {
        return crate::status::JITA_ERROR_NULL;
    }
    let found =
        registry::with_arena_at(address.addr(), |_, open| open.arena.lookup(address.addr()))
            .flatten();
    let Some(found) = found else { return JITA_EMPTY };
    let pointer = core::ptr::with_exposed_provenance;
    let new = jita_code {
        code: pointer(found.code.start),
        code_len: found.code.len,
        data: pointer(found.data.start),
        data_len: found.data.len,
        tag: found.tag,
    };
    // SAFETY: not null, so it points to one (caller).
    unsafe { code.write(new) };
    JITA_OK
}

/// Whether `address` lies in the arena's code memory: 1 or 0, and 0 for a handle
/// that is none. Any thread, and signal handlers. Wait-free.
#[unsafe(no_mangle)]
pub extern "C" fn jita_contains(arena: *mut jita_arena, address: *const c_void) -> c_int {
    let id = Id::of(arena);
    // No border, as above: a handle that is none makes no message here.
    registry::look(id, |open| open.arena.contains(address.addr())).unwrap_or(false).into()
}

/// Stores an address that trampolines found or made.
///
/// # Safety
///
/// `to` is null or points to a pointer.
unsafe fn found(
    arena: *mut jita_arena,
    target: *const c_void,
    to: *mut *const c_void,
    find: impl FnOnce(&Arena) -> Result<usize, jit_arena::TrampolineError>,
) -> Result<jita_status, Failure> {
    if target.is_null() || to.is_null() {
        return Err(null(if target.is_null() { "target" } else { "address" }));
    }
    // Cloned, so that a thread that writes one does not hold up jita_destroy.
    let arena = registry::with(Id::of(arena), |open| open.arena.clone())?;
    let address = find(&arena)?;
    // SAFETY: not null, so it points to a pointer (caller).
    unsafe { to.write(core::ptr::with_exposed_provenance(address)) };
    Ok(JITA_OK)
}

/// Stores to `address` the trampoline to `target`: a jump that a direct branch from
/// any place in the arena reaches. The same one for all who ask; it stays as long as
/// the arena. Any thread. Wait-free where there is one already; otherwise lock-free,
/// and writes it.
///
/// Errors: JITA_ERROR_REACH for an arena that is longer than branches reach (use
/// jita_call_target), JITA_ERROR_EXHAUSTED, JITA_ERROR_OS.
///
/// # Safety
///
/// `address` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_trampoline(
    arena: *mut jita_arena,
    target: *const c_void,
    address: *mut *const c_void,
) -> jita_status {
    // SAFETY: from the caller.
    border(|| unsafe { found(arena, target, address, |arena| arena.trampoline(target.addr())) })
}

/// Stores to `address` what a direct branch at `from` (an rx address) should branch
/// to in order to get to `target`: that itself if it is within reach, otherwise a
/// trampoline. Any thread; inside a write scope, too.
///
/// Errors: JITA_ERROR_REACH for a `from` outside the arena that does not reach;
/// otherwise as jita_trampoline.
///
/// # Safety
///
/// `address` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_call_target(
    arena: *mut jita_arena,
    from: *const c_void,
    target: *const c_void,
    address: *mut *const c_void,
) -> jita_status {
    // SAFETY: from the caller.
    border(|| unsafe {
        found(arena, target, address, |arena| arena.call_target(from.addr(), target.addr()))
    })
}

/// Makes trampolines to `count` targets at once, four to 64 bytes: for the helpers
/// that a runtime knows when it starts. Any thread.
///
/// Errors: JITA_ERROR_NULL for `targets` or one of them, JITA_ERROR_EXHAUSTED,
/// JITA_ERROR_OS. After the last two some may have been made, and stay.
///
/// # Safety
///
/// `targets` points to `count` pointers, or is null if that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_make_trampolines(
    arena: *mut jita_arena,
    targets: *const *const c_void,
    count: usize,
) -> jita_status {
    border(|| {
        if count == 0 {
            return Ok(JITA_OK);
        }
        if targets.is_null() {
            return Err(null("targets"));
        }
        // SAFETY: from the caller.
        let targets = unsafe { core::slice::from_raw_parts(targets, count) };
        if targets.iter().any(|target| target.is_null()) {
            return Err(null("one of the targets"));
        }
        let targets: Vec<usize> = targets.iter().map(|target| target.addr()).collect();
        let arena = registry::with(Id::of(arena), |open| open.arena.clone())?;
        arena.make_trampolines(&targets)?;
        Ok(JITA_OK)
    })
}
