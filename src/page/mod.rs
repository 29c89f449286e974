//! Code pages: the unit that is counted and given back.
//!
//! A page's life, each edge named by the function that takes it:
//!
//! ```text
//!            claim, commit                 publish
//!   free ───────────────────▶ claimed ───────────────────────────▶ live
//!    ▲                           │ release                          │
//!    │                           ▼                                  │ recycle:
//!    │   last granule      partly free ◀────────────────────────────┘ clear the mark,
//!    └──────────────────────────── (holes are claimed again)          release
//!   trim: a free page's memory goes back to the system, and so does any
//!   system page that lies wholly inside holes of a page that lives on
//! ```
//!
//! The *live count* of a page is the number of executors on it, from publish
//! to recycle: the number of its [marks]. It is not kept as a number,
//! which all threads of a page would have to change at each publish: a page
//! whose count has reached zero is one of which no granule is taken. All of this
//! metadata lies outside code memory, in lazily backed arrays.
//!
//! Invariants: `[B1]` a granule has one owner, `[P1]` what is marked is taken,
//! `[P2]` a claimed granule's memory is committed,
//! `[P3]` memory goes back only while its granules are owned by the trimmer,
//! `[P4]` no hole is forgotten by the index.

use crate::platform::OsResult;
use crate::region::Region;
use crate::sync::{AtomicU64, Ordering, Tally, mutant, zeroed_words};
use crate::units::{GRANULE, Span};

pub(crate) mod bitmap;
mod index;
pub(crate) mod marks;
#[cfg(feature = "model")]
pub mod probe;
#[cfg(all(test, feature = "model"))]
mod tests;
pub(crate) mod unit;

use bitmap::{Run, WORD};
use index::Index;
use marks::Marks;

/// The metadata of one code page.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    /// One bit a system page: whether its memory is committed, `[P2]`.
    pub(crate) resident: &'a AtomicU64,
    /// Granules that belong to somebody, `[B1]`.
    pub(crate) taken: &'a [AtomicU64],
}

/// All code pages of a region.
pub(crate) struct Pages {
    /// Those of all pages, see [`Page`].
    resident: Box<[AtomicU64]>,
    taken: Box<[AtomicU64]>,
    /// Where executors start, `[P1]`.
    pub(crate) marks: Marks,
    /// Granules a page are two to this power, and at least 64.
    shift: u32,
    count: usize,
    /// Address of granule 0.
    base: usize,
    system_page: usize,
    /// Granules that are claimed and given back together, `[W3]`.
    unit: usize,
    index: Index,
    /// System pages committed.
    committed: Tally,
    /// No page from this one on was ever committed.
    high_water: Tally,
}

impl Pages {
    /// The pages of `region`, each of `page_bytes`; all free, none committed.
    /// `order` is that of the [index](Index::new).
    pub(crate) fn new(region: &Region, page_bytes: usize, order: u64) -> Self {
        let granules = page_bytes / GRANULE;
        let count = region.span().len / page_bytes;
        let pages = Self {
            resident: zeroed_words(count),
            taken: zeroed_words(count * granules / WORD),
            marks: Marks::new(count * granules),
            shift: granules.trailing_zeros(),
            count,
            base: region.span().start,
            system_page: region.platform().system_page(),
            unit: if mutant("parts-of-units-claimed") { 1 } else { region.unit() },
            index: Index::new(count, granules, order),
            committed: Tally::new(0),
            high_water: Tally::new(0),
        };
        for number in 0..count {
            pages.index.raise(number, granules);
        }
        pages
    }

    pub(crate) fn page(&self, number: usize) -> Page<'_> {
        Page { resident: self.resident(number), taken: self.taken(number) }
    }

    fn resident(&self, number: usize) -> &AtomicU64 {
        &self.resident[number]
    }

    /// The taken granules of one page.
    fn taken(&self, number: usize) -> &[AtomicU64] {
        let words = self.granules() / WORD;
        &self.taken[number * words..][..words]
    }

    /// Number of code pages.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Granules a page.
    pub(crate) fn granules(&self) -> usize {
        1 << self.shift
    }

    /// Pages below this number may hold memory.
    pub(crate) fn high_water(&self) -> usize {
        // Relaxed: grows only; a page above it has nothing to find.
        self.high_water.load(Ordering::Relaxed) as usize
    }

    /// Bytes of code memory held from the system.
    pub(crate) fn committed_bytes(&self) -> usize {
        // Relaxed: a statistic.
        self.committed.load(Ordering::Relaxed) as usize * self.system_page
    }

    /// The executable address of a granule of the region.
    #[inline]
    pub(crate) fn address(&self, granule: usize) -> usize {
        self.base + granule * GRANULE
    }

    /// The granule of the region that holds the byte at `address`.
    #[inline]
    pub(crate) fn granule(&self, address: usize) -> usize {
        (address - self.base) / GRANULE
    }

    /// The granules of a span that starts and ends on granules.
    #[inline]
    pub(crate) fn run(&self, span: Span) -> Run {
        Run::new(self.granule(span.start), span.len / GRANULE)
    }

    /// The bytes of a run of granules.
    #[inline]
    pub(crate) fn span(&self, run: Run) -> Span {
        Span::new(self.address(run.start), run.len * GRANULE)
    }

    /// Splits a run of the region into its parts on each page: page number and
    /// run within that page.
    fn parts(&self, run: Run) -> impl Iterator<Item = (usize, Run)> + use<> {
        let shift = self.shift;
        let mut rest = run;
        core::iter::from_fn(move || {
            if rest.len == 0 {
                return None;
            }
            let (number, low) = (rest.start >> shift, rest.start & ((1 << shift) - 1));
            let len = rest.len.min((1 << shift) - low);
            rest = Run::new(rest.start + len, rest.len - len);
            Some((number, Run::new(low, len)))
        })
    }

    /// Takes a hole of at least `need` granules, `want` if it is so long, from
    /// the lowest page that has one. Both are whole write units, and so is what is
    /// taken.
    ///
    /// Lock-free: each retry follows another thread's success. A `need` above a
    /// page's size scans the free pages.
    pub(crate) fn claim(&self, need: usize, want: usize) -> Option<Run> {
        if need > self.granules() {
            return self.claim_pages(need);
        }
        let want = want.clamp(need, self.granules());
        self.index
            .search(
                need,
                |number| self.claim_on(number, need, want),
                |number| self.longest_hole(number),
            )
            .or_else(|| self.claim_anywhere(need, want))
    }

    /// As [`claim`](Self::claim), from the lowest of these pages; looks at each.
    pub(crate) fn claim_within(
        &self,
        mut pages: core::ops::Range<usize>,
        need: usize,
        want: usize,
    ) -> Option<Run> {
        pages.find_map(|number| self.claim_on(number, need, want))
    }

    /// Looks at every page, before the region counts as exhausted: the index
    /// may hide a hole while somebody is on the way to file it, `[P4]`.
    #[cold]
    fn claim_anywhere(&self, need: usize, want: usize) -> Option<Run> {
        (0..self.count).find_map(|number| self.claim_on(number, need, want))
    }

    /// Takes the first hole of page `number` that is long enough.
    ///
    /// The page may lose its longest hole by it; the index hears of that when
    /// the next search comes in vain.
    fn claim_on(&self, number: usize, need: usize, want: usize) -> Option<Run> {
        let taken = self.taken(number);
        // Each retry follows another thread's success.
        while let Some(hole) = self.first_hole(taken, need) {
            let run = Run::new(hole.start, hole.len.min(want));
            if let Some(got) = self.take_on(number, run, need) {
                return Some(Run::new((number << self.shift) + got.start, got.len));
            }
        }
        None
    }

    /// The lowest hole of a page that has at least `need` granules in whole units.
    fn first_hole(&self, taken: &[AtomicU64], need: usize) -> Option<Run> {
        if self.unit == 1 {
            return bitmap::first_clear(taken, need);
        }
        self.whole_holes(taken).find(|hole| hole.len >= need)
    }

    /// Granules of the longest hole of page `number`, in whole units.
    fn longest_hole(&self, number: usize) -> usize {
        let taken = self.taken(number);
        if self.unit == 1 {
            return bitmap::longest_clear(taken);
        }
        self.whole_holes(taken).map(|hole| hole.len).max().unwrap_or(0)
    }

    /// The holes of a page, without the parts of units at their ends: a unit is
    /// several words where system pages are large, and is taken and given back word
    /// by word.
    fn whole_holes<'a>(&'a self, taken: &'a [AtomicU64]) -> impl Iterator<Item = Run> + 'a {
        bitmap::clear_runs(taken).map(|hole| {
            let start = hole.start.next_multiple_of(self.unit).min(hole.end());
            Run::new(start, self.whole(hole.end() - start))
        })
    }

    /// `granules` rounded down to whole units.
    fn whole(&self, granules: usize) -> usize {
        granules - granules % self.unit
    }

    /// Takes `need` granules from the start of the lowest contiguous free
    /// pages that hold them.
    fn claim_pages(&self, need: usize) -> Option<Run> {
        let pages = need.div_ceil(self.granules());
        let mut first = 0;
        'search: while first + pages <= self.count {
            for number in (first..first + pages).rev() {
                if !bitmap::is_clear(self.taken(number)) {
                    first = number + 1;
                    continue 'search;
                }
            }
            if let Some(run) = self.take_all(Run::new(first << self.shift, need)) {
                return Some(run);
            }
            first += 1;
        }
        None
    }

    /// Takes exactly `run`, which may cross pages, or nothing.
    fn take_all(&self, run: Run) -> Option<Run> {
        for (number, part) in self.parts(run) {
            if self.take_on(number, part, part.len).is_none() {
                let done = (number << self.shift) + part.start - run.start;
                if done > 0 {
                    self.release(Run::new(run.start, done));
                }
                return None;
            }
        }
        Some(run)
    }

    /// Gives granules back that the caller owns. Lock-free.
    ///
    /// Whatever was written there has been filled with traps before, `[D3]`.
    pub(crate) fn release(&self, run: Run) {
        for (number, part) in self.parts(run) {
            bitmap::release(self.taken(number), part);
            if !mutant("hole-not-filed") {
                self.file(number, part);
            }
        }
    }

    /// Takes granules of page `number`, as [`bitmap::take`], in whole units; what it
    /// held for a moment only may have been measured meanwhile, so it is filed, `[P4]`.
    fn take_on(&self, number: usize, part: Run, need: usize) -> Option<Run> {
        match bitmap::take(self.taken(number), part, need) {
            Ok(got) => {
                let run = Run::new(got.start, self.whole(got.len));
                if run.len < got.len {
                    let behind = (number << self.shift) + run.end();
                    self.release(Run::new(behind, got.len - run.len));
                }
                return Some(run);
            }
            Err(0) => {}
            Err(_) if mutant("held-hole-not-filed") => {}
            Err(held) => self.file(number, Run::new(part.start, held)),
        }
        None
    }

    /// Files the hole around granules of page `number` that just became free,
    /// `[P4]`.
    fn file(&self, number: usize, part: Run) {
        let taken = self.taken(number);
        let hole = bitmap::clear_around(taken, part);
        self.index.raise(number, hole.len);
        if hole.is_inside_a_word() || mutant("joined-hole-not-filed") {
            return;
        }
        // Of two threads that free neighbours in different words, neither need
        // have seen the other's. Both have changed the leaf by now, and who did
        // so last sees everything.
        let joined = bitmap::clear_around(taken, part);
        if joined.len > hole.len {
            self.index.raise(number, joined.len);
        }
    }

    /// Takes what is free straight behind a run, up to `len` granules of the
    /// same page. Lock-free.
    pub(crate) fn claim_behind(&self, run: Run, len: usize) -> Option<Run> {
        let (number, low) = ((run.end() - 1) >> self.shift, run.end() & (self.granules() - 1));
        let len = self.whole(len.min((self.granules() - low) % self.granules()));
        if len == 0 {
            return None;
        }
        let got = self.take_on(number, Run::new(low, len), self.unit)?;
        Some(Run::new(run.end(), got.len))
    }

    /// Takes the free granules around a run that the caller owns, of the same
    /// page and with their memory present, if they are no more than `most` on a
    /// side; returns all of it. Lock-free.
    pub(crate) fn claim_around(&self, region: &Region, run: Run, most: usize) -> Run {
        let number = run.start >> self.shift;
        let base = number << self.shift;
        if run.end() > base + self.granules() {
            return run;
        }
        let taken = self.taken(number);
        if bitmap::is_hemmed_in(taken, Run::new(run.start - base, run.len)) {
            return run;
        }
        let (mut start, mut end) = (run.start, run.end());
        let take = |len: usize, from: usize| {
            let part = Run::new(from - base, len);
            if len == 0 || len > most || self.take_on(number, part, len).is_none() {
                return false;
            }
            // Only now: a trimmer may have had it. `commit` has nothing to do then,
            // and acquires what `is_committed` has only looked at.
            let taken = Run::new(from, len);
            let is_present = self.is_committed(taken) && self.commit(region, taken, &mut 0).is_ok();
            if !is_present {
                self.release(taken);
            }
            is_present
        };
        let below = self.whole(bitmap::clear_below(taken, start - base));
        if take(below, start - below) {
            start -= below;
        }
        let above = self.whole(bitmap::clear_above(taken, end - base));
        if take(above, end) {
            end += above;
        }
        Run::new(start, end - start)
    }

    /// Makes the memory of a claimed run present, `[P2]`. Makes a system call
    /// when some of it is not.
    ///
    /// Adds the bytes that were not present before to `committed`, also where
    /// the system refuses the rest.
    pub(crate) fn commit(&self, region: &Region, run: Run, committed: &mut usize) -> OsResult<()> {
        for (number, part) in self.parts(run) {
            let resident = self.resident(number);
            let wanted = self.system_pages(part);
            // Acquire [P2]: pairs with the Release below; seeing the bit is seeing
            // the page present.
            let missing = wanted & !resident.load(Ordering::Acquire);
            if missing == 0 || mutant("memory-not-committed") {
                continue;
            }
            let first = missing.trailing_zeros() as usize;
            let last = 63 - missing.leading_zeros() as usize;
            let span = Span::new(
                self.address(number << self.shift) + first * self.system_page,
                (last + 1 - first) * self.system_page,
            );
            // SAFETY: [P2] the span lies in the region: it covers claimed
            // granules of page `number`.
            unsafe { region.protection().populate(region.platform(), span) }?;
            // Relaxed: a bound that only grows. Before the pages are said to be there:
            // who sees that looks below it.
            self.high_water.fetch_max(number as u64 + 1, Ordering::Relaxed);
            // Release [P2]: pairs with the Acquire above.
            let before = resident.fetch_or(missing, Ordering::Release);
            let new = (missing & !before).count_ones() as usize;
            *committed += new * self.system_page;
            // Relaxed: a statistic.
            self.committed.fetch_add(new as u64, Ordering::Relaxed);
            region.committed(span.start, new);
        }
        Ok(())
    }

    /// Whether all memory of `run` is present already. Wait-free.
    pub(crate) fn is_committed(&self, run: Run) -> bool {
        self.parts(run).all(|(number, part)| {
            // Relaxed: decides only what to try first.
            self.system_pages(part) & !self.resident(number).load(Ordering::Relaxed) == 0
        })
    }

    /// Bytes of the memory of `run` that are not present. Wait-free.
    pub(crate) fn missing_bytes(&self, run: Run) -> usize {
        let missing = |(number, part): (usize, Run)| {
            // Relaxed: `commit` looks again.
            let resident = self.page(number).resident.load(Ordering::Relaxed);
            (self.system_pages(part) & !resident).count_ones() as usize
        };
        self.parts(run).map(missing).sum::<usize>() * self.system_page
    }

    /// The system pages that a run within one code page touches, one bit each.
    fn system_pages(&self, part: Run) -> u64 {
        let unit = self.system_page / GRANULE;
        let (first, last) = (part.start / unit, (part.end() - 1) / unit);
        (u64::MAX >> (63 - (last - first))) << first
    }

    /// Gives back to the system what whole system pages `number` has free, at
    /// most `limit` bytes; returns how many bytes went. Makes system calls.
    pub(crate) fn trim_page(&self, region: &Region, number: usize, limit: usize) -> usize {
        let page = self.page(number);
        let unit = self.system_page / GRANULE;
        let mut trimmed = 0;
        for hole in bitmap::clear_runs(page.taken) {
            let first = hole.start.div_ceil(unit);
            let last = (hole.end() / unit).min(first + (limit - trimmed) / self.system_page);
            // Relaxed: a hint; decided again once the granules are ours.
            let resident = page.resident.load(Ordering::Relaxed);
            let mut at = first;
            while at < last {
                if resident >> at & 1 == 0 {
                    at += 1;
                    continue;
                }
                let len = ((resident >> at).trailing_ones() as usize).min(last - at);
                trimmed += self.trim_run(region, number, Run::new(at * unit, len * unit));
                at += len;
            }
        }
        trimmed
    }

    /// Takes a run of whole system pages, gives their memory back, and releases
    /// the run, `[P3]`. Returns the bytes that went back.
    fn trim_run(&self, region: &Region, number: usize, part: Run) -> usize {
        let page = self.page(number);
        if !mutant("trimmed-unowned") && self.take_on(number, part, part.len).is_none() {
            return 0;
        }
        let run = Run::new((number << self.shift) + part.start, part.len);
        let mask = self.system_pages(part);
        // Relaxed: whoever committed them had granules there, which were taken
        // here since.
        let present = page.resident.load(Ordering::Relaxed) & mask;
        let mut gone = 0;
        // SAFETY: [P3] every granule of the run is ours, and no executor lies
        // in free granules, [B1]; the run is whole system pages.
        let discarded = unsafe { region.protection().discard(region.platform(), self.span(run)) };
        if discarded.is_ok() {
            // Relaxed [P2]: the Release that frees the granules orders this before
            // whoever commits there next.
            page.resident.fetch_and(!mask, Ordering::Relaxed);
            gone = present.count_ones() as usize;
            // Relaxed: a statistic.
            self.committed.fetch_sub(gone as u64, Ordering::Relaxed);
            region.discarded(self.address(run.start), gone);
        }
        if mutant("trimmed-unowned") {
            return gone * self.system_page;
        }
        self.release(run);
        gone * self.system_page
    }

    /// The granules of page `number`.
    pub(crate) fn granules_of(&self, number: usize) -> core::ops::Range<usize> {
        number << self.shift..(number + 1) << self.shift
    }

    /// Whether all granules from `low` up to `high`, of one word, belong to
    /// somebody. Wait-free.
    pub(crate) fn is_all_taken(&self, low: usize, high: usize) -> bool {
        // Relaxed: the granules of an executor that the caller may ask for were
        // taken before it was published.
        bitmap::is_all_set(&self.taken, Run::new(low, high - low), Ordering::Relaxed)
    }

    /// Whether a granule of the region belongs to somebody, `[B1]`.
    pub(crate) fn is_taken(&self, granule: usize) -> bool {
        // Relaxed: for `verify`; whoever sees that the arena is at rest has been
        // ordered after all that was done to it.
        bitmap::test(&self.taken, granule, Ordering::Relaxed)
    }

    /// All memory that is present, in runs as long as can be.
    pub(crate) fn resident_spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for number in 0..self.high_water() {
            // Acquire [P2]: pairs with the Release in `commit`.
            let mut resident = self.resident(number).load(Ordering::Acquire);
            let mut at = self.address(number << self.shift);
            while resident != 0 {
                let gap = resident.trailing_zeros();
                resident >>= gap;
                let present = resident.trailing_ones();
                resident = resident.checked_shr(present).unwrap_or(0);
                let start = at + gap as usize * self.system_page;
                let len = present as usize * self.system_page;
                match spans.last_mut() {
                    Some(last) if last.end() == start => last.len += len,
                    _ => spans.push(Span::new(start, len)),
                }
                at = start + len;
            }
        }
        spans
    }

    /// Makes the counts of memory agree with its bits, and files all pages anew,
    /// in a process of one thread: others may have been about to.
    pub(crate) fn recount(&self, region: &Region) {
        let present = |number| self.resident(number).load(Ordering::Relaxed).count_ones() as usize;
        let counted = (0..self.count).map(|number| (number, present(number)));
        let last = counted.clone().rfind(|(_, present)| *present > 0);
        let high_water = last.map_or(0, |(number, _)| number + 1);
        let committed: usize = counted.clone().map(|(_, present)| present).sum();
        // Relaxed: of the only thread.
        self.high_water.fetch_max(high_water as u64, Ordering::Relaxed);
        self.committed.store(committed as u64, Ordering::Relaxed);
        self.index.clear();
        for number in 0..self.count {
            self.index.raise(number, self.longest_hole(number));
        }
        let placed = |(number, present)| (self.address(number << self.shift), present);
        region.recount(counted.map(placed));
    }

    /// Takes all granules, for nobody.
    pub(crate) fn take_everything(&self) {
        // Relaxed: of the only thread.
        self.taken.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
    }

    /// Whether the page's holes are all filed, `[P4]`, for `verify`.
    pub(crate) fn is_filed(&self, number: usize) -> bool {
        self.index.is_filed(number, self.longest_hole(number))
    }
}
