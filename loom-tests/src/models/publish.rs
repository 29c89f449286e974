//! Code on its way from one thread to another.

use std::sync::Arc;

use jit_arena::{Slot, Strategy};

use super::{Bounds, M, Setup, install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "publish_load_call",
        checks: &["X1", "X2", "W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 400 }),
        epoch: Some(Bounds { preemptions: 2, least: 30 }),
        body: || publish_load_call(Strategy::DualPkey),
    },
    M {
        name: "publish_load_call_transient",
        checks: &["X1", "X2", "W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 400 }),
        epoch: None,
        body: || publish_load_call(Strategy::DualTransient),
    },
    M {
        name: "publish_load_call_mprotect",
        checks: &["X1", "X2", "W1", "W2", "W3"],
        eager: Some(Bounds { preemptions: 7, least: 400 }),
        epoch: None,
        body: || publish_load_call(Strategy::Mprotect),
    },
    M {
        name: "publish_load_call_map_jit",
        checks: &["X1", "X2", "W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 400 }),
        epoch: None,
        body: || publish_load_call(Strategy::MapJit),
    },
    M {
        name: "publish_load_call_single_pkey",
        checks: &["X1", "X2", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 400 }),
        epoch: None,
        body: || publish_load_call(Strategy::SinglePkey),
    },
    M {
        name: "publish_load_call_open",
        checks: &["X1", "X2", "W1"],
        eager: Some(Bounds { preemptions: 7, least: 500 }),
        epoch: None,
        body: || publish_load_call(Strategy::DualOpen),
    },
    M {
        name: "replace_load_call",
        checks: &["X1", "X2", "E1"],
        eager: Some(Bounds { preemptions: 7, least: 4 }),
        epoch: None,
        body: replace_load_call,
    },
    M {
        name: "replace_and_drop_anothers",
        checks: &["X1", "D1"],
        eager: Some(Bounds { preemptions: 7, least: 2 }),
        epoch: None,
        body: || take_and_drop_anothers(Take::Replace),
    },
    M {
        name: "invalidate_and_drop_anothers",
        checks: &["X1", "D1"],
        eager: Some(Bounds { preemptions: 7, least: 2 }),
        epoch: None,
        body: || take_and_drop_anothers(Take::Invalidate),
    },
    M {
        name: "slot_two_writers_one_caller",
        checks: &["X1", "E1", "D1"],
        eager: Some(Bounds { preemptions: 3, least: 5000 }),
        epoch: Some(Bounds { preemptions: 1, least: 1000 }),
        body: slot_two_writers_one_caller,
    },
];

/// Runs what is in the slot, which is one of `known` if anything; twice, so
/// that it cannot have changed under the guard.
pub(super) fn call(setup: &Setup, slot: &Slot, known: &[u64]) {
    let thread = setup.attach();
    let guard = thread.pin();
    if let Some(entry) = slot.load(&guard) {
        let id = setup.run(entry.addr());
        assert!(known.contains(&id), "ran {id:#x}, not one of {known:x?}");
        assert_eq!(setup.run(entry.addr()), id, "what a guard protects has changed");
    }
}

/// Bump, write, publish, put into a slot; load and call.
fn publish_load_call(strategy: Strategy) {
    let setup = Setup::new(strategy);
    let slot = Arc::new(setup.arena.slot());
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| call(setup, &slot, &[1]))
    };
    let mut thread = setup.attach();
    let executor = install(&mut thread, 1);
    assert!(slot.install(executor).is_ok());
    caller.join().unwrap();
    call(&setup, &slot, &[1]);
    drop(thread);
    setup.verify();
}

/// New code takes the place of old in a slot; load and call.
fn replace_load_call() {
    let setup = Setup::new(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| call(setup, &slot, &[1, 2]))
    };
    let executor = install(&mut thread, 2);
    drop(slot.replace(executor).expect("of this arena"));
    caller.join().unwrap();
    call(&setup, &slot, &[2]);
    drop(thread);
    setup.verify();
}

/// How an executor leaves its slot.
#[derive(Clone, Copy)]
enum Take {
    Replace,
    Invalidate,
}

/// A thread takes out of a slot what another has written and put there, and
/// drops it, which reads its header.
fn take_and_drop_anothers(take: Take) {
    let setup = Setup::new(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    let mine = install(&mut thread, 1);
    let other = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let executor = install(&mut setup.attach(), 2);
            // Occupied, if the other was first.
            drop(slot.install(executor));
        })
    };
    match take {
        Take::Replace => drop(slot.replace(mine).expect("of this arena")),
        Take::Invalidate => drop(slot.invalidate()),
    }
    other.join().unwrap();
    drop(slot.invalidate());
    drop(thread);
    setup.verify();
}

/// Two threads put code into one slot while a third calls what is there.
fn slot_two_writers_one_caller() {
    let setup = Setup::new(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    let (first, second) = (install(&mut thread, 1), install(&mut thread, 2));
    let writer = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |_| drop(slot.replace(second).expect("of this arena")))
    };
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| call(setup, &slot, &[1, 2]))
    };
    drop(slot.install(first));
    thread.collect();
    writer.join().unwrap();
    caller.join().unwrap();
    drop(slot.invalidate());
    thread.collect();
    drop(thread);
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.installs, stats.retires, stats.recycles), (2, 2, 2));
}
