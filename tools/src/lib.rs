//! Tools around a jit-arena: each shows named code to a program that knows
//! nothing of it.
//!
//! | tool | tells | by |
//! |---|---|---|
//! | [`PerfMap`] | `perf report` | a text file of addresses and names |
//! | [`Jitdump`] | `perf inject --jit` | a file with code, names and lines |
//! | [`Gdb`] | gdb and lldb | an ELF file in memory, one a chunk of code memory |
//! | [`Unwind`] | unwinders of panics and exceptions | `__register_frame` |
//! | [`Names`] | the client itself, and [`disassemble`](fn@disassemble) | a map |
//!
//! All are off unless an arena is [built](jit_arena::Builder::tool) with them,
//! and hear only of code that is
//! [published with a name](jit_arena::ThreadHandle::publish_named). They lock,
//! each a lock of its own: among those who publish named code, or recycle.
//!
//! The [guide] goes through all that a runtime needs around its code.
//!
//! # Examples
//!
//! ```
//! use jit_arena::{Arena, CodeLayout, Symbol};
//! use jit_arena_tools::{Gdb, Names, PerfMap, Unwind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = std::env::temp_dir();
//! let names = Names::new();
//! let arena = Arena::builder()
//!     .anonymous(true) // or perf takes the code for a file's
//!     .tool(PerfMap::create_in(&directory)?)
//!     .tool(Gdb::new())
//!     .tool(Unwind::new())
//!     .tool(names.clone())
//!     .build()?;
//!
//! let mut thread = arena.attach()?;
//! let mut place = thread.reserve(CodeLayout::new(1))?;
//! thread.write().write_at(&mut place, 0, &[0xC3])?; // x86-64: ret
//! let executor = thread.publish_named(place, &Symbol::new("nothing"))?;
//! assert_eq!(names.name_of(executor.addr()).as_deref(), Some("nothing"));
//! # Ok(())
//! # }
//! ```

mod disassembly;
mod elf;
mod gdb;
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}
#[cfg(target_os = "linux")]
mod jitdump;
mod lines;
mod names;
mod perf_map;
mod place;
#[cfg(target_os = "linux")]
mod unwind;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use disassembly::disassemble;
pub use gdb::Gdb;
#[cfg(target_os = "linux")]
pub use jitdump::Jitdump;
pub use names::Names;
pub use perf_map::PerfMap;
#[cfg(target_os = "linux")]
pub use unwind::Unwind;

/// Locks, also after a panic elsewhere: no tool leaves its state half changed.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
