//! The C interface: sequences of calls, in and out of order, with arguments that
//! the header says are errors, against a model of what it says.
//!
//! The functions are those that C links with, called as they are. The model
//! ([`model`]) knows arenas, blocks, code and what each thread is in the middle of.
//! From that each call gets the set of errors that it may return: if none applies it
//! succeeds, if some do it returns one of them, leaves a message, and nothing has
//! changed. Which of several errors comes first is not promised and not checked.

use arbitrary::{Arbitrary, Unstructured};

use crate::Outcome;

mod arenas;
mod blocks;
mod create;
pub mod look;
pub mod model;
pub mod ops;
mod published;
mod raw;
mod run;
pub mod world;

use ops::Op;

/// Operations of a program at most.
const MAX_OPS: usize = 300;

/// Runs `data` as a program of calls.
///
/// # Panics
///
/// If a call does not do what the header says.
pub fn run(data: &[u8]) -> Outcome {
    let mut u = Unstructured::new(data);
    let Ok(strategy) = u.arbitrary() else { return Outcome::NotRun };
    let mut ops = Vec::new();
    while !u.is_empty() && ops.len() < MAX_OPS {
        let Ok(op) = Op::arbitrary(&mut u) else { break };
        ops.push(op);
    }
    if ops.is_empty() { Outcome::NotRun } else { world::run(strategy, ops) }
}
