//! Transient aliases: a heap with one lasting executable view, whose system
//! pages are mapped writable a second time for each install.

use std::sync::{Arc, Mutex};

use super::free::{Free, GRANULE};
use super::view::{self, Mapping, MemoryFile, PAGE};
use super::{NotHere, Rival, RivalThread, Usage};

/// See the module.
#[derive(Clone, Debug)]
pub struct Alias(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Mutex<Free>,
    file: MemoryFile,
    executable: Mapping,
}

impl Alias {
    /// With room for `live` bytes.
    pub fn new(live: usize) -> Result<Self, NotHere> {
        let refuse = |error| NotHere(format!("memory file: {error}"));
        let len = (4 * live).max(64 << 20).next_multiple_of(PAGE);
        let file = MemoryFile::new(len).map_err(refuse)?;
        let executable = file.map(0, len, libc::PROT_READ | libc::PROT_EXEC).map_err(refuse)?;
        Ok(Self(Arc::new(Inner { free: Mutex::new(Free::new(len)), file, executable })))
    }
}

impl Rival for Alias {
    type Thread = Self;

    fn name(&self) -> String {
        "alias".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    fn usage(&self) -> Usage {
        self.0.free.lock().expect("heap").usage()
    }
}

impl RivalThread for Alias {
    type Code = (usize, usize);

    fn install(&mut self, code: &[u8]) -> (usize, usize) {
        let len = code.len().next_multiple_of(GRANULE);
        let at = self.0.free.lock().expect("heap").take(len);
        let (low, high) = (at & !(PAGE - 1), (at + len).next_multiple_of(PAGE));
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let window = self.0.file.map(low, high - low, rights).expect("mmap");
        // SAFETY: a block of our own, inside the window.
        unsafe { view::copy(window.start + (at - low), code) };
        (self.0.executable.start + at, len)
    }

    fn free(&mut self, (addr, len): (usize, usize)) {
        self.0.free.lock().expect("heap").give(addr - self.0.executable.start, len);
    }

    fn addr(code: &(usize, usize)) -> usize {
        code.0
    }
}
