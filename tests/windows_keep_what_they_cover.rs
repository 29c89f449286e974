//! Where writing flips system pages, what is given up inside a write scope
//! stays out of everybody's hands until the scope's windows have closed, `[W3]`.
//! Scopes of two handles of a thread end in any order, `[W2]`.

mod common;

use common::{KIB, constant, each_strategy, each_strategy_with};
use jit_arena::{Arena, CodeLayout};

#[test]
fn a_reservation_dropped_in_a_scope_is_not_reused_under_its_window() {
    each_strategy(|arena| gives_up(&arena, true));
}

#[test]
fn what_is_given_up_before_a_window_opens_is_not_reused_under_it() {
    each_strategy(|arena| gives_up(&arena, false));
}

/// Gives a reservation up in a scope, before or after that has a window on the claim.
fn gives_up(arena: &Arena, under_window: bool) {
    // As two threads would, so that one is in a scope while the other
    // reclaims.
    let (mut one, mut two) = (arena.attach().unwrap(), arena.attach().unwrap());
    let mut outer = one.write();
    let mut given_up = outer.reserve(CodeLayout::new(9000)).unwrap();
    let mut kept = outer.reserve(CodeLayout::new(100)).unwrap();
    if under_window {
        outer.write_at(&mut given_up, 0, &[0x90; 9000]).unwrap();
        outer.write_at(&mut kept, 0, &constant(7)).unwrap();
    }
    drop(given_up);
    two.collect();
    let mut reservation = two.reserve(CodeLayout::new(100)).unwrap();
    let mut scope = two.write();
    scope.write_at(&mut reservation, 0, &constant(8)).unwrap();
    if !under_window {
        outer.write_at(&mut kept, 0, &constant(7)).unwrap();
    }
    drop(outer);
    scope.write_at(&mut reservation, 50, &[0x90; 50]).unwrap();
    drop(scope);
    let (seven, eight) = (one.publish(kept).unwrap(), two.publish(reservation).unwrap());
    assert_eq!((common::call(&one, &seven), common::call(&two, &eight)), (7, 8));
    arena.verify().unwrap();
}

#[test]
fn what_shrinking_leaves_is_not_reused_under_its_window() {
    each_strategy(|arena| {
        let (mut one, mut two) = (arena.attach().unwrap(), arena.attach().unwrap());
        let mut outer = one.write();
        let mut shrunk = outer.reserve(CodeLayout::new(17_000)).unwrap();
        let mut behind = outer.reserve(CodeLayout::new(100)).unwrap();
        outer.write_at(&mut shrunk, 0, &constant(7)).unwrap();
        outer.write_at(&mut behind, 0, &constant(9)).unwrap();
        outer.shrink(&mut shrunk, 100, 0).unwrap();
        two.collect();
        let mut reservation = two.reserve(CodeLayout::new(100)).unwrap();
        let mut scope = two.write();
        scope.write_at(&mut reservation, 0, &constant(8)).unwrap();
        drop(outer);
        scope.write_at(&mut reservation, 50, &[0x90; 50]).unwrap();
        drop(scope);
        let made = [one.publish(shrunk).unwrap(), one.publish(behind).unwrap()];
        let eight = two.publish(reservation).unwrap();
        assert_eq!(made.each_ref().map(|it| common::call(&one, it)), [7, 9]);
        assert_eq!(common::call(&two, &eight), 8);
        drop((made, eight));
        one.collect();
        two.collect();
        one.collect();
        arena.verify().unwrap();
        assert_eq!(arena.stats().committed_bytes, 0, "what was withheld came back");
    });
}

#[test]
fn a_claim_is_not_given_up_under_its_window() {
    each_strategy_with(
        |builder| builder.reserve(64 * KIB).code_page(64 * KIB),
        |arena| {
            let (mut two, mut one) = (arena.attach().unwrap(), arena.attach().unwrap());
            let mut outer = one.write();
            // A claim of some system pages, all of which the window covers.
            drop(outer.reserve(CodeLayout::new(9000)).unwrap());
            let mut kept = outer.reserve(CodeLayout::new(100)).unwrap();
            outer.write_at(&mut kept, 0, &constant(7)).unwrap();
            let mut rest = Vec::new();
            while let Ok(executor) = two.install(&[0x90; 4000], &[]) {
                rest.push(executor);
            }
            // Looks for room everywhere, in what the first handle has as well.
            let _ = arena.call_target(rest[0].addr(), far_away(rest[0].addr()));
            let mut taken = two.reserve(CodeLayout::new(4000)).ok();
            let mut scope = two.write();
            if let Some(reservation) = &mut taken {
                scope.write_at(reservation, 0, &constant(8)).unwrap();
            }
            outer.write_at(&mut kept, 50, &[0x90; 50]).unwrap();
            drop(outer);
            if let Some(reservation) = &mut taken {
                scope.write_at(reservation, 50, &[0x90; 50]).unwrap();
            }
            drop(scope);
            let seven = one.publish(kept).unwrap();
            assert_eq!(common::call(&one, &seven), 7);
            drop((taken, rest, seven));
            arena.verify().unwrap();
        },
    );
}

/// An address that no branch from `addr` reaches.
fn far_away(addr: usize) -> usize {
    addr ^ (1 << 40)
}

/// Scopes of two arenas that share the thread's rights, or do not.
#[cfg(all(target_os = "linux", feature = "model"))]
#[test]
fn w2_rights_end_with_the_last_scope_that_has_them() {
    use std::sync::Arc;

    use jit_arena::Strategy;
    use jit_arena::platform::model::{Machine, Options};

    let strategies = [
        Strategy::MapJit,
        Strategy::DualPkey,
        Strategy::SinglePkey,
        Strategy::DualTransient,
        Strategy::DualOpen,
        Strategy::Mprotect,
    ];
    for (outer, inner) in strategies.iter().flat_map(|one| strategies.map(|two| (*one, two))) {
        let options = Options { jit: true, allow_wx: true, ..Options::default() };
        let machine = Machine::new(options);
        let arena = |strategy| {
            let builder = Arena::builder().reserve(64 * KIB).code_page(64 * KIB);
            builder.strategy(strategy).build_on(Arc::clone(&machine) as _).unwrap()
        };
        let (one, two) = (arena(outer), arena(inner));
        let (mut one, mut two) = (one.attach().unwrap(), two.attach().unwrap());
        for ends_in_order in [true, false] {
            let (first, second) = (one.write(), two.write());
            if ends_in_order {
                drop(first);
                drop(second);
            } else {
                drop(second);
                drop(first);
            }
            assert!(!machine.rights().may_write(), "{outer} outside, {inner} inside");
        }
    }
}
