//! `jit-allocator` 0.2.8: asmjit's `JitAllocator` in Rust, two lasting views,
//! behind a mutex (it has none of its own).
//!
//! As published it hands out spans that overlap live ones (`check::is_sound` says
//! when), and then runs off the end of its own records. So nothing times it
//! before it has passed that check.

use std::sync::{Arc, Mutex};

use jit_allocator::{JitAllocator, JitAllocatorOptions};

use super::view;
use super::{Rival, RivalThread, Usage};

/// See the module.
#[derive(Clone)]
pub struct Port(Arc<Mutex<Inner>>);

struct Inner {
    allocator: Box<JitAllocator>,
    live: usize,
}

// SAFETY: the allocator's raw pointers lead to memory of its own, and the mutex
// lets one thread at a time follow them.
unsafe impl Send for Inner {}

impl Port {
    /// With its defaults but one pool, which is asmjit's default.
    #[must_use]
    pub fn new() -> Self {
        let allocator = JitAllocator::new(JitAllocatorOptions {
            use_dual_mapping: true,
            use_multiple_pools: false,
            fill_unused_memory: false,
            ..JitAllocatorOptions::default()
        });
        Self(Arc::new(Mutex::new(Inner { allocator, live: 0 })))
    }
}

impl Default for Port {
    fn default() -> Self {
        Self::new()
    }
}

impl Rival for Port {
    type Thread = Self;

    fn name(&self) -> String {
        "jit-allocator".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    /// It keeps no count of what it holds.
    fn usage(&self) -> Usage {
        Usage { live: self.0.lock().expect("allocator").live, committed: 0, ..Usage::default() }
    }
}

impl RivalThread for Port {
    /// Where it runs, and its length.
    type Code = (usize, usize);

    #[inline]
    fn install(&mut self, code: &[u8]) -> (usize, usize) {
        let (executable, writable) = {
            let mut inner = self.0.lock().expect("allocator");
            inner.live += code.len();
            inner.allocator.alloc(code.len()).expect("alloc")
        };
        // SAFETY: the allocator says it is ours to write.
        unsafe { view::copy(writable as usize, code) };
        (executable as usize, code.len())
    }

    #[inline]
    fn free(&mut self, (addr, len): (usize, usize)) {
        let mut inner = self.0.lock().expect("allocator");
        inner.live -= len;
        // Where spans overlap, one of them is released twice: the second time
        // is an error, and costs what it costs.
        // SAFETY: allocated here.
        let _ = unsafe { inner.allocator.release(addr as *const u8) };
    }

    fn addr(code: &(usize, usize)) -> usize {
        code.0
    }
}
