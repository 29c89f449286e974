//! Instruction caches: what a thread may still execute of old bytes.
//!
//! Two levels, both named by the address code runs at. A core keeps what it has
//! fetched until it is synchronised; on x86 this stands for its pipeline and
//! whatever else the manual lets it hold of code that *another* core modifies
//! (Intel SDM volume 3, 9.1.3). Below it, where instruction and data caches are
//! not coherent (Arm ARM, B2.4.4), a shared cache keeps lines until they are
//! invalidated, and fills them from what was cleaned out of the data cache.
//!
//! Threads stand for cores: one that moves to another core is synchronised on
//! the way, which makes it less likely to see stale code, not more.

use std::collections::HashMap;

use super::memory::Granule;
use crate::units::GRANULE;

/// All instruction caches of the machine.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// By thread and granule: the generation fetched.
    cores: HashMap<(usize, usize), u64>,
    /// By granule; only without coherence.
    shared: HashMap<usize, u64>,
    coherent: bool,
}

impl Caches {
    /// Empty caches; `coherent` if they see what data caches hold.
    pub(super) fn new(coherent: bool) -> Self {
        Self { coherent, ..Self::default() }
    }

    /// The generation that `thread` executes when it fetches at `addr`.
    pub(super) fn fetch(&mut self, thread: usize, addr: usize, granule: &Granule) -> u64 {
        let line = addr & !(GRANULE - 1);
        let below = if self.coherent {
            granule.generation
        } else {
            *self.shared.entry(line).or_insert(granule.cleaned)
        };
        *self.cores.entry((thread, line)).or_insert(below)
    }

    /// Every core executes a serialising instruction.
    pub(super) fn synchronise(&mut self) {
        self.cores.clear();
    }

    /// `thread` invalidates lines everywhere, and synchronises itself.
    pub(super) fn invalidate(&mut self, thread: usize, start: usize, end: usize) {
        if self.coherent {
            return;
        }
        self.shared.retain(|line, _| *line + GRANULE <= start || *line >= end);
        self.cores.retain(|(core, _), _| *core != thread);
    }

    /// Addresses were unmapped; they are not handed out again.
    pub(super) fn forget(&mut self, start: usize, end: usize) {
        self.shared.retain(|line, _| *line + GRANULE <= start || *line >= end);
        self.cores.retain(|(_, line), _| *line + GRANULE <= start || *line >= end);
    }
}
