//! One mapping per executor: what CPython's JIT does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::view::{self, Mapping, PAGE};
use super::{Rival, RivalThread, Usage};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Mappings(Arc<AtomicUsize>);

impl Mappings {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Rival for Mappings {
    type Thread = Self;

    fn name(&self) -> String {
        "mapping".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    fn usage(&self) -> Usage {
        Usage { live: 0, committed: self.0.load(Ordering::Relaxed), ..Usage::default() }
    }
}

impl RivalThread for Mappings {
    type Code = Mapping;

    fn install(&mut self, code: &[u8]) -> Mapping {
        let len = code.len().next_multiple_of(PAGE);
        let mapping = Mapping::private(len, libc::PROT_READ | libc::PROT_WRITE).expect("mmap");
        // SAFETY: a writable mapping of our own.
        unsafe { view::copy(mapping.start, code) };
        mapping.protect(0, len, libc::PROT_READ | libc::PROT_EXEC).expect("mprotect");
        self.0.fetch_add(len, Ordering::Relaxed);
        mapping
    }

    fn free(&mut self, code: Mapping) {
        self.0.fetch_sub(code.len, Ordering::Relaxed);
        drop(code);
    }

    fn addr(code: &Mapping) -> usize {
        code.start
    }
}
