//! Huge pages: used where the system grants them, said where it does not, and
//! nothing else changes.

mod common;

use common::{MIB, call, each_strategy_with, install, maps, not_run, requires};
use jit_arena::{Arena, CodeLayout, Executor, Strategy, ThreadHandle};

/// Bytes of the executable view that the system maps by huge pages.
fn mapped_huge(arena: &Arena) -> usize {
    let span = arena.span();
    maps::huge_bytes(span.start..span.end())
}

/// Whether the arena has huge pages; says so where it has not.
fn granted(arena: &Arena) -> bool {
    let answer = arena.report().huge_pages.expect("they were asked for");
    if let Err(error) = &answer {
        assert!(!requires("huge-pages"), "huge pages are required: {error}");
        not_run(&format!("{}: {error}", arena.report().strategy));
    }
    answer.is_ok()
}

/// Installs code of so many bytes, its headers included, without a gap: a block
/// of which a part is never used is never whole.
fn fill(thread: &mut ThreadHandle, bytes: usize) -> Vec<Executor> {
    let code = [0x90; 4096 - 16];
    (0..bytes / 4096).map(|_| thread.install(&code, &[]).unwrap()).collect()
}

#[test]
fn whole_blocks_are_moved_and_code_runs_on() {
    each_strategy_with(
        |builder| builder.huge_pages(true),
        |arena| {
            let granted = granted(&arena);
            assert_eq!(arena.stats().committed_bytes, 0, "the trial gives back what it took");
            let mut thread = arena.attach().unwrap();
            let seven = install(&mut thread, 7);
            let filling = fill(&mut thread, 5 * MIB);
            let stats = arena.stats();
            if granted {
                assert!(stats.huge_bytes as usize >= 4 * MIB, "{stats:?}");
                // What the kernel says of the view that runs.
                assert_eq!(mapped_huge(&arena), stats.huge_bytes as usize);
            } else {
                assert_eq!(stats.huge_bytes, 0);
                assert_eq!(mapped_huge(&arena), 0);
            }
            assert!(stats.committed_bytes < 6 * MIB as u64, "no more than without: {stats:?}");
            assert_eq!(call(&thread, &seven), 7);
            let eight = install(&mut thread, 8);
            assert_eq!((call(&thread, &seven), call(&thread, &eight)), (7, 8));
            arena.verify().unwrap();

            drop((filling, seven, eight));
            while arena.stats().retired_executors > 0 {
                thread.collect();
            }
            thread.collect();
            let stats = arena.stats();
            assert_eq!((stats.committed_bytes, stats.huge_bytes), (0, 0));
            assert_eq!(mapped_huge(&arena), 0);
            arena.verify().unwrap();
        },
    );
}

#[test]
fn parts_of_a_huge_page_go_back_to_the_system() {
    let build = |strategy| Arena::builder().reserve(16 * MIB).strategy(strategy).huge_pages(true);
    let arena = build(Strategy::DualOpen).build().unwrap();
    if !granted(&arena) {
        return;
    }
    let mut thread = arena.attach().unwrap();
    let mut all = fill(&mut thread, 2 * MIB);
    let keeper = install(&mut thread, 9);
    assert!(arena.stats().huge_bytes > 0);
    let before = arena.stats().committed_bytes;
    all.truncate(all.len() / 2);
    for _ in 0..4 {
        thread.collect();
    }
    let stats = arena.stats();
    assert!(stats.committed_bytes < before * 2 / 3, "{stats:?}");
    assert_eq!(stats.huge_bytes, 0, "a part is gone: {stats:?}");
    let span = arena.span();
    assert_eq!(
        maps::resident_bytes(span.start..span.end()) as u64,
        stats.committed_bytes,
        "the system says the same"
    );
    assert_eq!(call(&thread, &keeper), 9);
    arena.verify().unwrap();
}

#[test]
fn none_are_used_unasked() {
    each_strategy_with(
        |builder| builder.reserve(16 * MIB),
        |arena| {
            assert_eq!(arena.report().huge_pages, None);
            let mut thread = arena.attach().unwrap();
            let mut all = vec![install(&mut thread, 1)];
            let span = arena.span();
            let resident = || maps::resident_bytes(span.start..span.end()) as u64;
            // Also where the system takes them by itself.
            assert!(resident() <= arena.stats().committed_bytes, "by {} bytes", resident());
            all.extend(fill(&mut thread, 5 * MIB));
            assert_eq!(arena.stats().huge_bytes, 0);
            assert_eq!(mapped_huge(&arena), 0);
            assert!(resident() <= arena.stats().committed_bytes, "by {} bytes", resident());
        },
    );
}

#[test]
fn a_region_without_room_for_one_works_without() {
    let builder = Arena::builder().reserve(MIB).strategy(Strategy::DualOpen);
    let arena = builder.huge_pages(true).build().unwrap();
    let error = arena.report().huge_pages.unwrap().unwrap_err();
    assert_eq!(error.call, "huge pages");
    assert!(arena.report().to_string().contains("huge pages: not granted"), "{}", arena.report());
    let mut thread = arena.attach().unwrap();
    let layout = CodeLayout::new(100);
    assert!(thread.reserve(layout).is_ok());
    let three = install(&mut thread, 3);
    assert_eq!(call(&thread, &three), 3);
}
