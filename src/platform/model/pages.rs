//! Page tables: which addresses show which memory, and with what rights.
//!
//! Changes are single steps although a real one reaches the cores one by one:
//! while it is under way an access sees the old entry or the new one, so it is
//! legal for certain only if it is legal under both, and the checkers run it
//! before the change as well as after it. An access that is not ordered with
//! the change at all is reported as a race, see [`super::memory`].

use std::collections::HashMap;

use super::memory::{Watch, Watches};
use crate::platform::{Access, Key};

/// Addresses that show consecutive pages of one memory with the same rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) access: Access,
    pub(super) key: Key,
    /// Index of the memory shown, and the offset of the first byte shown.
    pub(super) memory: usize,
    pub(super) offset: usize,
    /// Whether per-thread toggles apply.
    pub(super) jit: bool,
    /// Whether it can be duplicated.
    pub(super) shared: bool,
}

impl Mapping {
    pub(super) fn end(&self) -> usize {
        self.start + self.len
    }

    fn cut(&self, start: usize, end: usize) -> Self {
        Self { start, len: end - start, offset: self.offset + (start - self.start), ..*self }
    }
}

/// All mappings.
#[derive(Debug)]
pub(super) struct Pages {
    /// Sorted, disjoint.
    mappings: Vec<Mapping>,
    /// Watches of page-table entries, by address, from their first use on.
    entries: HashMap<usize, Watch>,
    next: usize,
    page: usize,
}

/// A system page before the first address handed out: nothing real lies there, and
/// the address is a multiple of a system page but of nothing larger, as real ones
/// are.
const FIRST: usize = 0x5EED_0000_0000;

impl Pages {
    pub(super) fn new(page: usize) -> Self {
        Self { mappings: Vec::new(), entries: HashMap::new(), next: FIRST + page, page }
    }

    pub(super) fn find(&self, addr: usize) -> Option<&Mapping> {
        let behind = self.mappings.partition_point(|one| one.start <= addr);
        self.mappings[..behind].last().filter(|one| addr < one.end())
    }

    pub(super) fn all(&self) -> &[Mapping] {
        &self.mappings
    }

    /// A free range: `near`, or one never used before.
    pub(super) fn place(&mut self, near: Option<usize>, len: usize) -> usize {
        if let Some(near) = near.filter(|near| near.is_multiple_of(self.page) && *near != 0) {
            let free = |one: &Mapping| one.end() <= near || one.start >= near + len;
            if near < FIRST / 2 && self.mappings.iter().all(free) {
                return near;
            }
        }
        let start = self.next;
        // A hole behind each, so that overruns hit nothing.
        self.next += len + self.page;
        start
    }

    pub(super) fn insert(&mut self, mapping: Mapping) {
        let at = self.mappings.partition_point(|one| one.start < mapping.start);
        self.mappings.insert(at, mapping);
    }

    /// Whether all of a range is mapped.
    pub(super) fn covers(&self, start: usize, len: usize) -> bool {
        let mut at = start;
        while at < start + len {
            match self.find(at) {
                Some(mapping) => at = mapping.end(),
                None => return false,
            }
        }
        true
    }

    /// Takes a fully mapped range out, in pieces.
    pub(super) fn take(&mut self, start: usize, len: usize) -> Vec<Mapping> {
        let end = start + len;
        let mut taken = Vec::new();
        let mut kept = Vec::with_capacity(self.mappings.len() + 2);
        for one in self.mappings.drain(..) {
            if one.end() <= start || one.start >= end {
                kept.push(one);
                continue;
            }
            if one.start < start {
                kept.push(one.cut(one.start, start));
            }
            taken.push(one.cut(one.start.max(start), one.end().min(end)));
            if one.end() > end {
                kept.push(one.cut(end, one.end()));
            }
        }
        self.mappings = kept;
        taken
    }

    /// Reports that the calling thread uses the entry of the page at `addr`.
    pub(super) fn used(&mut self, addr: usize, watches: &mut Watches<'_>) {
        let page = addr & !(self.page - 1);
        let watch = *self.entries.entry(page).or_insert_with(|| watches.take());
        watches.read(watch);
    }

    /// Reports that the calling thread changes the entries of a range. An
    /// entry that nobody has used yet is not watched: a use that comes later
    /// without being ordered is seen by the watch of the content used.
    pub(super) fn changed(&mut self, start: usize, len: usize, watches: &Watches<'_>) {
        for (page, watch) in &self.entries {
            if (start..start + len).contains(page) {
                watches.write(*watch);
            }
        }
    }

    /// Forgets the entries of a range that is unmapped: the addresses are not
    /// handed out again.
    pub(super) fn forget(&mut self, start: usize, len: usize) {
        for page in (start..start + len).step_by(self.page) {
            self.entries.remove(&page);
        }
    }
}
