//! Huge pages: which blocks of the region are whole, and which have been moved
//! into one.
//!
//! A block is as long as a huge page and lies at a multiple of its size. One is
//! moved when the last of its system pages is committed, so that nothing is
//! committed for the sake of it; when a part of it goes back to the system the
//! huge page is split. Moving copies all of a block and makes threads that run
//! it wait, so a block is moved once, and again only after all of it has gone
//! back: memory that comes and goes page by page does not pay for it each time.
//!
//! Counts steer policy and statistics only: the system may split and merge as
//! it likes, and nobody's bytes depend on it. So all accesses are relaxed.
//!
//! Sources: madvise(2), MADV_COLLAPSE; Linux
//! Documentation/admin-guide/mm/transhuge.rst.

use crate::platform::{OsError, OsResult, Platform};
use crate::protect::Protection;
use crate::sync::{AtomicU64, Ordering};
use crate::units::Span;

/// In the state of a block, above the count of its present system pages: it has
/// been tried to move it, and it was moved.
const TRIED: u64 = 1 << 32;
const MOVED: u64 = 1 << 33;
const COUNT: u64 = TRIED - 1;

/// See the module.
#[derive(Debug)]
pub(super) struct HugePages {
    /// Of a huge page, in bytes, and in system pages.
    size: usize,
    pages: u64,
    /// Address of the first block.
    start: usize,
    blocks: Box<[AtomicU64]>,
}

impl HugePages {
    /// The blocks of `span`, none of which is committed.
    ///
    /// # Errors
    ///
    /// There is no such page, none fits, or the region does not begin where one
    /// could.
    pub(super) fn new(span: Span, size: Option<usize>, system_page: usize) -> OsResult<Self> {
        let refuse = |bytes, errno| OsError { call: "huge pages", bytes, errno };
        let size = size.ok_or(refuse(0, libc::ENOTSUP))?;
        if span.len < size {
            return Err(refuse(size, libc::ERANGE));
        }
        if !span.start.is_multiple_of(size) {
            return Err(refuse(size, libc::EADDRNOTAVAIL));
        }
        let blocks = (0..span.len / size).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { size, pages: (size / system_page) as u64, start: span.start, blocks })
    }

    /// Has the system move the first block, and gives that back. Nobody uses
    /// the region yet. System calls.
    pub(super) fn try_one(
        &self,
        platform: &dyn Platform,
        protection: &dyn Protection,
    ) -> OsResult<()> {
        let first = Span::new(self.start, self.size);
        let page = Span::new(self.start, platform.system_page());
        // The system moves no block that is not there at all.
        // SAFETY: in the region.
        unsafe { protection.populate(platform, page) }?;
        // SAFETY: in the region, and a whole huge page.
        let moved = unsafe { protection.collapse(platform, first) };
        // SAFETY: whole system pages that nobody uses.
        let gone = unsafe { protection.discard(platform, first) };
        moved.and(gone)
    }

    /// The number of the block around `addr`, if it lies in one.
    fn block(&self, addr: usize) -> Option<usize> {
        let number = addr.checked_sub(self.start)? / self.size;
        (number < self.blocks.len()).then_some(number)
    }

    /// Counts system pages of the code page at `addr` as present; moves the
    /// block if that makes it whole. Code pages, powers of two from the
    /// region's start on, do not straddle blocks.
    pub(super) fn committed(
        &self,
        platform: &dyn Platform,
        protection: &dyn Protection,
        addr: usize,
        pages: usize,
    ) {
        let Some(number) = self.block(addr) else { return };
        let state = &self.blocks[number];
        let before = state.fetch_add(pages as u64, Ordering::Relaxed);
        if (before & COUNT) + (pages as u64) < self.pages
            || state.fetch_or(TRIED, Ordering::Relaxed) & TRIED != 0
        {
            return;
        }
        let span = Span::new(self.start + number * self.size, self.size);
        // Another thread may give a part of it back just now; that part is
        // then present and counted as gone until it is committed again.
        // SAFETY: in the region, and a whole huge page.
        if unsafe { protection.collapse(platform, span) }.is_ok() {
            state.fetch_or(MOVED, Ordering::Relaxed);
        }
    }

    /// Counts system pages of the code page at `addr` as gone.
    pub(super) fn discarded(&self, addr: usize, pages: usize) {
        let Some(number) = self.block(addr) else { return };
        let state = &self.blocks[number];
        let before = state.fetch_sub(pages as u64, Ordering::Relaxed);
        let gone = if before & COUNT == pages as u64 { TRIED | MOVED } else { MOVED };
        if before & gone != 0 && pages > 0 {
            state.fetch_and(!gone, Ordering::Relaxed);
        }
    }

    /// Counts anew: none is moved, and these code pages have so many system pages
    /// present.
    pub(super) fn recount(&self, pages: impl Iterator<Item = (usize, usize)>) {
        self.blocks.iter().for_each(|block| block.store(0, Ordering::Relaxed));
        for (addr, present) in pages {
            if let Some(number) = self.block(addr) {
                self.blocks[number].fetch_add(present as u64, Ordering::Relaxed);
            }
        }
    }

    /// Bytes that were moved and have stayed.
    pub(super) fn bytes(&self) -> usize {
        let moved = |state: &&AtomicU64| state.load(Ordering::Relaxed) & MOVED != 0;
        self.blocks.iter().filter(moved).count() * self.size
    }
}

#[cfg(all(test, target_os = "linux", feature = "model"))]
mod tests {
    use std::sync::Arc;

    use super::super::{Region, RegionRequest};
    use crate::platform::faulty::{Faulty, Kind};
    use crate::platform::{Platform, native};
    use crate::protect::Strategy;

    fn request() -> RegionRequest<'static> {
        RegionRequest {
            name: "huge",
            reserve: 8 << 20,
            near: None,
            seeds: None,
            strategy: Some(Strategy::DualOpen),
            huge_pages: true,
            anonymous: false,
        }
    }

    #[test]
    fn a_block_is_moved_once_until_all_of_it_has_gone_back() {
        let machine = Faulty::new(native());
        let (region, report) = Region::create(machine.clone(), &request()).unwrap();
        let Some(size) = machine.huge_page().filter(|_| report.huge_pages == Some(Ok(()))) else {
            println!("not run: a_block_is_moved_once_until_all_of_it_has_gone_back: {report}");
            return;
        };
        // Each view is one call.
        let calls = || machine.calls(Kind::Collapse);
        let at_first = calls();
        let whole = size / machine.system_page();
        let start = region.span().start;
        // SAFETY: in the region, which nobody uses.
        unsafe { region.protection().populate(&*machine, crate::units::Span::new(start, size)) }
            .unwrap();
        region.committed(start, whole - 1);
        assert_eq!((calls(), region.huge_bytes()), (at_first, 0), "not whole");
        region.committed(start + size - 4096, 1);
        assert_eq!((calls(), region.huge_bytes()), (at_first + 2, size));
        region.discarded(start, 1);
        assert_eq!(region.huge_bytes(), 0);
        region.committed(start, 1);
        assert_eq!((calls(), region.huge_bytes()), (at_first + 2, 0), "once is enough");
        region.discarded(start, whole);
        region.committed(start, whole);
        assert_eq!((calls(), region.huge_bytes()), (at_first + 4, size));
        region.committed(start + size, whole - 1);
        assert_eq!(region.huge_bytes(), size, "the next block is another");
    }

    #[test]
    fn what_the_system_refuses_is_told_and_costs_nothing() {
        let machine = Faulty::new(native());
        machine.fail(Kind::Collapse, 0, usize::MAX / 2, libc::ENOMEM);
        let (region, report) =
            Region::create(Arc::clone(&machine) as Arc<dyn Platform>, &request()).unwrap();
        let error = report.huge_pages.unwrap().unwrap_err();
        assert_eq!((error.call, error.errno), ("madvise(MADV_COLLAPSE)", libc::ENOMEM));
        let calls = machine.calls(Kind::Collapse);
        region.committed(region.span().start, 512);
        assert_eq!((machine.calls(Kind::Collapse), region.huge_bytes()), (calls, 0));
    }
}
