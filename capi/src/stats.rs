//! Statistics, as a struct and as JSON.

use core::ffi::c_char;
use core::mem::offset_of;
use core::ptr;

use jit_arena::Stats;

use crate::registry::{self, Id, jita_arena};
use crate::status::{Failure, JITA_ERROR_VERSION, JITA_OK, border, jita_status, null};

/// What an arena holds and has done. Exact while no thread uses it; otherwise each
/// figure was true at some moment of the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct jita_stats {
    /// sizeof(jita_stats), set by the caller before the call: as much is written.
    pub size: usize,
    /// Pieces of code published and not yet freed.
    pub live_executors: u64,
    /// Their bytes of code and data.
    pub live_bytes: u64,
    /// Pieces of code freed whose memory is not yet used again.
    pub retired_executors: u64,
    /// Their bytes of code and data.
    pub retired_bytes: u64,
    /// Bytes that threads have for themselves and no code occupies yet.
    pub claimed_bytes: u64,
    /// Bytes of committed memory that are free for all.
    pub hole_bytes: u64,
    /// Bytes of the islands that trampolines are in.
    pub island_bytes: u64,
    /// Bytes lost to headers, alignment and blocks that are not published: committed, less
    /// all of the above.
    pub padding_bytes: u64,
    /// Bytes of code memory held from the system, in whole system pages.
    pub committed_bytes: u64,
    /// Of these, bytes in huge pages, as far as the library knows.
    pub huge_bytes: u64,
    /// Bytes of address space of one view.
    pub reserved_bytes: u64,
    /// Pieces of code ever published.
    pub installs: u64,
    /// Pieces of code ever freed.
    pub retires: u64,
    /// Pieces of code whose memory became free again.
    pub recycles: u64,
    /// Lots they were recycled in, each with one synchronisation of all cores.
    pub recycled_lots: u64,
    /// Times a thread took memory for itself.
    pub claims: u64,
    /// Bytes ever given back to the system.
    pub trimmed_bytes: u64,
    /// Times the system refused to close a write window or to synchronise cores. What was
    /// concerned waits and is tried again.
    pub refusals: u64,
    /// Threads attached now.
    pub attached_threads: u64,
}

impl jita_stats {
    fn new(stats: &Stats) -> Self {
        Self {
            size: size_of::<Self>(),
            live_executors: stats.live_executors,
            live_bytes: stats.live_bytes,
            retired_executors: stats.retired_executors,
            retired_bytes: stats.retired_bytes,
            claimed_bytes: stats.claimed_bytes,
            hole_bytes: stats.hole_bytes,
            island_bytes: stats.island_bytes,
            padding_bytes: stats.padding_bytes,
            committed_bytes: stats.committed_bytes,
            huge_bytes: stats.huge_bytes,
            reserved_bytes: stats.reserved_bytes,
            installs: stats.installs,
            retires: stats.retires,
            recycles: stats.recycles,
            recycled_lots: stats.recycled_lots,
            claims: stats.claims,
            trimmed_bytes: stats.trimmed_bytes,
            refusals: stats.refusals,
            attached_threads: stats.attached_threads,
        }
    }
}

/// The figures by name, for JSON.
fn figures(stats: &Stats) -> Vec<(&'static str, u64)> {
    vec![
        ("live_executors", stats.live_executors),
        ("live_bytes", stats.live_bytes),
        ("retired_executors", stats.retired_executors),
        ("retired_bytes", stats.retired_bytes),
        ("claimed_bytes", stats.claimed_bytes),
        ("hole_bytes", stats.hole_bytes),
        ("island_bytes", stats.island_bytes),
        ("padding_bytes", stats.padding_bytes),
        ("committed_bytes", stats.committed_bytes),
        ("huge_bytes", stats.huge_bytes),
        ("reserved_bytes", stats.reserved_bytes),
        ("installs", stats.installs),
        ("retires", stats.retires),
        ("recycles", stats.recycles),
        ("recycled_lots", stats.recycled_lots),
        ("claims", stats.claims),
        ("trimmed_bytes", stats.trimmed_bytes),
        ("refusals", stats.refusals),
        ("attached_threads", stats.attached_threads),
    ]
}

/// Stores the arena's figures to `stats`, whose size says how many there are. Any
/// thread. Reads the counts of each attached thread.
///
/// Errors: JITA_ERROR_VERSION for a size that is less than that of its first figure.
///
/// # Safety
///
/// `stats` is null or points to as many writable bytes as its size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_stats_read(
    arena: *mut jita_arena,
    stats: *mut jita_stats,
) -> jita_status {
    border(|| {
        if stats.is_null() {
            return Err(null("stats"));
        }
        // SAFETY: not null, so it starts with its size (caller).
        let size = unsafe { stats.cast::<usize>().read() };
        if size < offset_of!(jita_stats, live_bytes) {
            let message = format!("a jita_stats of {size} bytes: set its size to its sizeof");
            return Err(Failure::new(JITA_ERROR_VERSION, message));
        }
        let mut new = jita_stats::new(&registry::with(Id::of(arena), |open| open.arena.stats())?);
        new.size = size;
        let both = size.min(size_of::<jita_stats>());
        // SAFETY: both have as many bytes. What lies beyond stays as it was.
        unsafe { ptr::copy_nonoverlapping((&raw const new).cast::<u8>(), stats.cast(), both) };
        Ok(JITA_OK)
    })
}

/// Writes the arena's figures as a JSON object: those of jita_stats by their names,
/// "strategy", "memory", and the region's "start". As much of the text as fits goes to
/// `text`, ended by a zero if `capacity` is not 0; its whole length, without the
/// zero, to `len`. Any thread.
///
/// # Safety
///
/// `text` is null if `capacity` is 0, otherwise it points to that many bytes; `len`
/// is null or points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jita_stats_json(
    arena: *mut jita_arena,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> jita_status {
    border(|| {
        let json = registry::with(Id::of(arena), |open| {
            let report = open.arena.report();
            let figures: String = figures(&open.arena.stats())
                .iter()
                .map(|(name, value)| format!(",\"{name}\":{value}"))
                .collect();
            format!(
                "{{\"strategy\":\"{}\",\"memory\":\"{}\",\"start\":{}{figures}}}",
                report.strategy, report.memory, report.span.start
            )
        })?;
        // SAFETY: from the caller.
        unsafe { copy_text(&json, text, capacity, len) }
    })
}

/// Copies as much of a text as fits, and tells its length.
///
/// # Safety
///
/// `to` is null if `capacity` is 0, otherwise it points to that many bytes; `len` is
/// null or points to a number.
pub(crate) unsafe fn copy_text(
    text: &str,
    to: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> Result<jita_status, Failure> {
    if to.is_null() && capacity > 0 {
        return Err(null("text"));
    }
    if let Some(room) = capacity.checked_sub(1) {
        let fits = text.len().min(room);
        // SAFETY: there is room for as many bytes and a zero (caller).
        unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), to, fits) };
        // SAFETY: as above.
        let end = unsafe { to.add(fits) };
        // SAFETY: as above.
        unsafe { end.write(0) };
    }
    if !len.is_null() {
        // SAFETY: not null, so it points to a number (caller).
        unsafe { len.write(text.len()) };
    }
    Ok(JITA_OK)
}
