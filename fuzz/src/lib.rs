//! Fuzzing of `jit-arena`, without a fuzzing engine.
//!
//! Bytes become a program of public [`Op`](ops::Op)erations, a
//! [`World`](world::World) executes them on real arenas, and after each one the
//! [`Oracle`](oracle::Oracle), a naive model that knows spans, bytes, guards
//! and nothing of how arenas work, says what must be true. A broken rule is a
//! panic, whatever engine (or plain test) supplied the bytes.
//!
//! The entry points are what the targets in `fuzz_targets` call, and what
//! `cargo test` replays the corpus with.

pub mod capi;
pub mod code;
pub mod config;
pub mod dumps;
pub mod index;
pub mod objects;
pub mod ops;
pub mod oracle;
pub mod sizes;
pub mod thread;
pub mod traces;
pub mod world;

use arbitrary::Unstructured;

/// Whether a program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It ran to its end, and every check held.
    Ran {
        /// Operations executed.
        steps: usize,
    },
    /// The bytes are no program, or this machine lacks the strategy.
    NotRun,
}

/// Runs `data` as a program of operations.
///
/// # Panics
///
/// If the arena breaks a rule of the oracle.
pub fn operations(data: &[u8]) -> Outcome {
    match ops::Program::decode(&mut Unstructured::new(data)) {
        Ok(program) => world::run(program),
        Err(_) => Outcome::NotRun,
    }
}

/// Runs `data` as a long program of installs, drops and lookups in two bytes
/// each, to reach full batches, many pages and exhaustion.
///
/// # Panics
///
/// As [`operations`].
pub fn churn(data: &[u8]) -> Outcome {
    ops::Program::decode_churn(data).map_or(Outcome::NotRun, world::run)
}

/// Runs `data` as a program about reservations, in two bytes an operation:
/// batches, abandoning, shrinking, nested scopes of several handles.
///
/// # Panics
///
/// As [`operations`].
pub fn batches(data: &[u8]) -> Outcome {
    ops::Program::decode_batches(data).map_or(Outcome::NotRun, world::run)
}

/// A target: what it does with bytes.
pub type Target = fn(&[u8]) -> Outcome;

/// All targets by name, which is also that of their corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("operations", operations),
    ("churn", churn),
    ("batches", batches),
    ("config", config::run),
    ("traces", traces::run),
    ("dumps", dumps::run),
    ("objects", objects::run),
    ("index", index::run),
    ("capi", capi::run),
];
