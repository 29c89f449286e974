//! The index alone, searched while pages change under the search.
//!
//! What other threads can do between two steps of a search is done in the calls
//! that it makes: a hole comes to be, on the page in hand or another, before a
//! page is tried, while it is measured, or when it has been; or somebody else
//! takes the hole first.

use std::cell::{Cell, RefCell};

use arbitrary::{Arbitrary, Unstructured};
use jit_arena::probe::IndexProbe;

use super::ops;
use crate::Outcome;

/// One operation.
#[derive(Arbitrary, Clone, Debug)]
enum Op {
    /// A hole comes to be.
    Make(u16, u16),
    /// A page loses its holes but for one, and the index does not hear of it.
    Lose(u16, u16),
    /// A search, with what befalls it at each call it makes.
    Search(u16, Vec<Event>),
    /// All is filed anew.
    Refile,
}

/// What others do.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Event {
    /// Nothing.
    Nothing,
    /// They make a hole on a page.
    Make(u16, u16),
    /// They make one on the page that the search is at.
    MakeHere(u16),
    /// They take what the page has, but for so much.
    TakeHere(u16),
    /// They refuse the search its hole: one that was taken word by word, and is
    /// there again.
    Refuse,
}

/// An index with the model beside it.
struct Searched {
    index: IndexProbe,
    /// The longest hole of each page.
    truth: RefCell<Vec<usize>>,
    granules: usize,
    order: usize,
}

/// Runs a program.
///
/// # Errors
///
/// There is not even a setup.
///
/// # Panics
///
/// If a hole is forgotten, or pages come in another order.
pub fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<Outcome> {
    let pages = 1 + usize::from(u.arbitrary::<u16>()?) % 700;
    let granules = [1024, 64, 4096][usize::from(u.arbitrary::<u8>()? % 3)];
    let order: u64 = if u.arbitrary()? { u.arbitrary()? } else { 0 };
    let index = IndexProbe::new(pages, granules, order);
    // Three bits a level; the last level is at most eight nodes.
    let mut bits = 3;
    while pages > 1 << bits {
        bits += 3;
    }
    let truth = RefCell::new(vec![0; pages]);
    let order = order as usize & ((1 << bits) - 1);
    let it = Searched { index, truth, granules, order };
    let program: Vec<Op> = ops(u);
    let steps = program.len();
    for op in program {
        it.execute(op);
        for (page, longest) in it.truth.borrow().iter().enumerate() {
            assert!(it.index.is_filed(page, *longest), "[P4] page {page} has {longest}");
        }
    }
    Ok(Outcome::Ran { steps })
}

impl Searched {
    fn page(&self, page: u16) -> usize {
        usize::from(page) % self.truth.borrow().len()
    }

    /// A hole that can be: no longer than a page.
    fn make(&self, page: usize, len: u16) {
        let len = usize::from(len) % (self.granules + 1);
        let longest = &mut self.truth.borrow_mut()[page];
        *longest = len.max(*longest);
        self.index.raise(page, len);
    }

    fn lose(&self, page: usize, len: u16) {
        let longest = &mut self.truth.borrow_mut()[page];
        *longest = usize::from(len).min(*longest);
    }

    fn execute(&self, op: Op) {
        match op {
            Op::Make(page, len) => self.make(self.page(page), len),
            Op::Lose(page, len) => self.lose(self.page(page), len),
            Op::Search(need, events) => self.search(1 + usize::from(need) % self.granules, &events),
            Op::Refile => {
                self.index.clear();
                for (page, longest) in self.truth.borrow().iter().enumerate() {
                    self.index.raise(page, *longest);
                }
            }
        }
    }

    /// Whether the page has to refuse.
    fn befall(&self, event: Option<&Event>, page: usize) -> bool {
        match event {
            None | Some(Event::Nothing) => {}
            Some(Event::Make(other, len)) => self.make(self.page(*other), *len),
            Some(Event::MakeHere(len)) => self.make(page, *len),
            Some(Event::TakeHere(len)) => self.lose(page, *len),
            Some(Event::Refuse) => return true,
        }
        false
    }

    fn search(&self, need: usize, events: &[Event]) {
        let before = self.truth.borrow().clone();
        let call = Cell::new(0);
        let next = |page: usize| {
            let event = events.get(call.get());
            call.set(call.get() + 1);
            self.befall(event, page)
        };
        let mut visited = Vec::new();
        let claim = |page: usize| {
            visited.push(page);
            let refused = next(page);
            let longest = &mut self.truth.borrow_mut()[page];
            if refused || *longest < need {
                return None;
            }
            // The rest is still a hole, and the index hears of it in time.
            *longest -= need;
            Some(page)
        };
        let longest = |page: usize| {
            let measured = self.truth.borrow()[page];
            next(page);
            // What came since was told; what went is no promise.
            measured
        };
        let found = self.index.search(need, claim, longest);
        assert!(visited.is_sorted_by_key(|page| page ^ self.order), "{visited:?}");
        assert!(visited.windows(2).all(|two| two[0] != two[1]), "{visited:?}");
        // Whatever had the hole beforehand, and was not skipped by coming to the end
        // in front of it, was tried.
        let end = found.map_or(usize::MAX, |page| page ^ self.order);
        for (page, longest) in before.iter().enumerate() {
            let due = *longest >= need && page ^ self.order <= end;
            assert!(!due || visited.contains(&page), "[P4] page {page} was not tried");
        }
    }
}
