//! Executors that die while others may be running them.

use std::sync::Arc;

use jit_arena::platform::model::Options;
use jit_arena::{CodeLayout, GRANULE, Strategy};

use super::publish::call;
use super::{Bounds, CODE, M, Setup, install, install_long};
use crate::thread::yield_now;

pub(super) const MODELS: &[M] = &[
    M {
        name: "last_drop_races_pin",
        checks: &["E1", "D1", "D2", "D3"],
        eager: Some(Bounds { preemptions: 5, least: 5000 }),
        epoch: Some(Bounds { preemptions: 1, least: 5000 }),
        body: || last_drop_races_pin(Strategy::DualPkey),
    },
    M {
        name: "last_drop_races_pin_mprotect",
        checks: &["E1", "D1", "D2", "D3", "W3"],
        eager: Some(Bounds { preemptions: 5, least: 5000 }),
        epoch: None,
        body: || last_drop_races_pin(Strategy::Mprotect),
    },
    M {
        name: "orphan_races_pin",
        checks: &["E1", "D1", "D2", "D3"],
        eager: Some(Bounds { preemptions: 3, least: 4000 }),
        epoch: Some(Bounds { preemptions: 0, least: 2 }),
        body: orphan_races_pin,
    },
    M {
        name: "reuse_races_pin",
        checks: &["E1", "D3", "X1", "X2", "B1"],
        eager: Some(Bounds { preemptions: 3, least: 3000 }),
        epoch: Some(Bounds { preemptions: 0, least: 50 }),
        body: || reuse_races_pin(Strategy::DualPkey),
    },
    M {
        name: "reuse_races_pin_transient",
        checks: &["E1", "D3", "X1", "X2", "B1"],
        eager: Some(Bounds { preemptions: 3, least: 3000 }),
        epoch: None,
        body: || reuse_races_pin(Strategy::DualTransient),
    },
    M {
        name: "reuse_races_pin_map_jit",
        checks: &["E1", "D3", "X1", "X2", "B1"],
        eager: Some(Bounds { preemptions: 2, least: 300 }),
        epoch: None,
        body: || reuse_races_pin(Strategy::MapJit),
    },
    M {
        name: "last_handle_frees_the_arena",
        checks: &["R1", "R2", "D1"],
        eager: Some(Bounds { preemptions: 7, least: 10 }),
        epoch: None,
        body: last_handle_frees_the_arena,
    },
    M {
        name: "two_recyclers",
        checks: &["D1", "D3", "B1", "P1"],
        eager: Some(Bounds { preemptions: 2, least: 2000 }),
        epoch: Some(Bounds { preemptions: 0, least: 100 }),
        body: two_recyclers,
    },
    M {
        name: "units_of_two",
        checks: &["D1", "D3", "P1", "W3"],
        eager: Some(Bounds { preemptions: 1, least: 52 }),
        epoch: None,
        body: units_of_two,
    },
    M {
        name: "reuse_races_pin_mprotect",
        checks: &["E1", "D3", "X1", "X2", "B1", "W3"],
        eager: Some(Bounds { preemptions: 3, least: 4000 }),
        epoch: None,
        body: || reuse_races_pin(Strategy::Mprotect),
    },
    M {
        name: "reuse_races_pin_single_pkey",
        checks: &["E1", "D3", "X1", "X2", "B1", "W2"],
        eager: Some(Bounds { preemptions: 2, least: 500 }),
        epoch: None,
        body: || reuse_races_pin(Strategy::SinglePkey),
    },
    M {
        name: "reuse_on_one_core",
        checks: &["X2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: reuse_on_one_core,
    },
    M {
        name: "exit_races_collect",
        checks: &["D1", "D2", "D3", "B1", "P1", "E1"],
        eager: Some(Bounds { preemptions: 1, least: 74 }),
        epoch: Some(Bounds { preemptions: 0, least: 1 }),
        body: exit_races_collect,
    },
    M {
        name: "depot_passes_holes_on",
        checks: &["B1", "P2"],
        eager: Some(Bounds { preemptions: 2, least: 200 }),
        epoch: None,
        body: depot_passes_holes_on,
    },
    M {
        name: "exit_races_attach",
        checks: &["A1", "B1", "D2"],
        eager: Some(Bounds { preemptions: 3, least: 3000 }),
        epoch: Some(Bounds { preemptions: 0, least: 1 }),
        body: exit_races_attach,
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
    // Where pages are flipped, one more for while the first may be run.
    let setup = Setup::with(strategy, 4096, 1 + usize::from(strategy == Strategy::Mprotect));
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

/// Two threads let go of the arena, one after running code that it owns, for
/// which it need not attach: whichever is last unmaps the region, after
/// everything the other did.
fn last_handle_frees_the_arena() {
    let setup = Setup::new(Strategy::DualPkey);
    let machine = Arc::clone(&setup.machine);
    let executor = install(&mut setup.attach(), 1);
    let other = setup.spawn(move |setup| assert_eq!(setup.run(executor.addr()), 1));
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

/// Two units of two executors each: one of each dies on one thread, the others on
/// another that has run them, and each thread recycles its own. Whoever buries
/// the last of a unit may write over both, and one of them does at once.
fn units_of_two() {
    let setup = Setup::with(Strategy::Mprotect, 4 * 4096, 1);
    let mut thread = setup.attach();
    let mut unit = || {
        let mut scope = thread.write();
        let places = [1_u64, 2].map(|id| {
            let mut place = scope.reserve(CodeLayout::new(CODE)).expect("there is room");
            scope.write_at(&mut place, 0, &id.to_le_bytes()).expect("it is ours");
            place
        });
        drop(scope);
        places.map(|place| thread.publish(place).expect("it was written"))
    };
    let ([mine, theirs], [mine_too, theirs_too]) = (unit(), unit());
    let other = setup.spawn(move |setup| {
        let mut thread = setup.attach();
        assert_eq!(setup.machine.fetch(theirs.addr()), 2);
        drop((theirs, theirs_too));
        drop(thread.reserve(CodeLayout::new(CODE)));
    });
    // Enough for a lot, which a claim is preceded by, and ripe by the time that
    // the other buries: nothing of the epoch's orders this burial after that one.
    drop((mine, mine_too));
    yield_now();
    let third = install(&mut thread, 3);
    other.join().unwrap();
    drop(third);
    thread.collect();
    drop(thread);
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.recycles, stats.committed_bytes), (5, 0));
}

/// A thread drops an executor and exits, with a claim and a batch to hand
/// over, while another collects and a third may run what was dropped.
fn exit_races_collect() {
    let setup = Setup::new(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    let first = install(&mut thread, 1);
    assert!(slot.install(install(&mut thread, 2)).is_ok());
    let leaver = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let mut thread = setup.attach();
            // A claim to leave behind.
            drop(thread.reserve(CodeLayout::new(CODE)));
            drop(slot.invalidate());
        })
    };
    {
        let guard = thread.pin();
        if let Some(entry) = slot.load(&guard) {
            assert_eq!(setup.run(entry.addr()), 2);
        }
    }
    drop(first);
    thread.collect();
    leaver.join().unwrap();
    thread.collect();
    drop(thread);
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.retires, stats.recycles), (2, 2), "[D2] a batch was lost");
    assert_eq!((stats.claimed_bytes, stats.committed_bytes), (0, 0), "[B1] a claim was lost");
}

/// What a thread committed and leaves behind another has from the depot, and
/// writes over.
fn depot_passes_holes_on() {
    let options = Options { watches: 512, ..Options::default() };
    let setup = Setup::on(Strategy::DualPkey, 8192, 5, options, |builder| builder);
    let mut thread = setup.attach();
    // As much as gives two threads a share.
    let live: Vec<_> = (0..6).map(|id| install_long(&mut thread, 100 + id, 64)).collect();
    let leaver = setup.spawn(|setup| {
        let mut thread = setup.attach();
        install_long(&mut thread, 1, 8)
    });
    let third = install_long(&mut thread, 3, 8);
    let first = leaver.join().unwrap();
    let claims = setup.arena.stats().claims;
    let fourth = install_long(&mut thread, 4, 8);
    assert_eq!(setup.arena.stats().claims, claims, "what the leaver had was not found");
    {
        let _guard = thread.pin();
        assert_eq!(setup.run(third.addr()), 3);
        assert_eq!(setup.run(fourth.addr()), 4);
    }
    drop((live, first, third, fourth));
    thread.collect();
    drop(thread);
    setup.verify();
    assert_eq!(setup.arena.stats().claimed_bytes, 0, "[B1] a hole stayed in the depot");
}

/// A thread exits while another attaches, which may take its record over, and
/// with it what has ripened there and its counts.
fn exit_races_attach() {
    let setup = Setup::new(Strategy::DualPkey);
    let leaver = setup.spawn(|setup| {
        let mut thread = setup.attach();
        drop(install(&mut thread, 1));
    });
    let mut thread = setup.attach();
    let executor = install(&mut thread, 2);
    leaver.join().unwrap();
    thread.collect();
    {
        let _guard = thread.pin();
        assert_eq!(setup.run(executor.addr()), 2);
    }
    drop(thread);
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.installs, stats.retires, stats.recycles), (2, 1, 1));
    assert_eq!((stats.attached_threads, stats.claimed_bytes), (0, 0));
}

/// A thread runs code, drops it, and writes other code as soon as it may, which
/// is not before its own core, too, has been synchronised.
fn reuse_on_one_core() {
    let setup = Setup::new(Strategy::DualPkey);
    // Does nothing: prioritised schedules are of two threads at least.
    let beside = setup.spawn(|_| {});
    let mut thread = setup.attach();
    for id in 1..5 {
        // A claim each, so that what is recycled is claimed again.
        let executor = install_long(&mut thread, id, 64);
        let guard = thread.pin();
        assert_eq!(setup.machine.fetch(executor.addr()), id);
        drop(guard);
        drop(executor);
    }
    beside.join().unwrap();
    thread.collect();
    drop(thread);
    setup.verify();
}
