//! Measures jit-arena against the least any code allocator must do, and
//! against what others do.
//!
//! - [`rival`]: everything that is measured, behind one trait: ours in each
//!   strategy, the limit probe, and the peers.
//! - [`workload`]: what they are made to do; all randomness is drawn before
//!   the clock starts.
//! - [`round`]: short interleaved rounds, medians of ratios. Other programs
//!   share the machine, and its clock wanders: a ratio of two medians taken a
//!   second apart says little, one of two rounds a few milliseconds apart much.
//! - `src/bin/targets.rs` prints every target of DESIGN.md with what was
//!   measured; `benches/*.rs` ask one question a file.

#![allow(missing_debug_implementations, reason = "nobody prints a rival")]

pub mod machine;
pub mod rival;
pub mod round;
pub mod trace;
pub mod workload;
