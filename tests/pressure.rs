//! Limits on code memory: budgets that hold, callbacks that come once, and what
//! is worth evacuating.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Barrier, KIB, MIB, Random, constant, each_strategy_with, install};
use jit_arena::{
    Arena, Executor, GRANULE, Pressure, ReserveError, Strategy, ThreadHandle, TrampolineError,
};

/// Installs code of `len` bytes.
fn install_long(thread: &mut ThreadHandle, len: usize) -> Result<Executor, ReserveError> {
    let mut code = constant(1);
    code.resize(len.max(code.len()), 0);
    thread.install(&code, &[]).map_err(|error| match error {
        jit_arena::InstallError::Reserve(error) => error,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a2_a_budget_holds_and_recovers() {
    const BUDGET: usize = 256 * KIB;
    each_strategy_with(
        |builder| builder.code_budget(BUDGET),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut all = Vec::new();
            let error = loop {
                match install_long(&mut thread, 3000) {
                    Ok(executor) => all.push(executor),
                    Err(error) => break error,
                }
                assert!(arena.stats().committed_bytes <= BUDGET as u64);
            };
            let ReserveError::OverBudget { committed, budget, bytes } = error else {
                panic!("{error:?}");
            };
            assert!(budget == BUDGET && committed <= BUDGET && bytes > 3000, "{error:?}");
            assert!(committed + bytes + 64 * KIB > BUDGET, "far from the budget: {error:?}");
            assert!(error.to_string().contains("budget"), "{error}");
            let full = all.len();
            // Holes among what lives count as room.
            let mut index = 0;
            all.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            while all.len() < full - full / 10 {
                all.push(install_long(&mut thread, 3000).unwrap());
            }
            assert!(arena.stats().committed_bytes <= BUDGET as u64);
            arena.verify().unwrap();
        },
    );
}

#[test]
fn a2_threads_together_stay_within_the_budget() {
    const BUDGET: usize = 512 * KIB;
    each_strategy_with(
        |builder| builder.code_budget(BUDGET),
        |arena| {
            let refused = AtomicUsize::new(0);
            let stop = AtomicBool::new(false);
            thread::scope(|threads| {
                let workers: Vec<_> = (0..4)
                    .map(|seed| {
                        let (arena, refused) = (&arena, &refused);
                        threads.spawn(move || fill_and_drop(arena, seed, refused))
                    })
                    .collect();
                let (arena, stop) = (&arena, &stop);
                threads.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let stats = arena.stats();
                        assert!(stats.committed_bytes <= BUDGET as u64, "{stats:?}");
                    }
                });
                for worker in workers {
                    // The watching thread ends in any case.
                    let _ = worker.join().inspect_err(|_| stop.store(true, Ordering::Relaxed));
                }
                stop.store(true, Ordering::Relaxed);
            });
            assert!(refused.load(Ordering::Relaxed) > 0, "the budget was never reached");
            arena.verify().unwrap();
        },
    );
}

fn fill_and_drop(arena: &Arena, seed: u64, refused: &AtomicUsize) {
    let mut random = Random::new(seed);
    let mut thread = arena.attach().unwrap();
    let mut mine = Vec::new();
    for _ in 0..2000 {
        match install_long(&mut thread, random.below(4000)) {
            Ok(executor) => mine.push(executor),
            Err(ReserveError::OverBudget { .. }) => {
                refused.fetch_add(1, Ordering::Relaxed);
                mine.truncate(mine.len() / 2);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn a2_trampolines_are_within_the_budget_too() {
    each_strategy_with(
        |builder| builder.code_budget(64 * KIB),
        |arena| {
            let targets: Vec<_> = (1..100_000).map(|n| n * 16).collect();
            let error = arena.make_trampolines(&targets).unwrap_err();
            assert!(matches!(error, TrampolineError::OverBudget { .. }), "{error:?}");
            assert!(arena.stats().committed_bytes <= 64 * KIB as u64);
            assert!(arena.trampolines().len() >= 2048, "{}", arena.trampolines().len());
            arena.verify().unwrap();
        },
    );
}

#[test]
fn callbacks_come_once_for_each_rise() {
    const LIMIT: usize = 128 * KIB;
    let told = Arc::new(Mutex::new(Vec::new()));
    each_strategy_with(
        |builder| {
            let told = Arc::clone(&told);
            let note = move |of, bytes| told.lock().unwrap().push((of, bytes));
            builder.on_pressure(Pressure::Committed, LIMIT, note)
        },
        |arena| {
            let mut thread = arena.attach().unwrap();
            for round in 1..=3 {
                let all: Vec<_> =
                    (0..100).map(|_| install_long(&mut thread, 3000).unwrap()).collect();
                let seen = told.lock().unwrap().clone();
                assert_eq!(seen.len(), round, "{seen:?}");
                assert!(
                    seen.iter().all(|(of, bytes)| *of == Pressure::Committed && *bytes > LIMIT)
                );
                drop(all);
                thread.collect();
                assert_eq!(arena.stats().committed_bytes, 0);
            }
            told.lock().unwrap().clear();
        },
    );
}

/// However threads interleave, no rise goes by untold, and none is told to each.
#[test]
fn threads_that_rise_together_are_told_of() {
    const LIMIT: usize = 256 * KIB;
    const THREADS: usize = 3;
    const WAVES: usize = 30;
    let told = Arc::new(AtomicUsize::new(0));
    each_strategy_with(
        |builder| {
            let told = Arc::clone(&told);
            builder.on_pressure(Pressure::Committed, LIMIT, move |_, _| {
                told.fetch_add(1, Ordering::Relaxed);
            })
        },
        |arena| {
            let barrier = Barrier::new(THREADS);
            thread::scope(|threads| {
                for me in 0..THREADS {
                    let (arena, told, barrier) = (&arena, &told, &barrier);
                    threads.spawn(move || {
                        let mut thread = arena.attach().unwrap();
                        for wave in 0..WAVES {
                            barrier.wait();
                            let install = |_| install_long(&mut thread, 4000).unwrap();
                            let all: Vec<_> = (0..50).map(install).collect();
                            barrier.wait();
                            if me == 0 {
                                let told = told.swap(0, Ordering::Relaxed);
                                assert!((1..=THREADS).contains(&told), "wave {wave}: {told}");
                            }
                            drop(all);
                            thread.collect();
                            barrier.wait();
                            // Nobody is in the middle of anything any more.
                            thread.collect();
                        }
                    });
                }
            });
            arena.attach().unwrap().collect();
            told.store(0, Ordering::Relaxed);
        },
    );
}

#[test]
fn garbage_that_a_pinned_thread_keeps_is_told_of() {
    const LIMIT: usize = 64 * KIB;
    let told = Arc::new(AtomicUsize::new(0));
    each_strategy_with(
        |builder| {
            let told = Arc::clone(&told);
            builder.on_pressure(Pressure::Retired, LIMIT, move |of, bytes| {
                assert!(of == Pressure::Retired && bytes > LIMIT);
                told.fetch_add(1, Ordering::Relaxed);
            })
        },
        |arena| {
            let sleeper = arena.attach().unwrap();
            let mut thread = arena.attach().unwrap();
            let guard = sleeper.pin();
            for _ in 0..100 {
                drop(install_long(&mut thread, 3000).unwrap());
            }
            assert_eq!(told.swap(0, Ordering::Relaxed), 1);
            drop(guard);
            thread.collect();
            assert_eq!(arena.stats().retired_bytes, 0);
            for _ in 0..100 {
                drop(install_long(&mut thread, 3000).unwrap());
            }
            assert_eq!(told.load(Ordering::Relaxed), 0, "it is recycled as it comes");
        },
    );
}

#[test]
fn what_keeps_nearly_empty_pages_is_found() {
    const PAGE: usize = 64 * KIB;
    each_strategy_with(
        |builder| builder.reserve(4 * MIB),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut all: Vec<_> = (0..400).map(|n| install(&mut thread, n)).collect();
            all.extend((0..400).map(|_| install_long(&mut thread, 3000).unwrap()));
            assert!(arena.evacuation_candidates(0).unwrap().is_empty(), "no page is empty");
            // One in a hundred survives.
            let mut index = 0;
            all.retain(|_| {
                index += 1;
                index % 100 == 50
            });
            thread.collect();
            let candidates = arena.evacuation_candidates(PAGE / 8).unwrap();
            let mut found: Vec<_> = candidates
                .iter()
                .flat_map(|it| it.executors.iter().map(|info| info.entry()))
                .collect();
            found.sort_unstable();
            found.dedup();
            let mut expected: Vec<_> = all.iter().map(Executor::addr).collect();
            expected.sort_unstable();
            assert_eq!(found, expected);
            for it in &candidates {
                assert!(it.page.len == PAGE && it.live_bytes <= PAGE / 8, "{it:?}");
                assert!(it.live_bytes > 0 && !it.executors.is_empty(), "{it:?}");
            }
            assert!(candidates.is_sorted_by_key(|it| it.live_bytes));
            // They were all that kept the memory.
            assert!(arena.stats().committed_bytes > 0);
            drop(all);
            thread.collect();
            assert_eq!(arena.stats().committed_bytes, 0);
            assert_eq!(arena.evacuation_candidates(PAGE).unwrap(), []);
            // A page with an island stays, so what is on it is no candidate.
            arena.trampoline(0x1234).unwrap();
            let beside = install(&mut thread, 1);
            if beside.addr() - arena.span().start < PAGE - GRANULE {
                assert_eq!(arena.evacuation_candidates(PAGE).unwrap(), []);
            }
        },
    );
}

#[test]
fn a2_there_is_room_for_what_is_needed_where_there_is_none_for_a_claim() {
    const PAGE: usize = 4 * KIB;
    each_strategy_with(
        |builder| builder.code_budget(3 * PAGE),
        |arena| {
            if arena.report().strategy == Strategy::Mprotect || arena.report().system_page != PAGE {
                // Claims are whole system pages.
                return;
            }
            let (mut one, mut two) = (arena.attach().unwrap(), arena.attach().unwrap());
            // All of the budget, and little of its last page.
            let kept = install_long(&mut one, 2 * PAGE).unwrap();
            assert_eq!(arena.stats().committed_bytes as usize, 3 * PAGE);
            // A claim of 4 KiB would end behind that page.
            drop(install_long(&mut two, 100).unwrap());
            assert!(matches!(install_long(&mut two, PAGE), Err(ReserveError::OverBudget { .. })));
            drop(kept);
        },
    );
}
