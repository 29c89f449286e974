//! Settling accounts at the end of a run: everything dropped, everything
//! reclaimed, nothing left over.

use std::any::Any;
use std::thread;
use std::time::Duration;

use jit_arena::{Arena, Stats};

use crate::failure::Check;

/// How often reclamation is pushed before what is left counts as a leak. A
/// grace period takes a few rounds; a hundred are plenty.
const ROUNDS: usize = 100;

/// Checks a count of the arena against the run's own.
///
/// # Errors
///
/// They differ.
pub fn count(what: &'static str, got: u64, expected: u64) -> Result<(), Check> {
    if got == expected { Ok(()) } else { Err(Check::Count { what, got, expected }) }
}

/// Reclaims all that can be when every executor has been dropped and no other
/// thread is attached, and checks that this is all there ever was.
///
/// # Errors
///
/// Executors live that should not, or are retired and cannot be reclaimed, or
/// the arena is not consistent.
pub fn settle(arena: &Arena, installs: u64) -> Result<Stats, Check> {
    let mut handle = arena.attach().map_err(|e| Check::operation("attaching a thread", e))?;
    for _ in 0..ROUNDS {
        handle.collect();
        let stats = arena.stats();
        if stats.retired_executors == 0 || stats.live_executors > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    drop(handle);
    let stats = arena.stats();
    count("bytes live at the end", stats.live_bytes, 0)?;
    count("executors live at the end", stats.live_executors, 0)?;
    count("bytes retired at the end", stats.retired_bytes, 0)?;
    count("executors dropped", stats.retires, installs)?;
    count("executors recycled", stats.recycles, installs)?;
    arena.verify()?;
    Ok(stats)
}

/// What a thread that panicked said.
#[must_use]
pub fn panicked(payload: &(dyn Any + Send)) -> Check {
    let said = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    Check::Panic(said.unwrap_or_else(|| "no message".to_owned()))
}

/// A page that is writable and executable, for as long as this lives: what the
/// audit has to see.
#[derive(Debug)]
pub struct WxMapping(*mut libc::c_void);

impl WxMapping {
    const LEN: usize = 4096;

    /// Maps one, if the system allows.
    #[must_use]
    pub fn new() -> Self {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping wherever the system likes.
        Self(unsafe { libc::mmap(core::ptr::null_mut(), Self::LEN, rights, flags, -1, 0) })
    }
}

impl Default for WxMapping {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for WxMapping {
    fn drop(&mut self) {
        if self.0 != libc::MAP_FAILED {
            // SAFETY: ours alone, mapped by `new`.
            unsafe { libc::munmap(self.0, Self::LEN) };
        }
    }
}
