//! The C interface, with good arguments and bad ones.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = jit_arena_fuzz::capi::run(data);
});
