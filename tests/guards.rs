//! Guards: what runs, reads or writes past either end of a view meets memory that
//! nobody may access, and no neighbour.

#![cfg(target_os = "linux")]

mod common;

use std::hint::black_box;

use common::child::{self, SEGV_ACCERR};
use common::{RESERVE, arena_of, call_at, maps};
use jit_arena::{Arena, Strategy};

/// First bytes of the lasting views: one where code is written in windows, or where
/// it runs.
fn views(arena: &Arena) -> Vec<usize> {
    let executable = arena.span().start;
    let second = arena.write_offset().filter(|&offset| offset != 0);
    let second = second.map(|offset| executable.wrapping_add_signed(offset));
    let views: Vec<_> = [executable].into_iter().chain(second).collect();
    let is_dual = matches!(arena.report().strategy, Strategy::DualPkey | Strategy::DualOpen);
    assert_eq!(views.len(), if is_dual { 2 } else { 1 });
    views
}

/// One access, which must not come back.
fn access(kind: &str, addr: usize) {
    println!("\naddress: {addr}");
    match kind {
        // SAFETY: faults, or is a byte that nobody of this process needs.
        "write" => unsafe { std::ptr::with_exposed_provenance_mut::<u8>(addr).write_volatile(1) },
        "read" => {
            // SAFETY: as above.
            black_box(unsafe { std::ptr::with_exposed_provenance::<u8>(addr).read_volatile() });
        }
        _ => {
            call_at(addr);
        }
    }
    println!("\nsurvived: yes");
}

#[test]
fn accesses_just_past_either_end_of_a_view_fault() {
    const NAME: &str = "accesses_just_past_either_end_of_a_view_fault";
    if let Some(part) = child::part() {
        child::report_faults();
        let [strategy, view, end, kind] = part.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{part}");
        };
        let arena = arena_of(strategy.parse().unwrap()).unwrap();
        let first = views(&arena)[view.parse::<usize>().unwrap()];
        // Where there is a key, it is open.
        let mut thread = arena.attach().unwrap();
        let _scope = thread.write();
        return access(kind, if end == "before" { first - 1 } else { first + RESERVE });
    }
    for strategy in Strategy::ALL {
        let Some(arena) = arena_of(strategy) else { continue };
        for view in 0..views(&arena).len() {
            for end in ["before", "behind"] {
                for kind in ["read", "write", "execute"] {
                    let part = format!("{strategy} {view} {end} {kind}");
                    let ended = child::run(NAME, &part);
                    // Mapped, and without rights.
                    ended.expect_fault(SEGV_ACCERR);
                    let at = ended.fault().unwrap().address.to_string();
                    assert_eq!(ended.said("address"), Some(&*at), "{part}");
                    assert_eq!(ended.said("survived"), None, "{part}");
                }
            }
        }
    }
}

#[test]
fn guards_come_and_go_with_their_views() {
    const NAME: &str = "guards_come_and_go_with_their_views";
    if child::part().is_none() {
        return child::run(NAME, "alone").expect_success();
    }
    for (strategy, anonymous) in Strategy::ALL.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        if arena_of(strategy).is_none() {
            continue;
        }
        let builder = Arena::builder().reserve(RESERVE).strategy(strategy).anonymous(anonymous);
        let arena = builder.build().unwrap();
        let ends: Vec<_> =
            views(&arena).iter().flat_map(|view| [view - 1, view + RESERVE]).collect();
        for &addr in &ends {
            let guard = maps::at(addr).unwrap_or_else(|| panic!("{strategy}: no guard"));
            // The ends of anonymous memory that has two views are of that, shared.
            assert!(guard.rights.starts_with("---"), "{strategy}: {}", guard.rights);
        }
        drop(arena);
        for &addr in &ends {
            assert!(maps::at(addr).is_none(), "{strategy}: a guard is left");
        }
    }
}
