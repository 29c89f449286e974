//! Executors that a thread holds while it lets go of the epoch.

use std::sync::Arc;

use jit_arena::Strategy;

use super::{Bounds, M, Setup, install};
use crate::thread::yield_now;

pub(super) const MODELS: &[M] = &[
    M {
        name: "reuse_races_park",
        checks: &["E2", "D3", "X2"],
        eager: Some(Bounds { preemptions: 3, least: 1000 }),
        epoch: Some(Bounds { preemptions: 0, least: 20 }),
        body: || reuse_races_pause(Pause::Park),
    },
    M {
        name: "reuse_races_safepoint",
        checks: &["E2", "D3", "X2"],
        eager: Some(Bounds { preemptions: 3, least: 1000 }),
        epoch: None,
        body: || reuse_races_pause(Pause::Safepoint),
    },
    M {
        name: "ninth_hold",
        checks: &["E2", "D3", "X2"],
        eager: Some(Bounds { preemptions: 1, least: 9 }),
        epoch: Some(Bounds { preemptions: 0, least: 1 }),
        body: ninth_hold,
    },
    M {
        name: "holds_grow_while_looked_at",
        checks: &["E2"],
        eager: Some(Bounds { preemptions: 1, least: 1000 }),
        epoch: None,
        body: holds_grow_while_looked_at,
    },
    M {
        name: "hold_ends_under_a_later_pin",
        checks: &["E2", "D3", "X2"],
        eager: Some(Bounds { preemptions: 1, least: 60 }),
        epoch: None,
        body: hold_ends_under_a_later_pin,
    },
];

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

/// A thread is nested in nine executors, one more than its record has room for
/// at first, and sleeps in the last of them, which dies and whose place is used
/// again.
fn ninth_hold() {
    let setup = Setup::with(Strategy::DualPkey, 4096, 1);
    let mut thread = setup.attach();
    let slots: Arc<[_; 2]> = Arc::new([setup.arena.slot(), setup.arena.slot()]);
    for (id, slot) in (1..).zip(slots.iter()) {
        assert!(slot.install(install(&mut thread, id)).is_ok());
    }
    let runner = {
        let slots = Arc::clone(&slots);
        setup.spawn(move |setup| {
            let thread = setup.attach();
            let mut guards: Vec<_> = (0..9).map(|_| thread.pin()).collect();
            let (last, others) = guards.split_last_mut().unwrap();
            let _others: Vec<_> = others.iter_mut().map(|guard| guard.enter(&slots[0])).collect();
            if let Some(mut running) = last.enter(&slots[1]) {
                let addr = running.addr();
                let id = setup.run(addr);
                running.park(|| {
                    assert_eq!(setup.run(addr), id, "[E2] what was entered has changed");
                });
            }
        })
    };
    drop(slots[1].invalidate());
    thread.collect();
    assert!(slots[1].install(install(&mut thread, 3)).is_ok());
    runner.join().unwrap();
    drop(thread);
    setup.verify();
}

/// A thread enters its ninth executor while another looks at what it holds, for
/// something else that died.
fn holds_grow_while_looked_at() {
    let setup = Setup::new(Strategy::DualPkey);
    let mut thread = setup.attach();
    let slot = Arc::new(setup.arena.slot());
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let dead = install(&mut thread, 2);
    let runner = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let thread = setup.attach();
            let mut guards: Vec<_> = (0..9).map(|_| thread.pin()).collect();
            let _running: Vec<_> = guards.iter_mut().map(|guard| guard.enter(&slot)).collect();
            // Before what it ends orders anything.
            yield_now();
        })
    };
    drop(dead);
    thread.collect();
    runner.join().unwrap();
    drop(thread);
    setup.verify();
}

/// A thread that has slept in an executor leaves it while it is pinned again,
/// which says nothing of what it ran before: only the end of its hold does.
/// It lets others run where that takes turns that the bound has not.
fn hold_ends_under_a_later_pin() {
    let setup = Setup::new(Strategy::DualPkey);
    let mut thread = setup.attach();
    let slot = Arc::new(setup.arena.slot());
    assert!(slot.install(install(&mut thread, 1)).is_ok());
    let runner = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let thread = setup.attach();
            let mut guard = thread.pin();
            if let Some(mut running) = guard.enter(&slot) {
                yield_now();
                let addr = running.addr();
                running.park(|| {
                    yield_now();
                    assert_eq!(setup.run(addr), 1, "[E2] what was entered has changed");
                });
            }
            yield_now();
            drop(guard);
        })
    };
    yield_now();
    drop(slot.invalidate());
    for _ in 0..3 {
        thread.collect();
        yield_now();
    }
    runner.join().unwrap();
    drop(thread);
    setup.verify();
}
