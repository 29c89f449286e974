//! What the arena holds from the system: close to what lives, given back when
//! it is no longer used, and not taken and given back over and over.

mod common;

use common::{
    KIB, MIB, RESERVE, Random, call, constant, each_strategy, each_strategy_with, maps, not_run,
};
use jit_arena::{Arena, CodeLayout, Executor, MemoryKind, Stats, Strategy, ThreadHandle};

/// Code of `len` bytes that returns `value`.
fn install_sized(thread: &mut ThreadHandle, value: u32, len: usize) -> Executor {
    let mut reservation = thread.reserve(CodeLayout::new(len)).unwrap();
    let mut scope = thread.write();
    let bytes = scope.bytes(&mut reservation).unwrap();
    bytes.fill(0x90);
    bytes[..constant(value).len()].copy_from_slice(&constant(value));
    drop(scope);
    thread.publish(reservation).unwrap()
}

/// A few installs, so that the arena gets to its housekeeping.
fn knock(thread: &mut ThreadHandle) {
    for value in 0..200 {
        drop(install_sized(thread, value, 2000));
    }
}

/// The arena's figure agrees with the system's.
fn expect_agreement(arena: &Arena, when: &str) {
    let span = arena.span();
    let resident = maps::resident_bytes(span.start..span.end());
    let committed = arena.stats().committed_bytes as usize;
    if arena.report().strategy == Strategy::Mprotect {
        // Private pages come at the first store, some time after they are
        // counted.
        assert!(resident <= committed, "{when}: {resident} resident, {committed} committed");
    } else {
        assert_eq!(resident, committed, "{when}");
    }
}

/// Bytes that executors of up to `len` bytes take at most, per byte.
fn overhead(arena: &Arena, len: usize) -> f64 {
    let unit = if arena.report().strategy == Strategy::Mprotect { 4 * KIB } else { 64 };
    (len + 16).next_multiple_of(unit) as f64 / len as f64
}

/// What is counted as committed is there, `[P2]`.
#[test]
fn committed_bytes_are_what_the_system_says() {
    each_strategy(|arena| {
        expect_agreement(&arena, "before anything was installed");
        assert_eq!(arena.stats().committed_bytes, 0);
        let mut thread = arena.attach().unwrap();
        let mut random = Random::new(3);
        let mut all = Vec::new();
        for value in 0..1000 {
            all.push(install_sized(&mut thread, value, 16 + random.below(6000)));
            if value % 100 == 0 {
                expect_agreement(&arena, "while it fills");
            }
        }
        all.push(install_sized(&mut thread, 0, 3 * MIB));
        expect_agreement(&arena, "with one larger than a page");
        for round in 0..10 {
            random.shuffle(&mut all);
            all.truncate(all.len() * 3 / 4);
            knock(&mut thread);
            expect_agreement(&arena, "while it empties");
            if round % 3 == 0 {
                thread.collect();
                expect_agreement(&arena, "after collecting");
            }
        }
        arena.verify().unwrap();
        expect_agreement(&arena, "after verifying, which must not touch new memory");
        drop(all);
        thread.collect();
        assert_eq!(arena.stats().committed_bytes, 0);
        expect_agreement(&arena, "when all is gone");
        let span = arena.span();
        assert_eq!(maps::resident_bytes(span.start..span.end()), 0);
    });
}

#[test]
fn holes_are_used_again_so_that_committed_stays_near_live() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut random = Random::new(1);
        let mut all: Vec<(u32, Executor)> = Vec::new();
        let mut worst = 0.0_f64;
        for value in 0..8000 {
            let len = 500 + random.below(3000);
            let executor = install_sized(&mut thread, value, len);
            if all.len() < 1200 {
                all.push((value, executor));
                continue;
            }
            // A random one dies for each that is born.
            let at = random.below(all.len());
            all[at] = (value, executor);
            if value % 64 == 0 && value > 3000 {
                let stats = arena.stats();
                worst = worst.max(stats.committed_bytes as f64 / stats.live_bytes as f64);
            }
        }
        for (value, executor) in &all {
            assert_eq!(call(&thread, executor), *value);
        }
        arena.verify().unwrap();
        // By page counts alone nothing would come back: 6 × and more. Mean
        // length of 2,000 bytes; a quarter for holes and what is retired.
        let bound = overhead(&arena, 2000) * 1.25;
        assert!(worst < bound, "{worst:.3} × the live bytes, {bound:.3} allowed");
    });
}

#[test]
fn memory_goes_back_by_itself_when_a_program_shrinks() {
    each_strategy_with(
        |builder| builder.keep_free(256 * KIB),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let all: Vec<_> =
                (0..2000).map(|value| install_sized(&mut thread, value, 4000)).collect();
            let full = arena.stats().committed_bytes;
            assert!(full >= 8_000_000);
            drop(all);
            // Nobody calls `collect`.
            knock(&mut thread);
            let stats = arena.stats();
            assert!(stats.committed_bytes <= MIB as u64, "{stats:?}");
            assert!(stats.trimmed_bytes >= full - MIB as u64, "{stats:?}");
            expect_agreement(&arena, "after shrinking");
        },
    );
}

#[test]
fn keep_free_is_kept_for_the_next_installs() {
    each_strategy_with(
        |builder| builder.keep_free(RESERVE),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let all: Vec<_> =
                (0..1000).map(|value| install_sized(&mut thread, value, 4000)).collect();
            let full = arena.stats().committed_bytes;
            drop(all);
            knock(&mut thread);
            let stats = arena.stats();
            assert_eq!(stats.trimmed_bytes, 0, "{stats:?}");
            assert!(stats.committed_bytes >= full, "{stats:?}");
            // But asked for, it goes.
            thread.collect();
            assert_eq!(arena.stats().committed_bytes, 0);
        },
    );
}

#[test]
fn p3_pages_go_back_while_their_code_page_lives_on() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut all: Vec<_> =
            (0..3000_u32).map(|value| (value, install_sized(&mut thread, value, 2000))).collect();
        let full = arena.stats().committed_bytes as usize;
        // One of forty lives: one or two on each code page.
        all.retain(|(value, _)| value % 40 == 0);
        thread.collect();
        let stats = arena.stats();
        assert_eq!(stats.live_executors, 75);
        let bound = 75 * 2 * 4 * KIB;
        assert!(
            stats.committed_bytes as usize <= bound && bound < full / 8,
            "of {full} bytes {} stay, {bound} are in use",
            stats.committed_bytes
        );
        expect_agreement(&arena, "with holes in code pages");
        for (value, executor) in &all {
            assert_eq!(call(&thread, executor), *value);
        }
        // The holes are used again, and hold what is written there.
        for value in 3000..4000 {
            all.push((value, install_sized(&mut thread, value, 2000)));
        }
        for (value, executor) in &all {
            assert_eq!(call(&thread, executor), *value);
        }
        arena.verify().unwrap();
        expect_agreement(&arena, "with the holes used again");
    });
}

/// Runs `work` and returns the stats before and after it.
fn around(arena: &Arena, work: impl FnOnce()) -> (Stats, Stats) {
    let before = arena.stats();
    work();
    (before, arena.stats())
}

#[test]
fn a_steady_program_gives_nothing_back_to_take_it_again() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut random = Random::new(5);
        let mut all: Vec<_> =
            (0..1000).map(|value| install_sized(&mut thread, value, 2000)).collect();
        let mut churn = |thread: &mut ThreadHandle, times: u32| {
            for value in 0..times {
                let len = 1000 + random.below(2000);
                let at = random.below(all.len());
                all[at] = install_sized(thread, value, len);
            }
        };
        // Time to learn what this one needs.
        churn(&mut thread, 5000);
        let (before, after) = around(&arena, || churn(&mut thread, 5000));
        let trimmed = after.trimmed_bytes - before.trimmed_bytes;
        let installed = 5000 * 2000;
        assert!(
            trimmed <= installed / 20,
            "{trimmed} bytes went back while {installed} were installed: {after:?}"
        );
        assert!(after.recycles - before.recycles > 4000, "{after:?}");
    });
}

#[test]
fn coming_and_going_does_not_thrash() {
    // Half a megabyte comes and goes, a hundred times over.
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let _base: Vec<_> =
            (0..1000).map(|value| install_sized(&mut thread, value, 2000)).collect();
        let wave = |thread: &mut ThreadHandle| {
            let all: Vec<_> = (0..250).map(|value| install_sized(thread, value, 2000)).collect();
            drop(all);
        };
        for _ in 0..50 {
            wave(&mut thread);
        }
        let (before, after) = around(&arena, || {
            for _ in 0..100 {
                wave(&mut thread);
            }
        });
        let trimmed = after.trimmed_bytes - before.trimmed_bytes;
        let through = 100 * 250 * 2000;
        assert!(
            trimmed <= through / 10,
            "{trimmed} bytes went back while {through} came and went: {after:?}"
        );
    });
}

#[test]
fn a_reservation_commits_just_what_it_needs() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let executor = install_sized(&mut thread, 1, 100);
        let stats = arena.stats();
        assert!(stats.committed_bytes <= 8 * KIB as u64, "{stats:?}");
        assert_eq!(stats.reserved_bytes, RESERVE as u64);
        let figures = stats.live_bytes
            + stats.retired_bytes
            + stats.claimed_bytes
            + stats.hole_bytes
            + stats.padding_bytes;
        assert_eq!(figures, stats.committed_bytes, "{stats:?}");
        drop(executor);
    });
}

#[test]
fn the_accounts_add_up_whatever_happens() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut random = Random::new(9);
        let mut all = Vec::new();
        let mut live = 0;
        for value in 0..3000 {
            match random.below(5) {
                0 | 1 if !all.is_empty() => {
                    let executor: Executor = all.swap_remove(random.below(all.len()));
                    live -= executor.code_len() + executor.data_len();
                    drop(executor);
                }
                2 => drop(thread.reserve(CodeLayout::new(1 + random.below(5000))).unwrap()),
                _ => {
                    let (code, data) = (6 + random.below(3000), random.below(300));
                    let code = vec![0x90; code];
                    all.push(thread.install(&code, &vec![7; data]).unwrap());
                    live += code.len() + data;
                }
            }
            if value % 50 != 0 {
                continue;
            }
            let stats = arena.stats();
            assert_eq!(stats.live_bytes, live as u64);
            assert_eq!(stats.live_executors, all.len() as u64);
            assert_eq!(stats.installs - stats.retires, all.len() as u64);
            assert_eq!(stats.retires - stats.recycles, stats.retired_executors);
            let figures = stats.live_bytes
                + stats.retired_bytes
                + stats.claimed_bytes
                + stats.hole_bytes
                + stats.padding_bytes;
            assert_eq!(figures, stats.committed_bytes, "{stats:?}");
            if value % 500 == 0 {
                arena.verify().unwrap();
            }
        }
    });
}

#[test]
fn maps_say_whose_memory_it_is() {
    for anonymous in [false, true] {
        each_strategy_with(
            |builder| builder.name("whose [jit]").anonymous(anonymous),
            |arena| {
                let mapping = maps::at(arena.span().start).unwrap();
                let name = &mapping.name;
                let kind = match arena.report().memory {
                    MemoryKind::Memfd => "memfd:",
                    MemoryKind::Private => "[anon:",
                    _ => "[anon_shmem:",
                };
                if kind != "memfd:" && !name.contains("whose") {
                    assert!(name.is_empty() || name.starts_with("/dev/zero"), "{mapping:?}");
                    return not_run(&format!("this system names no memory as {kind}"));
                }
                assert!(name.contains(kind) && name.contains("whose"), "{mapping:?}");
            },
        );
    }
}

#[test]
fn anonymous_memory_is_taken_where_it_is_asked_for() {
    each_strategy_with(
        |builder| builder.anonymous(true),
        |arena| {
            let report = arena.report();
            assert_ne!(report.memory, MemoryKind::Memfd, "{report}");
            let mut thread = arena.attach().unwrap();
            let executor = common::install(&mut thread, 7);
            assert_eq!(call(&thread, &executor), 7);
        },
    );
}
