//! The one reserved address range of an arena: which memory, which protection
//! strategy, found by trying.
//!
//! Strategies are tried in order of preference, each on every kind of memory
//! that can serve it, until one works; a strategy asked for by name is tried
//! alone. "Works" is shown, not assumed: the new region is written through a
//! window, read and *run* through its executable view, filled with traps and
//! given back, so that a system that allows the mappings but not their use
//! refuses here, with an errno in the [`Report`], and not at the first install.
//!
//! The region hands out nothing: code pages are carved from its span by
//! [`crate::page`].
//!
//! Owns: `[R1]` the span is mapped from creation to drop, whole system pages,
//! and both views show the same bytes; `[R2]` after a refusal nothing that was
//! made for the attempt remains.
//!
//! In a forked child the region is at the same addresses, over memory of the
//! child's own: see [`crate::fork`].

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::layout::MOST_ADDRESS;
use crate::platform::{OsError, OsResult, Place, Platform};
use crate::protect::{
    DualOpen, DualPkey, DualTransient, Fresh, MapJit, Mprotect, Protection, SinglePkey, Strategy,
    Wanted, Window,
};
use crate::report::{Attempt, MemoryKind, Outcome, Report};
use crate::units::{GRANULE, Span};

mod huge;

use huge::HugePages;

/// What a region is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegionRequest<'a> {
    /// Name of the memory, seen in /proc/self/maps where the system has names.
    pub(crate) name: &'a str,
    /// Bytes of address space; rounded up to whole system pages.
    pub(crate) reserve: usize,
    /// Address to lie near, if possible.
    pub(crate) near: Option<usize>,
    /// The only strategy to try; by order of preference if `None`.
    pub(crate) strategy: Option<Strategy>,
    /// Unless it is `None`, leaves places to chance: seeds of those of the
    /// executable view and of a second one.
    pub(crate) seeds: Option<[u64; 2]>,
    /// Whether to use huge pages where they can be had.
    pub(crate) huge_pages: bool,
    /// Whether to try anonymous memory before memory files.
    pub(crate) anonymous: bool,
}

/// No region could be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionError {
    /// The reserve is 0, or more than an address space can hold.
    BadReserve {
        /// Bytes asked for.
        reserve: usize,
        /// `EINVAL` or `ENOMEM`, as mmap(2) would say.
        error: OsError,
    },
    /// Every attempt was refused.
    Refused {
        /// Bytes asked for.
        reserve: usize,
        /// The strategy that was forced, if one was.
        forced: Option<Strategy>,
        /// Each attempt with its errno, in order.
        attempts: Vec<Attempt>,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadReserve { reserve, error } => {
                write!(f, "cannot reserve {reserve} bytes of code memory ({error}): ")?;
                f.write_str("choose a size above 0 and below half the address space")
            }
            Self::Refused { reserve, forced, attempts } => {
                write!(f, "the system gave no code memory of {reserve} bytes")?;
                for attempt in attempts {
                    write!(f, "; {attempt}")?;
                }
                f.write_str(advice(*forced, attempts))
            }
        }
    }
}

impl std::error::Error for RegionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::BadReserve { error, .. } => Some(error),
            Self::Refused { attempts, .. } => attempts.iter().rev().find_map(|attempt| {
                let Outcome::Refused(error) = &attempt.outcome else {
                    return None;
                };
                Some(error as _)
            }),
        }
    }
}

/// What stands for the call that a system refuses which adds execution to all rights.
const READ_IMPLIES_EXEC: &str = "personality(READ_IMPLIES_EXEC)";

/// What to do about a ladder of refusals.
fn advice(forced: Option<Strategy>, attempts: &[Attempt]) -> &'static str {
    let is_adding = |attempt: &Attempt| {
        matches!(attempt.outcome, Outcome::Refused(OsError { call: READ_IMPLIES_EXEC, .. }))
    };
    if attempts.iter().any(is_adding) {
        return ". What this process can write it can run as well: link it with a stack that is \
                not executable, and do not start it by `setarch -X`";
    }
    let mut errnos = attempts.iter().filter_map(|attempt| match attempt.outcome {
        // No key, or no such memory on this system: says nothing of the rest.
        Outcome::Refused(OsError { call: "pkey_alloc" | "mmap(MAP_JIT)", .. }) => None,
        Outcome::Refused(error) => Some(error.errno),
        Outcome::Chosen | Outcome::Skipped(_) => None,
    });
    if errnos.next().is_some_and(|first| {
        matches!(first, libc::ENOMEM | libc::EFBIG)
            && errnos.all(|errno| matches!(errno, libc::ENOMEM | libc::EFBIG))
    }) {
        ". Ask for a smaller reserve, or raise the limits on address space and file size"
    } else if forced.is_some() {
        ". Leave the choice of a strategy to the library, or allow the call that was refused"
    } else {
        ". The system forbids executable memory that was ever written: allow one of the calls above"
    }
}

/// A reserved range of code memory with its protection.
#[derive(Debug)]
pub(crate) struct Region {
    platform: Arc<dyn Platform>,
    protection: Box<dyn Protection>,
    span: Span,
    name: String,
    /// Whether the lasting views cannot be unmapped any more.
    sealed: bool,
    /// Whether this is a forked child that the views were kept out of. Changes only
    /// while one thread is all there is, so it is no part of any model, and Relaxed.
    is_absent: AtomicBool,
    /// If they were asked for and can be had.
    huge: Option<HugePages>,
}

impl Region {
    /// Finds memory and a strategy that work here. System calls.
    ///
    /// # Errors
    ///
    /// All attempts with their errors, if none worked; nothing is left behind.
    pub(crate) fn create(
        platform: Arc<dyn Platform>,
        request: &RegionRequest<'_>,
    ) -> Result<(Self, Report), RegionError> {
        let len = whole_pages(request.reserve, platform.system_page())?;
        // A huge page can be mapped only where its address is a multiple of
        // its size.
        let huge = request.huge_pages.then(|| platform.huge_page());
        // A region that is shorter has none.
        let unit = huge.flatten().filter(|unit| *unit <= len);
        let aside = unit.map_or(Place::Anywhere, Place::Aligned);
        let place = request.near.map_or(aside, Place::Near);
        let guard = platform.guard().next_multiple_of(unit.unwrap_or(1));
        let align = guard.max(unit.unwrap_or(1)).max(platform.system_page());
        let at_random = |near, seed| Place::Random { near, align, seed };
        let (place, aside) = request.seeds.map_or((place, aside), |[first, second]| {
            (at_random(request.near, first), at_random(None, second))
        });
        let wanted = Wanted { name: request.name, len, guard, place, aside };
        let sync_core = platform.register_sync_core();
        let mut attempts = Vec::new();
        for strategy in order(request.strategy) {
            let mut no_key = false;
            for memory in memories(strategy, request.anonymous) {
                if no_key {
                    let outcome = Outcome::Skipped("no protection key can be had");
                    attempts.push(Attempt { strategy, memory, outcome });
                    continue;
                }
                match Self::attempt(&platform, strategy, memory, &wanted) {
                    Ok(mut region) => {
                        let huge_pages = huge.map(|size| region.try_huge_pages(size));
                        attempts.push(Attempt { strategy, memory, outcome: Outcome::Chosen });
                        let report = Report {
                            strategy,
                            memory,
                            system_page: platform.system_page(),
                            reserve: request.reserve,
                            near: request.near,
                            span: region.span,
                            attempts,
                            sync_core,
                            huge_pages,
                        };
                        return Ok((region, report));
                    }
                    Err(error) => {
                        no_key = error.call == "pkey_alloc";
                        let outcome = Outcome::Refused(error);
                        attempts.push(Attempt { strategy, memory, outcome });
                    }
                }
            }
        }
        let (reserve, forced) = (request.reserve, request.strategy);
        Err(RegionError::Refused { reserve, forced, attempts })
    }

    /// One rung of the ladder.
    pub(crate) fn attempt(
        platform: &Arc<dyn Platform>,
        strategy: Strategy,
        memory: MemoryKind,
        wanted: &Wanted<'_>,
    ) -> OsResult<Self> {
        if strategy.never_wx() && platform.adds_execute() {
            return Err(OsError {
                call: READ_IMPLIES_EXEC,
                bytes: wanted.len,
                errno: libc::EACCES,
            });
        }
        let (protection, span) = protect(&**platform, strategy, memory, wanted)?;
        // From here on dropping the region undoes everything.
        let (platform, name) = (Arc::clone(platform), wanted.name.to_owned());
        let is_absent = AtomicBool::new(false);
        let region =
            Self { platform, protection, span, name, sealed: false, is_absent, huge: None };
        if span.end() > MOST_ADDRESS {
            return Err(OsError { call: "mmap", bytes: span.len, errno: libc::EOVERFLOW });
        }
        if memory != MemoryKind::Memfd {
            // A memory file has its name from birth.
            region.platform.name_memory(span.start, span.len, wanted.name);
        }
        region.self_check()?;
        Ok(region)
    }

    /// Writes a function, runs it, and gives the page back.
    fn self_check(&self) -> OsResult<()> {
        let platform = &*self.platform;
        let stub = platform.return_stub();
        if stub.is_empty() {
            return Ok(());
        }
        let page = Span::new(self.span.start, platform.system_page());
        let granule = Span::new(self.span.start, GRANULE);
        // SAFETY: the first system page of the region, which nobody uses yet.
        unsafe { self.protection.populate(platform, page) }?;
        self.write_first_granule(|to| {
            // SAFETY: a granule of an open window of ours; the stub fits.
            unsafe { platform.copy_in(to, stub) }
        })?;
        let mut word = [0; 8];
        word[..stub.len()].copy_from_slice(stub);
        // SAFETY: the region's first word, aligned as the region is.
        let seen = unsafe { self.protection.load_word(platform, self.span.start) };
        if seen != u64::from_ne_bytes(word) {
            // Two views of different memory: no system should, so no call of
            // its has failed.
            return Err(OsError { call: "self-check", bytes: GRANULE, errno: libc::EIO });
        }
        // SAFETY: executable, and the function is written and visible.
        unsafe { platform.call_stub(self.span.start) };
        self.write_first_granule(|to| {
            // SAFETY: a granule of an open window of ours.
            unsafe { platform.fill_traps(to, GRANULE) }
        })?;
        debug_assert!(page.contains(granule));
        // SAFETY: a whole system page that nobody needs.
        match unsafe { self.protection.discard(platform, page) } {
            // Memory locked by mlockall(2) does not go back, here or later: that
            // costs memory and nothing else.
            Err(error) if error.errno != libc::EINVAL => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // The address was run, so it is a used one: what was fetched from it
        // must not outlive its next contents. Where the call is missing, the
        // report says so, and only this core and the cores this thread moved
        // across, which serialise as they switch address spaces, ran it.
        let _ = platform.sync_core();
        Ok(())
    }

    /// Has `write` put bytes into the first granule, given its writable
    /// address, and makes them visible to instruction fetch.
    fn write_first_granule(&self, write: impl FnOnce(usize)) -> OsResult<()> {
        let platform = &*self.platform;
        let granule = Span::new(self.span.start, GRANULE);
        let rights = self.protection.open(platform);
        // SAFETY: the region's first granule, which nobody uses yet.
        let opened = unsafe { self.protection.window(platform, granule) };
        let closed = opened.and_then(|window| {
            let to = window.writable_at(granule.start);
            write(to);
            // SAFETY: inside the window, through the view just written by.
            unsafe { platform.clean_data_cache(to, GRANULE) };
            // SAFETY: our window, not used again.
            unsafe { self.protection.close_window(platform, &window) }
        });
        self.protection.close(platform, rights);
        closed?;
        // SAFETY: inside the executable view.
        unsafe { platform.invalidate_instruction_cache(granule.start, GRANULE) };
        Ok(())
    }

    /// Turns huge pages on if the system grants one.
    fn try_huge_pages(&mut self, size: Option<usize>) -> OsResult<()> {
        let huge = HugePages::new(self.span, size, self.platform.system_page())?;
        huge.try_one(&*self.platform, &*self.protection)?;
        self.huge = Some(huge);
        Ok(())
    }

    /// Hears that `pages` system pages have become present in the code page
    /// at `addr`. May make system calls.
    pub(crate) fn committed(&self, addr: usize, pages: usize) {
        if let Some(huge) = &self.huge {
            huge.committed(&*self.platform, &*self.protection, addr, pages);
        }
    }

    /// Hears that `pages` system pages of the code page at `addr` went back.
    pub(crate) fn discarded(&self, addr: usize, pages: usize) {
        if let Some(huge) = &self.huge {
            huge.discarded(addr, pages);
        }
    }

    /// Bytes in huge pages now.
    pub(crate) fn huge_bytes(&self) -> usize {
        self.huge.as_ref().map_or(0, HugePages::bytes)
    }

    /// Counts the system pages that are present in each of these code pages anew,
    /// in a child whose memory is not its parent's.
    pub(crate) fn recount(&self, pages: impl Iterator<Item = (usize, usize)>) {
        if let Some(huge) = &self.huge {
            huge.recount(pages);
        }
    }

    /// Memory like the region's for a child that is to be forked. System calls.
    pub(crate) fn fresh(&self, kind: MemoryKind) -> OsResult<Fresh> {
        Fresh::create(&*self.platform, &self.name, self.span.len, kind)
    }

    /// Seals the lasting views; keeps them out of forked children before, which
    /// could put nothing in their place. System calls.
    ///
    /// # Errors
    ///
    /// The call that was refused, or `ENOTSUP` where writing is changing rights.
    pub(crate) fn seal(&mut self, memory: MemoryKind) -> OsResult<()> {
        let strategy = self.protection.strategy();
        // What is sealed has no other rights, and cannot be mapped a second time.
        let takes_copies =
            strategy == Strategy::DualTransient && memory == MemoryKind::SharedAnonymous;
        if strategy == Strategy::Mprotect || takes_copies {
            return Err(OsError { call: "mseal", bytes: self.span.len, errno: libc::ENOTSUP });
        }
        self.hide_from_children()?;
        let (executable, writable) = self.protection.views();
        for view in [executable].into_iter().chain(writable) {
            let view = view.guarded();
            // SAFETY: whole mappings of ours; `drop` knows.
            unsafe { self.platform.seal_mapping(view.start, view.len) }?;
            self.sealed = true;
        }
        Ok(())
    }

    /// Keeps the lasting views out of forked children. System calls.
    pub(crate) fn hide_from_children(&self) -> OsResult<()> {
        let (executable, writable) = self.protection.views();
        for view in [executable].into_iter().chain(writable) {
            let view = view.guarded();
            // SAFETY: whole mappings of ours.
            unsafe { self.platform.hide_from_children(view.start, view.len) }?;
        }
        Ok(())
    }

    /// Granules that are written and sealed together, a power of two.
    pub(crate) fn unit(&self) -> usize {
        (self.protection.write_unit() / GRANULE).max(1)
    }

    /// In a forked child that the views were kept out of, lets go of what else there is
    /// of the parent's memory; `windows` are those of the only thread. System calls.
    ///
    /// # Safety
    ///
    /// Nobody else runs in this process.
    pub(crate) unsafe fn forgo(&self, windows: &[Window]) {
        self.is_absent.store(true, Ordering::Relaxed);
        // SAFETY: from the caller.
        unsafe { self.protection.forgo(&*self.platform, windows) };
    }

    /// Name of the memory.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The machine.
    pub(crate) fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    /// The strategy, to be called with [`platform`](Self::platform).
    pub(crate) fn protection(&self) -> &dyn Protection {
        &*self.protection
    }

    /// The executable view.
    pub(crate) fn span(&self) -> Span {
        self.span
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if *self.is_absent.get_mut() {
            // What was at these addresses is the parent's, and what is now anybody's.
            return;
        }
        if self.sealed {
            // The views stay, and so do the key and the file that go with them.
            // SAFETY: whole system pages, and nobody uses them.
            let _ = unsafe { self.protection.discard(&*self.platform, self.span) };
            return;
        }
        // SAFETY: whoever drops the region has dropped all that used it.
        unsafe { self.protection.release(&*self.platform) };
    }
}

/// `reserve` rounded up to whole pages, if it can be.
fn whole_pages(reserve: usize, system_page: usize) -> Result<usize, RegionError> {
    let refuse = |errno| RegionError::BadReserve {
        reserve,
        error: OsError { call: "mmap", bytes: reserve, errno },
    };
    if reserve == 0 {
        return Err(refuse(libc::EINVAL));
    }
    reserve
        .checked_next_multiple_of(system_page)
        .filter(|len| isize::try_from(*len).is_ok())
        .ok_or_else(|| refuse(libc::ENOMEM))
}

/// The strategies to try, best first.
fn order(forced: Option<Strategy>) -> Vec<Strategy> {
    match forced {
        Some(strategy) => vec![strategy],
        None => Strategy::ALL.into_iter().filter(|strategy| strategy.by_default()).collect(),
    }
}

/// The memory that can serve a strategy, best first.
///
/// A memory file before shared anonymous memory: security modules ask less for
/// executing a file. Two views need shared memory; one view is better off with
/// private memory, which a forked child gets a copy of. Tools that tell JIT
/// code from files' by its having none are the reason to ask for `anonymous`
/// memory first.
fn memories(strategy: Strategy, anonymous: bool) -> impl Iterator<Item = MemoryKind> {
    let (best, other) = match strategy {
        Strategy::DualPkey | Strategy::DualTransient | Strategy::DualOpen if anonymous => {
            (MemoryKind::SharedAnonymous, Some(MemoryKind::Memfd))
        }
        Strategy::DualPkey | Strategy::DualTransient | Strategy::DualOpen => {
            (MemoryKind::Memfd, Some(MemoryKind::SharedAnonymous))
        }
        Strategy::SinglePkey | Strategy::Mprotect => (MemoryKind::Private, None),
        Strategy::MapJit => (MemoryKind::Jit, None),
    };
    core::iter::once(best).chain(other)
}

/// Sets one strategy up on one kind of memory.
fn protect(
    platform: &dyn Platform,
    strategy: Strategy,
    memory: MemoryKind,
    wanted: &Wanted<'_>,
) -> OsResult<(Box<dyn Protection>, Span)> {
    fn boxed<P: Protection + 'static>(
        (protection, span): (P, Span),
    ) -> (Box<dyn Protection>, Span) {
        (Box::new(protection), span)
    }
    match strategy {
        Strategy::DualPkey => DualPkey::create(platform, wanted, memory).map(boxed),
        Strategy::DualTransient => DualTransient::create(platform, wanted, memory).map(boxed),
        Strategy::DualOpen => DualOpen::create(platform, wanted, memory).map(boxed),
        Strategy::SinglePkey => SinglePkey::create(platform, wanted, memory).map(boxed),
        Strategy::Mprotect => Mprotect::create(platform, wanted, memory).map(boxed),
        Strategy::MapJit => MapJit::create(platform, wanted, memory).map(boxed),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
