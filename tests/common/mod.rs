//! What the tests share.

#![allow(dead_code, reason = "each test crate uses a part")]

use jit_arena::{Arena, Builder, Executor, Strategy, ThreadHandle};

/// Machine code of a function that takes nothing and returns `value`.
#[cfg(target_arch = "x86_64")]
pub fn constant(value: u32) -> Vec<u8> {
    let mut code = vec![0xB8];
    code.extend_from_slice(&value.to_le_bytes());
    code.push(0xC3);
    code
}

/// Machine code of a function that takes nothing and returns `value`.
#[cfg(target_arch = "aarch64")]
pub fn constant(value: u32) -> Vec<u8> {
    let low = 0x5280_0000 | (value & 0xFFFF) << 5;
    let high = 0x72A0_0000 | (value >> 16) << 5;
    [low, high, 0xD65F_03C0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// Calls an executor made of [`constant`].
pub fn call(thread: &ThreadHandle, executor: &Executor) -> u32 {
    let guard = thread.pin();
    // SAFETY: the code is such a function, and is called under its guard.
    let function: extern "C" fn() -> u32 = unsafe { executor.entry(&guard).cast() };
    function()
}

/// Runs `test` on an arena of each strategy that works on this machine, and
/// says which did not run.
///
/// # Panics
///
/// If the environment variable `JIT_ARENA_REQUIRE` names a strategy (or, with
/// `pkey`, both that need keys) that does not work here.
pub fn each_strategy(test: impl Fn(Arena)) {
    each_strategy_with(|builder| builder, test);
}

/// As [`each_strategy`], with options.
pub fn each_strategy_with(options: impl Fn(Builder) -> Builder, test: impl Fn(Arena)) {
    let required = std::env::var("JIT_ARENA_REQUIRE").unwrap_or_default();
    for strategy in Strategy::ALL {
        match options(Arena::builder().strategy(strategy)).build() {
            Ok(arena) => test(arena),
            Err(error) => {
                let needs_key = strategy.name().ends_with("pkey");
                let is_required = required
                    .split(',')
                    .any(|it| it == strategy.name() || it == "pkey" && needs_key);
                assert!(!is_required, "{strategy} is required: {error}");
                println!("not run: {strategy}: {}", source(&error));
            }
        }
    }
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), source)
}
