//! Memory that passes between threads that are too many to keep much each.

use std::collections::VecDeque;

use jit_arena::{Arena, Executor, ThreadHandle};

fn install(thread: &mut ThreadHandle, number: usize) -> Executor {
    // Lengths in no order that the arena could make use of.
    let len = 200 + number * 7919 % 3801;
    thread.install(&vec![0xCC; len], &[]).expect("there is room")
}

/// Handles count as threads, so one thread does the same every time.
#[test]
fn what_one_thread_recycles_others_have_without_a_claim() {
    const THREADS: usize = 16;
    const LIVE: usize = 1500;
    let arena = Arena::new().expect("an arena");
    let mut threads: Vec<_> = (0..THREADS).map(|_| arena.attach().expect("attached")).collect();
    let mut live: VecDeque<_> = (0..LIVE).map(|n| install(&mut threads[n % THREADS], n)).collect();
    let mut replace = |count: usize| {
        for number in 0..count {
            live.remove(number * 7907 % LIVE);
            live.push_back(install(&mut threads[number % THREADS], number));
        }
        arena.verify().expect("nothing is broken");
        arena.stats()
    };
    let before = replace(4 * LIVE);
    let after = replace(4 * LIVE);
    let claims = (after.claims - before.claims) as usize;
    assert!(claims <= LIVE, "{claims} claims of {} installs: holes are not passed on", 4 * LIVE);
    let lots = (after.recycled_lots - before.recycled_lots) as usize;
    assert!(lots <= 4 * LIVE / 16, "{lots} lots: each thread has its own");
    let more = after.committed_bytes.saturating_sub(before.committed_bytes);
    assert!(more <= before.committed_bytes / 4, "{more} bytes more for as much as before");
    drop((live, threads));
    let stats = arena.with_thread(|thread| {
        thread.collect();
        arena.stats()
    });
    let stats = stats.expect("attached");
    assert_eq!((stats.live_executors, stats.retired_executors, stats.claimed_bytes), (0, 0, 0));
    arena.verify().expect("nothing is broken");
}
