//! Placement left to chance: no two arenas and no two runs have it alike, what must
//! be near is near, and everything works as where it is not.

#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;

use common::child;
use common::{RESERVE, call, install};
use jit_arena::{Arena, Strategy};

/// Bytes of a code page.
const PAGE: usize = 64 << 10;

fn random(strategy: Strategy) -> Option<Arena> {
    let builder = Arena::builder().reserve(RESERVE).strategy(strategy).random_placement(true);
    common::arena_of(strategy).map(|_| builder.build().unwrap())
}

/// Number of the code page that an arena begins with.
fn first_page(arena: &Arena) -> usize {
    let executor = install(&mut arena.attach().unwrap(), 7);
    (executor.addr() - arena.span().start) / PAGE
}

#[test]
fn places_differ_from_arena_to_arena() {
    for strategy in Strategy::ALL {
        let Some(first) = random(strategy) else { continue };
        let arenas: Vec<_> = (0..16).filter_map(|_| random(strategy)).chain([first]).collect();
        let starts: BTreeSet<_> = arenas.iter().map(|arena| arena.span().start).collect();
        // Not one beside the other, as the system's own choices are.
        let steps: BTreeSet<_> =
            starts.iter().zip(starts.iter().skip(1)).map(|(low, high)| high - low).collect();
        assert_eq!((starts.len(), steps.len()), (17, 16), "{strategy}");
        assert!(steps.iter().max().unwrap() > &(1 << 36), "{strategy}: {steps:x?}");
        let pages: BTreeSet<_> = arenas.iter().map(first_page).collect();
        assert!(pages.len() > 8, "{strategy}: {pages:?}");
        if matches!(strategy, Strategy::DualPkey | Strategy::DualOpen) {
            let offsets: BTreeSet<_> = arenas.iter().map(|it| it.write_offset().unwrap()).collect();
            assert_eq!(offsets.len(), 17, "{strategy}: one view tells where the other is");
        }
    }
}

#[test]
fn places_differ_from_run_to_run() {
    const NAME: &str = "places_differ_from_run_to_run";
    let strategy = Strategy::DualTransient;
    if child::part().is_some() {
        let arena = random(strategy).unwrap();
        println!("\nplace: {:x} {}", arena.span().start, first_page(&arena));
        return;
    }
    let runs = [child::run(NAME, "first"), child::run(NAME, "second")];
    runs.iter().for_each(child::Ended::expect_success);
    assert_ne!(runs[0].said("place").unwrap(), runs[1].said("place").unwrap());
}

#[test]
fn what_is_to_be_near_is_within_reach() {
    let here = what_is_to_be_near_is_within_reach as fn() as usize;
    let starts: BTreeSet<_> = (0..8)
        .map(|_| {
            let builder = Arena::builder().reserve(RESERVE).near(here).random_placement(true);
            let arena = builder.build().unwrap();
            let span = arena.span();
            assert!(here.abs_diff(span.start).max(here.abs_diff(span.end())) <= 1 << 31);
            span.start
        })
        .collect();
    assert!(starts.len() > 1, "{starts:x?}");
}

#[test]
fn arenas_in_any_order_fill_up_and_empty() {
    for strategy in Strategy::ALL {
        let Some(arena) = random(strategy) else { continue };
        let mut thread = arena.attach().unwrap();
        let mut executors = Vec::new();
        // Longer than a page, and then as many of a page's length as there is room for.
        let long = vec![0xC3; 3 * PAGE];
        executors.push(thread.install(&long, &[]).unwrap());
        while let Ok(executor) = thread.install(&long[..PAGE - 64], &[]) {
            executors.push(executor);
        }
        assert_eq!(executors.len(), RESERVE / PAGE - 4 + 1, "{strategy}");
        executors.truncate(1);
        thread.collect();
        let seven = install(&mut thread, 7);
        assert_eq!(call(&thread, &seven), 7);
        drop((seven, executors));
        thread.collect();
        drop(thread);
        arena.verify().unwrap();
        assert_eq!(arena.stats().live_bytes, 0, "{strategy}");
    }
}
