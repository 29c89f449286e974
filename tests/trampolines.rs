//! Trampolines: one a target, in reach, there for good, and never writable
//! outside a scope.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use common::{
    Barrier, KIB, MIB, call_at, code, constant, each_strategy, each_strategy_with, install, maps,
};
#[cfg(target_os = "linux")]
use common::{child, filter, is_sanitized, not_run};
use jit_arena::{Arena, CodeLayout, Executor, Strategy, ThreadHandle, TrampolineError};

extern "C" fn helper() -> u32 {
    0x5eed
}

fn helper_address() -> usize {
    helper as extern "C" fn() -> u32 as usize
}

/// Installs code that does nothing but branch, directly, to where `call_target`
/// says for `target`; asks inside the write scope, as a patching JIT does.
fn install_call(arena: &Arena, thread: &mut ThreadHandle, target: usize) -> Executor {
    let mut place = thread.reserve(CodeLayout::new(code::BRANCH_LEN)).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut place, 0, &code::constant(0)[..4]).unwrap();
    let to = arena.call_target(place.entry(), target).unwrap();
    let branch = code::branch(place.entry(), to);
    scope.write_at(&mut place, 0, &branch).unwrap();
    drop(scope);
    thread.publish(place).unwrap()
}

#[test]
fn t1_code_calls_far_helpers_through_them() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let jump = arena.trampoline(helper_address()).unwrap();
        assert!(arena.contains(jump) && arena.lookup(jump).is_none());
        let guard = thread.pin();
        assert_eq!(call_at(jump), 0x5eed);
        drop(guard);
        let caller = install_call(&arena, &mut thread, helper_address());
        assert_eq!(common::call(&thread, &caller), 0x5eed);
        // A target in the arena itself is reached directly.
        let callee = install(&mut thread, 7);
        assert_eq!(arena.call_target(caller.addr(), callee.addr()), Ok(callee.addr()));
        let caller = install_call(&arena, &mut thread, callee.addr());
        assert_eq!(common::call(&thread, &caller), 7);
        assert_eq!(arena.trampolines().len(), 1);
        arena.verify().unwrap();
    });
}

#[test]
fn t1_they_stay_when_everything_else_goes() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let targets: Vec<_> = (0..20).map(|n| install(&mut thread, n)).collect();
        let far = arena.trampoline(helper_address()).unwrap();
        let jumps: Vec<_> =
            targets.iter().map(|target| arena.trampoline(target.addr()).unwrap()).collect();
        for (n, jump) in jumps.iter().enumerate() {
            assert_eq!(call_at(*jump), n as u32);
        }
        drop(targets);
        let churned: Vec<_> = (0..500).map(|n| install(&mut thread, n)).collect();
        drop(churned);
        thread.collect();
        let stats = arena.stats();
        assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
        assert!(stats.island_bytes > 0, "{stats:?}");
        assert!(stats.committed_bytes >= stats.island_bytes, "{stats:?}");
        assert_eq!(stats.padding_bytes, 0, "islands are accounted for: {stats:?}");
        assert_eq!(call_at(far), 0x5eed);
        assert_eq!(arena.trampoline(helper_address()), Ok(far));
        arena.verify().unwrap();
    });
}

#[test]
fn t2_threads_that_ask_at_once_get_the_same() {
    const THREADS: usize = 4;
    const TARGETS: usize = 100;
    each_strategy(|arena| {
        let barrier = Barrier::new(THREADS);
        // Nobody calls these.
        let target = |n: usize| 0x10_0000 + n * 64;
        let answers: Vec<Vec<usize>> = thread::scope(|threads| {
            let all: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (arena, barrier) = (&arena, &barrier);
                    threads.spawn(move || {
                        let ask = |n| {
                            barrier.wait();
                            arena.trampoline(target(n)).unwrap()
                        };
                        (0..TARGETS).map(ask).collect()
                    })
                })
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|one| *one == answers[0]), "threads got different ones");
        let distinct: BTreeSet<_> = answers[0].iter().collect();
        assert_eq!(distinct.len(), TARGETS, "two targets share one");
        let listed: BTreeMap<_, _> =
            arena.trampolines().into_iter().map(|it| (it.target, it.address)).collect();
        let expected: BTreeMap<_, _> =
            answers[0].iter().enumerate().map(|(n, address)| (target(n), *address)).collect();
        assert_eq!(listed, expected);
        arena.verify().unwrap();
        // What the losers of each race wrote is free again.
        arena.attach().unwrap().collect();
        let stats = arena.stats();
        let page = arena.report().system_page as u64;
        let (each, races) =
            if is_coarse(&arena) { (page, THREADS as u64) } else { (64, THREADS as u64) };
        assert!(stats.island_bytes <= TARGETS as u64 * each * races + 4096, "{stats:?}");
        assert_eq!(stats.live_executors, 0, "{stats:?}");
        arena.verify().unwrap();
    });
}

fn is_coarse(arena: &Arena) -> bool {
    arena.report().strategy == Strategy::Mprotect
}

#[test]
fn t2_a_batch_makes_what_is_missing_and_packs_it() {
    each_strategy(|arena| {
        let known = arena.trampoline(helper_address()).unwrap();
        let mut targets: Vec<_> = (0..1000).map(|n| 0x10_0000 + n * 16).collect();
        targets.extend([helper_address(), 0x10_0000, 0x10_0000]);
        let before = arena.stats().island_bytes;
        arena.make_trampolines(&targets).unwrap();
        arena.make_trampolines(&targets).unwrap();
        assert_eq!(arena.trampolines().len(), 1001);
        assert_eq!(arena.trampoline(helper_address()), Ok(known));
        let bytes = arena.stats().island_bytes - before;
        assert!(bytes <= 20 * KIB as u64, "{bytes} bytes for 1,000 of 16");
        assert_eq!(call_at(known), 0x5eed);
        arena.verify().unwrap();
    });
}

#[test]
fn t3_long_regions_have_some_within_reach_of_every_page() {
    const REACH: usize = 256 * KIB;
    each_strategy_with(
        |builder| builder.reserve(2 * MIB).branch_reach(REACH),
        |arena| {
            let error = arena.trampoline(helper_address()).unwrap_err();
            let expected = TrampolineError::BeyondReach { reserved: 2 * MIB, reach: REACH };
            assert_eq!(error, expected);
            let span = arena.span();
            let mut jumps = BTreeSet::new();
            for from in (span.start..span.end()).step_by(4 * KIB) {
                let to = arena.call_target(from, helper_address()).unwrap();
                assert!(arena.contains(to) && from.abs_diff(to) < REACH, "{from:#x} {to:#x}");
                assert_eq!(arena.call_target(from + 1, helper_address()), Ok(to));
                assert_eq!(call_at(to), 0x5eed);
                jumps.insert(to);
            }
            assert_eq!(jumps.len(), 2 * MIB / REACH, "one a zone");
            arena.make_trampolines(&[helper_address(), 0x10_0000]).unwrap();
            assert_eq!(arena.trampolines().len(), 2 * jumps.len());
            arena.verify().unwrap();
        },
    );
}

/// As on aarch64, whose branches reach 128 MiB either way.
#[test]
fn t3_a_gibibyte_has_one_every_128_mib() {
    const REACH: usize = 128 * MIB;
    each_strategy_with(
        |builder| builder.reserve(1024 * MIB).branch_reach(REACH),
        |arena| {
            let span = arena.span();
            let mut jumps = BTreeSet::new();
            for from in (span.start..span.end()).step_by(16 * MIB) {
                for from in [from, from + 16 * MIB - 4] {
                    let to = arena.call_target(from, helper_address()).unwrap();
                    assert!(from.abs_diff(to) < REACH, "{from:#x} {to:#x}");
                    jumps.insert(to);
                }
            }
            assert_eq!(jumps.len(), 8);
            assert!(jumps.iter().all(|jump| call_at(*jump) == 0x5eed));
            assert!(arena.stats().committed_bytes <= 8 * 64 * KIB as u64, "{:?}", arena.stats());
        },
    );
}

#[test]
fn branches_outside_the_arena_get_only_what_they_reach() {
    each_strategy(|arena| {
        let here = helper_address();
        assert_eq!(arena.call_target(here, here + 64), Ok(here + 64));
        let far = arena.span().end() + (1 << 40);
        assert_eq!(arena.call_target(far, here), Err(TrampolineError::Outside { from: far }));
        // Behind the last address there is nothing, and nothing wraps to it.
        let last = usize::MAX;
        assert_eq!(arena.call_target(last, here), Err(TrampolineError::Outside { from: last }));
        assert_eq!(arena.trampolines(), []);
    });
}

#[test]
fn a_full_region_says_so_and_recovers() {
    each_strategy_with(
        |builder| builder.reserve(128 * KIB),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut all = Vec::new();
            while let Ok(executor) = thread.install(&[constant(1), vec![0; 1000]].concat(), &[]) {
                all.push(executor);
            }
            while let Ok(executor) = thread.install(&constant(1), &[]) {
                all.push(executor);
            }
            let error = arena.trampoline(helper_address()).unwrap_err();
            assert!(matches!(error, TrampolineError::Exhausted { .. }), "{error:?}");
            assert_eq!(arena.trampolines(), []);
            all.truncate(all.len() / 2);
            assert_eq!(call_at(arena.trampoline(helper_address()).unwrap()), 0x5eed);
            drop(all);
            arena.verify().unwrap();
        },
    );
}

#[test]
fn what_a_refused_batch_asked_for_is_there_for_others() {
    each_strategy_with(
        |builder| builder.reserve(128 * KIB),
        |arena| {
            arena.trampoline(helper_address()).unwrap();
            let mut thread = arena.attach().unwrap();
            let mut all = Vec::new();
            while let Ok(executor) = thread.install(&constant(1), &[]) {
                all.push(executor);
            }
            let many: Vec<_> = (0..1000).map(|n| 0x10_0000 + n * 16).collect();
            let before = arena.stats().island_bytes;
            let error = arena.make_trampolines(&many).unwrap_err();
            assert!(matches!(error, TrampolineError::Exhausted { .. }), "{error:?}");
            assert_eq!(arena.stats().island_bytes, before);
            // What is left of the island, but where all of it was handed out at once.
            if !is_coarse(&arena) {
                arena.make_trampolines(&many[..8]).unwrap();
                assert_eq!(arena.trampolines().len(), 9);
            }
            drop(all);
            arena.verify().unwrap();
        },
    );
}

#[test]
fn what_a_long_batch_left_of_an_island_is_used() {
    each_strategy(|arena| {
        arena.trampoline(helper_address()).unwrap();
        let many: Vec<_> = (0..256).map(|n| 0x10_0000 + n * 16).collect();
        arena.make_trampolines(&many).unwrap();
        let before = arena.stats().island_bytes;
        arena.trampoline(0x20_0000).unwrap();
        if !is_coarse(&arena) {
            assert_eq!(arena.stats().island_bytes, before);
        }
        arena.verify().unwrap();
    });
}

#[test]
fn errors_say_what_to_do() {
    for (error, parts) in [
        (
            TrampolineError::BeyondReach { reserved: 1 << 30, reach: 1 << 27 },
            &["1073741824", "134217728", "by its own place"][..],
        ),
        (TrampolineError::Outside { from: 0x1234 }, &["0x1234", "outside", "through a register"]),
        (TrampolineError::Exhausted { bytes: 64 }, &["64 bytes", "drop executors"]),
        (
            TrampolineError::OverBudget { committed: 100, budget: 128 },
            &["100 of 128", "budget", "drop executors"],
        ),
    ] {
        for part in parts {
            assert!(error.to_string().contains(part), "no {part:?} in {error}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_refused_window_leaves_nothing_behind() {
    if is_sanitized() {
        return not_run("this build maps memory for itself");
    }
    let body = |arena: Arena| {
        let known = arena.trampoline(0x10_0000).unwrap();
        let before = arena.stats();
        let opens =
            [filter::any(libc::SYS_mmap), filter::with_third(libc::SYS_mprotect, libc::PROT_WRITE)];
        filter::refuse(&opens, libc::EPERM);
        let strategy = arena.report().strategy;
        if matches!(strategy, Strategy::DualTransient | Strategy::Mprotect) {
            for _ in 0..3 {
                let error = arena.trampoline(0x20_0000).unwrap_err();
                assert!(matches!(error, TrampolineError::Os(_)), "{error:?}");
            }
            assert_eq!(arena.trampolines().len(), 1);
            // What was handed out for them is no part of an island any more.
            assert!(arena.stats().island_bytes <= before.island_bytes);
        } else {
            arena.trampoline(0x20_0000).unwrap();
        }
        assert_eq!(arena.trampoline(0x10_0000), Ok(known));
        arena.verify().unwrap();
    };
    child::each_strategy("a_refused_window_leaves_nothing_behind", body, |_, ended| {
        ended.expect_success();
    });
}

#[test]
fn w1_islands_are_never_writable_and_executable() {
    // Other tests map memory meanwhile; this one's has a name.
    const NAME: &str = "islands-only";
    let mine = || maps::all().into_iter().filter(|it| it.name.contains(NAME)).count();
    each_strategy_with(
        |builder| builder.name(NAME),
        |arena| {
            let jump = arena.trampoline(helper_address()).unwrap();
            let before = mine();
            let mapping = maps::at(jump).unwrap();
            if arena.report().strategy.never_wx() {
                assert_eq!(&mapping.rights[..3], "r-x");
            }
            let targets: Vec<_> = (0..50).map(|n| 0x10_0000 + n * 16).collect();
            arena.make_trampolines(&targets).unwrap();
            assert_eq!(mine(), before, "a window was left mapped");
            for it in arena.trampolines() {
                let rights = maps::at(it.address).unwrap().rights;
                assert_eq!(rights[..3], mapping.rights[..3], "{it:x?}");
            }
        },
    );
}
