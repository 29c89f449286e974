//! What debuggers and unwinders are told, against readers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = jit_arena_fuzz::objects::run(data);
});
