//! Protection strategies: how a thread comes by the right to write code
//! memory, and loses it again. One file each, one trait, chosen at run time.
//!
//! A write scope first [`open`](Protection::open)s the thread's rights, then
//! asks for a [`window`](Protection::window) on each span it writes, closes
//! the windows, and [`close`](Protection::close)s the rights. Strategies that
//! open one thing for the whole thread (a key, Apple's toggle) have free
//! windows; strategies that map or re-protect memory do so per window.

use core::fmt;
use core::str::FromStr;

use crate::platform::{KeyAccess, OsResult, Platform};
use crate::units::Span;

mod dual_open;
mod dual_pkey;
mod dual_transient;
mod fresh;
mod map_jit;
mod mprotect;
mod single_pkey;
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod tests;
mod views;

pub(crate) use dual_open::DualOpen;
pub(crate) use dual_pkey::DualPkey;
pub(crate) use dual_transient::DualTransient;
pub(crate) use fresh::{Fresh, take_away};
pub(crate) use map_jit::MapJit;
pub(crate) use mprotect::Mprotect;
pub(crate) use single_pkey::SinglePkey;
pub(crate) use views::{View, Wanted};

/// How code memory is kept from being writable and executable at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Two views; the writable one is always mapped, under a protection key
    /// that is open only to a thread inside a write scope.
    DualPkey,
    /// Two views; the writable one is mapped for the length of a write scope.
    DualTransient,
    /// Two views; the writable one is always mapped and open to every thread.
    /// Never chosen by default: speed over hardening.
    DualOpen,
    /// One view, readable, writable and executable, under a protection key.
    /// Never chosen by default: for clients that can write only at the address
    /// their code runs at. Keeps a weaker promise than W^X.
    SinglePkey,
    /// One view whose system pages flip between writable and executable.
    Mprotect,
    /// One `MAP_JIT` view with a toggle for each thread (macOS on aarch64).
    MapJit,
}

impl Strategy {
    /// Every strategy, best first.
    pub const ALL: [Self; 6] = [
        Self::DualPkey,
        Self::MapJit,
        Self::DualTransient,
        Self::Mprotect,
        Self::DualOpen,
        Self::SinglePkey,
    ];

    /// The name used on command lines, in the environment and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DualPkey => "dual-pkey",
            Self::DualTransient => "dual-transient",
            Self::DualOpen => "dual-open",
            Self::SinglePkey => "single-pkey",
            Self::Mprotect => "mprotect",
            Self::MapJit => "map-jit",
        }
    }

    /// Whether the arena may choose this strategy without being told to.
    #[must_use]
    pub const fn by_default(self) -> bool {
        !matches!(self, Self::DualOpen | Self::SinglePkey)
    }

    /// Whether no mapping is ever writable and executable at once. `false`
    /// for the strategies that rely on per-thread rights over one such mapping.
    #[must_use]
    pub const fn never_wx(self) -> bool {
        !matches!(self, Self::SinglePkey | Self::MapJit)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no strategy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownStrategy(pub String);

impl fmt::Display for UnknownStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown protection strategy `{}`; known are", self.0)?;
        for (i, known) in Strategy::ALL.iter().enumerate() {
            write!(f, "{} {known}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownStrategy {}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|strategy| strategy.name() == name)
            .ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}

/// A thread's rights before a scope, given back when it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights(pub(crate) KeyAccess);

/// Where a span can be written until the window closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The span, in the executable view, whole units of what was opened.
    pub(crate) span: Span,
    /// Address of the span's first byte for writing.
    pub(crate) writable: usize,
}

impl Window {
    /// The address at which the byte that runs at `addr` can be written.
    #[inline]
    pub(crate) fn writable_at(&self, addr: usize) -> usize {
        debug_assert!(addr >= self.span.start && addr <= self.span.end());
        self.writable + (addr - self.span.start)
    }
}

/// A protection strategy over one region.
///
/// Methods take the platform as an argument so that strategies hold only what
/// is theirs (a key, an address) and the region owns the machine.
pub(crate) trait Protection: fmt::Debug + Send + Sync {
    /// Which strategy this is.
    fn strategy(&self) -> Strategy;

    /// Bytes that are written and sealed together, a power of two: a granule
    /// where writing one executor leaves its neighbours runnable, a system
    /// page where it does not. Memory is claimed, filled with traps and handed
    /// out again in whole units.
    fn write_unit(&self) -> usize;

    /// Gives the calling thread the rights of one that is in no write scope,
    /// whatever it has.
    fn close_rights(&self, platform: &dyn Platform);

    /// Whether a thread's rights are the same for all regions.
    fn shares_rights(&self) -> bool {
        false
    }

    /// Opens the calling thread's rights; returns those it had.
    fn open(&self, platform: &dyn Platform) -> Rights;

    /// Gives the calling thread back the rights [`open`](Self::open) returned.
    fn close(&self, platform: &dyn Platform, before: Rights);

    /// Opens a window that contains `span`. The thread's rights are open.
    ///
    /// # Safety
    ///
    /// `span` lies in the region, the caller owns every unit it touches, and
    /// where a unit is more than a granule nobody runs code in them.
    unsafe fn window(&self, platform: &dyn Platform, span: Span) -> OsResult<Window>;

    /// Closes a window. On error the memory stays unrunnable, not writable
    /// and runnable.
    ///
    /// # Safety
    ///
    /// The window came from [`window`](Self::window) and is not used again.
    // By reference: a window is passed in memory, and to copy one that was put
    // together by the word waits for every store before, the code among them.
    unsafe fn close_window(&self, platform: &dyn Platform, window: &Window) -> OsResult<()>;

    /// Where the byte that runs at `addr` is written while the thread's rights are
    /// open, if that takes no window.
    fn writable_at(&self, _addr: usize) -> Option<usize> {
        None
    }

    /// Makes whole system pages present. Opens and closes what it needs.
    ///
    /// # Safety
    ///
    /// `span` lies in the region.
    unsafe fn populate(&self, platform: &dyn Platform, span: Span) -> OsResult<()>;

    /// Gives whole system pages back to the system.
    ///
    /// # Safety
    ///
    /// `span` lies in the region, is whole system pages, and the caller owns
    /// every granule in it.
    unsafe fn discard(&self, platform: &dyn Platform, span: Span) -> OsResult<()>;

    /// Moves present memory into huge pages, in the executable view and, where
    /// that lasts, in the writable one as far as the system lets it.
    ///
    /// # Safety
    ///
    /// `span` lies in the region and is whole huge pages.
    unsafe fn collapse(&self, platform: &dyn Platform, span: Span) -> OsResult<()> {
        // SAFETY: whole huge pages of the executable view, which is ours, and the
        // only one: private memory.
        unsafe { platform.collapse(span.start, span.len, true) }
    }

    /// Reads an aligned word of the executable view, from any thread and from
    /// signal handlers.
    ///
    /// # Safety
    ///
    /// `addr` is a multiple of 8 inside the region.
    unsafe fn load_word(&self, platform: &dyn Platform, addr: usize) -> u64 {
        // SAFETY: the executable view of every strategy but `single-pkey`,
        // which overrides this, is readable to all; the caller gave the rest.
        unsafe { platform.load_word(addr) }
    }

    /// As [`load_word`](Self::load_word), of a word that others may be writing
    /// through another view.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn peek_word(&self, platform: &dyn Platform, addr: usize) -> u64 {
        // SAFETY: as in `load_word`.
        unsafe { platform.peek_word(addr) }
    }

    /// The lasting views: the executable one, and the writable one if there is
    /// one.
    fn views(&self) -> (View, Option<View>);

    /// Whether a forked child shows its parent's memory. If not, it has a copy.
    fn is_shared(&self) -> bool {
        false
    }

    /// In a forked child, makes what was inherited its own: where memory is
    /// shared, puts `fresh` in the place of the views and of `windows`, which
    /// the only thread has open, and lets go of what other threads had. System
    /// calls.
    ///
    /// # Safety
    ///
    /// Nobody else runs in this process, and `fresh` holds a copy of all that is
    /// in use.
    unsafe fn after_fork(
        &self,
        platform: &dyn Platform,
        fresh: Option<Fresh>,
        windows: &[Window],
    ) -> OsResult<()>;

    /// In a forked child that the views were kept out of, lets go of what else shows
    /// or names the parent's memory; `windows` are those of the only thread. From then
    /// on no window opens. System calls.
    ///
    /// # Safety
    ///
    /// Nobody else runs in this process.
    unsafe fn forgo(&self, _platform: &dyn Platform, _windows: &[Window]) {}

    /// Unmaps the views and gives keys and descriptors back.
    ///
    /// # Safety
    ///
    /// Nothing uses the region any more.
    unsafe fn release(&self, platform: &dyn Platform);
}
