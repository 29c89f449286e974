//! Free space of a region, kept outside it: a heap that keeps records inside
//! its pages would need them open on every free.

use std::collections::{BTreeMap, BTreeSet};

use super::Usage;
use super::view::PAGE;

/// Granule of placement, as ours.
pub const GRANULE: usize = 64;

/// Holes by address, to merge them, and by length, to find the shortest that is
/// long enough.
#[derive(Debug)]
pub struct Free {
    by_address: BTreeMap<usize, usize>,
    by_length: BTreeSet<(usize, usize)>,
    /// Live bytes and the highest offset ever used.
    live: usize,
    high: usize,
}

impl Free {
    /// All of `len` bytes free.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let mut free =
            Self { by_address: BTreeMap::new(), by_length: BTreeSet::new(), live: 0, high: 0 };
        free.insert(0, len);
        free
    }

    fn insert(&mut self, at: usize, len: usize) {
        self.by_address.insert(at, len);
        self.by_length.insert((len, at));
    }

    fn remove(&mut self, at: usize, len: usize) {
        self.by_address.remove(&at);
        self.by_length.remove(&(len, at));
    }

    /// Takes the start of the shortest hole of at least `len` bytes.
    pub fn take(&mut self, len: usize) -> usize {
        let &(room, at) = self.by_length.range((len, 0)..).next().expect("heap is full");
        self.remove(at, room);
        if room > len {
            self.insert(at + len, room - len);
        }
        self.live += len;
        self.high = self.high.max(at + len);
        at
    }

    /// Gives `len` bytes at `at` back.
    pub fn give(&mut self, mut at: usize, mut len: usize) {
        self.live -= len;
        if let Some(&after) = self.by_address.get(&(at + len)) {
            self.remove(at + len, after);
            len += after;
        }
        if let Some((&before, &room)) = self.by_address.range(..at).next_back()
            && before + room == at
        {
            self.remove(before, room);
            at = before;
            len += room;
        }
        self.insert(at, len);
    }

    /// What is used; what was ever touched counts as held.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { live: self.live, committed: self.high.next_multiple_of(PAGE), ..Usage::default() }
    }
}
