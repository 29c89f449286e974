//! What can go wrong in a run, and which exit status it means.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use jit_arena::{BuildError, TrampolineError, VerifyError};

use crate::trace::TraceError;

/// Why the program does not end well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was asked for something that cannot be done: exit status 2.
    #[error(transparent)]
    Request(#[from] Request),
    /// It could do as asked, and something does not hold: exit status 1.
    #[error(transparent)]
    Check(#[from] Check),
    /// What it found cannot be told: exit status 1.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The page that was asked for is not as it should be: exit status 1.
    #[error("cannot write the page {}", path.display())]
    Page {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system refuses what the program itself needs: exit status 1.
    #[error("cannot {what}")]
    System {
        /// What was tried, as a verb and its object.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Failure {
    /// Whether nobody reads the output any more, as when it is piped to `head`.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Status for the calling process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Request(_) => ExitCode::from(2),
            Self::Check(_) | Self::Output(_) | Self::Page { .. } | Self::System { .. } => {
                ExitCode::from(1)
            }
        }
    }
}

/// A request that cannot be carried out here.
#[derive(Debug, thiserror::Error)]
pub enum Request {
    /// The trace cannot be read or is damaged.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// No arena of this kind can be had on this machine.
    #[error("no such arena on this machine")]
    Build(#[from] BuildError),
    /// The file for the page cannot be opened.
    #[error("cannot open {} for the page", path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The arena has no room for so many trampolines.
    #[error("no room for so many trampolines")]
    Trampolines(#[from] TrampolineError),
}

/// A check that did not hold.
#[derive(Debug, thiserror::Error)]
pub enum Check {
    /// A call returned something else than its code computes.
    #[error("{what} called with {argument:#x} returned {got:#x}, expected {expected:#x}")]
    WrongAnswer {
        /// The executor.
        what: String,
        /// What it was called with.
        argument: u64,
        /// What it returned.
        got: u64,
        /// What it should have returned.
        expected: u64,
    },
    /// A call ran the code of another executor.
    #[error("{what} ran code that says it has seed {got:#x}")]
    WrongSeed {
        /// The executor.
        what: String,
        /// The seed the code holds.
        got: u64,
    },
    /// The executable view shows other bytes than were written.
    #[error("{what} has other bytes than were written, from offset {offset} on")]
    WrongBytes {
        /// The executor.
        what: String,
        /// The first byte that differs.
        offset: usize,
    },
    /// A program did something else than it should.
    #[error("program {program}, {what}: got {got:?}, expected {expected:?}")]
    WrongOutput {
        /// Its name.
        program: String,
        /// What of it was run.
        what: String,
        /// What came of it.
        got: String,
        /// What should have.
        expected: String,
    },
    /// The `python3` that is asked does not run a program to its end.
    #[error("python3 is there but failed to run program {program}, {status}: {said}")]
    Python {
        /// The program's name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said to its standard error.
        said: String,
    },
    /// A thread was interrupted in machine code that the arena does not know.
    #[error("no executor and no trampoline at {at:#x}, where a thread was interrupted")]
    NotFound {
        /// Where it was.
        at: usize,
    },
    /// Forked children did not end well.
    #[error("{failed} forked children failed, the first: {first}")]
    Children {
        /// How many.
        failed: u64,
        /// Which that was, and how.
        first: String,
    },
    /// More code memory was held than there was any need for.
    #[error("{committed} bytes of code memory were held, {most} are allowed with {live} live")]
    TooMuchMemory {
        /// Bytes held at most.
        committed: u64,
        /// Bytes that may be.
        most: u64,
        /// Bytes live at most.
        live: u64,
    },
    /// An executor is not where it was put.
    #[error("{what} is not in its slot")]
    Lost {
        /// The executor.
        what: String,
    },
    /// A count of the arena differs from what the run counted.
    #[error("the arena counts {got} {what}, the run {expected}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The arena's figure.
        got: u64,
        /// Ours.
        expected: u64,
    },
    /// The arena is not consistent.
    #[error("the arena is not consistent")]
    Verify(#[from] VerifyError),
    /// A lookup in a signal handler was wrong.
    #[error("a lookup of {pc:#x} in a signal handler {what}")]
    Lookup {
        /// What was looked up.
        pc: usize,
        /// What was wrong.
        what: &'static str,
    },
    /// Mappings writable and executable at once.
    #[error("{count} mappings were writable and executable, the first: {first}")]
    WritableAndExecutable {
        /// How many.
        count: usize,
        /// The kernel's line of the first.
        first: String,
    },
    /// An operation of the arena failed that should not.
    #[error("{doing} failed")]
    Operation {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A thread of the run panicked.
    #[error("a thread panicked: {0}")]
    Panic(String),
}

impl Check {
    /// An arena operation failed while `doing` something.
    pub fn operation(
        doing: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Operation { doing: doing.into(), source: source.into() }
    }
}

/// An error and everything behind it, in one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print what is behind them themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
