//! The operations as a state machine: sequences that mostly mean something, made of
//! values, so that one that fails shrinks to as few and as plain operations as fail.
//!
//! What `random` makes of bytes shrinks to fewer bytes, and a byte less is another
//! program. Here operations are taken out one by one and what they name and how long
//! it is becomes less. The model is the same, the oracle's: an operation for which
//! there is nothing does nothing.
//!
//! `PROPTEST_CASES` and `JIT_ARENA_FUZZ_SEED` as for `random`.

use jit_arena_fuzz::ops::{Op, Pick, Program, Setup, Way};
use jit_arena_fuzz::sizes::{Align, Layout, Length};
use jit_arena_fuzz::{Outcome, world};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Operations of a sequence.
const OPS: usize = 60;

/// The first of what there is, or one of the next.
fn pick() -> impl Strategy<Value = Pick> {
    (0_u8..6).prop_map(Pick)
}

fn length() -> impl Strategy<Value = Length> {
    prop_oneof![
        12 => (1_u8..).prop_map(Length::Small),
        4 => (1_u8..20, -2_i8..3).prop_map(|(n, by)| Length::Granules(n, by)),
        2 => (1_u16..3000).prop_map(Length::Medium),
        2 => (0_u8..5, -2_i8..3).prop_map(|(n, by)| Length::Pages(n, by)),
        1 => (-3_i8..2).prop_map(Length::Region),
        1 => (0_u8..8).prop_map(Length::Absurd),
    ]
}

fn align() -> impl Strategy<Value = Align> {
    prop_oneof![4 => Just(Align(0)), 1 => (0_u8..20).prop_map(Align)]
}

fn layout() -> impl Strategy<Value = Layout> {
    let data = option::weighted(0.3, (length(), align()));
    (length(), align(), data, 0_u64..100).prop_map(|(code, align, data, tag)| Layout {
        code,
        align,
        data,
        tag,
    })
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        4 => Just(Way::Here),
        2 => pick().prop_map(Way::Through),
        1 => Just(Way::Unattached),
        1 => Just(Way::Elsewhere),
    ]
}

/// What is done to reservations and to get them.
fn writing() -> impl Strategy<Value = Op> {
    let seed = any::<u8>;
    prop_oneof![
        4 => (pick(), layout()).prop_map(|(thread, layout)| Op::Reserve(thread, layout)),
        4 => (pick(), length(), length(), seed())
            .prop_map(|(thread, code, data, seed)| Op::Install(thread, code, data, seed)),
        1 => (pick(), length(), seed()).prop_map(|(at, code, seed)| Op::InstallKept(at, code, seed)),
        3 => pick().prop_map(Op::Open),
        3 => pick().prop_map(Op::Close),
        1 => (pick(), pick(), length(), length(), seed())
            .prop_map(|(thread, it, at, len, seed)| Op::Write(thread, it, at, len, seed)),
        3 => (pick(), pick(), seed()).prop_map(|(thread, it, seed)| Op::Fill(thread, it, seed)),
        2 => (pick(), pick(), length(), length())
            .prop_map(|(thread, it, code, data)| Op::Shrink(thread, it, code, data)),
        4 => (pick(), pick()).prop_map(|(thread, it)| Op::Publish(thread, it)),
        2 => pick().prop_map(Op::Abandon),
        1 => (pick(), 0_u8..8, length(), any::<bool>())
            .prop_map(|(thread, count, len, batch)| Op::Burst(thread, count, len, batch)),
    ]
}

/// What is done to executors and slots.
fn owning() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (pick(), way()).prop_map(|(it, way)| Op::Drop(it, way)),
        1 => (pick(), 0_u8..4, 0_u8..8).prop_map(|(first, every, n)| Op::Cull(first, every, n)),
        2 => pick().prop_map(Op::NewSlot),
        1 => pick().prop_map(Op::DropSlot),
        2 => (pick(), pick()).prop_map(|(slot, it)| Op::Put(slot, it)),
        2 => (pick(), pick()).prop_map(|(slot, it)| Op::Replace(slot, it)),
        2 => (pick(), pick(), any::<u8>()).prop_map(|(at, slot, seed)| Op::Turn(at, slot, seed)),
        1 => pick().prop_map(Op::Invalidate),
        1 => pick().prop_map(Op::DropArena),
        1 => (0_u8..16, 0_u8..16)
            .prop_map(|(first, second)| Op::Build(Setup::from_bytes(first, second))),
    ]
}

/// What threads do to run code, and to let it go.
fn running() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => pick().prop_map(Op::Attach),
        1 => pick().prop_map(Op::Detach),
        4 => pick().prop_map(Op::Pin),
        3 => (pick(), pick()).prop_map(|(thread, guard)| Op::Unpin(thread, guard)),
        2 => (pick(), pick(), pick()).prop_map(|(at, guard, slot)| Op::Load(at, guard, slot)),
        2 => (pick(), pick(), pick()).prop_map(|(at, guard, it)| Op::Call(at, guard, it)),
        3 => (pick(), pick(), pick()).prop_map(|(at, guard, slot)| Op::Enter(at, guard, slot)),
        2 => (pick(), pick()).prop_map(|(thread, guard)| Op::Leave(thread, guard)),
        2 => (pick(), pick()).prop_map(|(thread, guard)| Op::Safepoint(thread, guard)),
        2 => (pick(), pick(), 0_u8..6).prop_map(|(at, guard, ops)| Op::Park(at, guard, ops)),
        3 => pick().prop_map(Op::Collect),
        1 => pick().prop_map(Op::CollectKept),
        1 => pick().prop_map(Op::Settle),
        1 => pick().prop_map(Op::Verify),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let op = prop_oneof![3 => writing(), 2 => owning(), 2 => running()];
    // Half of them of whatever pages and region, half of the smallest there are.
    let setup = prop_oneof![
        (0_u8..4).prop_map(|strategy| Setup::from_bytes(strategy | 8, 1)),
        (0_u8..16, 0_u8..16).prop_map(|(first, second)| Setup::from_bytes(first, second)),
    ];
    (setup, vec(op, 1..OPS), 0_u8..8).prop_map(|(setup, mut ops, ending)| {
        // Nothing happens without a thread.
        ops.insert(0, Op::Attach(Pick(0)));
        Program { setup, compare_every: 1, verify_every: 4, ops, ending }
    })
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn sequences_hold() {
    let seed = variable("JIT_ARENA_FUZZ_SEED").unwrap_or(0x6D_6163_6869_6E65);
    let cases = variable("PROPTEST_CASES").and_then(|cases| cases.try_into().ok()).unwrap_or(400);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config =
        Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::with_cases(cases) };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let steps = std::cell::Cell::new(0);
    let result = runner.run(&program(), |program| {
        if let Outcome::Ran { steps: more } = world::run(program) {
            steps.set(steps.get() + more);
        }
        Ok(())
    });
    println!("JIT_ARENA_FUZZ_SEED={seed}: {} operations", steps.get());
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(steps.get() > 0, "nothing ran");
}
