//! The index of holes and the bitmaps under it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = jit_arena_fuzz::index::run(data);
});
