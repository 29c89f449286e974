//! Code on its way from one thread to another.

use std::sync::Arc;

use jit_arena::{Slot, Strategy};

use super::{Bounds, M, Setup, install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "publish_load_call",
        checks: &["X1", "X2", "W1", "W2"],
        eager: Bounds { preemptions: 2, least: 2 },
        epoch: Some(Bounds { preemptions: 1, least: 2 }),
        body: || publish_load_call(Strategy::DualPkey),
    },
    M {
        name: "slot_install_and_replace",
        checks: &["X1", "E1", "D1"],
        eager: Bounds { preemptions: 2, least: 2 },
        epoch: None,
        body: slot_install_and_replace,
    },
];

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

/// Loads what is in the slot and runs it, as one of `known`.
fn call(setup: &Setup, slot: &Slot, known: &[u64]) {
    let thread = setup.attach();
    let guard = thread.pin();
    if let Some(entry) = slot.load(&guard) {
        let id = setup.run(entry.addr());
        assert!(known.contains(&id), "ran {id:#x}");
    }
}

/// Two threads put code into one slot while a third calls what is there.
fn slot_install_and_replace() {
    let setup = Setup::new(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let writer = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let mut thread = setup.attach();
            let executor = install(&mut thread, 2);
            drop(slot.replace(executor).expect("of this arena"));
        })
    };
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| call(setup, &slot, &[1, 2]))
    };
    let mut thread = setup.attach();
    let executor = install(&mut thread, 1);
    drop(slot.install(executor));
    writer.join().unwrap();
    caller.join().unwrap();
    call(&setup, &slot, &[1, 2]);
    drop(slot.invalidate());
    drop(thread);
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.installs, stats.retires), (2, 2));
}
