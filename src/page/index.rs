//! The index of holes: the lowest code page that has a hole of at least so many
//! granules, in a bounded number of steps whatever the number of pages.
//!
//! A tree of eights. A leaf is at least as great as its page's longest hole,
//! every node above as the greatest of its children, so a search goes down to
//! the first child that is great enough, one cache line a level. All of it is
//! a *hint* in one direction: a page found here may have lost its hole (the
//! page's own bitmap decides, and the finder files the page anew), but a
//! page's hole is never forgotten, `[P4]`: no node stays below what lies under
//! it.
//!
//! Two protocols keep that. A leaf counts how often it was told of a hole: who
//! lowers it reads it first, then measures the page, and gives up if anyone
//! told the leaf of a hole meanwhile. Who lowers a node above looks at its
//! children once more when it has.
//!
//! Address order matters: the first of any sixteen suitable pages packed a
//! recorded trace with 1.46 × its live bytes, the lowest with 1.07 ×.

use crate::sync::{AtomicU64, Ordering, mutant, zeroed_words};

/// Children a node.
const FAN: usize = 8;

/// Bits of a leaf that tell the longest hole; those above count.
const LENGTH: u32 = 16;

/// What a leaf says of its page's longest hole, in granules.
const fn length(leaf: u64) -> usize {
    (leaf & ((1 << LENGTH) - 1)) as usize
}

/// All pages, filed by the length of their longest hole.
///
/// Progress: lock-free; a retry follows another thread's change.
pub(crate) struct Index {
    /// Leaves first; the last level is one cache line.
    levels: Vec<Box<[AtomicU64]>>,
    /// Three bits a level, leaves first: what numbers of children are exclusive-ored
    /// with to have them in order.
    order: u64,
}

impl Index {
    /// An index of `pages` pages of `granules` granules each, none of which has
    /// a hole. The *lowest* page is by address if `order` is 0, and by another order
    /// for each other, in which pages that are close are close as well.
    pub(crate) fn new(pages: usize, granules: usize, order: u64) -> Self {
        assert!(granules < 1 << LENGTH, "a page is larger than a leaf can tell");
        let mut levels = vec![zeroed_words(pages)];
        let mut nodes = pages;
        while nodes > FAN {
            nodes = nodes.div_ceil(FAN);
            levels.push(zeroed_words(nodes));
        }
        Self { levels, order }
    }

    /// Goes through the pages that are filed as having a hole of `granules`,
    /// lowest first, until `claim` gets something out of one.
    ///
    /// A page of which `claim` gets nothing is filed by what `longest` finds
    /// there. What is raised behind the search's back is not found.
    pub(crate) fn search<T>(
        &self,
        granules: usize,
        mut claim: impl FnMut(usize) -> Option<T>,
        longest: impl Fn(usize) -> usize,
    ) -> Option<T> {
        self.search_below(self.levels.len(), 0, granules, &mut claim, &longest)
    }

    /// Searches below node `at` of `level`; above the highest level there is
    /// one node, which is not kept. Lowers what promised too much.
    fn search_below<T>(
        &self,
        level: usize,
        at: usize,
        granules: usize,
        claim: &mut impl FnMut(usize) -> Option<T>,
        longest: &impl Fn(usize) -> usize,
    ) -> Option<T> {
        let below = level - 1;
        let children = self.children(below, at);
        let order = (self.order >> (FAN.trailing_zeros() as usize * below)) as usize % FAN;
        for child in (0..FAN).map(|number| number ^ order) {
            let Some(node) = children.get(child) else { continue };
            // Acquire [P4]: pairs with the Release in `raise`: who finds a hole
            // here sees it in the bitmap, and so does `longest` afterwards.
            let was = node.load(Ordering::Acquire);
            if length(was) < granules {
                continue;
            }
            let child = at * FAN + child;
            let found = if below > 0 {
                self.search_below(below, child, granules, claim, longest)
            } else {
                claim(child)
            };
            if found.is_some() {
                return found;
            }
            if below > 0 {
                self.lower(below, child);
            } else {
                let to = was >> LENGTH << LENGTH | longest(child) as u64;
                if mutant("leaf-lowered-blindly") {
                    node.store(to, Ordering::Relaxed);
                }
                // Relaxed [P4]: what was measured was read after the load above.
                // If it fails, somebody made a hole here or lowered the leaf:
                // one that is too high is only a detour.
                let _ = node.compare_exchange(was, to, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        None
    }

    fn children(&self, level: usize, at: usize) -> &[AtomicU64] {
        let nodes = &self.levels[level];
        &nodes[at * FAN..nodes.len().min((at + 1) * FAN)]
    }

    /// Forgets all holes. By a thread that is alone.
    pub(crate) fn clear(&self) {
        // Relaxed: nobody else is there.
        self.levels.iter().flatten().for_each(|node| node.store(0, Ordering::Relaxed));
    }

    /// Notes that `page` has a hole of `granules`, which just came to be.
    pub(crate) fn raise(&self, page: usize, granules: usize) {
        let leaf = &self.levels[0][page];
        // Relaxed: the compare-and-swap decides.
        let mut was = leaf.load(Ordering::Relaxed);
        loop {
            let count = (was >> LENGTH).wrapping_add(1) << LENGTH;
            let to = count | length(was).max(granules) as u64;
            // Release [P4]: either a search loads the leaf after this, and then
            // sees the hole as it looks; or its compare-and-swap fails. Acquire:
            // of two that file neighbours, the later one sees both, see
            // `Pages::file`.
            match leaf.compare_exchange_weak(was, to, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => was = now,
            }
        }
        if length(was) < granules {
            self.raise_from(1, page / FAN, granules);
        }
    }

    /// Raises node `at` of `level` to `granules`, and the nodes above it.
    fn raise_from(&self, level: usize, mut at: usize, granules: usize) {
        for nodes in &self.levels[level..] {
            // Release [P4]: either the lowering in `lower` comes later and sees
            // what was raised below, or this comes later and raises what it
            // left.
            if nodes[at].fetch_max(granules as u64, Ordering::Release) >= granules as u64 {
                // Whoever raised this raises what is above.
                return;
            }
            at /= FAN;
        }
    }

    /// Lowers a node above the leaves to what its children have.
    fn lower(&self, level: usize, at: usize) {
        let node = &self.levels[level][at];
        // Relaxed: the compare-and-swap decides.
        let was = node.load(Ordering::Relaxed);
        let to = self.greatest_below(level, at) as u64;
        if to >= was
            // Acquire [P4]: pairs with the Release in `raise_from`.
            || node.compare_exchange(was, to, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        if mutant("node-lowered-blindly") {
            return;
        }
        // Who raised a child before the lowering may have left the node alone.
        let now = self.greatest_below(level, at);
        if now as u64 > to {
            self.raise_from(level, at, now);
        }
    }

    fn greatest_below(&self, level: usize, at: usize) -> usize {
        // Relaxed: what was raised before the lowering is seen by its Acquire.
        let lengths = self.children(level - 1, at).iter();
        lengths.map(|node| length(node.load(Ordering::Relaxed))).max().unwrap_or(0)
    }

    /// Whether a search for `granules` can find `page`, `[P4]`.
    pub(crate) fn is_filed(&self, page: usize, granules: usize) -> bool {
        let mut at = page;
        self.levels.iter().enumerate().all(|(level, nodes)| {
            at = if level == 0 { page } else { at / FAN };
            // Relaxed: whoever sees that the arena is at rest has been ordered
            // after all that was done to it.
            length(nodes[at].load(Ordering::Relaxed)) >= granules
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::thread;

    impl Index {
        /// The first page that a search comes to.
        fn lowest(&self, granules: usize) -> Option<usize> {
            self.search(granules, Some, |_| 0)
        }

        /// Finds that `page` has no more than `granules`.
        fn lower_to(&self, page: usize, granules: usize) {
            let filed = |at: usize| length(self.levels[0][at].load(Ordering::Relaxed));
            let measured = |at| if at == page { granules } else { filed(at) };
            self.search(granules + 1, |_| None::<()>, measured);
        }
    }

    #[test]
    fn the_lowest_page_is_found_through_all_levels() {
        for pages in [1, 7, 8, 9, 64, 65, 4096, 4097, 40_000] {
            let index = Index::new(pages, 1024, 0);
            assert_eq!(index.lowest(1), None);
            let mut members = vec![pages - 1, pages / 2, pages / 3, 0];
            members.dedup();
            for &page in &members {
                index.raise(page, 10 + page % 7);
                assert!(index.is_filed(page, 10 + page % 7));
            }
            while let Some(lowest) = index.lowest(10) {
                assert_eq!(Some(&lowest), members.last());
                index.lower_to(lowest, 9);
                assert!(index.is_filed(lowest, 9));
                members.pop();
            }
            assert!(members.is_empty());
        }
    }

    #[test]
    fn an_order_goes_through_all_pages_and_its_own_way() {
        let ways = [0, 0x5A3, 0x7_F00D].map(|order| {
            let index = Index::new(600, 1024, order);
            (0..600).for_each(|page| index.raise(page, 10));
            let mut way = Vec::new();
            let mut pass = |page| {
                way.push(page);
                None::<()>
            };
            assert_eq!(index.search(10, &mut pass, |_| 0), None);
            way
        });
        assert!(ways[0].is_sorted() && ways[1] != ways[0] && ways[2] != ways[0]);
        for mut way in ways {
            way.sort_unstable();
            assert_eq!(way, (0..600).collect::<Vec<_>>());
        }
    }

    #[test]
    fn p4_a_page_moves_with_its_longest_hole() {
        let index = Index::new(100, 1024, 0);
        index.raise(50, 40);
        index.raise(3, 11);
        assert_eq!(index.lowest(11), Some(3));
        assert_eq!(index.lowest(12), Some(50));
        assert_eq!(index.lowest(41), None);
        index.lower_to(50, 2);
        assert_eq!(index.lowest(12), None);
        assert_eq!(index.lowest(3), Some(3));
        assert!(index.is_filed(50, 2));
        assert!(!index.is_filed(50, 3));
        index.lower_to(3, 0);
        index.lower_to(50, 0);
        assert_eq!(index.lowest(1), None);
    }

    #[test]
    fn p4_a_hole_made_while_measuring_is_not_forgotten() {
        let index = Index::new(9, 1024, 0);
        index.raise(4, 100);
        let nothing = |_| None::<()>;
        index.search(50, nothing, |page| {
            // As long as what is filed, so that only the count tells.
            index.raise(page, 100);
            0
        });
        assert_eq!(index.lowest(100), Some(4));
    }

    /// Pages as their bitmaps would tell, in an index, for a checker.
    struct Filed {
        index: Index,
        truth: Vec<AtomicU64>,
    }

    impl Filed {
        fn make_hole(&self, page: usize, len: usize) {
            self.truth[page].fetch_max(len as u64, Ordering::Release);
            self.index.raise(page, len);
        }

        /// Takes the lowest hole that is long enough, whole.
        fn take(&self, need: usize) -> Option<usize> {
            let claim = |page: usize| {
                let hole = self.truth[page].load(Ordering::Relaxed);
                let taken = hole >= need as u64
                    && self.truth[page]
                        .compare_exchange(hole, 0, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok();
                taken.then_some(page)
            };
            let longest = |page: usize| self.truth[page].load(Ordering::Relaxed) as usize;
            self.index.search(need, claim, longest)
        }
    }

    #[test]
    fn p4_holes_made_behind_searches_are_findable() {
        // One level of nodes above the leaves, and two.
        for pages in [10, 65] {
            crate::sync::explore(move || {
                let truth = (0..pages).map(|_| AtomicU64::new(0)).collect();
                let filed = Arc::new(Filed { index: Index::new(pages, 1024, 0), truth });
                // Something to search in vain beside what comes.
                filed.make_hole(pages - 2, 5);
                let maker = {
                    let filed = Arc::clone(&filed);
                    thread::spawn(move || filed.make_hole(pages - 1, 5))
                };
                filed.take(5);
                filed.take(5);
                maker.join().unwrap();
                for (page, len) in filed.truth.iter().enumerate() {
                    let len = len.load(Ordering::Relaxed) as usize;
                    assert!(filed.index.is_filed(page, len), "[P4] page {page}");
                }
            });
        }
    }

    #[test]
    fn whatever_comes_to_be_and_goes_the_lowest_is_found() {
        for seed in 1..=20_u64 {
            let pages = 1 + (seed as usize * 37) % 300;
            let index = Index::new(pages, 1024, 0);
            // What each page has, and nothing else.
            let mut naive = vec![0_usize; pages];
            let mut state = seed;
            for _ in 0..2000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (page, len) = ((state >> 33) as usize % pages, (state >> 20) as usize % 1000);
                if state >> 62 > 1 {
                    naive[page] = naive[page].max(len);
                    index.raise(page, len);
                } else {
                    let need = 1 + len;
                    let expected = naive.iter().position(|has| *has >= need);
                    let has = naive.clone();
                    let take = |at: usize| (has[at] >= need).then_some(at);
                    assert_eq!(index.search(need, take, |at| has[at]), expected, "seed {seed}");
                    if let Some(at) = expected {
                        naive[at] -= need;
                    }
                }
            }
            let filed = |(page, has): (usize, &usize)| index.is_filed(page, *has);
            assert!(naive.iter().enumerate().all(filed), "seed {seed}");
        }
    }

    #[test]
    fn p4_threads_that_raise_and_lower_leave_every_hole_findable() {
        use std::sync::atomic::AtomicUsize;
        // What the pages really have, as their bitmaps would tell.
        let truth: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let index = Index::new(truth.len(), 1024, 0);
        std::thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let (truth, index) = (&truth, &index);
                scope.spawn(move || {
                    let mut state = seed;
                    for _ in 0..20_000 {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let page = (state >> 33) as usize % truth.len();
                        let len = (state >> 50) as usize % 8;
                        if len > 0 {
                            truth[page].fetch_max(len, Ordering::AcqRel);
                            index.raise(page, len);
                        } else {
                            let need = 1 + page % 7;
                            let take = |at: usize| {
                                let had = truth[at].swap(0, Ordering::AcqRel);
                                (had >= need).then_some(())
                            };
                            index.search(need, take, |at| truth[at].load(Ordering::Acquire));
                        }
                    }
                });
            }
        });
        for (page, len) in truth.iter().enumerate() {
            assert!(index.is_filed(page, len.load(Ordering::Relaxed)), "page {page}");
        }
    }
}
