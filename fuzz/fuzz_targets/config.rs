//! Options of the builder against what its documentation says of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = jit_arena_fuzz::config::run(data);
});
