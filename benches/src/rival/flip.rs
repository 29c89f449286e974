//! Flips: a heap whose system pages turn writable, and executable again, for
//! each install. What runs on those pages meanwhile would fault: nobody runs
//! anything here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::view::{self, Mapping, PAGE};
use super::{NotHere, Rival, RivalThread, Usage};

/// Free space by address, first fit, kept outside the pages it describes: a
/// heap that keeps records inside them would need them open on every free.
#[derive(Debug)]
pub struct Free {
    holes: BTreeMap<usize, usize>,
    /// Live bytes and the highest offset ever used.
    live: usize,
    high: usize,
}

impl Free {
    /// All of `len` bytes free.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { holes: BTreeMap::from([(0, len)]), live: 0, high: 0 }
    }

    /// Takes the lowest hole of `len` bytes.
    pub fn take(&mut self, len: usize) -> usize {
        let (&at, &room) = self.holes.iter().find(|&(_, &room)| room >= len).expect("heap is full");
        self.holes.remove(&at);
        if room > len {
            self.holes.insert(at + len, room - len);
        }
        self.live += len;
        self.high = self.high.max(at + len);
        at
    }

    /// Gives `len` bytes at `at` back.
    pub fn give(&mut self, mut at: usize, mut len: usize) {
        self.live -= len;
        if let Some(after) = self.holes.remove(&(at + len)) {
            len += after;
        }
        if let Some((&before, &room)) = self.holes.range(..at).next_back()
            && before + room == at
        {
            self.holes.remove(&before);
            at = before;
            len += room;
        }
        self.holes.insert(at, len);
    }

    /// What is used; what was ever touched counts as held.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { live: self.live, committed: self.high.next_multiple_of(PAGE), ..Usage::default() }
    }
}

/// Granule of placement, as ours.
pub const GRANULE: usize = 64;

/// See the module.
#[derive(Clone, Debug)]
pub struct Flip(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Mutex<Free>,
    memory: Mapping,
}

impl Flip {
    /// With room for `live` bytes.
    pub fn new(live: usize) -> Result<Self, NotHere> {
        let len = (4 * live).max(64 << 20).next_multiple_of(PAGE);
        let memory = Mapping::private(len, libc::PROT_READ | libc::PROT_EXEC)
            .map_err(|error| NotHere(format!("mmap: {error}")))?;
        Ok(Self(Arc::new(Inner { free: Mutex::new(Free::new(len)), memory })))
    }
}

impl Rival for Flip {
    type Thread = Self;

    fn name(&self) -> String {
        "flip".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    fn usage(&self) -> Usage {
        self.0.free.lock().expect("heap").usage()
    }
}

impl RivalThread for Flip {
    type Code = (usize, usize);

    fn install(&mut self, code: &[u8]) -> (usize, usize) {
        let len = code.len().next_multiple_of(GRANULE);
        let memory = &self.0.memory;
        // Over the whole flip: another thread's flip of the same page would
        // close it under this thread's pen.
        let mut free = self.0.free.lock().expect("heap");
        let at = free.take(len);
        let (low, high) = (at & !(PAGE - 1), (at + len).next_multiple_of(PAGE));
        memory.protect(low, high - low, libc::PROT_READ | libc::PROT_WRITE).expect("mprotect");
        // SAFETY: a block of our own, writable now.
        unsafe { view::copy(memory.start + at, code) };
        memory.protect(low, high - low, libc::PROT_READ | libc::PROT_EXEC).expect("mprotect");
        (memory.start + at, len)
    }

    fn free(&mut self, (addr, len): (usize, usize)) {
        self.0.free.lock().expect("heap").give(addr - self.0.memory.start, len);
    }

    fn addr(code: &(usize, usize)) -> usize {
        code.0
    }
}
