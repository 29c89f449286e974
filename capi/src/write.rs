//! Writing: blocks that are not published yet, and the scopes to write them in.
//!
//! C writes by address and at any time, so a block has one address for writing
//! from its allocation to its publishing, whatever the strategy:
//!
//! - Where writable memory stays mapped (`dual-pkey`, `dual-open`, `single-pkey`,
//!   `map-jit`), that of the code itself. A scope opens the thread's rights.
//! - Where windows come and go (`dual-transient`, `mprotect`), one of ordinary
//!   memory, out of which the code is copied as the scope closes: one window
//!   for each claim that was written in it, known to this library alone.

use core::ffi::c_void;
use core::hash::Hasher as _;
use std::hash::DefaultHasher;

use jit_arena::{CodeLayout, Reservation, WriteError, WriteScope};

use crate::code::jita_layout;
use crate::registry::{Id, jita_arena};
use crate::status::{
    Failure, JITA_ERROR_SEALED, JITA_ERROR_UNWRITTEN, JITA_OK, border, jita_status, null,
};
use crate::thread::{self, Attached, state};

/// Place for code, until it is published. The struct is the caller's and may be
/// copied; what it points to is the arena's.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct jita_block {
    /// Address at which the code will run: its first instruction. Nothing is
    /// there to be run or read before jita_publish.
    pub rx: *mut c_void,
    /// Address at which it is written: the same from jita_alloc to jita_publish,
    /// and to be written to by the thread that allocated it, inside a write
    /// scope. The byte at rw + i will run at rx + i: what refers to a place by its
    /// distance counts from rx.
    pub rw: *mut c_void,
    /// Bytes from the first instruction to the end of the data.
    pub len: usize,
    /// Offset of the data from rx, and from rw.
    pub data: usize,
}

/// Ordinary memory in which a block is written, aligned as code is.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A block that is not published.
pub(crate) struct Pending {
    reservation: Reservation,
    /// Where it is written, if not where it is.
    staging: Option<Vec<Line>>,
    /// Whether a scope has closed on it.
    written: bool,
    /// Hash of what was brought to its place, if that is not where it is written.
    brought: u64,
    /// Written after it was sealed.
    late: bool,
}

impl Pending {
    pub(crate) fn entry(&self) -> usize {
        self.reservation.entry()
    }

    fn block(&mut self, offset: Option<isize>) -> jita_block {
        let entry = self.entry();
        let rw = match (&mut self.staging, offset) {
            (None, Some(offset)) => {
                core::ptr::with_exposed_provenance_mut(entry.wrapping_add_signed(offset))
            }
            (staging, _) => staging
                .as_mut()
                .map_or(core::ptr::null_mut(), |it| it.as_mut_ptr().cast::<c_void>()),
        };
        jita_block {
            rx: core::ptr::with_exposed_provenance_mut(entry),
            rw,
            len: self.reservation.len(),
            data: self.reservation.data() - entry,
        }
    }

    /// What was written, where that is not the code itself.
    fn staged(&self) -> Option<&[u8]> {
        let staging = self.staging.as_ref()?;
        let from = staging.as_ptr().cast::<u8>();
        // SAFETY: at least as many initialised bytes; by its contract the client
        // does not write them during this call.
        Some(unsafe { core::slice::from_raw_parts(from, self.reservation.len()) })
    }

    /// Whether what was written is not what is there.
    fn is_late(&self) -> bool {
        self.late || self.staged().is_some_and(|bytes| hash(bytes) != self.brought)
    }

    /// Brings what was written in a scope to its place, before the scope closes.
    fn seal(&mut self, scope: &mut WriteScope<'_>) -> Result<(), Failure> {
        let len = self.reservation.len();
        let Some(staging) = &self.staging else {
            // Writes what stands before the code, and has it cleaned out of
            // caches.
            scope.bytes(&mut self.reservation)?;
            self.written = true;
            return Ok(());
        };
        let from = staging.as_ptr().cast::<u8>();
        // SAFETY: as in `staged`.
        let bytes = unsafe { core::slice::from_raw_parts(from, len) };
        match scope.write_at(&mut self.reservation, 0, bytes) {
            Ok(()) => {
                self.written = true;
                self.brought = hash(bytes);
                Ok(())
            }
            Err(WriteError::Sealed) => {
                // Its pages run already: the same bytes need no writing.
                self.late = hash(bytes) != self.brought;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells what was written from what is written later, without a look at memory that
/// a forked child may not have.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Reserves; see `jita_alloc`.
pub(crate) fn reserve(attached: &mut Attached, layout: CodeLayout) -> Result<jita_block, Failure> {
    let offset = attached.arena.write_offset();
    // Inside a scope this is the scope's: the reservation is of it.
    let reservation = match attached.writing() {
        Some((scope, _)) => scope.reserve(layout)?,
        None => attached.handle().reserve(layout)?,
    };
    let lines = reservation.len().div_ceil(size_of::<Line>());
    let staging = offset.is_none().then(|| vec![Line([0; 64]); lines]);
    let mut pending = Pending { reservation, staging, written: false, brought: 0, late: false };
    let block = pending.block(offset);
    attached.pending.push(pending);
    Ok(block)
}

/// Takes a block out of those that the thread has not published.
pub(crate) fn take(attached: &mut Attached, entry: usize) -> Option<Pending> {
    // Mostly the last.
    let at = attached.pending.iter().rposition(|pending| pending.entry() == entry)?;
    Some(attached.pending.swap_remove(at))
}

/// Publishes a block of the thread's; keeps it if that fails.
pub(crate) fn publish(attached: &mut Attached, entry: usize) -> Result<(), Failure> {
    if attached.scopes > 0 {
        return Err(state("code is not published inside a write scope: close it first"));
    }
    let Some(pending) = take(attached, entry) else {
        return Err(crate::code::not_pending(attached, entry));
    };
    if !pending.written {
        attached.pending.push(pending);
        let message = "no write scope was open and closed since the block was allocated";
        return Err(Failure::new(JITA_ERROR_UNWRITTEN, message));
    }
    if pending.is_late() {
        attached.pending.push(pending);
        let message = "the block was written after the write scope it belongs to: write it in that";
        return Err(Failure::new(JITA_ERROR_SEALED, message));
    }
    let Pending { reservation, staging, written, brought, late } = pending;
    match attached.handle().publish(reservation) {
        Ok(executor) => {
            // From here on the address stands for it.
            let _ = executor.into_addr();
            Ok(())
        }
        Err(error) => {
            let failure = Failure::from(&error);
            let reservation = error.reservation;
            attached.pending.push(Pending { reservation, staging, written, brought, late });
            Err(failure)
        }
    }
}

/// Opens a write scope: until jita_write_close the calling thread, and no other,
/// may write the blocks that it has allocated, at their rw. Nests; code cannot be
/// entered in it. Allocating several blocks in one scope is cheapest, and with the
/// strategies dual-transient and mprotect by far; with mprotect such blocks are to
/// be written in the scope they were allocated in. Wait-free, but attaches the thread
/// if it is not.
///
/// Errors: none but those of attaching; on a thread that is attached it cannot fail,
/// as long as the arena is not destroyed.
#[unsafe(no_mangle)]
pub extern "C" fn jita_write_open(arena: *mut jita_arena) -> jita_status {
    border(|| {
        thread::with(Id::of(arena), |attached| {
            if attached.scopes == 0 {
                attached.open_scope();
            }
            attached.scopes += 1;
            Ok(JITA_OK)
        })
    })
}

/// Closes the write scope that the calling thread opened last. Wait-free with the
/// strategies that keep writable memory mapped, but for giving up what is left of a
/// long block, which is lock-free. With dual-transient and mprotect it copies the
/// blocks, and makes system calls for each claim that they lie in. Works after the
/// arena was destroyed, too.
///
/// Errors: JITA_ERROR_STATE if none is open. JITA_ERROR_OS if the system refused
/// to open a window: the scope is closed then; what was written is still there, and
/// can be brought in by another scope. A window that it refused to close is left to
/// jita_publish.
#[unsafe(no_mangle)]
pub extern "C" fn jita_write_close(arena: *mut jita_arena) -> jita_status {
    border(|| {
        let none = || state("no write scope is open on this thread");
        let done = thread::with_known(Id::of(arena), |attached| {
            if attached.scopes == 0 {
                return Err(none());
            }
            attached.scopes -= 1;
            if attached.scopes > 0 {
                return Ok(JITA_OK);
            }
            let mut result = Ok(JITA_OK);
            if let Some((scope, pending)) = attached.writing() {
                for pending in pending {
                    result = pending.seal(scope).and(result);
                }
            }
            attached.close_scope();
            result
        })?;
        done.ok_or_else(none)
    })
}

/// Allocates place for `code_len` bytes of code and `data_len` of data behind it,
/// which is aligned to `data_align` (a power of two up to 4096; 1 puts it straight
/// behind the code); stores where it is to `block`. The code is aligned to 16 and
/// to `data_align`. The block is the calling thread's until it publishes or frees
/// it, and ends with the thread or its detaching. What is in it before it is
/// written is not defined.
///
/// Lock-free, now and then with system calls, under every strategy: to commit memory,
/// and to synchronise cores where memory is used again. May yield the processor then.
/// Where the arena is full it lets other threads run before it fails: it yields, and
/// sleeps up to about half a second if one of them holds reclamation up, or some
/// seconds while a fork is copied.
///
/// Errors: JITA_ERROR_INVALID for no code, more than 4 MiB or than the arena's
/// reserve, or an alignment that is none; JITA_ERROR_EXHAUSTED, JITA_ERROR_OS.
///
/// # Safety
///
/// `block` is null or points to a jita_block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_alloc(
    arena: *mut jita_arena,
    code_len: usize,
    data_len: usize,
    data_align: usize,
    block: *mut jita_block,
) -> jita_status {
    let layout = CodeLayout::new(code_len).data(data_len, data_align);
    // SAFETY: from the caller.
    unsafe { alloc(arena, layout, block) }
}

/// As jita_alloc, with all that can be asked for.
///
/// Errors: those of jita_alloc, and JITA_ERROR_VERSION for the size of `layout`.
///
/// # Safety
///
/// `layout` and `block` are null or point to their structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_alloc_layout(
    arena: *mut jita_arena,
    layout: *const jita_layout,
    block: *mut jita_block,
) -> jita_status {
    border(|| {
        // SAFETY: from the caller.
        let layout = unsafe { jita_layout::read(layout) }?;
        // SAFETY: from the caller.
        Ok(unsafe { alloc(arena, layout, block) })
    })
}

/// # Safety
///
/// `block` is null or points to a jita_block.
unsafe fn alloc(arena: *mut jita_arena, layout: CodeLayout, block: *mut jita_block) -> jita_status {
    border(|| {
        if block.is_null() {
            return Err(null("block"));
        }
        let new = thread::with(Id::of(arena), |attached| reserve(attached, layout))?;
        // SAFETY: not null, so it points to a block (caller).
        unsafe { block.write(new) };
        Ok(JITA_OK)
    })
}

/// Publishes the block that starts at `rx`: from here on it can be run, on any
/// thread that learns of its address by a release and an acquire, and is never
/// written again. Its rw is invalid from here on. On the thread that allocated it.
///
/// Wait-free with the strategies that keep writable memory mapped. With dual-transient
/// and mprotect it compares all that is at rw with what was copied, for which it
/// allocates, and closes a window that the system refused to close before.
///
/// Errors: JITA_ERROR_UNWRITTEN, JITA_ERROR_SEALED, JITA_ERROR_STATE inside a write
/// scope or for a block that was published before; JITA_ERROR_NOT_CODE,
/// JITA_ERROR_MIDDLE and JITA_ERROR_FOREIGN for an `rx` that is no block of this
/// thread's; JITA_ERROR_OS if the system refuses again to close a window: call it once
/// more later. The block stays what it was.
#[unsafe(no_mangle)]
pub extern "C" fn jita_publish(arena: *mut jita_arena, rx: *const c_void) -> jita_status {
    border(|| {
        if rx.is_null() {
            return Err(null("rx"));
        }
        thread::with(Id::of(arena), |attached| publish(attached, rx.addr()))?;
        Ok(JITA_OK)
    })
}
