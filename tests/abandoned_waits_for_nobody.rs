//! What was reserved and never published can be reserved again at once, whoever
//! is pinned: nobody can be running it.

mod common;

use std::sync::mpsc;
use std::thread;

use common::each_strategy_with;
use jit_arena::{Arena, CodeLayout};

const CODE_PAGE: usize = 64 << 10;

fn whole(arena: &Arena) -> CodeLayout {
    CodeLayout::new(arena.stats().reserved_bytes as usize - 16)
}

#[test]
fn a_reservation_of_all_there_is_comes_back_while_another_thread_is_pinned() {
    each_strategy_with(
        |builder| builder.code_page(CODE_PAGE).reserve(4 * CODE_PAGE),
        |arena| {
            let pinned = arena.attach().unwrap();
            let mut thread = arena.attach().unwrap();
            let _guard = pinned.pin();
            for _ in 0..3 {
                let mut all = thread.reserve(whole(&arena)).unwrap();
                thread.write().write_at(&mut all, 0, &[0x90]).unwrap();
                assert!(thread.reserve(CodeLayout::new(1)).is_err(), "there was more");
                drop(all);
            }
            drop(thread.reserve(whole(&arena)).unwrap());
        },
    );
}

/// The same of threads that have ended, and of reservations that outlived them.
#[test]
fn what_an_ended_thread_had_reserved_comes_back_while_another_is_pinned() {
    each_strategy_with(
        |builder| builder.code_page(CODE_PAGE).reserve(4 * CODE_PAGE),
        |arena| {
            let mut thread = arena.attach().unwrap();
            for _ in 0..3 {
                let (reserved, wait) = mpsc::channel();
                let (pinned, go_on) = mpsc::channel::<()>();
                thread::scope(|scope| {
                    let other = &arena;
                    scope.spawn(move || {
                        let mut thread = other.attach().unwrap();
                        let all = thread.reserve(whole(other)).unwrap();
                        reserved.send(()).unwrap();
                        go_on.recv().unwrap();
                        drop(thread);
                        drop(all);
                    });
                    wait.recv().unwrap();
                    let guard = thread.pin();
                    pinned.send(()).unwrap();
                    drop(guard);
                });
                let pinned = arena.attach().unwrap();
                let _guard = pinned.pin();
                drop(thread.reserve(whole(&arena)).unwrap());
            }
        },
    );
}

/// A claim that was made for one long reservation is more than a thread may keep, and so
/// is what it recycles of others.
#[test]
fn what_a_thread_does_not_need_after_all_is_everybodys() {
    each_strategy_with(
        |builder| builder.code_page(CODE_PAGE).reserve(16 * CODE_PAGE),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut other = arena.attach().unwrap();
            let half = CodeLayout::new(8 * CODE_PAGE);
            drop(thread.reserve(whole(&arena)).unwrap());
            drop(other.reserve(half).expect("given up unwritten"));

            let mut long = thread.reserve(CodeLayout::new(12 * CODE_PAGE)).unwrap();
            let mut scope = thread.write();
            scope.write_at(&mut long, 0, &[0x90; 100]).unwrap();
            scope.shrink(&mut long, 100, 0).unwrap();
            let mut next = scope.reserve(CodeLayout::new(100)).unwrap();
            scope.write_at(&mut next, 0, &[0x90; 100]).unwrap();
            drop(scope);
            let executors = [thread.publish(long).unwrap(), thread.publish(next).unwrap()];
            drop(other.reserve(half).expect("the rest of what was shrunk"));
            arena.verify().unwrap();
            drop(executors);
        },
    );
}

/// What can be written stays so, whatever is given up meanwhile.
#[test]
fn a_slice_outlives_a_long_reservation_that_is_given_up_beside_it() {
    each_strategy_with(
        |builder| builder.code_page(CODE_PAGE).reserve(16 * CODE_PAGE),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut scope = thread.write();
            let mut short = scope.reserve(CodeLayout::new(100)).unwrap();
            let long = scope.reserve(CodeLayout::new(8 * CODE_PAGE)).unwrap();
            let bytes = scope.bytes(&mut short).unwrap();
            drop(long);
            bytes.fill(0x90);
            drop(scope);
            let executor = thread.publish(short).unwrap();
            assert_eq!(common::bytes_at(executor.addr(), 100), [0x90; 100]);
            let mut other = arena.attach().unwrap();
            let half = CodeLayout::new(8 * CODE_PAGE);
            drop(other.reserve(half).expect("shared when the scope had ended"));
            arena.verify().unwrap();
        },
    );
}
