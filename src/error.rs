//! Every error a client can see. Each names the operation, says what to do,
//! and leaves everything as it was.

use core::fmt;
use std::error::Error;

use crate::executor::Executor;
use crate::platform::OsError;
use crate::protect::UnknownStrategy;
use crate::region::RegionError;
use crate::reservation::Reservation;
use crate::units::{MAX_ALIGN, MAX_EXECUTOR};

/// Why an arena could not be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// An option lies outside its range (bytes, both ends allowed).
    OutOfRange {
        /// The builder method.
        option: &'static str,
        /// What was asked for.
        value: usize,
        /// The least allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// An option is no multiple of its unit, or no power of two (unit 0).
    Unaligned {
        /// The builder method.
        option: &'static str,
        /// What was asked for.
        value: usize,
        /// What it must be a multiple of; 0 where it must be a power of two.
        unit: usize,
    },
    /// The environment names a strategy that does not exist.
    Strategy(UnknownStrategy),
    /// No strategy works here, or the one asked for does not.
    Region(RegionError),
    /// What forked children are to have of the arena could not be arranged.
    Fork(OsError),
    /// The views cannot be sealed here, see
    /// [`Builder::sealed`](crate::Builder::sealed).
    Seal(OsError),
    /// The system gave no random numbers, see
    /// [`Builder::random_placement`](crate::Builder::random_placement).
    Random(OsError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { option, value, min, max } => {
                write!(f, "{option} of {value} bytes: choose from {min} to {max}")
            }
            Self::Unaligned { option, value, unit: 0 } => {
                write!(f, "{option} of {value} bytes: choose a power of two")
            }
            Self::Unaligned { option, value, unit } => {
                write!(f, "{option} of {value} bytes: choose a multiple of {unit}")
            }
            Self::Strategy(_) => write!(f, "the environment names no known strategy"),
            Self::Region(_) => write!(f, "no code memory to be had"),
            Self::Seal(_) => {
                write!(
                    f,
                    "the views cannot be sealed: needs Linux 6.10, and another strategy than mprotect"
                )
            }
            Self::Random(_) => {
                write!(f, "no random numbers to place code by: allow the call that was refused")
            }
            Self::Fork(_) => write!(f, "forked children could not be provided for: free memory"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Strategy(source) => Some(source),
            Self::Region(source) => Some(source),
            Self::Fork(source) | Self::Seal(source) | Self::Random(source) => Some(source),
            _ => None,
        }
    }
}

impl From<UnknownStrategy> for BuildError {
    fn from(source: UnknownStrategy) -> Self {
        Self::Strategy(source)
    }
}

impl From<RegionError> for BuildError {
    fn from(source: RegionError) -> Self {
        Self::Region(source)
    }
}

/// Why a thread could not attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The thread is running its last thread-local destructors: attach
    /// explicitly, with [`Arena::attach`](crate::Arena::attach).
    ThreadExiting,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThreadExiting => {
                f.write_str("the thread is exiting: attach explicitly and drop the handle")
            }
        }
    }
}

impl Error for AttachError {}

/// Why bytes could not be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// The layout has no code.
    Empty,
    /// The layout is longer than any executor may be, or than the region.
    TooLarge {
        /// Bytes of code and data asked for.
        bytes: usize,
        /// The most one executor may have.
        max: usize,
    },
    /// An alignment is no power of two, or too large.
    BadAlign {
        /// The alignment asked for, in bytes.
        align: usize,
    },
    /// No hole in the region is long enough, after waiting a moment for threads
    /// that were pinned. Drop executors, or build the arena with a larger reserve.
    Exhausted {
        /// Bytes asked for, with what surrounds them.
        bytes: usize,
        /// Bytes of live executors.
        live: usize,
        /// Bytes of dropped executors that threads may still be running.
        retired: usize,
        /// Bytes in holes, each too short.
        holes: usize,
        /// Bytes of the whole region.
        reserved: usize,
    },
    /// Backing the bytes would take the arena beyond its
    /// [budget](crate::Builder::code_budget), with all that could be free given
    /// back already. Nobody is waited for: a budget is the client's, who may want
    /// to drop executors, or to do without this one.
    OverBudget {
        /// Bytes asked for, with what surrounds them.
        bytes: usize,
        /// Bytes of code memory held from the system.
        committed: usize,
        /// The most that may be.
        budget: usize,
    },
    /// The system has no memory to back the bytes.
    Os(OsError),
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a layout without code: give it at least one byte"),
            Self::TooLarge { bytes, max } => {
                write!(f, "an executor of {bytes} bytes: split it, {max} is the most")
            }
            Self::BadAlign { align } => {
                write!(f, "alignment {align}: choose a power of two up to {MAX_ALIGN}")
            }
            Self::Exhausted { bytes, live, retired, holes, reserved } => write!(
                f,
                "no hole of {bytes} bytes in a region of {reserved}: {live} live, {retired} \
                 retired and not yet reclaimable, {holes} in shorter holes; drop executors or \
                 reserve more"
            ),
            Self::OverBudget { bytes, committed, budget } => write!(
                f,
                "{bytes} bytes would take the code memory beyond its budget, {committed} of \
                 {budget} bytes are held: drop executors"
            ),
            Self::Os(_) => f.write_str(
                "the system has no memory to back the reservation: drop executors, or allow the \
                 process more",
            ),
        }
    }
}

impl Error for ReserveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(source) => Some(source),
            _ => None,
        }
    }
}

const _: () = assert!(MAX_EXECUTOR < 1 << 24, "sizes in errors and headers fit 24 bits");

/// Why bytes could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The reservation was made by another handle.
    Foreign,
    /// The reservation was made inside an earlier write scope, which sealed
    /// it: with this strategy it shares a system page with published code.
    Sealed,
    /// The bytes do not lie inside the reservation.
    OutOfBounds {
        /// Offset of the first byte from the entry.
        offset: usize,
        /// Number of bytes.
        len: usize,
        /// Length of the reservation.
        reserved: usize,
    },
    /// A shrunk size is larger than the reserved one, leaves no code, or cuts code
    /// with data behind it.
    BadShrink,
    /// The system refused to open the window.
    Os(OsError),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => {
                f.write_str("the reservation was made by another handle: use that one")
            }
            Self::Sealed => f.write_str(
                "the write scope that made this reservation has closed: write it in that scope, \
                 or reserve it outside any",
            ),
            Self::OutOfBounds { offset, len, reserved } => {
                write!(
                    f,
                    "{len} bytes at offset {offset} of a reservation of {reserved}: reserve more"
                )
            }
            Self::BadShrink => f.write_str(
                "a reservation shrinks to fewer bytes, not to none, and its code only without \
                 data behind it: drop the data with it",
            ),
            Self::Os(_) => f.write_str(
                "the system refused to open a write window: allow the call, or build the arena \
                 with another strategy",
            ),
        }
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Os(source) => Some(source),
            _ => None,
        }
    }
}

impl From<OsError> for WriteError {
    fn from(source: OsError) -> Self {
        Self::Os(source)
    }
}

/// Why a reservation could not be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishErrorKind {
    /// The reservation was made by another handle.
    Foreign,
    /// Nothing was ever written to it.
    Unwritten,
    /// Its memory could not be sealed; publishing again tries again.
    Os(OsError),
}

/// A reservation that could not be published, handed back with the reason.
#[derive(Debug)]
pub struct PublishError {
    /// Why.
    pub kind: PublishErrorKind,
    /// The reservation, as it was.
    pub reservation: Reservation,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PublishErrorKind::Foreign => {
                f.write_str("the reservation was made by another handle: use that one")
            }
            PublishErrorKind::Unwritten => {
                f.write_str("nothing was written to the reservation: write it in a write scope")
            }
            PublishErrorKind::Os(_) => {
                f.write_str("the reservation could not be sealed: publish it again to try again")
            }
        }
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            PublishErrorKind::Os(source) => Some(source),
            _ => None,
        }
    }
}

/// Why code could not be installed in one step.
#[derive(Debug)]
#[non_exhaustive]
pub enum InstallError {
    /// No place for it.
    Reserve(ReserveError),
    /// It could not be written.
    Write(WriteError),
    /// It could not be published; its bytes have been given back.
    Publish(PublishErrorKind),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserve(_) => "no place for the code",
            Self::Write(_) => "the code could not be written",
            Self::Publish(_) => "the code could not be published",
        })
    }
}

impl Error for InstallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Reserve(source) => Some(source),
            Self::Write(source) => Some(source),
            Self::Publish(PublishErrorKind::Os(source)) => Some(source),
            Self::Publish(_) => None,
        }
    }
}

impl From<ReserveError> for InstallError {
    fn from(source: ReserveError) -> Self {
        Self::Reserve(source)
    }
}

impl From<WriteError> for InstallError {
    fn from(source: WriteError) -> Self {
        Self::Write(source)
    }
}

impl From<PublishError> for InstallError {
    fn from(source: PublishError) -> Self {
        // Dropping the reservation gives its bytes back.
        Self::Publish(source.kind)
    }
}

/// Why an executor could not go into a slot; it is handed back.
#[derive(Debug)]
#[non_exhaustive]
pub enum SlotError {
    /// The executor belongs to another arena than the slot.
    Foreign(Executor),
    /// The slot holds an executor already; [`replace`](crate::Slot::replace)
    /// would swap them.
    Occupied(Executor),
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign(_) => {
                "the executor belongs to another arena than the slot: use a slot of its own arena"
            }
            Self::Occupied(_) => "the slot holds an executor: replace it",
        })
    }
}

impl Error for SlotError {}

/// An invariant that does not hold: a bug in the arena, or memory corrupted by
/// the process around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The invariant's id in DESIGN.md.
    pub invariant: &'static str,
    /// What was found, with addresses and counts.
    pub found: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] does not hold: {}", self.invariant, self.found)
    }
}

impl Error for VerifyError {}
