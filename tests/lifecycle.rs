//! The life of executors, in every strategy that works here.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{constant, each_strategy};
use jit_arena::{Arena, CodeLayout, PublishErrorKind, ReserveError, SlotError, WriteError};

#[test]
fn installed_code_runs_and_its_bytes_come_back() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut all = Vec::new();
        for round in 0..4_u32 {
            for i in 0..500 {
                let executor = thread.install(&constant(round * 1000 + i), &[7; 40]).unwrap();
                assert_eq!(common::call(&thread, &executor), round * 1000 + i);
                all.push((round * 1000 + i, executor));
            }
            for (value, executor) in &all {
                assert_eq!(common::call(&thread, executor), *value);
            }
            arena.verify().unwrap();
            // Every other one dies, so that holes form between the living.
            let mut index = 0;
            all.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        all.clear();
        thread.collect();
        arena.verify().unwrap();
        let stats = arena.stats();
        assert_eq!(stats.live_bytes, 0);
        assert_eq!(stats.retired_bytes, 0);
        assert_eq!(stats.committed_bytes, 0, "{stats:?}");
        assert_eq!(stats.recycles, 2000);
    });
}
