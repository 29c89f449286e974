//! asmjit's `JitAllocator` with a dual view, as Debian has it.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::view;
use super::{NotHere, Rival, RivalThread, Usage};

unsafe extern "C" {
    fn asmjit_shim_new() -> *mut c_void;
    fn asmjit_shim_delete(allocator: *mut c_void);
    fn asmjit_shim_alloc(
        allocator: *mut c_void,
        size: usize,
        executable: *mut *mut c_void,
        writable: *mut *mut c_void,
    ) -> c_int;
    fn asmjit_shim_release(allocator: *mut c_void, executable: *mut c_void) -> c_int;
    fn asmjit_shim_usage(allocator: *mut c_void, used: *mut usize, reserved: *mut usize);
}

/// See the module.
#[derive(Clone, Debug)]
pub struct AsmJit(Arc<Allocator>);

#[derive(Debug)]
struct Allocator(*mut c_void);

// SAFETY: the allocator has a lock of its own.
unsafe impl Send for Allocator {}
// SAFETY: as above.
unsafe impl Sync for Allocator {}

impl Drop for Allocator {
    fn drop(&mut self) {
        // SAFETY: made by `asmjit_shim_new`, and not used any more.
        unsafe { asmjit_shim_delete(self.0) };
    }
}

impl AsmJit {
    /// With the defaults, and two views.
    pub fn new() -> Result<Self, NotHere> {
        // SAFETY: takes nothing.
        let allocator = unsafe { asmjit_shim_new() };
        if allocator.is_null() {
            return Err(NotHere("asmjit made no allocator".to_owned()));
        }
        Ok(Self(Arc::new(Allocator(allocator))))
    }
}

impl Rival for AsmJit {
    type Thread = Self;

    fn name(&self) -> String {
        "asmjit".to_owned()
    }

    fn attach(&self) -> Self {
        self.clone()
    }

    fn usage(&self) -> Usage {
        let (mut used, mut reserved) = (0, 0);
        // SAFETY: the allocator lives, and the results have places.
        unsafe { asmjit_shim_usage(self.0.0, &raw mut used, &raw mut reserved) };
        Usage { live: used, committed: reserved, ..Usage::default() }
    }
}

impl RivalThread for AsmJit {
    type Code = usize;

    #[inline]
    fn install(&mut self, code: &[u8]) -> usize {
        let (mut executable, mut writable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the allocator lives, and the results have places.
        let error = unsafe {
            asmjit_shim_alloc(self.0.0, code.len(), &raw mut executable, &raw mut writable)
        };
        assert!(error == 0, "asmjit: error {error}");
        // SAFETY: the allocator says it is ours to write.
        unsafe { view::copy(writable as usize, code) };
        executable as usize
    }

    #[inline]
    fn free(&mut self, code: usize) {
        // SAFETY: allocated here.
        let error = unsafe { asmjit_shim_release(self.0.0, code as *mut c_void) };
        assert!(error == 0, "asmjit: error {error}");
    }

    fn addr(code: &usize) -> usize {
        *code
    }
}
