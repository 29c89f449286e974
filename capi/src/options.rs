//! Options: structs that can grow, for their first field is their size.

use core::ffi::{CStr, c_char};
use core::mem::offset_of;
use core::ptr;

use jit_arena::{Arena, Strategy};

use crate::status::{Failure, JITA_ERROR_INVALID, JITA_ERROR_VERSION};

/// Flag of jita_options: threads attach by jita_attach only. Without it each
/// thread attaches as it first uses an arena. jita_free works on any thread.
pub const JITA_EXPLICIT_ATTACH: u32 = 1;
/// Flag of jita_options: move memory into huge pages where the system grants it.
pub const JITA_HUGE_PAGES: u32 = 2;
/// Flag of jita_options: prefer anonymous memory to a memory file.
pub const JITA_ANONYMOUS: u32 = 4;
/// Flag of jita_options: leave to chance where the code memory and the writable view
/// of it lie, and in which order it is used; within reach of near_address, if given.
pub const JITA_RANDOM_PLACEMENT: u32 = 8;
/// Flag of jita_options: forked children have no code memory, and fork() takes no
/// time to copy it. For programs whose children do nothing but exec() or _exit(): a
/// child that runs code faults, and what it would write is refused.
pub const JITA_NO_FORKS: u32 = 16;
/// Flag of jita_options: seal the code memory, so that nobody in the process can
/// unmap, move or replace it or change its rights until the process ends. Its address
/// space stays taken after jita_destroy, and forked children have no code memory, as
/// with JITA_NO_FORKS. Needs mseal(), of Linux 6.10; jita_create returns
/// JITA_ERROR_OS where there is none, and with the strategy mprotect, which changes
/// rights, and dual-transient with JITA_ANONYMOUS, which maps the memory again.
pub const JITA_SEALED: u32 = 32;

const FLAGS: u32 = JITA_EXPLICIT_ATTACH
    | JITA_HUGE_PAGES
    | JITA_ANONYMOUS
    | JITA_RANDOM_PLACEMENT
    | JITA_NO_FORKS
    | JITA_SEALED;

/// How an arena is to be. All but the size may be 0 for the default, as in
/// `jita_options options = {.size = sizeof options};`. What it points to is the caller's and is not looked at after jita_create.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct jita_options {
    /// sizeof(jita_options). Tells the library which fields there are.
    pub size: usize,
    /// Address space to reserve in bytes: the most code that can ever live. A
    /// multiple of the code page, at most 2 GiB. Default: 256 MiB, on aarch64
    /// 128 MiB.
    pub reserve: usize,
    /// Size of a code page in bytes, a power of two up to 256 KiB. Default: 64 KiB.
    pub code_page: usize,
    /// Free memory to keep before it goes back to the system, in bytes. Default:
    /// 64 KiB.
    pub keep_free: usize,
    /// The most code memory to hold from the system, in bytes. Default: as much
    /// as is reserved.
    pub code_budget: usize,
    /// Address that the code memory should lie near, so that direct branches
    /// reach it; a wish. Default: null, anywhere.
    pub near_address: *const core::ffi::c_void,
    /// Name of the protection strategy, such as "dual-pkey", and no other.
    /// Default: null, the best that works, or what the environment variable
    /// JIT_ARENA_STRATEGY names.
    pub strategy: *const c_char,
    /// Name of the memory in the process's maps, UTF-8. Default: null,
    /// "jit-arena".
    pub name: *const c_char,
    /// JITA_EXPLICIT_ATTACH, JITA_HUGE_PAGES, JITA_ANONYMOUS, JITA_RANDOM_PLACEMENT,
    /// JITA_NO_FORKS and JITA_SEALED, or 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// Reads a struct whose first field is its size: what the caller has of it, and
/// zeros for the rest.
///
/// # Safety
///
/// `from` is null or points to as many readable bytes as its first field says.
pub(crate) unsafe fn read_sized<T: Copy>(from: *const T, least: usize) -> Result<T, Failure> {
    // SAFETY: the caller's struct starts with its size.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    // SAFETY: plain numbers and pointers, for which zeros are a value.
    let mut known: T = unsafe { core::mem::zeroed() };
    let whole = size_of::<T>();
    if size < least || size > 4096 {
        return Err(unknown(size, whole));
    }
    // SAFETY: as many bytes as both have.
    unsafe {
        ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut known).cast(), size.min(whole));
    };
    // SAFETY: the caller has so many bytes (caller).
    let all = unsafe { core::slice::from_raw_parts(from.cast::<u8>(), size) };
    if all.iter().skip(whole).any(|byte| *byte != 0) {
        return Err(unknown(size, whole));
    }
    Ok(known)
}

fn unknown(size: usize, whole: usize) -> Failure {
    Failure::new(
        JITA_ERROR_VERSION,
        format!(
            "a struct of {size} bytes where this library knows {whole}: set its size to its \
             sizeof, and what it does not know to zero"
        ),
    )
}

/// Text of the caller's.
///
/// # Safety
///
/// `text` is null or ends with a zero, and stays as it is while it is used.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: from the caller.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map(Some)
        .map_err(|_| Failure::new(JITA_ERROR_INVALID, format!("the {what} is not UTF-8: {text:?}")))
}

/// The arena that `options` describe, null for the defaults, and whether threads
/// attach only when they say so.
///
/// # Safety
///
/// `options` is null or as the struct says.
pub(crate) unsafe fn build(options: *const jita_options) -> Result<(Arena, bool), Failure> {
    if options.is_null() {
        return Ok((Arena::new()?, false));
    }
    let least = offset_of!(jita_options, reserved) + size_of::<u32>();
    // SAFETY: from the caller.
    let options = unsafe { read_sized(options, least) }?;
    if options.flags & !FLAGS != 0 || options.reserved != 0 {
        let flags = options.flags;
        return Err(Failure::new(JITA_ERROR_INVALID, format!("unknown flags in {flags:#x}")));
    }
    let has = |flag| options.flags & flag != 0;
    let mut builder = Arena::builder()
        .huge_pages(has(JITA_HUGE_PAGES))
        .anonymous(has(JITA_ANONYMOUS))
        .random_placement(has(JITA_RANDOM_PLACEMENT))
        .forks(!has(JITA_NO_FORKS))
        .sealed(has(JITA_SEALED));
    if options.reserve != 0 {
        builder = builder.reserve(options.reserve);
    }
    if options.code_page != 0 {
        builder = builder.code_page(options.code_page);
    }
    if options.keep_free != 0 {
        builder = builder.keep_free(options.keep_free);
    }
    if options.code_budget != 0 {
        builder = builder.code_budget(options.code_budget);
    }
    if !options.near_address.is_null() {
        builder = builder.near(options.near_address.addr());
    }
    // SAFETY: from the caller.
    if let Some(name) = unsafe { text(options.strategy, "strategy") }? {
        let strategy: Strategy = name.parse().map_err(|error: jit_arena::UnknownStrategy| {
            Failure::new(JITA_ERROR_INVALID, error.to_string())
        })?;
        builder = builder.strategy(strategy);
    }
    // SAFETY: from the caller.
    if let Some(name) = unsafe { text(options.name, "name") }? {
        builder = builder.name(name);
    }
    Ok((builder.build()?, has(JITA_EXPLICIT_ATTACH)))
}
