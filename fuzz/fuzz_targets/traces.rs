//! The reader of recorded traces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = jit_arena_fuzz::traces::run(data);
});
