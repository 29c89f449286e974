//! What must hold of free memory when nothing is in flight: nothing lost, no
//! hole overlooked.

use jit_arena::{GRANULE, Span, Stats};

use super::{Oracle, State};

impl Oracle {
    /// The units that blocks of the arena occupy, sorted, adjacent ones joined.
    fn occupied(&self, arena: usize) -> Vec<Span> {
        let unit = self.arena(arena).unit();
        let mut spans: Vec<Span> = Vec::new();
        for id in self.by_address.values() {
            let block = &self.blocks[id];
            if block.arena != arena {
                continue;
            }
            let span = block.granules().round_out(unit);
            match spans.last_mut() {
                Some(last) if last.end() >= span.start => {
                    last.len = last.end().max(span.end()) - last.start;
                }
                _ => spans.push(span),
            }
        }
        spans
    }

    /// Whether a block that takes `granules` at most finds a place: within one
    /// code page if it is no longer than that, otherwise in whole free ones.
    fn has_hole(&self, arena: usize, granules: usize) -> bool {
        let model = self.arena(arena);
        let page = model.setup.code_page;
        let need = (granules * GRANULE).next_multiple_of(model.unit());
        let pages = need.div_ceil(page);
        let occupied = self.occupied(arena);
        // The first free byte from `at` on, and how many follow it.
        let longest_in = |start: usize, end: usize| {
            let (mut at, mut longest) = (start, 0);
            for span in occupied.iter().filter(|it| it.end() > start && it.start < end) {
                longest = longest.max(span.start.saturating_sub(at));
                at = at.max(span.end());
            }
            longest.max(end.saturating_sub(at))
        };
        let span = model.span;
        (span.start..span.end()).step_by(page).any(|start| {
            if pages == 1 {
                longest_in(start, start + page) >= need
            } else {
                let end = start + pages * page;
                end <= span.end() && longest_in(start, end) == end - start
            }
        })
    }

    /// A reservation was refused for want of a hole; everything reclaimable
    /// had been reclaimed before.
    pub fn check_exhausted(&self, arena: usize, granules: usize) {
        assert!(
            !self.has_hole(arena, granules),
            "{granules} granules were refused, but there is a hole: {:x?} of {:x?}",
            self.occupied(arena),
            self.arena(arena).span,
        );
    }

    /// All handles have collected, and nothing is pinned, in a write scope or
    /// dropped by another thread: exactly the blocks that live are taken.
    pub fn check_settled(&self, arena: usize, stats: &Stats) {
        assert_eq!(stats.retired_executors, 0, "garbage nobody protects: {stats:?}");
        assert_eq!(stats.retired_bytes, 0, "{stats:?}");
        assert_eq!(stats.claimed_bytes, 0, "claims were given back: {stats:?}");
        let taken: usize = self.occupied(arena).iter().map(|span| span.len).sum();
        let counted = stats.committed_bytes - stats.hole_bytes;
        assert_eq!(counted, taken as u64, "bytes taken: {stats:?}");
        let any = self.blocks.values().any(|block| block.arena == arena);
        let live = self.blocks.values().filter(|it| it.arena == arena);
        assert!(live.clone().all(|it| !matches!(it.state, State::Retired { .. })));
        if !any {
            assert_eq!(stats.committed_bytes, 0, "an empty arena holds memory: {stats:?}");
        }
    }
}
