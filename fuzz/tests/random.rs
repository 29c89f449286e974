//! Random programs in every `cargo test`: fewer and shorter than a fuzzer's,
//! always the same ones unless asked for more.
//!
//! `PROPTEST_CASES=20000` runs more, `JIT_ARENA_FUZZ_SEED=<n>` runs others,
//! `JIT_ARENA_FUZZ_TARGET=<name>` runs those of one target.

use std::path::Path;

use jit_arena_fuzz::{Outcome, TARGETS};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[test]
fn random_programs_hold() {
    let seed: u64 = std::env::var("JIT_ARENA_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x6A69_745F_6172_656E);
    println!("JIT_ARENA_FUZZ_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let only = std::env::var("JIT_ARENA_FUZZ_TARGET").ok();
    let chosen = |name: &str| only.as_deref().is_none_or(|only| only == name);
    assert!(TARGETS.iter().any(|(name, _)| chosen(name)), "no target is called {only:?}");
    for (name, target) in TARGETS.into_iter().filter(|(name, _)| chosen(name)) {
        let config =
            Config { failure_persistence: None, max_shrink_iters: 300, ..Config::with_cases(60) };
        let config = Config { cases: cases().unwrap_or(config.cases), ..config };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let steps = std::cell::Cell::new(0);
        let result = runner.run(&vec(any::<u8>(), 16..1500), |data| {
            // What a crash, too, leaves behind to be replayed.
            std::fs::write(&last, &data).unwrap();
            if let Outcome::Ran { steps: more } = target(&data) {
                steps.set(steps.get() + more);
            }
            Ok(())
        });
        if let Err(error) = result {
            panic!("{name}: {error}\nthe last input tried is in {}", last.display());
        }
        println!("{name}: {} operations", steps.get());
        assert!(steps.get() > 0, "{name}: nothing ran");
    }
}

fn cases() -> Option<u32> {
    std::env::var("PROPTEST_CASES").ok()?.parse().ok()
}
