//! A small free-threaded Python whose hot code is machine code in a jit-arena.
//!
//! It is what the arena is for, made as small as it can be and still be real:
//! the stress test. `README.md` in this package says what of Python there is.
//!
//! The path of a program:
//!
//! 1. [`Program::parse`] reads the source with the parser of RustPython and
//!    compiles it to three-address bytecode (`syntax/`).
//! 2. A [`World`] is a program with its globals. [`Thread`]s run it: no lock is
//!    common to them (`run/`), values are words with tags (`value/`).
//! 3. What is hot goes to the compiler (`jit/`): types of a moment's frame flow
//!    through the code, and stencils, assembled once by dynasm, are copied side
//!    by side and patched into a reservation of the arena.
//! 4. Executors are in slots that all threads share (`tier/`). They go when a
//!    global they took for constant changes, or when code memory is short; side
//!    traces go with their parents.

#[cfg(target_arch = "x86_64")]
mod jit;
pub mod programs;
mod run;
mod runtime;
mod syntax;
mod tier;
mod value;

mod api;

/// Bytes of stack that a thread needs to run programs: the deepest recursion
/// there is, interpreted, has room in it several times over.
pub const THREAD_STACK: usize = 16 << 20;

pub use api::{Program, Runtime, Thread, World};
pub use runtime::Options;
pub use runtime::counts::Done;
pub use runtime::histogram::Histogram;
pub use runtime::record::ThreadActivity;
pub use syntax::SourceError;
