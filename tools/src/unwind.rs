//! Unwinding through JIT frames: `__register_frame` of the unwinder that the
//! program is linked with, for code whose client says how to unwind it.
//!
//! A panic or a C++ exception then passes through such code, and backtraces do
//! not end in it. Registered once for each piece of code: unwinders look pieces
//! up by address, and code comes and goes one by one. It stays registered until
//! the code is recycled, for it may be running until then, `[N1]`.
//!
//! Linux only: elsewhere the call of this name takes one FDE at a time.
//!
//! Sources: libgcc's unwind-dw2-fde.h; the LSB's chapter on exception frames.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jit_arena::{CodeInfo, Span, Symbol, Tool};

use crate::lock;

unsafe extern "C" {
    /// Has the unwinder use the CIEs and FDEs at `begin`, which a zero ends.
    fn __register_frame(begin: *const u8);
    /// Takes that back, by the same address.
    fn __deregister_frame(begin: *const u8);
}

/// Registers the unwind information of code with the process's unwinder.
#[derive(Debug, Default)]
pub struct Unwind {
    /// By entry.
    frames: Mutex<BTreeMap<usize, Frame>>,
}

impl Unwind {
    /// A tool that has registered nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How many pieces of code are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.frames).len()
    }

    /// Whether no code is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Registered unwind information, in words, so that it is aligned.
#[derive(Debug)]
struct Frame(Box<[u64]>);

impl Frame {
    fn register(eh_frame: &[u8]) -> Self {
        // With a zero length behind the last entry.
        let mut words = vec![0_u64; eh_frame.len().div_ceil(8) + 1];
        for (word, part) in words.iter_mut().zip(eh_frame.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            *word = u64::from_ne_bytes(bytes);
        }
        let frame = Self(words.into_boxed_slice());
        // SAFETY: the entries end with a zero, and stay until they are
        // deregistered; that they are well-formed is the client's promise.
        unsafe { __register_frame(frame.begin()) };
        frame
    }

    fn begin(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: registered in `register`, at this address.
        unsafe { __deregister_frame(self.begin()) };
    }
}

impl Tool for Unwind {
    fn published(&self, code: &CodeInfo, _: &[u8], symbol: &Symbol<'_>) {
        if symbol.unwind_information().is_empty() {
            return;
        }
        let frame = Frame::register(symbol.unwind_information());
        lock(&self.frames).insert(code.entry(), frame);
    }

    fn recycled(&self, entry: usize) {
        let frame = lock(&self.frames).remove(&entry);
        // Outside the lock: the unwinder has one of its own.
        drop(frame);
    }

    fn unmapped(&self, region: Span) {
        let mut frames = lock(&self.frames);
        let mut gone = frames.split_off(&region.start);
        frames.append(&mut gone.split_off(&region.end()));
        drop(frames);
        drop(gone);
    }
}
