//! Arenas: created, described, destroyed.

use core::ffi::{CStr, c_char};
use core::ptr;

use crate::options::{self, jita_options};
use crate::registry::{self, Id, Open, jita_arena};
use crate::stats::copy_text;
use crate::status::{
    Failure, JITA_ERROR_BUG, JITA_LOG_INFO, JITA_LOG_WARNING, JITA_OK, border, jita_status, log,
    null,
};
use crate::thread::{self, state};

/// The version of the library, such as "0.1.0". Never null; valid for ever. Any
/// thread.
#[unsafe(no_mangle)]
pub extern "C" fn jita_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    CStr::from_bytes_with_nul(VERSION.as_bytes()).map_or(ptr::null(), CStr::as_ptr)
}

/// Creates an arena and stores its handle to `arena`. Any thread. Makes system
/// calls. There can be 256 at a time.
///
/// Errors: JITA_ERROR_INVALID or JITA_ERROR_VERSION for the options; JITA_ERROR_OS if
/// no protection strategy works here, with each refusal in the message, or the
/// environment variable JIT_ARENA_STRATEGY names none that there is, or JITA_SEALED
/// cannot be had.
///
/// # Safety
///
/// `options` is null, for the defaults, or points to a jita_options as it describes
/// itself; `arena` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_create(
    options: *const jita_options,
    arena: *mut *mut jita_arena,
) -> jita_status {
    border(|| {
        if arena.is_null() {
            return Err(null("arena"));
        }
        // SAFETY: from the caller.
        let (new, explicit) = unsafe { options::build(options) }?;
        let report = new.report().to_string();
        let id = registry::add(Open { arena: new, explicit })?;
        log(JITA_LOG_INFO, &report);
        // SAFETY: not null, so it points to a pointer (caller).
        unsafe { arena.write(id.handle()) };
        Ok(JITA_OK)
    })
}

/// Destroys an arena: from here on its handle is an error for every call, but
/// those that end something (jita_exit, jita_unpark, jita_write_close,
/// jita_detach) and, on a thread inside its code, jita_safepoint and jita_park.
/// What was not freed goes with it. Any thread; of several that destroy it at once
/// one succeeds. The calling thread is detached.
///
/// Its memory goes back to the system when the last thread has let go of it, and
/// not before, so that no thread that is inside code loses it. Threads let go by
/// exiting, by jita_detach, or as they next attach to an arena or end what they are
/// in the middle of. Code that a thread runs without jita_enter is the client's to
/// have ended.
///
/// Errors: JITA_ERROR_STATE if the calling thread is inside code, parked or inside a
/// write scope; JITA_ERROR_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn jita_destroy(arena: *mut jita_arena) -> jita_status {
    border(|| {
        let id = Id::of(arena);
        let unfinished = thread::unfinished(id)?;
        if let Some(what) = unfinished {
            return Err(state(format!("the thread cannot destroy the arena, it is {what}")));
        }
        let open = registry::close(id)?;
        thread::leave(id)?;
        let live = open.arena.stats().live_executors;
        if live > 0 {
            log(JITA_LOG_WARNING, &format!("an arena was destroyed with {live} pieces of code"));
        }
        Ok(JITA_OK)
    })
}

/// Describes the arena for people: its strategy, what was tried before it and why
/// that was refused. Writes as much of the text as fits to `text`, ended by a zero
/// if `capacity` is not 0, and stores its whole length, without the zero, to `len`.
/// Any thread.
///
/// # Safety
///
/// `text` is null if `capacity` is 0, otherwise it points to that many bytes; `len`
/// is null or points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_report(
    arena: *mut jita_arena,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> jita_status {
    border(|| {
        let report = registry::with(Id::of(arena), |open| open.arena.report().to_string())?;
        // SAFETY: from the caller.
        unsafe { copy_text(&report, text, capacity, len) }
    })
}

/// Stores to `offset` what to add to the address that code runs at to get the one
/// it is written at, if that is the same as long as the arena lives, and 1 to
/// `is_fixed`; with the strategies dual-transient and mprotect it is another for
/// each block, and 0 is stored to both. Any thread.
///
/// # Safety
///
/// Both are null or point to their types.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_write_offset(
    arena: *mut jita_arena,
    offset: *mut isize,
    is_fixed: *mut core::ffi::c_int,
) -> jita_status {
    border(|| {
        if offset.is_null() || is_fixed.is_null() {
            return Err(null("offset or is_fixed"));
        }
        let found = registry::with(Id::of(arena), |open| open.arena.write_offset())?;
        // SAFETY: not null, so it points to one (caller).
        unsafe { offset.write(found.unwrap_or(0)) };
        // SAFETY: as above.
        unsafe { is_fixed.write(found.is_some().into()) };
        Ok(JITA_OK)
    })
}

/// Pushes reclamation as far as it goes at this moment, and gives free memory back
/// to the system. Code that threads may be running stays. Lock-free; makes system
/// calls.
///
/// Errors: JITA_ERROR_STATE inside a write scope.
#[unsafe(no_mangle)]
pub extern "C" fn jita_collect(arena: *mut jita_arena) -> jita_status {
    border(|| {
        thread::with(Id::of(arena), |attached| {
            if attached.scopes > 0 {
                return Err(state("nothing is collected inside a write scope: close it first"));
            }
            attached.handle().collect();
            Ok(JITA_OK)
        })
    })
}

/// Checks every invariant of the arena's pages, code, index and accounts, while no
/// thread installs, frees or collects. For tests: takes time in proportion to the
/// memory in use.
///
/// Errors: JITA_ERROR_BUG, with what was found.
#[unsafe(no_mangle)]
pub extern "C" fn jita_verify(arena: *mut jita_arena) -> jita_status {
    border(|| {
        // Cloned, so that jita_destroy does not wait for it.
        let arena = registry::with(Id::of(arena), |open| open.arena.clone())?;
        arena.verify().map_err(|error| Failure::new(JITA_ERROR_BUG, error.to_string()))?;
        Ok(JITA_OK)
    })
}
