//! Reclamation: when memory that was unpublished may be used again.
//!
//! A *scheme* answers one question: has every thread that could still be
//! running a piece of code left it? Threads say when they may be running code
//! by holding a [`Pin`](scheme::Pin); whoever unpublishes code *defers* a hand
//! over, and the scheme runs it once all pins that were alive then are gone.
//! Deferred work only hands over (a batch onto a list); filling with traps,
//! synchronising cores and giving memory back are done later by an allocating
//! thread, because a hand over may run inside anybody's pin.
//!
//! Two schemes serve the same three types, so nothing above knows which one it
//! has:
//!
//! - `epoch`: crossbeam-epoch, in every normal build.
//! - `eager`: the most eager legal scheme, under `--cfg jit_arena_eager`.
//!   It is for model checking: it reaches every reuse that any legal scheme
//!   can reach, in a fraction of the states.

pub(crate) mod depot;
mod fill;
pub(crate) mod hold;
pub(crate) mod recycle;
pub(crate) mod retire;
pub(crate) mod share;
mod steady;
pub(crate) mod sync;
pub(crate) mod trim;

#[cfg(any(test, jit_arena_eager))]
pub(crate) mod eager;
#[cfg(any(test, not(jit_arena_eager)))]
pub(crate) mod epoch;

#[cfg(jit_arena_eager)]
pub(crate) use eager as scheme;
#[cfg(not(jit_arena_eager))]
pub(crate) use epoch as scheme;

#[cfg(test)]
mod tests;
