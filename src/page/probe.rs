//! The pages' bookkeeping by itself, for the fuzzer: no arena around it that
//! would only ever ask what arenas ask.
//!
//! Nothing here decides anything. It is compiled with the feature `model` alone
//! and is no part of the interface.

use core::fmt;
use core::ops::Range;

use super::bitmap::Run;
use super::index::Index;
use super::{Pages, bitmap};
use crate::platform::{OsResult, native};
use crate::protect::Strategy;
use crate::region::{Region, RegionError, RegionRequest};
use crate::units::{GRANULE, Span};

fn run_of(range: &Range<usize>) -> Run {
    Run::new(range.start, range.len())
}

fn range_of(run: Run) -> Range<usize> {
    run.start..run.end()
}

/// The code pages of a region of real memory. Granules are counted through the
/// region.
pub struct PageProbe {
    pages: Pages,
    // Behind the pages: they are of it.
    region: Region,
}

impl PageProbe {
    /// `count` code pages of `page_bytes`, searched in an order of the
    /// [index](IndexProbe::new)'s.
    ///
    /// # Errors
    ///
    /// The system gives no such memory.
    pub fn new(count: usize, page_bytes: usize, order: u64) -> Result<Self, RegionError> {
        let request = RegionRequest {
            name: "probe",
            reserve: count * page_bytes,
            near: None,
            strategy: Some(Strategy::DualOpen),
            seeds: None,
            huge_pages: false,
            anonymous: false,
        };
        let (region, _) = Region::create(native(), &request)?;
        Ok(Self { pages: Pages::new(&region, page_bytes, order), region })
    }

    /// Granules a system page.
    #[must_use]
    pub fn unit(&self) -> usize {
        self.region.platform().system_page() / GRANULE
    }

    /// [`Pages::claim`].
    pub fn claim(&self, need: usize, want: usize) -> Option<Range<usize>> {
        self.pages.claim(need, want).map(range_of)
    }

    /// [`Pages::claim_within`].
    pub fn claim_within(
        &self,
        pages: Range<usize>,
        need: usize,
        want: usize,
    ) -> Option<Range<usize>> {
        self.pages.claim_within(pages, need, want).map(range_of)
    }

    /// [`Pages::claim_behind`].
    pub fn claim_behind(&self, range: &Range<usize>, len: usize) -> Option<Range<usize>> {
        self.pages.claim_behind(run_of(range), len).map(range_of)
    }

    /// [`Pages::claim_around`].
    pub fn claim_around(&self, range: &Range<usize>, most: usize) -> Range<usize> {
        range_of(self.pages.claim_around(&self.region, run_of(range), most))
    }

    /// [`Pages::release`]. The caller owns what it gives.
    pub fn release(&self, range: &Range<usize>) {
        self.pages.release(run_of(range));
    }

    /// [`Pages::commit`]: the bytes that were not present before.
    ///
    /// # Errors
    ///
    /// The system gives no memory.
    pub fn commit(&self, range: &Range<usize>) -> OsResult<usize> {
        let mut committed = 0;
        self.pages.commit(&self.region, run_of(range), &mut committed)?;
        Ok(committed)
    }

    /// [`Pages::trim_page`]: the bytes that went.
    pub fn trim_page(&self, number: usize, limit: usize) -> usize {
        self.pages.trim_page(&self.region, number, limit)
    }

    /// [`Pages::recount`].
    pub fn recount(&self) {
        self.pages.recount(&self.region);
    }

    /// [`Pages::is_committed`].
    #[must_use]
    pub fn is_committed(&self, range: &Range<usize>) -> bool {
        self.pages.is_committed(run_of(range))
    }

    /// [`Pages::missing_bytes`].
    #[must_use]
    pub fn missing_bytes(&self, range: &Range<usize>) -> usize {
        self.pages.missing_bytes(run_of(range))
    }

    /// [`Pages::committed_bytes`].
    #[must_use]
    pub fn committed_bytes(&self) -> usize {
        self.pages.committed_bytes()
    }

    /// [`Pages::high_water`].
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.pages.high_water()
    }

    /// [`Pages::resident_spans`], in bytes from the region's start.
    #[must_use]
    pub fn resident(&self) -> Vec<Range<usize>> {
        let start = self.region.span().start;
        let from_start = |span: Span| span.start - start..span.end() - start;
        self.pages.resident_spans().into_iter().map(from_start).collect()
    }

    /// [`Pages::is_taken`].
    #[must_use]
    pub fn is_taken(&self, granule: usize) -> bool {
        self.pages.is_taken(granule)
    }

    /// [`Pages::is_filed`].
    #[must_use]
    pub fn is_filed(&self, number: usize) -> bool {
        self.pages.is_filed(number)
    }

    /// The holes of page `number` as each function of the bitmaps sees them.
    #[must_use]
    pub fn holes(&self, number: usize) -> Holes {
        let taken = self.pages.taken(number);
        Holes {
            runs: bitmap::clear_runs(taken).map(range_of).collect(),
            longest: bitmap::longest_clear(taken),
            taken: bitmap::count(taken),
            ones: bitmap::ones(taken).collect(),
            is_clear: bitmap::is_clear(taken),
        }
    }

    /// Of page `number`: `bitmap::first_clear`.
    #[must_use]
    pub fn first_clear(&self, number: usize, need: usize) -> Option<Range<usize>> {
        bitmap::first_clear(self.pages.taken(number), need).map(range_of)
    }
}

impl fmt::Debug for PageProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageProbe").field("region", &self.region.span()).finish_non_exhaustive()
    }
}

/// What a page's bitmap says, by each function that says it. Granules are counted
/// within the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holes {
    /// `bitmap::clear_runs`.
    pub runs: Vec<Range<usize>>,
    /// `bitmap::longest_clear`.
    pub longest: usize,
    /// `bitmap::count`.
    pub taken: usize,
    /// `bitmap::ones`.
    pub ones: Vec<usize>,
    /// `bitmap::is_clear`.
    pub is_clear: bool,
}

/// The index of holes, and no pages.
pub struct IndexProbe(Index);

impl IndexProbe {
    /// [`Index::new`].
    #[must_use]
    pub fn new(pages: usize, granules: usize, order: u64) -> Self {
        Self(Index::new(pages, granules, order))
    }

    /// [`Index::search`].
    pub fn search<T>(
        &self,
        granules: usize,
        claim: impl FnMut(usize) -> Option<T>,
        longest: impl Fn(usize) -> usize,
    ) -> Option<T> {
        self.0.search(granules, claim, longest)
    }

    /// [`Index::raise`].
    pub fn raise(&self, page: usize, granules: usize) {
        self.0.raise(page, granules);
    }

    /// [`Index::clear`].
    pub fn clear(&self) {
        self.0.clear();
    }

    /// [`Index::is_filed`].
    #[must_use]
    pub fn is_filed(&self, page: usize, granules: usize) -> bool {
        self.0.is_filed(page, granules)
    }
}

impl fmt::Debug for IndexProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexProbe").finish_non_exhaustive()
    }
}
