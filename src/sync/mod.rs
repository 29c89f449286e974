//! The only place that names the primitives threads synchronise with.
//!
//! Production code imports atomics, cells and thread-locals from here, so the
//! model checkers explore the source that ships: `std` in every normal build,
//! `loom` under `--cfg jit_arena_loom`, `shuttle` under
//! `--cfg jit_arena_shuttle`. The three files export the same names.
//!
//! `ghost`, `mutant` and `weaken` hold what exists for checking only.

#[cfg(all(jit_arena_loom, jit_arena_shuttle))]
compile_error!("jit_arena_loom and jit_arena_shuttle exclude each other");

// crossbeam-epoch explored by loom needs its own switch, without which it stays
// on the atomics of `core` and every model over it passes after one execution.
#[cfg(all(jit_arena_loom, not(any(jit_arena_eager, crossbeam_loom))))]
compile_error!("under jit_arena_loom set jit_arena_eager or crossbeam_loom as well");

#[cfg(jit_arena_loom)]
#[path = "loom.rs"]
mod imp;
#[cfg(jit_arena_shuttle)]
#[path = "shuttle.rs"]
mod imp;
#[cfg(not(any(jit_arena_loom, jit_arena_shuttle)))]
#[path = "std.rs"]
mod imp;

#[cfg(any(test, feature = "model", jit_arena_eager))]
pub(crate) mod ghost;
mod mutant;
#[cfg(jit_arena_mutants)]
pub(crate) mod weaken;

// What is named here takes the place of what the glob would bring.
pub(crate) use imp::*;
pub(crate) use mutant::mutant;
#[cfg(jit_arena_mutants)]
pub(crate) use weaken::{
    AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, fence, zeroed_bytes, zeroed_words,
};
