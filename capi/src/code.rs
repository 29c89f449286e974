//! Code by its address: installed in one call, freed on any thread.

use core::ffi::c_void;
use core::mem::offset_of;

use jit_arena::{Arena, CodeLayout, RetireError};

use crate::options::read_sized;
use crate::registry::{self, Id, jita_arena};
use crate::status::{
    Failure, JITA_ERROR_FOREIGN, JITA_ERROR_MIDDLE, JITA_ERROR_NOT_CODE, JITA_OK, border,
    jita_status, null,
};
use crate::thread::{self, Attached, state};
use crate::write;

/// Sizes and alignments of code and its data. All but the size and code_len may
/// be 0 for the default.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct jita_layout {
    /// sizeof(jita_layout).
    pub size: usize,
    /// Bytes of code; 1 at least.
    pub code_len: usize,
    /// Alignment of the code: a power of two up to 4096. Default: 16.
    pub code_align: usize,
    /// Bytes of data behind the code. Default: none.
    pub data_len: usize,
    /// Alignment of the data: a power of two up to 4096. Default: 1.
    pub data_align: usize,
    /// A word of the client's that jita_lookup tells. Default: 0.
    pub tag: u64,
}

impl jita_layout {
    /// # Safety
    ///
    /// `from` is null or points to as many bytes as its size says.
    pub(crate) unsafe fn read(from: *const Self) -> Result<CodeLayout, Failure> {
        if from.is_null() {
            return Err(null("layout"));
        }
        let least = offset_of!(Self, tag) + size_of::<u64>();
        // SAFETY: from the caller.
        let layout = unsafe { read_sized(from, least) }?;
        let default = |value: usize, default: usize| if value == 0 { default } else { value };
        Ok(CodeLayout::new(layout.code_len)
            .align(default(layout.code_align, 16))
            .data(layout.data_len, default(layout.data_align, 1))
            .tag(layout.tag))
    }
}

/// Why an address is no block of the thread's that it could publish.
pub(crate) fn not_pending(attached: &Attached, entry: usize) -> Failure {
    let arena = &attached.arena;
    if !arena.contains(entry) {
        let message = format!("{entry:#x} is not in this arena's code memory");
        return Failure::new(JITA_ERROR_FOREIGN, message);
    }
    match arena.lookup(entry) {
        Some(found) if found.entry() == entry => {
            state(format!("the code at {entry:#x} was published before"))
        }
        Some(found) => Failure::new(
            JITA_ERROR_MIDDLE,
            format!("{entry:#x} is in the middle of the code at {:#x}", found.entry()),
        ),
        None => Failure::new(
            JITA_ERROR_NOT_CODE,
            format!("{entry:#x} is no block that this thread has allocated and not published"),
        ),
    }
}

/// Allocates, writes and publishes code with data straight behind it, both as they
/// are, and stores the address of the first instruction to `rx`. Not to be called
/// inside a write scope. Takes what jita_alloc takes, and with the strategies
/// dual-transient and mprotect system calls to open and close a window.
///
/// Errors: JITA_ERROR_STATE inside a write scope; JITA_ERROR_INVALID for no code, or
/// more than 4 MiB or than the arena's reserve; JITA_ERROR_EXHAUSTED; JITA_ERROR_OS if
/// the system has no memory, or refused to open or close the window.
///
/// # Safety
///
/// `code` points to `code_len` bytes, `data` to `data_len`, and may be null if that
/// is 0; `rx` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_install(
    arena: *mut jita_arena,
    code: *const c_void,
    code_len: usize,
    data: *const c_void,
    data_len: usize,
    rx: *mut *mut c_void,
) -> jita_status {
    border(|| {
        if rx.is_null() {
            return Err(null("rx"));
        }
        // SAFETY: from the caller.
        let code = unsafe { bytes(code, code_len, "code") }?;
        // SAFETY: from the caller.
        let data = unsafe { bytes(data, data_len, "data") }?;
        let entry = thread::with(Id::of(arena), |attached| {
            if attached.scopes > 0 {
                return Err(state("code is not installed inside a write scope: close it first"));
            }
            Ok(attached.handle().install(code, data)?.into_addr())
        })?;
        // SAFETY: not null, so it points to a pointer (caller).
        unsafe { rx.write(core::ptr::with_exposed_provenance_mut(entry)) };
        Ok(JITA_OK)
    })
}

/// Bytes of the caller's.
///
/// # Safety
///
/// `from` points to `len` bytes, or is null.
unsafe fn bytes<'a>(from: *const c_void, len: usize, what: &str) -> Result<&'a [u8], Failure> {
    match (from.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(null(what)),
        // SAFETY: from the caller.
        (false, _) => Ok(unsafe { core::slice::from_raw_parts(from.cast(), len) }),
    }
}

type Retire = unsafe fn(&Arena, usize) -> Result<(), RetireError>;

/// Frees by address: a block of the thread's, or what was published.
fn free(rx: *mut c_void, retire: Retire) -> Result<jita_status, Failure> {
    if rx.is_null() {
        return Err(null("rx"));
    }
    let entry = rx.addr();
    let here = |attached: &mut Attached| {
        if write::take(attached, entry).is_some() {
            return Ok(());
        }
        // SAFETY: published by this library, which gives every handle up; that it
        // was not freed before is the client's promise, and mostly checked.
        unsafe { retire(&attached.arena, entry) }.map_err(Failure::from)
    };
    if thread::with_arena_at(entry, here)?.is_some() {
        return Ok(JITA_OK);
    }
    let there = registry::with_arena_at(entry, |id, open| (id, open.arena.clone(), open.explicit));
    let Some((id, arena, explicit)) = there else {
        let message = format!("{entry:#x} is not in the code memory of any arena");
        return Err(Failure::new(JITA_ERROR_FOREIGN, message));
    };
    if explicit {
        // SAFETY: as above. Attaches the thread for the moment.
        unsafe { retire(&arena, entry) }?;
    } else {
        thread::with(id, here)?;
    }
    Ok(JITA_OK)
}

/// Frees the code whose first instruction is at `rx`, on any thread, attached or
/// not, at any time: as soon as no thread can be running it any more, its memory
/// is used again. Take its address out of every place where threads find it first.
/// A block that the calling thread has not published is given back.
///
/// On a thread that is attached mostly wait-free. One call in at most 64, of many
/// threads one in a few, passes on what was freed, and every 128th helps reclamation:
/// those are lock-free, and the former may yield the processor where 16 threads or more
/// are attached. On any other thread lock-free; allocates, and attaches the thread, or
/// with JITA_EXPLICIT_ATTACH does so for the moment.
///
/// Errors, with nothing changed: JITA_ERROR_FREED, JITA_ERROR_NOT_CODE,
/// JITA_ERROR_MIDDLE, JITA_ERROR_FOREIGN, JITA_ERROR_NULL. An address that was freed
/// and has become other code's since cannot be told from that code: as with free(),
/// that code is freed then, in good order, and whoever owned it loses it.
#[unsafe(no_mangle)]
pub extern "C" fn jita_free(rx: *mut c_void) -> jita_status {
    border(|| free(rx, Arena::retire_at))
}

/// As jita_free, for code that nobody can be running: its memory is used again
/// without waiting for threads that are inside other code.
///
/// The caller vouches for this: no thread is inside this code, on any part of its
/// stack, nor will enter it, nor has its address from which to do so; and the last
/// that was inside has left it before this call, in the sense of C's memory model
/// (a reference count that goes down with release, and is seen at zero with acquire,
/// makes it so). If that is not true, threads run whatever comes to be there.
///
/// Lock-free; allocates.
#[unsafe(no_mangle)]
pub extern "C" fn jita_free_quiescent(rx: *mut c_void) -> jita_status {
    border(|| free(rx, Arena::retire_quiescent_at))
}
