//! Running programs: what threads share, what each has, and the interpreter.

pub(crate) mod builtins;
pub(crate) mod context;
pub(crate) mod global;
pub(crate) mod interpreter;
pub(crate) mod operators;
pub(crate) mod step;
pub(crate) mod world;
