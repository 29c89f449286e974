//! Pushing reclamation as far as it goes comes to an end, also where others retire as
//! fast as it recycles.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use common::{Barrier, MIB, constant};
use jit_arena::{Arena, CodeInfo, Span, Strategy, Symbol, Tool};

/// Executors that there are to drop, some hundred times as many as are retired when
/// the collecting begins.
const MOST: usize = 100_000;

/// How many more are retired than recycled, at least: some whole batches.
const LEAD: usize = 256;

/// Keeps one thread retiring ahead of the one that collects.
#[derive(Debug)]
struct Pace {
    collects: ThreadId,
    recycled: AtomicUsize,
    retired: AtomicUsize,
    has_ended: AtomicBool,
}

impl Pace {
    fn is_ahead(&self, by: usize) -> bool {
        let retired = self.retired.load(Ordering::Relaxed);
        retired == MOST || retired >= self.recycled.load(Ordering::Relaxed) + by
    }
}

impl Tool for Pace {
    fn published(&self, _: &CodeInfo, _: &[u8], _: &Symbol<'_>) {}

    fn recycled(&self, _: usize) {
        if thread::current().id() == self.collects {
            self.recycled.fetch_add(1, Ordering::Relaxed);
            while !self.is_ahead(LEAD) {
                thread::yield_now();
            }
        }
    }

    fn unmapped(&self, _: Span) {}
}

#[test]
fn collecting_ends_while_another_thread_retires() {
    let collects = thread::current().id();
    let (recycled, retired) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let pace = Arc::new(Pace { collects, recycled, retired, has_ended: AtomicBool::new(false) });
    let builder = Arena::builder().reserve(64 * MIB).tool(pace.clone());
    let arena = builder.strategy(Strategy::DualOpen).build().unwrap();
    let begun = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut thread = arena.attach().unwrap();
            let made: Vec<_> =
                (0..MOST).map(|_| thread.install(&constant(1), &[]).unwrap()).collect();
            for (n, executor) in made.into_iter().enumerate() {
                drop(executor);
                pace.retired.store(n + 1, Ordering::Relaxed);
                if n + 1 == 2 * LEAD {
                    begun.wait();
                }
                while pace.is_ahead(2 * LEAD) && n + 1 < MOST {
                    if pace.has_ended.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::yield_now();
                }
            }
        });
        let mut thread = arena.attach().unwrap();
        begun.wait();
        thread.collect();
        pace.has_ended.store(true, Ordering::Relaxed);
    });
    let retired = pace.retired.load(Ordering::Relaxed);
    assert!(retired < MOST, "it went on as long as there was something to retire");
    arena.verify().unwrap();
}
