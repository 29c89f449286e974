//! Trampolines: short jumps to far targets, within branch reach of the code.
//!
//! A direct branch spans 2 GiB on x86-64 and 128 MiB on aarch64; a runtime's
//! helpers may lie farther away. Code that calls one keeps its address in a
//! register or in a slot of its own, once an executor; a trampoline keeps it
//! once a region, and the executor's branch is direct.
//!
//! ```text
//!   executor ── call ──▶ trampoline: jmp [next word]; target ──▶ helper
//!                        one a target and zone, in an island
//! ```
//!
//! A *zone* is as long as a branch reaches, so that every trampoline in it is
//! within reach of all its code: one zone on x86-64, whose regions are no
//! longer, and one every 128 MiB on aarch64. A zone has a [`tree`] of targets
//! and a list of [`island`]s. Asking for a known target follows one path of
//! the tree; a new one is written first, through the strategy's window like any
//! code, and then entered: of several threads that do so at once one wins, and
//! the others give their granules back, which nobody has seen.
//!
//! Owns: `[T1]`, `[T2]`, `[T3]`.

use core::fmt;
use core::ops::Range;
use std::error::Error;

use crate::arch;
use crate::arena::{ArenaRef, Shared};
use crate::error::AttachError;
use crate::page::bitmap::Run;
use crate::platform::{OsError, OsResult};
use crate::pressure::CommitError;
use crate::sync::mutant;
use crate::thread::{self, ThreadHandle, ThreadState};
use crate::units::{GRANULE, Span};

mod island;
mod tree;

use island::{ISLAND, Islands};
use tree::Tree;

/// Bytes a trampoline.
pub(crate) const LEN: usize = 16;

/// Trampolines that are written at once at most: an island of them.
const AT_ONCE: usize = ISLAND * GRANULE / LEN;

/// A trampoline and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Trampoline {
    /// Its own address, in the executable view.
    pub address: usize,
    /// Where it jumps to.
    pub target: usize,
}

/// Why there is no trampoline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrampolineError {
    /// The region is longer than a branch reaches, so no one place serves all of
    /// it: ask for the branch's own place, with
    /// [`call_target`](crate::Arena::call_target).
    BeyondReach {
        /// Bytes of the region.
        reserved: usize,
        /// Bytes a branch reaches.
        reach: usize,
    },
    /// The branch does not lie in the arena, and does not reach its target.
    Outside {
        /// Where the branch is.
        from: usize,
    },
    /// No hole is left where trampolines would be within reach. Drop executors,
    /// or ask before the region is full.
    Exhausted {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The island they would be in is beyond the arena's
    /// [budget](crate::Builder::code_budget).
    OverBudget {
        /// Bytes of code memory held from the system.
        committed: usize,
        /// The most that may be.
        budget: usize,
    },
    /// The calling thread could not attach.
    Attach(AttachError),
    /// The system has no memory, or refused to open or close the write window.
    Os(OsError),
}

impl fmt::Display for TrampolineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondReach { reserved, reach } => write!(
                f,
                "no trampoline serves a region of {reserved} bytes, branches reach {reach}: ask \
                 for the target of each branch by its own place"
            ),
            Self::Outside { from } => write!(
                f,
                "a branch at {from:#x} is outside the arena and out of reach of its target: jump \
                 through a register there"
            ),
            Self::Exhausted { bytes } => write!(
                f,
                "no hole of {bytes} bytes for trampolines within reach: drop executors, or make \
                 the trampolines before the region is full"
            ),
            Self::OverBudget { committed, budget } => write!(
                f,
                "trampolines would take the code memory beyond its budget, {committed} of {budget} \
                 bytes are held: drop executors"
            ),
            Self::Attach(_) => {
                f.write_str("no trampoline could be written: the thread could not attach")
            }
            Self::Os(_) => f.write_str(
                "the system refused to have a trampoline written: drop executors, or allow the \
                 process more memory",
            ),
        }
    }
}

impl Error for TrampolineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Attach(source) => Some(source),
            Self::Os(source) => Some(source),
            _ => None,
        }
    }
}

impl From<CommitError> for TrampolineError {
    fn from(source: CommitError) -> Self {
        match source {
            CommitError::Os(source) => Self::Os(source),
            CommitError::OverBudget { committed, budget } => Self::OverBudget { committed, budget },
        }
    }
}

impl From<OsError> for TrampolineError {
    fn from(source: OsError) -> Self {
        Self::Os(source)
    }
}

/// A stretch of the region that branches span.
struct Zone {
    targets: Tree,
    islands: Islands,
}

/// All trampolines of an arena.
pub(crate) struct Trampolines {
    /// Bytes a branch reaches, whole code pages: the length of a zone.
    reach: usize,
    zones: Box<[Zone]>,
}

impl Trampolines {
    /// None yet, for a region of `reserved` bytes and branches that reach
    /// `reach`.
    pub(crate) fn new(reserved: usize, reach: usize) -> Self {
        let zone = |_| Zone { targets: Tree::new(), islands: Islands::new() };
        Self { reach, zones: (0..reserved.div_ceil(reach)).map(zone).collect() }
    }

    /// Bytes of all islands.
    pub(crate) fn bytes(&self) -> usize {
        self.zones.iter().map(|zone| zone.islands.granules() * GRANULE).sum()
    }

    /// Calls `f` with what of the islands was handed out to nobody yet.
    pub(crate) fn unused(&self, mut f: impl FnMut(Run)) {
        self.zones.iter().for_each(|zone| zone.islands.unused(&mut f));
    }

    /// All there are, by address.
    pub(crate) fn list(&self) -> Vec<Trampoline> {
        let mut all = Vec::new();
        for zone in &self.zones {
            zone.targets.for_each(|target, address| all.push(Trampoline { address, target }));
        }
        all.sort_unstable();
        all
    }

    /// The bytes of the region that zone `number` is, within `span`.
    fn span(&self, number: usize, span: Span) -> Span {
        let start = span.start + number * self.reach;
        Span::new(start, self.reach.min(span.end() - start))
    }

    /// The code pages of zone `number`.
    fn pages(&self, number: usize, shared: &Shared) -> Range<usize> {
        let page = shared.pages.granules() * GRANULE;
        let pages = self.reach / page;
        number * pages..((number + 1) * pages).min(shared.pages.count())
    }

    /// Whether a trampoline is where `[T3]` says, for `verify`.
    pub(crate) fn is_in_reach(&self, span: Span, trampoline: &Trampoline) -> bool {
        let whole = Span::new(trampoline.address, LEN);
        (0..self.zones.len()).any(|number| {
            self.span(number, span).contains(whole)
                && self.zones[number].targets.find(trampoline.target) == Some(trampoline.address)
        })
    }
}

/// See [`Arena::trampoline`](crate::Arena::trampoline).
pub(crate) fn trampoline(arena: &ArenaRef, target: usize) -> Result<usize, TrampolineError> {
    let trampolines = &arena.get().trampolines;
    if trampolines.zones.len() != 1 {
        let reserved = arena.get().region.span().len;
        return Err(TrampolineError::BeyondReach { reserved, reach: trampolines.reach });
    }
    in_zone(arena, 0, target)
}

/// See [`Arena::call_target`](crate::Arena::call_target).
pub(crate) fn call_target(
    arena: &ArenaRef,
    from: usize,
    to: usize,
) -> Result<usize, TrampolineError> {
    let trampolines = &arena.get().trampolines;
    if arch::reaches(from, to) && from.abs_diff(to) < trampolines.reach {
        return Ok(to);
    }
    let span = arena.get().region.span();
    if !span.contains(Span::new(from, 1)) {
        return Err(TrampolineError::Outside { from });
    }
    in_zone(arena, (from - span.start) / trampolines.reach, to)
}

/// See [`Arena::make_trampolines`](crate::Arena::make_trampolines).
pub(crate) fn make(arena: &ArenaRef, targets: &[usize]) -> Result<(), TrampolineError> {
    for number in 0..arena.get().trampolines.zones.len() {
        let known = &arena.get().trampolines.zones[number].targets;
        let mut new: Vec<usize> =
            targets.iter().copied().filter(|target| known.find(*target).is_none()).collect();
        new.sort_unstable();
        new.dedup();
        for batch in new.chunks(AT_ONCE) {
            with_thread(arena, |thread| add(thread, number, batch))?;
        }
    }
    Ok(())
}

/// The trampoline to `target` in zone `number`, made if there is none.
fn in_zone(arena: &ArenaRef, number: usize, target: usize) -> Result<usize, TrampolineError> {
    let targets = &arena.get().trampolines.zones[number].targets;
    if let Some(address) = targets.find(target) {
        return Ok(address);
    }
    with_thread(arena, |thread| add(thread, number, &[target]))
}

/// Runs `f` with a handle that the calling thread has, or else with one for the
/// moment: a handle that stayed would catch what the thread drops from now on.
fn with_thread<R>(
    arena: &ArenaRef,
    f: impl Fn(&ThreadState) -> Result<R, TrampolineError>,
) -> Result<R, TrampolineError> {
    if let Some(result) = thread::with_attached(arena.pointer(), &f) {
        return result;
    }
    let handle = ThreadHandle::attach(arena).map_err(TrampolineError::Attach)?;
    f(handle.state())
}

/// Writes trampolines to `targets`, at most [`AT_ONCE`] and all different, and
/// enters them, `[T2]`; returns the first one's address.
fn add(thread: &ThreadState, number: usize, targets: &[usize]) -> Result<usize, TrampolineError> {
    let shared = thread.shared();
    if let Some(&lost) = shared.lost.get() {
        // Nothing there is this process's to write, `[F3]`.
        return Err(lost.into());
    }
    let trampolines = &shared.trampolines;
    let Zone { targets: known, islands } = &trampolines.zones[number];
    let pages = trampolines.pages(number, shared);
    let need = (targets.len() * LEN).div_ceil(GRANULE);
    let run = islands
        .take(thread, &pages, need)?
        .ok_or(TrampolineError::Exhausted { bytes: need * GRANULE })?;
    let span = shared.pages.span(run);
    if mutant("trampoline-entered-unwritten") {
        known.insert(targets[0], span.start);
    }
    if let Err(error) = write(thread, span, targets) {
        islands.give_back(thread, run);
        return Err(error.into());
    }
    let mut first = None;
    // Granules in which a trampoline was entered stay, `[T1]`.
    let mut used = vec![false; run.len];
    for (at, &target) in targets.iter().enumerate() {
        let mine = span.start + at * LEN;
        let entered = known.insert(target, mine);
        used[at * LEN / GRANULE] |= entered == mine;
        first.get_or_insert(entered);
    }
    if shared.units.are_coarse() && used.contains(&true) {
        used.fill(true);
    }
    for at in (0..run.len).filter(|at| !used[*at]) {
        islands.give_back(thread, Run::new(run.start + at, 1));
    }
    // `targets` is not empty.
    Ok(first.unwrap_or(span.start))
}

/// Writes jumps to `targets` from the start of `span` on, the last granule filled
/// up with traps, and makes them ready to be run.
fn write(thread: &ThreadState, span: Span, targets: &[usize]) -> OsResult<()> {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    let mut code: Vec<u8> = targets.iter().flat_map(|target| arch::far_jump(*target)).collect();
    let traps = code.len().next_multiple_of(GRANULE) - code.len();
    code.extend(arch::TRAP.iter().cycle().take(traps));
    let before = protection.open(platform);
    // SAFETY: [B1] the granules are ours, whole write units, and nobody has run
    // them since they were claimed.
    let opened = unsafe { protection.window(platform, span) };
    let closed = opened.and_then(|window| {
        let to = window.writable_at(span.start);
        // SAFETY: [W1] the window is open and covers the span.
        unsafe { platform.copy_in(to, &code) };
        // SAFETY: just written through the same window.
        unsafe { platform.clean_data_cache(to, code.len()) };
        // SAFETY: opened above; if it is not closed, it is kept to try again.
        let closed = unsafe { protection.close_window(platform, &window) };
        if closed.is_err() {
            thread.keep_unsealed(window);
        }
        closed
    });
    protection.close(platform, before);
    closed?;
    // SAFETY: memory of the region, executable now.
    unsafe { platform.invalidate_instruction_cache(span.start, code.len()) };
    Ok(())
}
