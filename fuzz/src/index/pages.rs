//! All code pages of a region, claimed and released any way that is allowed.

use std::ops::Range;

use arbitrary::{Arbitrary, Unstructured};
use jit_arena::probe::PageProbe;

use super::{Granules, ops};
use crate::Outcome;
use crate::code::system_page;
use crate::ops::Pick;

/// One operation. Picks are of the runs that are owned, or of pages.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    /// Claims at least and at most so much, from anywhere.
    Claim(Granules, Granules),
    /// The same, from so many pages.
    ClaimWithin(Pick, u8, Granules, Granules),
    /// Claims behind a run.
    ClaimBehind(Pick, Granules),
    /// Claims the free granules around a run, if they are few.
    ClaimAround(Pick, Granules),
    /// Releases a run.
    Release(Pick),
    /// Releases from one granule of a run on, so many, and keeps the rest.
    ReleasePart(Pick, Granules, Granules),
    /// Has a run's memory present.
    Commit(Pick),
    /// Gives a page's free memory back, up to so many system pages.
    Trim(Pick, u8),
    /// Counts and files everything anew.
    Recount,
}

/// Pages with the model beside them.
struct Pages {
    probe: PageProbe,
    /// Granules a page.
    page: usize,
    count: usize,
    order: usize,
    taken: Vec<bool>,
    /// Of each system page.
    present: Vec<bool>,
    high_water: usize,
    owned: Vec<Range<usize>>,
}

/// Runs a program.
///
/// # Errors
///
/// There is not even a setup.
///
/// # Panics
///
/// If pages and model differ.
pub fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<Outcome> {
    let page = [1024, 64, 256][usize::from(u.arbitrary::<u8>()? % 3)].max(system_page() / 64);
    // One level of nodes, two, and three.
    let count = 1 + usize::from(u.arbitrary::<u8>()?) % if page == 1024 { 12 } else { 80 };
    let order: u64 = if u.arbitrary()? { u.arbitrary()? } else { 0 };
    let Ok(probe) = PageProbe::new(count, page * 64, order) else { return Ok(Outcome::NotRun) };
    let unit = probe.unit();
    // What the index takes of the order: three bits a level.
    let levels = if count <= 8 {
        1
    } else if count <= 64 {
        2
    } else {
        3
    };
    let mut pages = Pages {
        probe,
        page,
        count,
        order: order as usize & ((1 << (3 * levels)) - 1),
        taken: vec![false; count * page],
        present: vec![false; count * page / unit],
        high_water: 0,
        owned: Vec::new(),
    };
    let program = ops(u);
    for (step, op) in program.iter().enumerate() {
        let touched = pages.execute(*op);
        let all = step % 32 == 31 || step + 1 == program.len();
        let compared = if all { 0..count } else { touched };
        compared.for_each(|number| pages.compare(number));
        pages.compare_counts();
    }
    while !pages.owned.is_empty() {
        pages.execute(Op::Release(Pick(0)));
    }
    (0..count).for_each(|number| pages.compare(number));
    Ok(Outcome::Ran { steps: program.len() })
}

impl Pages {
    /// Executes an operation; returns the pages that it may have changed.
    fn execute(&mut self, op: Op) -> Range<usize> {
        match op {
            Op::Claim(need, want) => {
                let (need, want) = (need.count(self.page), want.count(self.page));
                let expected = self.lowest(need, want);
                let got = self.probe.claim(need, want);
                assert_eq!(got, expected, "claim of {need} to {want}");
                self.take(got)
            }
            Op::ClaimWithin(first, len, need, want) => {
                let Some(first) = first.of(self.count) else { return 0..0 };
                let within = first..(first + usize::from(len)).min(self.count);
                let need = need.count(self.page);
                // Who asks for a page in particular knows that it wants no less.
                let want = want.count(self.page).max(need);
                let on = |number| self.first_on(number, need).map(|run| self.cut(run, want));
                let expected = within.clone().find_map(on);
                let got = self.probe.claim_within(within, need, want);
                assert_eq!(got, expected, "claim of {need} to {want}");
                self.take(got)
            }
            Op::ClaimBehind(run, len) => {
                let Some(at) = run.of(self.owned.len()) else { return 0..0 };
                let run = self.owned[at].clone();
                let len = len.count(self.page);
                let expected = self.behind(run.end, len);
                let got = self.probe.claim_behind(&run, len);
                assert_eq!(got, expected, "{len} behind {run:?}");
                self.take(got)
            }
            Op::ClaimAround(run, most) => self.claim_around(run, most),
            Op::Release(run) => {
                let Some(at) = run.of(self.owned.len()) else { return 0..0 };
                let run = self.owned.swap_remove(at);
                self.release(run)
            }
            Op::ReleasePart(run, from, len) => {
                let Some(at) = run.of(self.owned.len()) else { return 0..0 };
                let run = self.owned.swap_remove(at);
                let from = run.start + (from.count(self.page) - 1) % run.len();
                let end = (from + len.count(self.page)).min(run.end);
                let rests = [run.start..from, end..run.end];
                self.owned.extend(rests.into_iter().filter(|rest| !rest.is_empty()));
                self.release(from..end)
            }
            Op::Commit(run) => {
                let Some(at) = run.of(self.owned.len()) else { return 0..0 };
                self.commit(self.owned[at].clone())
            }
            Op::Trim(number, limit) => {
                let Some(number) = number.of(self.count) else { return 0..0 };
                self.trim(number, usize::from(limit));
                number..number + 1
            }
            Op::Recount => {
                self.probe.recount();
                0..self.count
            }
        }
    }

    fn unit(&self) -> usize {
        self.probe.unit()
    }

    /// The pages of a run.
    fn pages_of(&self, run: &Range<usize>) -> Range<usize> {
        run.start / self.page..run.end.div_ceil(self.page)
    }

    fn is_free(&self, run: Range<usize>) -> bool {
        self.taken[run].iter().all(|taken| !taken)
    }

    /// The holes of a page, lowest first, in granules of the region.
    fn holes(&self, number: usize) -> Vec<Range<usize>> {
        let mut holes: Vec<Range<usize>> = Vec::new();
        for at in number * self.page..(number + 1) * self.page {
            match holes.last_mut() {
                _ if self.taken[at] => {}
                Some(last) if last.end == at => last.end = at + 1,
                _ => holes.push(at..at + 1),
            }
        }
        holes
    }

    /// The first hole of a page that is long enough.
    fn first_on(&self, number: usize, need: usize) -> Option<Range<usize>> {
        self.holes(number).into_iter().find(|hole| hole.len() >= need)
    }

    fn cut(&self, run: Range<usize>, want: usize) -> Range<usize> {
        run.start..run.end.min(run.start + want)
    }

    /// What a claim should get.
    fn lowest(&self, need: usize, want: usize) -> Option<Range<usize>> {
        if need > self.page {
            // Free pages side by side.
            let wide = need.div_ceil(self.page);
            let mut starts = (0..self.count).filter(|first| first + wide <= self.count);
            let is_free =
                |first: &usize| self.is_free(first * self.page..(first + wide) * self.page);
            let first = starts.find(is_free)? * self.page;
            return Some(first..first + need);
        }
        let want = want.clamp(need, self.page);
        let mut numbers: Vec<usize> = (0..self.count).collect();
        numbers.sort_unstable_by_key(|number| number ^ self.order);
        let run = numbers.into_iter().find_map(|number| self.first_on(number, need))?;
        Some(self.cut(run, want))
    }

    /// What a claim from `start` on should get: words of granules as long as
    /// nothing in them is taken.
    fn behind(&self, start: usize, len: usize) -> Option<Range<usize>> {
        let end = (start + len).min(start.next_multiple_of(self.page));
        let mut got = start;
        while got < end {
            let next = (got + 1).next_multiple_of(64).min(end);
            if !self.is_free(got..next) {
                break;
            }
            got = next;
        }
        (got > start).then_some(start..got)
    }

    fn take(&mut self, run: Option<Range<usize>>) -> Range<usize> {
        let Some(run) = run else { return 0..0 };
        assert!(self.is_free(run.clone()), "[B1] {run:?} was taken");
        self.taken[run.clone()].fill(true);
        self.owned.push(run.clone());
        self.pages_of(&run)
    }

    fn release(&mut self, run: Range<usize>) -> Range<usize> {
        self.taken[run.clone()].fill(false);
        self.probe.release(&run);
        self.pages_of(&run)
    }

    fn claim_around(&mut self, run: Pick, most: Granules) -> Range<usize> {
        let Some(at) = run.of(self.owned.len()) else { return 0..0 };
        let run = self.owned[at].clone();
        let most = most.count(self.page);
        let number = run.start / self.page;
        let (low, high) = (number * self.page, (number + 1) * self.page);
        let mut expected = run.clone();
        if run.end <= high {
            let free = |at: &usize| !self.taken[*at];
            let below = (low..run.start).rev().take_while(free).count();
            let above = (run.end..high).take_while(free).count();
            let is_present = |run: Range<usize>| self.units(&run).all(|unit| self.present[unit]);
            if (1..=most).contains(&below) && is_present(run.start - below..run.start) {
                expected.start -= below;
            }
            if (1..=most).contains(&above) && is_present(run.end..run.end + above) {
                expected.end += above;
            }
        }
        assert_eq!(self.probe.claim_around(&run, most), expected, "{most} around {run:?}");
        self.taken[expected.clone()].fill(true);
        self.owned[at] = expected.clone();
        self.pages_of(&expected)
    }

    /// The system pages of a run.
    fn units(&self, run: &Range<usize>) -> Range<usize> {
        run.start / self.unit()..run.end.div_ceil(self.unit())
    }

    fn commit(&mut self, run: Range<usize>) -> Range<usize> {
        let units = self.units(&run);
        let missing = units.clone().filter(|unit| !self.present[*unit]);
        let last = missing.clone().next_back();
        let bytes = missing.count() * system_page();
        assert_eq!(self.probe.missing_bytes(&run), bytes);
        assert_eq!(self.probe.is_committed(&run), bytes == 0);
        assert_eq!(self.probe.commit(&run).expect("memory"), bytes);
        self.present[units].fill(true);
        let last = last.map_or(0, |unit| unit * self.unit() / self.page + 1);
        self.high_water = self.high_water.max(last);
        assert!(self.probe.is_committed(&run), "[P2]");
        self.pages_of(&run)
    }

    fn trim(&mut self, number: usize, limit: usize) {
        let limit = limit * system_page();
        let unit = self.unit();
        let free: Vec<usize> = self
            .holes(number)
            .iter()
            .flat_map(|hole| hole.start.div_ceil(unit)..hole.end / unit)
            .filter(|at| self.present[*at])
            .collect();
        let gone = self.probe.trim_page(number, limit);
        assert!(gone <= limit, "{gone} bytes went where {limit} might");
        if limit >= self.page * 64 {
            assert_eq!(gone, free.len() * system_page(), "all that is free goes");
        }
        // Which of the free ones went is the page's to choose, but no others.
        let present = present(&self.probe, self.present.len());
        let went: Vec<_> = free.into_iter().filter(|at| !present[*at]).collect();
        assert_eq!(went.len() * system_page(), gone);
        went.into_iter().for_each(|at| self.present[at] = false);
    }

    /// Compares all that is said of a page.
    fn compare(&self, number: usize) {
        let (low, holes) = (number * self.page, self.holes(number));
        let all = low..low + self.page;
        let seen = self.probe.holes(number);
        let runs: Vec<_> = holes.iter().map(|it| it.start - low..it.end - low).collect();
        assert_eq!(seen.runs, runs, "page {number}");
        let longest = holes.iter().map(Range::len).max().unwrap_or(0);
        assert_eq!(seen.longest, longest, "page {number}");
        let ones: Vec<_> = all.clone().filter(|at| self.taken[*at]).map(|at| at - low).collect();
        assert_eq!((seen.taken, seen.is_clear), (ones.len(), ones.is_empty()), "page {number}");
        assert_eq!(seen.ones, ones, "page {number}");
        for need in [1, 2, 63, 64, 65, longest, longest + 1, self.page] {
            let first = holes.iter().find(|hole| hole.len() >= need.max(1));
            let first = first.map(|it| it.start - low..it.end - low);
            assert_eq!(self.probe.first_clear(number, need.max(1)), first, "page {number}");
        }
        assert!(all.clone().all(|at| self.probe.is_taken(at) == self.taken[at]), "[B1]");
        assert!(self.probe.is_filed(number), "[P4] page {number}: {seen:?}");
    }

    fn compare_counts(&self) {
        let count = self.present.iter().filter(|present| **present).count();
        assert_eq!(self.probe.committed_bytes(), count * system_page());
        assert_eq!(self.probe.high_water(), self.high_water);
        assert_eq!(present(&self.probe, self.present.len()), self.present);
    }
}

/// Which of `count` system pages are present.
fn present(probe: &PageProbe, count: usize) -> Vec<bool> {
    let mut present = vec![false; count];
    for span in probe.resident() {
        present[span.start / system_page()..span.end / system_page()].fill(true);
    }
    present
}
