//! Measures jit-arena against the least any code allocator must do, and
//! against what others do.
//!
//! - [`rival`]: everything that is measured, behind one trait: ours in each
//!   strategy, the limit probe, and the peers.
//! - [`workload`]: what they are made to do; all randomness is drawn before
//!   the clock starts.
//! - [`crew`]: one rival with its threads; [`race`]: crews that take turns, so
//!   that what is compared happened at the same time; [`check`]: no rival is
//!   timed that hands out memory twice.
//! - [`trace`]: recorded allocations, replayed for the memory they take.
//! - [`plot`]: pictures of it.
//!
//! `src/bin/targets` prints every target of DESIGN.md with what was measured
//! and makes the records in `record/`; `benches/*.rs` ask one question a file.

#![allow(missing_debug_implementations, reason = "nobody prints a rival")]

pub mod check;
pub mod crew;
pub mod machine;
pub mod plot;
pub mod race;
pub mod rival;
pub mod sample;
pub mod trace;
pub mod workload;
