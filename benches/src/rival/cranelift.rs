//! cranelift-jit's system memory provider, one per executor, which is how code
//! that has to be freed piece by piece can be had from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cranelift_jit::{BranchProtection, JITMemoryProvider, SystemMemoryProvider};

use super::view::{self, PAGE};
use super::{Rival, RivalThread, Usage};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Cranelift(Arc<AtomicUsize>);

/// A provider with one piece of code in it.
pub struct Provided {
    provider: SystemMemoryProvider,
    addr: usize,
    len: usize,
}

// SAFETY: the provider's pointers lead to mappings of its own.
unsafe impl Send for Provided {}

impl Rival for Cranelift {
    type Thread = Self;

    fn name(&self) -> String {
        "cranelift".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    fn usage(&self) -> Usage {
        Usage { live: 0, committed: self.0.load(Ordering::Relaxed), ..Usage::default() }
    }
}

impl RivalThread for Cranelift {
    type Code = Provided;

    fn install(&mut self, code: &[u8]) -> Provided {
        let mut provider = SystemMemoryProvider::new();
        let addr = provider.allocate_readexec(code.len(), 16).expect("allocate") as usize;
        // SAFETY: just allocated, and writable until it is finalized.
        unsafe { view::copy(addr, code) };
        provider.finalize(BranchProtection::None).expect("finalize");
        self.0.fetch_add(code.len().next_multiple_of(PAGE), Ordering::Relaxed);
        Provided { provider, addr, len: code.len() }
    }

    fn free(&mut self, mut code: Provided) {
        self.0.fetch_sub(code.len.next_multiple_of(PAGE), Ordering::Relaxed);
        // SAFETY: nobody runs it.
        unsafe { code.provider.free_memory() };
    }

    fn addr(code: &Provided) -> usize {
        code.addr
    }
}
