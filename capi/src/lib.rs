//! The C interface of jit-arena: `include/jita.h` is made of this.
//!
//! Nothing here is an allocator of its own. What C cannot have are lifetimes and
//! destructors, and each has something in its place:
//!
//! | in Rust | here |
//! |---|---|
//! | an `Arena` that is cloned and dropped | a handle that is a number, looked up at each call, so that a stale one is an error ([`registry`]) |
//! | a `ThreadHandle` that stays on its thread | what a thread has attached to, in a thread-local ([`thread`]) |
//! | guards, scopes and reservations that borrow it | the same, kept beside it, with their nesting checked at each call |
//! | an `Executor` that is dropped | its address, `Executor::into_addr` and `Arena::retire_at` |
//! | `Result`, panics | a number and a message of the thread's ([`status`]) |
//!
//! Functions that take an arena's handle and plain numbers are safe; those that
//! follow a pointer of the caller's say what it has to point to.

#![allow(non_camel_case_types, reason = "the names of C")]

mod arenas;
mod code;
mod look;
mod options;
mod registry;
mod run;
mod stats;
mod status;
mod thread;
mod write;

pub use arenas::*;
pub use code::*;
pub use look::*;
pub use options::*;
pub use registry::jita_arena;
pub use run::*;
pub use stats::*;
pub use status::*;
pub use write::*;
