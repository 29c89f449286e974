//! Cranelift on a jit-arena: installs what `cranelift-codegen` has compiled, one
//! function at a time, and gives `cranelift-jit` its memory.
//!
//! - [`Installer`] takes a compiled [`Context`](cranelift_codegen::Context), resolves
//!   its relocations for the address that it will run at ([`relocation`]), has far
//!   calls go through the arena's trampolines, writes and publishes it, and tells the
//!   arena's tools how to unwind it. What it returns is an
//!   [`Executor`](jit_arena::Executor) like any other: it goes into slots, is replaced
//!   while threads run it, and is freed alone.
//! - [`ArenaMemory`] is a `JITMemoryProvider`: a whole `JITModule` in an arena, freed
//!   as a whole.
//!
//! # Examples
//!
//! ```
#![doc = include_str!("../examples/cranelift_hot_swap.rs")]
//! ```

mod error;
mod install;
mod libcalls;
#[cfg(feature = "module")]
mod module;
#[cfg(feature = "module")]
mod near;
pub mod relocation;
mod unwind;

pub use error::Error;
pub use install::{Installer, Name};
pub use libcalls::libcall;
#[cfg(feature = "module")]
pub use module::ArenaMemory;
