//! What the `jit-arena` program is made of.
pub mod audit;
pub mod bundled;
pub mod code;
pub mod resident;
pub mod trace;
