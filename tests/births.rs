//! Ten thousand threads, each born, at work and gone, in every state a thread can
//! die in; and all of it is free again.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use common::{Random, call, constant, each_strategy, install};
use jit_arena::{Arena, CodeLayout, Executor, Reservation, ThreadHandle};

/// Threads for each strategy, and how many live at a time.
const THREADS: usize = 10_000;
const AT_ONCE: usize = 8;

thread_local! {
    /// Dropped as the thread ends, before or after the arena's own.
    static LEFT: RefCell<Vec<Executor>> = const { RefCell::new(Vec::new()) };
}

/// One life; how it ends is told by `way`.
fn live(arena: &Arena, way: usize, random: &mut Random, to: &mpsc::Sender<Executor>) {
    let value = way as u32 + 100;
    match way {
        // Never attached: drops what others made, or nothing.
        0 => drop(arena.slot()),
        // With executors in a thread-local, dropped in its destructor.
        1 => {
            let mut thread = arena.attach().unwrap();
            LEFT.with_borrow_mut(|left| left.push(install(&mut thread, value)));
        }
        // With the kept handle, which a thread-local owns.
        2 => {
            let executor = arena.with_thread(|thread| install(thread, value)).unwrap();
            LEFT.with_borrow_mut(|left| left.push(executor));
        }
        // Unwinding out of a write scope, with reservations.
        3 => {
            let mut thread = arena.attach().unwrap();
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let mut place = thread.reserve(CodeLayout::new(600)).unwrap();
                let _unwritten = thread.reserve(CodeLayout::new(100)).unwrap();
                let mut scope = thread.write();
                scope.write_at(&mut place, 0, &constant(value)).unwrap();
                std::panic::resume_unwind(Box::new(()));
            }));
            assert!(unwound.is_err());
        }
        // Unwinding out of a guard, inside of what it runs.
        4 => {
            let mut thread = arena.attach().unwrap();
            let slot = arena.slot();
            slot.install(install(&mut thread, value)).unwrap();
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let mut guard = thread.pin();
                let mut running = guard.enter(&slot).unwrap();
                running.park(|| std::panic::resume_unwind(Box::new(())));
            }));
            assert!(unwound.is_err());
        }
        // With the last handle of what others drop, who never attached.
        5 => {
            let mut thread = arena.attach().unwrap();
            let executor = install(&mut thread, value);
            assert_eq!(call(&thread, &executor), value);
            to.send(executor).unwrap();
        }
        // With a reservation that outlives its handle.
        6 => {
            let mut thread = arena.attach().unwrap();
            let place: Reservation = thread.reserve(CodeLayout::new(300)).unwrap();
            drop(thread);
            drop(place);
        }
        // In the midst of a lot of its own.
        _ => {
            let mut thread = arena.attach().unwrap();
            let all: Vec<_> = (0..20 + random.below(40))
                .map(|number| install(&mut thread, number as u32))
                .collect();
            drop(all);
            if random.below(2) == 0 {
                thread.collect();
            }
        }
    }
}

#[test]
fn ten_thousand_threads_born_and_gone() {
    each_strategy(|arena| {
        let (to, others) = mpsc::channel();
        for batch in 0..THREADS / AT_ONCE {
            thread::scope(|scope| {
                let born: Vec<_> = (0..AT_ONCE)
                    .map(|number| {
                        let (arena, to) = (&arena, to.clone());
                        let way = (batch + number) % AT_ONCE;
                        scope.spawn(move || {
                            let mut random = Random::new((batch * AT_ONCE + number) as u64);
                            live(arena, way, &mut random, &to);
                        })
                    })
                    .collect();
                // A scope does not wait for thread-local destructors.
                born.into_iter().for_each(|thread| thread.join().unwrap());
            });
            // This thread never attached.
            others.try_iter().for_each(drop);
        }
        expect_nothing_left(&arena, &mut arena.attach().unwrap());
    });
}

fn expect_nothing_left(arena: &Arena, thread: &mut ThreadHandle) {
    thread.collect();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
    assert_eq!((stats.attached_threads, stats.committed_bytes), (1, 0), "{stats:?}");
    assert!(stats.installs as usize >= THREADS / 2, "{stats:?}");
}

#[test]
fn what_came_from_an_arena_outlives_its_last_handle() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let slot = arena.slot();
        slot.install(install(&mut thread, 3)).unwrap();
        let executor = install(&mut thread, 4);
        let place = thread.reserve(CodeLayout::new(64)).unwrap();
        drop(arena);
        let guard = thread.pin();
        let entry = slot.load(&guard).unwrap();
        // SAFETY: such a function, under its guard.
        let function: extern "C" fn() -> u32 = unsafe { entry.cast() };
        assert_eq!(function(), 3);
        drop(guard);
        assert_eq!(call(&thread, &executor), 4);
        drop((slot, place, thread));
        // The last of all is dropped by a thread that never attached.
        thread::spawn(move || drop(executor)).join().unwrap();
    });
}
