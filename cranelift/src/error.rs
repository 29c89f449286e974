//! Why a function was not installed.

use core::fmt;

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::{CodegenError, gimli};
use jit_arena::{PublishErrorKind, ReserveError, TrampolineError, WriteError};

/// Why a function was not installed. Nothing has changed then, but for trampolines
/// that were made.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The context has no compiled code: compile it first.
    NotCompiled,
    /// The function refers to a name for which no address was given.
    Unresolved(String),
    /// A relocation that the installer does not know.
    Unsupported(Reloc),
    /// What the relocation refers to is too far away for it.
    OutOfReach {
        /// The relocation.
        kind: Reloc,
        /// Its place.
        from: usize,
        /// What it refers to.
        to: usize,
    },
    /// No place for the code.
    Reserve(ReserveError),
    /// It could not be written.
    Write(WriteError),
    /// It could not be published.
    Publish(PublishErrorKind),
    /// No trampoline to a far callee.
    Trampoline(TrampolineError),
    /// The unwind information could not be made.
    Unwind(CodegenError),
    /// The unwind information could not be encoded.
    UnwindEncoding(gimli::write::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCompiled => f.write_str("the context has no code: compile it first"),
            Self::Unresolved(name) => write!(f, "no address was given for {name}"),
            Self::Unsupported(kind) => write!(f, "the relocation {kind:?} is not supported"),
            Self::OutOfReach { kind, from, to } => write!(
                f,
                "the relocation {kind:?} at {from:#x} does not reach {to:#x}: declare the name as \
                 not colocated, or build the arena near it"
            ),
            Self::Reserve(_) => f.write_str("no place for the function"),
            Self::Write(_) => f.write_str("the function could not be written"),
            Self::Publish(_) => f.write_str("the function could not be published"),
            Self::Trampoline(_) => f.write_str("no trampoline to a function that is called"),
            Self::Unwind(_) | Self::UnwindEncoding(_) => {
                f.write_str("the function's unwind information could not be made")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reserve(source) => Some(source),
            Self::Write(source) => Some(source),
            Self::Publish(PublishErrorKind::Os(source)) => Some(source),
            Self::Trampoline(source) => Some(source),
            Self::Unwind(source) => Some(source),
            Self::UnwindEncoding(source) => Some(source),
            _ => None,
        }
    }
}

impl From<ReserveError> for Error {
    fn from(source: ReserveError) -> Self {
        Self::Reserve(source)
    }
}

impl From<WriteError> for Error {
    fn from(source: WriteError) -> Self {
        Self::Write(source)
    }
}

impl From<TrampolineError> for Error {
    fn from(source: TrampolineError) -> Self {
        Self::Trampoline(source)
    }
}
