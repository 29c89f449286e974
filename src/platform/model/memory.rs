//! Physical memory: what is in it, in which generation, and who has accessed
//! it unordered.
//!
//! Contents are kept by granule and only where something was written, so a
//! region of many megabytes costs nothing. Every write to a granule gives it a
//! new generation, by which the instruction caches know stale copies.
//!
//! Each granule that is touched has a [`Watched`] place: loom fails the model
//! when a write and another access of a granule are not ordered by
//! happens-before, which is how a missing Release or Acquire on the way from
//! writer to runner shows. A page that was filled or emptied as a whole has one
//! place for all its granules until they are touched one by one.

use crate::sync::Watched;
use crate::units::GRANULE;

/// The byte that traps (INT3).
pub(super) const TRAP: u8 = 0xCC;

/// A place of the pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch(usize);

/// The pool of watched places. All were made before any thread was, since
/// making one counts as a write; places are given out once.
pub(super) struct Watches<'a> {
    pub(super) pool: &'a [Watched],
    pub(super) next: &'a mut usize,
}

impl Watches<'_> {
    pub(super) fn take(&mut self) -> Watch {
        let watch = Watch(*self.next);
        *self.next += 1;
        assert!(
            watch.0 < self.pool.len(),
            "the model touches more granules and pages than Options::watches = {} allows",
            self.pool.len()
        );
        watch
    }

    pub(super) fn read(&self, watch: Watch) {
        self.pool[watch.0].read();
    }

    pub(super) fn write(&self, watch: Watch) {
        self.pool[watch.0].write();
    }
}

/// One granule's content.
#[derive(Debug)]
pub(super) struct Granule {
    pub(super) bytes: [u8; GRANULE],
    pub(super) generation: u64,
    /// The generation that fetches see where instruction and data caches are
    /// not coherent: the last one cleaned.
    pub(super) cleaned: u64,
    watch: Watch,
}

/// What every granule of a page holds that has none of its own.
#[derive(Clone, Copy, Debug)]
struct Base {
    byte: u8,
    generation: u64,
    watch: Watch,
}

/// One page of memory.
#[derive(Debug)]
pub(super) struct Frame {
    /// Whether the page is present: populated, and not discarded since.
    pub(super) present: bool,
    base: Base,
    granules: Vec<Option<Granule>>,
    /// Places of granules that a fill of the whole page made equal again; good
    /// for whoever comes after that fill, which taking one checks.
    spare: Vec<Watch>,
    /// Who has populated the page since it became present, each with a place
    /// that it wrote then.
    populated: Vec<(usize, Watch)>,
    /// What the page held, where words are peeked at; oldest first.
    past: Vec<Past>,
}

/// What was written to a page.
#[derive(Debug)]
struct Past {
    /// Number of the write.
    version: u64,
    /// `None` for all of the page.
    granule: Option<usize>,
    bytes: [u8; GRANULE],
}

impl Frame {
    fn new(page: usize, watches: &mut Watches<'_>) -> Self {
        Self {
            present: false,
            base: Base { byte: 0, generation: 0, watch: watches.take() },
            granules: (0..page / GRANULE).map(|_| None).collect(),
            spare: Vec::new(),
            populated: Vec::new(),
            past: Vec::new(),
        }
    }

    /// Notes that `thread` has seen to it that the page is present.
    pub(super) fn populate(&mut self, thread: usize, watches: &mut Watches<'_>) {
        if !self.present {
            self.present = true;
            self.populated.clear();
        }
        if self.populated.iter().all(|(known, _)| *known != thread) {
            let watch = watches.take();
            watches.write(watch);
            self.populated.push((thread, watch));
        }
    }

    /// Reports that `thread` relies on the page's being present: if it has not
    /// populated it, it comes after who has. Where several have, it may be any
    /// of them, and loom cannot be asked which: unwatched.
    pub(super) fn rely_on_presence(&self, thread: usize, watches: &Watches<'_>) {
        if let [(populated, watch)] = self.populated[..]
            && populated != thread
        {
            watches.read(watch);
        }
    }

    fn own(&mut self, index: usize, watches: &mut Watches<'_>) -> &mut Granule {
        let Base { byte, generation, watch } = self.base;
        let spare = &mut self.spare;
        self.granules[index].get_or_insert_with(|| {
            // Whoever touches it comes after what filled the page.
            watches.read(watch);
            Granule {
                bytes: [byte; GRANULE],
                generation,
                cleaned: generation,
                watch: spare.pop().unwrap_or_else(|| watches.take()),
            }
        })
    }

    /// Reads a granule.
    pub(super) fn read(&mut self, index: usize, watches: &mut Watches<'_>) -> &Granule {
        let granule = self.own(index, watches);
        watches.read(granule.watch);
        granule
    }

    /// What a granule held after write number `version`: unwatched.
    pub(super) fn peek(&self, index: usize, version: u64) -> [u8; GRANULE] {
        let is_it = |past: &&Past| {
            past.version <= version && past.granule.is_none_or(|granule| granule == index)
        };
        self.past.iter().rev().find(is_it).map_or([0; GRANULE], |past| past.bytes)
    }

    /// Keeps what a granule holds now for those who peek.
    pub(super) fn remember(&mut self, index: usize, version: u64) {
        if let Some(granule) = &self.granules[index] {
            let bytes = granule.bytes;
            self.past.push(Past { version, granule: Some(index), bytes });
        }
    }

    /// As [`remember`](Self::remember), after [`fill`](Self::fill).
    pub(super) fn remember_fill(&mut self, version: u64) {
        let bytes = [self.base.byte; GRANULE];
        self.past.push(Past { version, granule: None, bytes });
    }

    /// Writes part of a granule.
    pub(super) fn write(
        &mut self,
        index: usize,
        generation: u64,
        watches: &mut Watches<'_>,
    ) -> &mut Granule {
        let granule = self.own(index, watches);
        watches.write(granule.watch);
        granule.generation = generation;
        granule
    }

    /// Makes all of the page one byte.
    pub(super) fn fill(&mut self, byte: u8, generation: u64, watches: &mut Watches<'_>) {
        watches.write(self.base.watch);
        for granule in &mut self.granules {
            if let Some(granule) = granule.take() {
                watches.write(granule.watch);
                self.spare.push(granule.watch);
            }
        }
        self.base = Base { byte, generation, ..self.base };
    }

    /// Makes what was written visible to fetches.
    pub(super) fn clean(&mut self, index: usize) {
        if let Some(granule) = &mut self.granules[index] {
            granule.cleaned = granule.generation;
        }
    }
}

/// One object that mappings can show.
#[derive(Debug)]
pub(super) struct Memory {
    /// A file that still can be mapped.
    pub(super) open: bool,
    pub(super) len: usize,
    frames: Vec<Option<Box<Frame>>>,
    page: usize,
}

impl Memory {
    pub(super) fn new(len: usize, page: usize, open: bool) -> Self {
        Self { open, len, frames: (0..len.div_ceil(page)).map(|_| None).collect(), page }
    }

    /// The page that holds the byte at `offset`.
    pub(super) fn frame(&mut self, offset: usize, watches: &mut Watches<'_>) -> &mut Frame {
        let page = self.page;
        self.frames[offset / page].get_or_insert_with(|| Box::new(Frame::new(page, watches)))
    }

    /// Pages present.
    pub(super) fn present(&self) -> usize {
        self.frames.iter().flatten().filter(|frame| frame.present).count()
    }
}
