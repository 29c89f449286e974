//! What was tried to get code memory, and what came of it.
//!
//! Written by [`crate::region`] while it climbs down its ladder, kept for the
//! life of the arena: a user who wonders why a machine runs a weaker strategy
//! than another finds the refused call and its errno here.

use core::fmt;

use crate::platform::{OsError, OsResult};
use crate::protect::Strategy;
use crate::units::{KIB, MIB, Span};

/// Where a region's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryKind {
    /// A sealed file in memory, mapped twice.
    Memfd,
    /// Shared anonymous memory, mapped executable first and then duplicated.
    SharedAnonymous,
    /// Private anonymous memory with a single view.
    Private,
    /// `MAP_JIT` memory with a single view.
    Jit,
}

impl MemoryKind {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memfd => "memfd",
            Self::SharedAnonymous => "shared-anonymous",
            Self::Private => "private",
            Self::Jit => "jit",
        }
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It worked and is in use.
    Chosen,
    /// The system refused this call.
    Refused(OsError),
    /// Not tried, because of what an earlier attempt showed.
    Skipped(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// One strategy on one kind of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The strategy tried.
    pub strategy: Strategy,
    /// The memory it was tried on.
    pub memory: MemoryKind,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: {}", self.strategy, self.memory, self.outcome)
    }
}

/// What an arena's memory is, and what was tried before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The protection strategy in use.
    pub strategy: Strategy,
    /// Where the memory comes from.
    pub memory: MemoryKind,
    /// Size of a system page in bytes.
    pub system_page: usize,
    /// Bytes of address space that were asked for.
    pub reserve: usize,
    /// The address the region was to lie near, if one was given.
    pub near: Option<usize>,
    /// The executable view.
    pub span: Span,
    /// Every attempt in order, the one in use last.
    pub attempts: Vec<Attempt>,
    /// Whether the kernel serialises other cores on request, which it must
    /// before freed addresses are used again; if not, why. The platform has a
    /// slower way on some processors.
    pub sync_core: OsResult<()>,
    /// Whether the system granted a huge page when the region was made; if
    /// not, why. `None` if none was asked for.
    pub huge_pages: Option<OsResult<()>>,
}

impl Report {
    /// Distance in bytes from [`near`](Self::near) to the farthest byte of the
    /// region: what a direct call must span. `None` if no address was given.
    #[must_use]
    pub fn reach(&self) -> Option<usize> {
        let near = self.near?;
        Some(near.abs_diff(self.span.start).max(near.abs_diff(self.span.end())))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "strategy: {} on {} memory", self.strategy, self.memory)?;
        writeln!(
            f,
            "region: {} at {:#x}..{:#x}, system pages of {}",
            Bytes(self.span.len),
            self.span.start,
            self.span.end(),
            Bytes(self.system_page),
        )?;
        if let (Some(near), Some(reach)) = (self.near, self.reach()) {
            writeln!(f, "near: {near:#x}, farthest byte {} away", Bytes(reach))?;
        }
        match self.sync_core {
            Ok(()) => writeln!(f, "core serialisation: by the kernel")?,
            Err(error) => writeln!(f, "core serialisation: not by the kernel ({error})")?,
        }
        match self.huge_pages {
            None => {}
            Some(Ok(())) => writeln!(f, "huge pages: granted")?,
            Some(Err(error)) => writeln!(f, "huge pages: not granted ({error})")?,
        }
        f.write_str("tried:")?;
        for attempt in &self.attempts {
            write!(f, "\n  {attempt}")?;
        }
        Ok(())
    }
}

/// A size for people: whole MiB or KiB where it is one.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= MIB && self.0.is_multiple_of(MIB) {
            write!(f, "{} MiB", self.0 / MIB)
        } else if self.0 >= 16 * MIB {
            write!(f, "{} MiB", self.0.div_ceil(MIB))
        } else if self.0 >= KIB && self.0.is_multiple_of(KIB) {
            write!(f, "{} KiB", self.0 / KIB)
        } else {
            write!(f, "{} bytes", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_choice_and_every_refusal() {
        let refused = OsError { call: "pkey_alloc", bytes: 0, errno: 22 };
        let attempt = |strategy, memory, outcome| Attempt { strategy, memory, outcome };
        let report = Report {
            strategy: Strategy::DualTransient,
            memory: MemoryKind::Memfd,
            system_page: 4096,
            reserve: 64 * MIB,
            near: Some(0x1000_0000),
            span: Span::new(0x2000_0000, 64 * MIB),
            attempts: vec![
                attempt(Strategy::DualPkey, MemoryKind::Memfd, Outcome::Refused(refused)),
                attempt(
                    Strategy::DualPkey,
                    MemoryKind::SharedAnonymous,
                    Outcome::Skipped("no key"),
                ),
                attempt(Strategy::DualTransient, MemoryKind::Memfd, Outcome::Chosen),
            ],
            sync_core: Ok(()),
            huge_pages: None,
        };
        assert_eq!(report.reach(), Some(0x1400_0000));
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "strategy: dual-transient on memfd memory");
        assert_eq!(lines[1], "region: 64 MiB at 0x20000000..0x24000000, system pages of 4 KiB");
        assert_eq!(lines[2], "near: 0x10000000, farthest byte 320 MiB away");
        assert_eq!(lines[3], "core serialisation: by the kernel");
        assert!(lines[5].starts_with("  dual-pkey on memfd: refused: pkey_alloc: "), "{text}");
        assert_eq!(lines[6], "  dual-pkey on shared-anonymous: skipped: no key");
        assert_eq!(lines[7], "  dual-transient on memfd: chosen");
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn odd_sizes_are_not_rounded_away() {
        assert_eq!(Bytes(4096).to_string(), "4 KiB");
        assert_eq!(Bytes(4097).to_string(), "4097 bytes");
        assert_eq!(Bytes(16 * MIB + 1).to_string(), "17 MiB");
        assert_eq!(Bytes(3 * MIB).to_string(), "3 MiB");
    }
}
