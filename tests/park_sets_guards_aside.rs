//! A park sets its thread's other guards aside while they run something; they
//! may stop running it meanwhile.

mod common;

use common::{constant, each_strategy};
use jit_arena::{Arena, Executor, Slot};

/// Drops executors as another thread would, and reclaims what nobody protects.
fn retire(arena: &Arena, executors: [Option<Executor>; 2]) {
    let mut other = arena.attach().unwrap();
    executors.into_iter().flatten().for_each(|it| other.retire(it));
    other.collect();
}

fn slot_with(arena: &Arena, value: u32) -> Slot {
    let slot = arena.slot();
    slot.install(arena.attach().unwrap().install(&constant(value), &[]).unwrap()).unwrap();
    slot
}

#[test]
fn what_another_guard_runs_may_end_inside_a_park() {
    each_strategy(|arena| {
        let thread = arena.attach().unwrap();
        let (one, two) = (slot_with(&arena, 1), slot_with(&arena, 2));
        let (mut parked, mut other) = (thread.pin(), thread.pin());
        let mut running = parked.enter(&one).unwrap();
        let ends_inside = other.enter(&two).unwrap();
        running.park(|| {
            drop(ends_inside);
            // The first one is held; the second was dropped after its guard
            // could be loaded under again, which protects whatever there is.
            retire(&arena, [one.invalidate(), two.invalidate()]);
            assert_eq!(arena.stats().retired_executors, 2);
        });
        // SAFETY: such a function, held since before it was dropped.
        let first: extern "C" fn() -> u32 = unsafe { running.cast() };
        assert_eq!(first(), 1);
        drop(running);
        drop(parked);
        drop(other);
        drop(thread);
        retire(&arena, [None, None]);
        assert_eq!(arena.stats().retired_executors, 0);
    });
}

#[test]
fn a_guard_that_stopped_running_inside_a_park_protects_again() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    each_strategy(|arena| {
        let thread = arena.attach().unwrap();
        let (one, two) = (slot_with(&arena, 1), slot_with(&arena, 2));
        // A task that is suspended while it runs the second executor: when it
        // goes on, inside the park, it uses its guard again.
        let mut suspended = pin!(async {
            let mut guard = thread.pin();
            let running = guard.enter(&two).unwrap();
            let mut first = true;
            std::future::poll_fn(|_| {
                if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            drop(running);
            let loaded = two.load(&guard).unwrap();
            retire(&arena, [two.invalidate(), None]);
            // SAFETY: such a function, loaded under a guard that lives.
            let second: extern "C" fn() -> u32 = unsafe { loaded.cast() };
            second()
        });
        let mut context = Context::from_waker(Waker::noop());
        assert!(suspended.as_mut().poll(&mut context).is_pending());
        let mut guard = thread.pin();
        let mut running = guard.enter(&one).unwrap();
        let returned = running.park(|| suspended.as_mut().poll(&mut context));
        assert_eq!(returned, Poll::Ready(2));
        // SAFETY: such a function, held.
        let first: extern "C" fn() -> u32 = unsafe { running.cast() };
        assert_eq!(first(), 1);
    });
}

/// `[E2]` where what a guard ran was forgotten, which is safe to do.
#[test]
fn a_guard_protects_again_when_what_it_ran_was_forgotten() {
    each_strategy(|arena| {
        let thread = arena.attach().unwrap();
        let (one, two) = (slot_with(&arena, 1), slot_with(&arena, 2));
        let (mut first, mut second) = (thread.pin(), thread.pin());
        std::mem::forget(first.enter(&one));
        let loaded = two.load(&first).unwrap();
        // Neither lets go of what the first guard protects again.
        second.safepoint();
        second.park(|| retire(&arena, [two.invalidate(), None]));
        assert_eq!(arena.stats().retired_executors, 1);
        // SAFETY: such a function, loaded under a guard that lives.
        let function: extern "C" fn() -> u32 = unsafe { loaded.cast() };
        assert_eq!(function(), 2);
        drop((first, second));
        retire(&arena, [None, None]);
        assert_eq!(arena.stats().retired_executors, 0);
    });
}

#[test]
fn a_guard_that_forgot_what_it_ran_may_end_inside_a_park() {
    each_strategy(|arena| {
        let thread = arena.attach().unwrap();
        let (one, two) = (slot_with(&arena, 1), slot_with(&arena, 2));
        let (mut first, mut second) = (thread.pin(), thread.pin());
        std::mem::forget(first.enter(&one));
        second.park(move || drop(first));
        drop(second);
        // The pins of a thread are counted as before.
        let guard = thread.pin();
        let loaded = two.load(&guard).unwrap();
        retire(&arena, [two.invalidate(), None]);
        assert_eq!(arena.stats().retired_executors, 1);
        // SAFETY: such a function, loaded under a guard that lives.
        let function: extern "C" fn() -> u32 = unsafe { loaded.cast() };
        assert_eq!(function(), 2);
    });
}
