//! Many threads on the same pages and slots: installing, replacing, calling,
//! dropping each other's code, being born and dying.

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use common::{
    Barrier, RESERVE, Random, bytes_at, call, call_at, code, constant, each_strategy, install,
};
use jit_arena::{Arena, CodeLayout, Executor, Running, Slot, SlotError, ThreadHandle};

/// Threads that work at once: more than the cores of a small machine.
const THREADS: usize = 4;

/// Nothing is left, whoever made it and whoever dropped it.
fn expect_reclaimed(arena: &Arena) {
    arena.attach().unwrap().collect();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
    assert_eq!((stats.live_bytes, stats.retired_bytes), (0, 0), "{stats:?}");
    assert_eq!((stats.claimed_bytes, stats.attached_threads), (0, 0), "{stats:?}");
    assert_eq!((stats.committed_bytes, stats.padding_bytes), (0, 0), "{stats:?}");
    assert_eq!(stats.recycles, stats.installs, "{stats:?}");
    assert_eq!(stats.refusals, 0, "{stats:?}");
}

/// Waits for the very end of threads, their thread-local destructors included,
/// which a scope does not wait for.
fn join(threads: Vec<thread::ScopedJoinHandle<'_, ()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A function that returns `value`: from its code, or from data beside it.
fn install_one(thread: &mut ThreadHandle, random: &mut Random, value: u32) -> Executor {
    let padding = random.below(1500);
    if random.below(2) == 0 {
        let layout = CodeLayout::new(code::LOAD_DATA_LEN + padding).data(4, 16).tag(value.into());
        let mut reservation = thread.reserve(layout).unwrap();
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &code::load_data(layout.data_offset())).unwrap();
        scope.write_at(&mut reservation, layout.data_offset(), &value.to_le_bytes()).unwrap();
        drop(scope);
        return thread.publish(reservation).unwrap();
    }
    let code = constant(value);
    let mut reservation =
        thread.reserve(CodeLayout::new(code.len() + padding).tag(value.into())).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut reservation, 0, &code).unwrap();
    scope.shrink(&mut reservation, code.len() + padding / 2, 0).unwrap();
    drop(scope);
    thread.publish(reservation).unwrap()
}

/// The value of the function in `slot`, if there is one.
fn call_slot(thread: &ThreadHandle, slot: &Slot) -> Option<u32> {
    let guard = thread.pin();
    slot.load(&guard).map(|entry| {
        // SAFETY: slots here hold such functions; called under the guard.
        let function: extern "C" fn() -> u32 = unsafe { entry.cast() };
        function()
    })
}

/// Who finds an entry in a slot finds its code behind it, `[X1]`.
#[test]
fn slots_are_called_while_they_are_replaced() {
    const SLOTS: usize = 32;
    each_strategy(|arena| {
        let slots: Vec<_> = (0..SLOTS).map(|_| arena.slot()).collect();
        let calls = AtomicUsize::new(0);
        thread::scope(|threads| {
            for seed in 0..THREADS {
                let (arena, slots, calls) = (&arena, &slots, &calls);
                threads.spawn(move || {
                    let mut random = Random::new(seed as u64);
                    let mut thread = arena.attach().unwrap();
                    for round in 0..1500 {
                        let at = random.below(SLOTS);
                        // Says which slot it belongs in, so that code of the
                        // wrong one is seen.
                        let value = (round * SLOTS + at) as u32;
                        match random.below(8) {
                            0 => drop(slots[at].invalidate()),
                            1 => {
                                let executor = install_one(&mut thread, &mut random, value);
                                // Full: it is handed back, and dropped here.
                                let _ = slots[at].install(executor);
                            }
                            2 | 3 => {
                                let executor = install_one(&mut thread, &mut random, value);
                                let old = slots[at].replace(executor).unwrap();
                                if let Some(old) = old {
                                    assert_eq!(old.tag() as usize % SLOTS, at);
                                    thread.retire(old);
                                }
                            }
                            _ => {
                                if let Some(seen) = call_slot(&thread, &slots[at]) {
                                    assert_eq!(seen as usize % SLOTS, at);
                                    calls.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    }
                });
            }
        });
        assert!(calls.load(Ordering::Relaxed) > 1000);
        arena.verify().unwrap();
        drop(slots);
        expect_reclaimed(&arena);
    });
}

#[test]
fn h8_a_slot_never_goes_back_though_addresses_are_reused() {
    // One writer, whose values rise. A core that ran an address before, and
    // still had its old instructions, would see a value fall.
    each_strategy(|arena| {
        let slot = arena.slot();
        let stop = AtomicBool::new(false);
        let mut addresses = std::collections::HashSet::new();
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    let thread = arena.attach().unwrap();
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let seen = call_slot(&thread, &slot).unwrap_or(0);
                        assert!(seen >= last, "{seen} after {last}");
                        last = seen;
                    }
                });
            }
            let mut thread = arena.attach().unwrap();
            for value in 1..=5000 {
                let executor = install(&mut thread, value);
                addresses.insert(executor.addr());
                drop(slot.replace(executor).unwrap());
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(addresses.len() < 5000, "no address was ever used twice");
        drop(slot);
        expect_reclaimed(&arena);
    });
}

#[test]
fn one_of_many_wins_an_empty_slot() {
    each_strategy(|arena| {
        for _ in 0..50 {
            let slot = arena.slot();
            let wins = AtomicUsize::new(0);
            let start = Barrier::new(THREADS);
            thread::scope(|threads| {
                for value in 0..THREADS as u32 {
                    let (arena, slot, wins, start) = (&arena, &slot, &wins, &start);
                    threads.spawn(move || {
                        let mut thread = arena.attach().unwrap();
                        let executor = install(&mut thread, value);
                        start.wait();
                        match slot.install(executor) {
                            Ok(()) => {
                                wins.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(SlotError::Occupied(executor)) => {
                                assert_eq!(call(&thread, &executor), value);
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    });
                }
            });
            assert_eq!(wins.load(Ordering::Relaxed), 1);
            assert!(!slot.is_empty());
        }
        expect_reclaimed(&arena);
    });
}

#[test]
fn threads_write_side_by_side() {
    // All scopes open at once, on granules of the same pages.
    each_strategy(|arena| {
        let together = Barrier::new(THREADS);
        let addresses = Mutex::new(Vec::new());
        thread::scope(|threads| {
            for seed in 0..THREADS as u32 {
                let (arena, together, addresses) = (&arena, &together, &addresses);
                threads.spawn(move || {
                    let mut thread = arena.attach().unwrap();
                    let mut all = Vec::new();
                    for round in 0..50 {
                        let value = round * THREADS as u32 + seed;
                        let pattern = (value.wrapping_mul(0x9E37_79B9) >> 24) as u8;
                        let mut scope = thread.write();
                        let mut reservation = scope.reserve(CodeLayout::new(300)).unwrap();
                        together.wait();
                        let bytes = scope.bytes(&mut reservation).unwrap();
                        bytes.fill(pattern);
                        bytes[..constant(value).len()].copy_from_slice(&constant(value));
                        together.wait();
                        drop(scope);
                        let executor = thread.publish(reservation).unwrap();
                        addresses.lock().unwrap().push((executor.addr(), seed));
                        all.push((value, pattern, executor));
                    }
                    together.wait();
                    for (value, pattern, executor) in &all {
                        assert_eq!(call(&thread, executor), *value);
                        let rest = bytes_at(executor.addr(), 300).split_off(16);
                        assert!(rest.iter().all(|byte| byte == pattern));
                    }
                });
            }
        });
        // Or this showed nothing.
        let mut addresses = addresses.into_inner().unwrap();
        addresses.sort_unstable();
        let shared = addresses
            .windows(2)
            .any(|pair| pair[0].1 != pair[1].1 && pair[0].0 / 65_536 == pair[1].0 / 65_536);
        assert!(shared, "no two threads shared a code page");
        expect_reclaimed(&arena);
    });
}

#[test]
fn code_is_dropped_by_other_threads() {
    each_strategy(|arena| {
        let (to_attached, for_attached) = mpsc::channel::<(u32, Executor)>();
        let (to_stranger, for_stranger) = mpsc::channel::<(u32, Executor)>();
        thread::scope(|threads| {
            let arena = &arena;
            threads.spawn(move || {
                let mut thread = arena.attach().unwrap();
                for (value, executor) in for_attached {
                    assert_eq!(call(&thread, &executor), value);
                    if value % 3 == 0 {
                        thread.retire(executor);
                    }
                }
            });
            threads.spawn(move || {
                for (value, executor) in for_stranger {
                    // Never attached: the handle itself keeps the code alive.
                    assert_eq!(call_at(executor.addr()), value);
                }
            });
            let mut thread = arena.attach().unwrap();
            for value in 0..4000 {
                let executor = install(&mut thread, value);
                let to = if value % 2 == 0 { &to_attached } else { &to_stranger };
                to.send((value, executor)).unwrap();
            }
            drop((to_attached, to_stranger));
        });
        assert_eq!(arena.stats().retires, 4000);
        expect_reclaimed(&arena);
    });
}

#[test]
fn hundreds_of_threads_are_born_and_die() {
    each_strategy(|arena| {
        let pool: Mutex<VecDeque<(u32, Executor)>> = Mutex::new(VecDeque::new());
        for generation in 0..60_u32 {
            thread::scope(|threads| {
                let born = (0..THREADS as u32).map(|at| {
                    let (arena, pool) = (&arena, &pool);
                    threads.spawn(move || {
                        let work = |thread: &mut ThreadHandle| {
                            for i in 0..10 {
                                let value = generation * 1000 + at * 100 + i;
                                let executor = install(thread, value);
                                let mut pool = pool.lock().unwrap();
                                pool.push_back((value, executor));
                                // Somebody else's, most of the time.
                                let oldest = (pool.len() > 100).then(|| pool.pop_front());
                                drop(pool);
                                if let Some((value, executor)) = oldest.flatten() {
                                    assert_eq!(call(thread, &executor), value);
                                }
                            }
                            // Dies with a reservation, and most of a claim.
                            drop(thread.reserve(CodeLayout::new(700)).unwrap());
                        };
                        if at % 2 == 0 {
                            work(&mut arena.attach().unwrap());
                        } else {
                            arena.with_thread(work).unwrap();
                        }
                    })
                });
                join(born.collect());
            });
            let stats = arena.stats();
            assert_eq!((stats.attached_threads, stats.claimed_bytes), (0, 0), "{stats:?}");
            assert!(
                stats.committed_bytes <= 2 << 20,
                "what threads leave behind is used by others: {stats:?}"
            );
        }
        let survivors = pool.into_inner().unwrap();
        for (value, executor) in &survivors {
            assert_eq!(call_at(executor.addr()), *value);
        }
        arena.verify().unwrap();
        drop(survivors);
        expect_reclaimed(&arena);
        assert_eq!(arena.stats().installs, 60 * THREADS as u64 * 10);
    });
}

#[test]
fn claims_are_handed_off_when_threads_end() {
    // One executor a thread, and then the thread is gone: their claims must
    // not be gone with them.
    each_strategy(|arena| {
        let mut all = Vec::new();
        for value in 0..300 {
            let theirs = arena.clone();
            let executor = thread::spawn(move || install(&mut theirs.attach().unwrap(), value));
            all.push(executor.join().unwrap());
        }
        for (value, executor) in (0..).zip(&all) {
            assert_eq!(call_at(executor.addr()), value);
        }
        let stats = arena.stats();
        let unit = if arena.report().strategy.name() == "mprotect" { 4096 } else { 64 };
        assert!(
            stats.committed_bytes <= 300 * unit + (64 << 10),
            "300 executors on pages of their own: {stats:?}"
        );
        arena.verify().unwrap();
        drop(all);
        expect_reclaimed(&arena);
    });
}

/// Each handle that ends leaves the epoch something to run, mostly nothing: one
/// `collect` goes through all of it.
#[test]
fn one_collect_frees_what_ended_threads_had_retired() {
    each_strategy(|arena| {
        let holder = arena.attach().unwrap();
        let guard = holder.pin();
        for _ in 0..100 {
            drop(arena.attach().unwrap());
        }
        drop(arena.attach().unwrap().install(&constant(1), &[]).unwrap());
        drop(guard);
        arena.attach().unwrap().collect();
        let stats = arena.stats();
        assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
        arena.verify().unwrap();
    });
}

#[test]
fn a_kept_handle_is_made_once_a_thread() {
    each_strategy(|arena| {
        let (ready, done) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
        thread::scope(|threads| {
            let spawn = |_| {
                threads.spawn(|| {
                    for value in 0..200 {
                        let executor = arena.with_thread(|thread| install(thread, value)).unwrap();
                        assert_eq!(call_at(executor.addr()), value);
                    }
                    ready.wait();
                    done.wait();
                })
            };
            let born = (0..THREADS).map(spawn).collect();
            ready.wait();
            assert_eq!(arena.stats().attached_threads, THREADS as u64);
            done.wait();
            join(born);
        });
        expect_reclaimed(&arena);
    });
}

/// What a sleeping executor's helper is passed.
struct Sleeper<'a, 'g> {
    running: Running<'g>,
    asleep: &'a Barrier,
    awake: &'a Barrier,
}

extern "C" fn sleep(sleeper: usize) {
    let sleeper = std::ptr::with_exposed_provenance_mut::<Sleeper<'_, '_>>(sleeper);
    // SAFETY: passed through machine code by the thread that owns it, which is
    // this one.
    let sleeper = unsafe { &mut *sleeper };
    sleeper.running.park(|| {
        sleeper.asleep.wait();
        sleeper.awake.wait();
    });
}

/// What sleepers hold stays, `[E2]`, and nothing else does.
#[test]
fn garbage_is_bounded_by_what_sleepers_are_inside_of() {
    const SLEEPERS: u32 = 6;
    const WORKERS: usize = 2;
    each_strategy(|arena| {
        let slots: Vec<_> = (0..SLEEPERS).map(|_| arena.slot()).collect();
        let mut thread = arena.attach().unwrap();
        for (value, slot) in (0..).zip(&slots) {
            slot.install(thread.install(&code::call_helper(value), &[]).unwrap()).unwrap();
        }
        let (asleep, awake) =
            (Barrier::new(SLEEPERS as usize + 1), Barrier::new(SLEEPERS as usize + 1));
        thread::scope(|threads| {
            for (value, slot) in (0..).zip(&slots) {
                let (arena, asleep, awake) = (&arena, &asleep, &awake);
                threads.spawn(move || {
                    let thread = arena.attach().unwrap();
                    let mut guard = thread.pin();
                    let running = guard.enter(slot).unwrap();
                    // SAFETY: the code is such a function; `running` holds it.
                    let function: code::CallsHelper = unsafe { running.cast() };
                    let mut sleeper = Sleeper { running, asleep, awake };
                    let argument = (&raw mut sleeper).expose_provenance();
                    assert_eq!(function(sleep, argument), value, "code that was dropped");
                });
            }
            asleep.wait();
            let dead: Vec<_> = slots
                .iter()
                .map(|slot| slot.invalidate().unwrap())
                .map(|executor| (executor.addr(), executor.code_len()))
                .collect();
            // Others churn through many times what they may leave behind.
            let most_retired = AtomicUsize::new(0);
            thread::scope(|workers| {
                for _ in 0..WORKERS {
                    workers.spawn(|| {
                        let mut thread = arena.attach().unwrap();
                        // Three times the region, all told.
                        let piece = [0x90; 10_000];
                        for _ in 0..3 * RESERVE / WORKERS / piece.len() {
                            drop(thread.install(&piece, &[]).unwrap());
                            let retired = arena.stats().retired_bytes as usize;
                            most_retired.fetch_max(retired, Ordering::Relaxed);
                        }
                    });
                }
            });
            // A worker that the system stops while it is pinned, for a moment of
            // its own recycling, is a sleeper too: hence so much.
            let retired = most_retired.into_inner();
            assert!(retired < RESERVE / 2, "{retired} bytes retired at once");
            thread.collect();
            let stats = arena.stats();
            assert_eq!(stats.retired_executors, SLEEPERS.into(), "{stats:?}");
            arena.verify().unwrap();
            for (value, (addr, len)) in (0..).zip(&dead) {
                assert_eq!(bytes_at(*addr, *len), code::call_helper(value));
            }
            awake.wait();
        });
        drop((thread, slots));
        expect_reclaimed(&arena);
    });
}

#[test]
fn arenas_of_one_process_do_not_meet() {
    each_strategy(|arena| {
        let other = Arc::new(Arena::builder().reserve(RESERVE).build().unwrap());
        thread::scope(|threads| {
            for seed in 0..THREADS {
                let (arena, other) = (&arena, &other);
                threads.spawn(move || {
                    let mut ours = arena.attach().unwrap();
                    let mut theirs = other.attach().unwrap();
                    // A guard on one holds nothing of the other up.
                    let _guard = if seed == 0 { Some(ours.pin()) } else { None };
                    for value in 0..500 {
                        let executor = install(&mut theirs, value);
                        assert_eq!(call(&theirs, &executor), value);
                    }
                    drop(_guard);
                    let executor = install(&mut ours, 1);
                    assert_eq!(call(&ours, &executor), 1);
                });
            }
        });
        expect_reclaimed(&arena);
        expect_reclaimed(&other);
    });
}
