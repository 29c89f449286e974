//! A region is exhausted when no hole is long enough, and not before.

mod common;

use common::each_strategy_with;
use jit_arena::{CodeLayout, GRANULE};

/// Bytes of code that take so many granules, with the header.
fn granules(n: usize) -> usize {
    n * GRANULE - 16
}

#[test]
fn a_hole_behind_shorter_ones_of_its_class_is_found() {
    each_strategy_with(
        |builder| builder.code_page(4096).reserve(4 * 4096),
        |arena| {
            if arena.report().strategy == jit_arena::Strategy::Mprotect {
                // Holes are whole system pages there.
                return;
            }
            let mut thread = arena.attach().unwrap();
            let mut install = |n: usize| thread.install(&vec![0x90; granules(n)], &[]).unwrap();
            // Four pages of 64 granules; two of them will have one hole each,
            // of 4 and of 5 granules, and the others none.
            let mut holes = Vec::new();
            let mut live = Vec::new();
            for hole in [4, 5] {
                live.push(install(30));
                holes.push(install(hole));
                live.push(install(34 - hole));
            }
            live.push(install(64));
            live.push(install(64));
            drop(holes);
            thread.collect();
            assert!(thread.reserve(CodeLayout::new(granules(6))).is_err());
            let found = thread.install(&vec![0x90; granules(5)], &[]).unwrap();
            assert!(thread.reserve(CodeLayout::new(granules(5))).is_err());
            let last = thread.install(&vec![0x90; granules(4)], &[]).unwrap();
            assert!(thread.reserve(CodeLayout::new(1)).is_err());
            drop((live, found, last));
            thread.collect();
            assert_eq!(arena.stats().committed_bytes, 0);
        },
    );
}
