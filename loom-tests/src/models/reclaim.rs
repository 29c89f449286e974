//! Executors that die while others may be running them.

use std::sync::Arc;

use jit_arena::{GRANULE, Strategy};

use super::publish::call;
use super::{Bounds, M, Setup, install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "last_drop_races_pin",
        checks: &["E1", "D1", "D2", "D3"],
        eager: Bounds { preemptions: 5, least: 5000 },
        epoch: Some(Bounds { preemptions: 1, least: 5000 }),
        body: || last_drop_races_pin(Strategy::DualPkey),
    },
    M {
        name: "last_drop_races_pin_mprotect",
        checks: &["E1", "D1", "D2", "D3", "W3"],
        eager: Bounds { preemptions: 5, least: 5000 },
        epoch: None,
        body: || last_drop_races_pin(Strategy::Mprotect),
    },
    M {
        name: "orphan_races_pin",
        checks: &["E1", "D1", "D2", "D3"],
        eager: Bounds { preemptions: 3, least: 4000 },
        epoch: Some(Bounds { preemptions: 0, least: 2 }),
        body: orphan_races_pin,
    },
    M {
        name: "reuse_races_pin",
        checks: &["E1", "D3", "X1", "X2", "B1"],
        eager: Bounds { preemptions: 3, least: 3000 },
        epoch: Some(Bounds { preemptions: 0, least: 50 }),
        body: || reuse_races_pin(Strategy::DualPkey),
    },
    M {
        name: "reuse_races_pin_transient",
        checks: &["E1", "D3", "X1", "X2", "B1"],
        eager: Bounds { preemptions: 3, least: 3000 },
        epoch: None,
        body: || reuse_races_pin(Strategy::DualTransient),
    },
    M {
        name: "reuse_races_pin_map_jit",
        checks: &["E1", "D3", "X1", "X2", "B1"],
        eager: Bounds { preemptions: 2, least: 300 },
        epoch: None,
        body: || reuse_races_pin(Strategy::MapJit),
    },
    M {
        name: "reuse_races_park",
        checks: &["E2", "D3", "X2"],
        eager: Bounds { preemptions: 3, least: 1200 },
        epoch: Some(Bounds { preemptions: 0, least: 20 }),
        body: || reuse_races_pause(Pause::Park),
    },
    M {
        name: "reuse_races_safepoint",
        checks: &["E2", "D3", "X2"],
        eager: Bounds { preemptions: 3, least: 1200 },
        epoch: None,
        body: || reuse_races_pause(Pause::Safepoint),
    },
    M {
        name: "last_handle_frees_the_arena",
        checks: &["R1", "R2", "D1"],
        eager: Bounds { preemptions: 7, least: 10 },
        epoch: None,
        body: last_handle_frees_the_arena,
    },
    M {
        name: "two_recyclers",
        checks: &["D1", "D3", "B1", "P1"],
        eager: Bounds { preemptions: 2, least: 2000 },
        epoch: Some(Bounds { preemptions: 0, least: 100 }),
        body: two_recyclers,
    },
];

/// An executor leaves its slot, is dropped and recycled, while another thread
/// loads the slot and runs what it finds.
fn last_drop_races_pin(strategy: Strategy) {
    let setup = Setup::new(strategy);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| call(setup, &slot, &[1]))
    };
    drop(slot.invalidate());
    thread.collect();
    caller.join().unwrap();
    thread.collect();
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.recycles, stats.committed_bytes), (1, 0));
}

/// The same with the drop on a thread that is not attached: its grace period
/// begins when somebody adopts what it dropped.
fn orphan_races_pin() {
    let setup = Setup::new(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let dropper = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |_| drop(slot.invalidate()))
    };
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| call(setup, &slot, &[1]))
    };
    thread.collect();
    dropper.join().unwrap();
    caller.join().unwrap();
    thread.collect();
    setup.verify();
    assert_eq!(setup.arena.stats().recycles, 1);
}

/// An executor dies, and another takes its place at the same address, while a
/// thread runs whichever it finds. It has run the first before, so that its
/// core may keep it.
fn reuse_races_pin(strategy: Strategy) {
    let setup = Setup::with(strategy, 4096, 1);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let caller = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            call(setup, &slot, &[1, 2]);
            call(setup, &slot, &[1, 2]);
        })
    };
    drop(slot.invalidate());
    thread.collect();
    assert!(slot.install(install(&mut thread, 2)).is_ok());
    caller.join().unwrap();
    call(&setup, &slot, &[2]);
    drop(thread);
    setup.verify();
}

/// What a thread does between entering an executor and leaving it.
#[derive(Clone, Copy)]
enum Pause {
    Park,
    Safepoint,
}

/// An executor dies and its place is used again while a thread that has
/// entered it lets go of the epoch.
fn reuse_races_pause(pause: Pause) {
    let setup = Setup::with(Strategy::DualPkey, 4096, 1);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let runner = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let thread = setup.attach();
            let mut guard = thread.pin();
            if let Some(mut running) = guard.enter(&slot) {
                let addr = running.addr();
                let id = setup.run(addr);
                match pause {
                    // The code that called for the sleep is still on the stack.
                    Pause::Park => running.park(|| assert_eq!(setup.run(addr), id)),
                    Pause::Safepoint => running.safepoint(),
                }
                assert_eq!(setup.run(addr), id, "[E2] what was entered has changed");
            }
        })
    };
    drop(slot.invalidate());
    thread.collect();
    assert!(slot.install(install(&mut thread, 2)).is_ok());
    runner.join().unwrap();
    drop(thread);
    setup.verify();
}

/// Two threads let go of the arena, one after running code: whichever is last
/// unmaps the region, after everything the other did.
fn last_handle_frees_the_arena() {
    let setup = Setup::new(Strategy::DualPkey);
    let machine = Arc::clone(&setup.machine);
    let executor = install(&mut setup.attach(), 1);
    let other = setup.spawn(move |setup| {
        let thread = setup.attach();
        assert_eq!(setup.run(executor.entry(&thread.pin()).addr()), 1);
        // Then the executor, the handle, and the arena go.
    });
    drop(setup);
    other.join().unwrap();
    assert_eq!(machine.mapped(), 0, "[R2] something was left mapped");
}

/// Two threads retire and recycle at the same time; what they leave traps.
fn two_recyclers() {
    let setup = Setup::new(Strategy::DualPkey);
    let mut thread = setup.attach();
    let (first, second) = (install(&mut thread, 1), install(&mut thread, 2));
    // Keeps the page.
    let third = install(&mut thread, 3);
    let dead = [first.addr(), second.addr()];
    let other = setup.spawn(move |setup| {
        let mut thread = setup.attach();
        drop(second);
        thread.collect();
    });
    drop(first);
    thread.collect();
    other.join().unwrap();
    thread.collect();
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.recycles, stats.hole_bytes), (2, 4096 - GRANULE as u64));
    for addr in dead {
        assert!(setup.machine.is_trap(addr), "[D3] a hole holds what was there before");
    }
    drop(third);
}
