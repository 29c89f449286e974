//! From source to bytecode: what of Python is taken, and what it becomes.

pub(crate) mod code;
mod compiler;
mod error;
mod expressions;
mod names;
mod statements;

pub(crate) use compiler::compile;
pub use error::SourceError;
