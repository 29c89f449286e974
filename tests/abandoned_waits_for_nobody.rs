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
                // Claimed by this thread, until it gives that up.
                thread.collect();
            }
        },
    );
}
