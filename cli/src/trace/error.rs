//! Why a trace cannot be replayed: where, and what is wrong.

use std::io;

use jit_arena::MAX_EXECUTOR;

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("{file}{}: {kind}", .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct TraceError {
    /// The file.
    pub file: String,
    /// Line of the file, counted from 1, where one is to blame.
    pub line: Option<u64>,
    /// What is wrong.
    #[source]
    pub kind: TraceErrorKind,
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceErrorKind {
    /// The system would not read the file.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// The gzip stream ends before it is complete.
    #[error("the gzip stream is cut short")]
    GzipTruncated,
    /// The gzip stream is damaged.
    #[error("the gzip stream is damaged: {0}")]
    GzipDamaged(#[source] io::Error),
    /// The header lacks columns.
    #[error("the header lacks {}", .0.join(", "))]
    MissingColumns(Vec<&'static str>),
    /// The header names a column twice.
    #[error("the header names {0} twice")]
    RepeatedColumn(&'static str),
    /// A row ends before a column it needs.
    #[error("the row has no {0}")]
    MissingField(&'static str),
    /// A field is not a number in range.
    #[error("{column} is {field:?}, not a whole number in range")]
    NotANumber {
        /// Name of the column.
        column: &'static str,
        /// The field as it stands in the file.
        field: String,
    },
    /// `op` is neither `a` nor `f`.
    #[error("op is {0:?}, neither a nor f")]
    UnknownOp(String),
    /// Time goes back.
    #[error("time goes back from {from} ns to {to} ns")]
    TimeGoesBack {
        /// Time of the row before.
        from: u64,
        /// Time of this row.
        to: u64,
    },
    /// An id is allocated a second time.
    #[error("id {0} is allocated a second time")]
    IdReused(u64),
    /// An id is freed that no row before allocates.
    #[error("id {0} is freed before it is allocated")]
    FreeBeforeAlloc(u64),
    /// An id is freed a second time.
    #[error("id {0} is freed a second time")]
    DoubleFree(u64),
    /// An executor without code.
    #[error("id {0} has no code: code_bytes is 0")]
    NoCode(u64),
    /// An executor larger than the arena takes.
    #[error("id {id} needs {bytes} bytes; an executor has at most {MAX_EXECUTOR}")]
    TooLarge {
        /// The executor.
        id: u64,
        /// Its code and data.
        bytes: u64,
    },
    /// More rows than a replay can number.
    #[error("more than {} executors", u32::MAX)]
    TooMany,
    /// Nothing but a header, or not even that.
    #[error("the trace has no events")]
    Empty,
}
