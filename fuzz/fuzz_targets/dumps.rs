//! The writers of perf maps and jitdumps against readers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = jit_arena_fuzz::dumps::run(data);
});
