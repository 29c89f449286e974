//! Flips: a heap whose system pages turn writable, and executable again, for
//! each install. What runs on those pages meanwhile would fault: nobody runs
//! anything here.

use std::sync::{Arc, Mutex};

use super::free::{Free, GRANULE};
use super::view::{self, Mapping, PAGE};
use super::{NotHere, Rival, RivalThread, Usage};

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
