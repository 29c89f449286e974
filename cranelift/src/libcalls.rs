//! The functions that Cranelift calls where the processor has no instruction.

use core::ffi::{c_int, c_void};

use cranelift_codegen::ir::LibCall;

unsafe extern "C" {
    safe fn ceilf(x: f32) -> f32;
    safe fn ceil(x: f64) -> f64;
    safe fn floorf(x: f32) -> f32;
    safe fn floor(x: f64) -> f64;
    safe fn truncf(x: f32) -> f32;
    safe fn trunc(x: f64) -> f64;
    safe fn nearbyintf(x: f32) -> f32;
    safe fn nearbyint(x: f64) -> f64;
    safe fn fmaf(x: f32, y: f32, z: f32) -> f32;
    safe fn fma(x: f64, y: f64, z: f64) -> f64;
}

/// The address of the C library's function for a libcall, if it has one.
#[must_use]
pub fn libcall(call: LibCall) -> Option<usize> {
    type One<T> = extern "C" fn(T) -> T;
    type Three<T> = extern "C" fn(T, T, T) -> T;
    type Copy = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;
    type Set = unsafe extern "C" fn(*mut c_void, c_int, usize) -> *mut c_void;
    type Compare = unsafe extern "C" fn(*const c_void, *const c_void, usize) -> c_int;
    Some(match call {
        LibCall::CeilF32 => ceilf as One<f32> as usize,
        LibCall::CeilF64 => ceil as One<f64> as usize,
        LibCall::FloorF32 => floorf as One<f32> as usize,
        LibCall::FloorF64 => floor as One<f64> as usize,
        LibCall::TruncF32 => truncf as One<f32> as usize,
        LibCall::TruncF64 => trunc as One<f64> as usize,
        LibCall::NearestF32 => nearbyintf as One<f32> as usize,
        LibCall::NearestF64 => nearbyint as One<f64> as usize,
        LibCall::FmaF32 => fmaf as Three<f32> as usize,
        LibCall::FmaF64 => fma as Three<f64> as usize,
        LibCall::Memcpy => libc::memcpy as Copy as usize,
        LibCall::Memmove => libc::memmove as Copy as usize,
        LibCall::Memset => libc::memset as Set as usize,
        LibCall::Memcmp => libc::memcmp as Compare as usize,
        _ => return None,
    })
}
