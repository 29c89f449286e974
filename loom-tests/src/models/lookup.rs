//! From an address to the code it lies in, while that comes and goes.

use std::sync::Arc;

use jit_arena::{CodeLayout, Executor, GRANULE, Strategy, ThreadHandle};

use super::{Bounds, CODE, M, Setup};

pub(super) const MODELS: &[M] = &[
    M {
        name: "lookup_races_reuse",
        checks: &["L1"],
        eager: Some(Bounds { preemptions: 1, least: 200 }),
        epoch: None,
        body: lookup_races_reuse,
    },
    M {
        name: "lookup_races_replacement",
        checks: &["L1"],
        eager: Some(Bounds { preemptions: 2, least: 700 }),
        epoch: None,
        body: lookup_races_replacement,
    },
    M {
        name: "lookup_announced_races_reuse",
        checks: &["L1"],
        eager: Some(Bounds { preemptions: 5, least: 500 }),
        epoch: None,
        body: lookup_announced_races_reuse,
    },
    M {
        name: "lookup_races_publish",
        checks: &["L1", "X1"],
        eager: Some(Bounds { preemptions: 3, least: 6000 }),
        epoch: None,
        body: lookup_races_publish,
    },
    M {
        name: "lookup_races_retire",
        checks: &["L1", "E1"],
        eager: Some(Bounds { preemptions: 3, least: 1000 }),
        epoch: Some(Bounds { preemptions: 1, least: 1 }),
        body: lookup_races_retire,
    },
    M {
        name: "publish_lookup_call",
        checks: &["L1", "X1", "W1"],
        eager: Some(Bounds { preemptions: 7, least: 4 }),
        epoch: Some(Bounds { preemptions: 2, least: 1 }),
        body: || publish_lookup_call(Strategy::DualPkey),
    },
    M {
        name: "publish_lookup_call_transient",
        checks: &["L1", "X1", "W1"],
        eager: Some(Bounds { preemptions: 7, least: 4 }),
        epoch: None,
        body: || publish_lookup_call(Strategy::DualTransient),
    },
    M {
        name: "publish_lookup_call_mprotect",
        checks: &["L1", "X1", "W1", "W3"],
        eager: Some(Bounds { preemptions: 7, least: 4 }),
        epoch: None,
        body: || publish_lookup_call(Strategy::Mprotect),
    },
    M {
        name: "walk_races_retire",
        checks: &["L1", "E1"],
        eager: Some(Bounds { preemptions: 1, least: 100 }),
        epoch: None,
        body: walk_races_retire,
    },
];

/// Installs code of `len` bytes whose tag is its length; writes the first granule
/// of it.
fn install(thread: &mut ThreadHandle, len: usize) -> Executor {
    let layout = CodeLayout::new(len).tag(len as u64);
    let mut place = thread.reserve(layout).expect("there is room");
    let mut scope = thread.write();
    scope.write_at(&mut place, 0, &vec![0x90; len.min(CODE)]).expect("it fits");
    drop(scope);
    thread.publish(place).expect("it was written")
}

/// Looks `address` up, which may be in code of one of these lengths or in none.
fn look(setup: &Setup, address: usize, lengths: &[usize]) -> Option<usize> {
    let found = setup.arena.lookup(address)?;
    assert_eq!(found.entry(), address, "[L1] an entry that no code has");
    assert!(lengths.contains(&found.code.len), "[L1] {found:x?} is not one of {lengths:?}");
    assert_eq!(found.tag, found.code.len as u64, "[L1] parts of two headers: {found:x?}");
    Some(found.code.len)
}

/// Code is dropped, recycled and followed by other code in the same granule,
/// while a thread that protects nothing looks its address up. Its neighbours
/// live, so it becomes a hole of its own, filled and free in one lot.
fn lookup_races_reuse() {
    let setup = Setup::peeking(Strategy::DualPkey);
    let mut thread = setup.attach();
    let below = install(&mut thread, 32);
    let first = install(&mut thread, 40);
    let above = install(&mut thread, 33);
    let address = first.addr();
    let reader = setup.spawn(move |setup| {
        let before = look(setup, address, &[40, 24]);
        let after = look(setup, address, &[40, 24]);
        assert!(before == Some(40) || after != Some(40), "[L1] what was recycled is found again");
    });
    drop(first);
    thread.collect();
    let second = install(&mut thread, 24);
    assert_eq!(second.addr(), address, "the hole is used again");
    reader.join().unwrap();
    assert_eq!(look(&setup, address, &[24]), Some(24));
    drop((below, second, above));
    thread.collect();
    assert_eq!(look(&setup, address, &[]), None);
    drop(thread);
    setup.verify();
}

/// The same where nobody else gets the hole, so that no traps are written
/// between one header and the next.
fn lookup_races_replacement() {
    /// Of a whole claim, which is a lot.
    const LONG: usize = 64 * GRANULE - 16;
    let setup = Setup::peeking(Strategy::DualPkey);
    let mut thread = setup.attach();
    let first = install(&mut thread, LONG);
    let address = first.addr();
    let reader = setup.spawn(move |setup| {
        let before = look(setup, address, &[LONG, LONG - 8]);
        let after = look(setup, address, &[LONG, LONG - 8]);
        assert!(before == Some(LONG) || after != Some(LONG), "[L1] recycled, and found again");
    });
    drop(first);
    let second = install(&mut thread, LONG - 8);
    if cfg!(jit_arena_eager) {
        // Other schemes take a while.
        assert_eq!(second.addr(), address, "the hole is used again");
    }
    reader.join().unwrap();
    assert_eq!(look(&setup, second.addr(), &[LONG - 8]), Some(LONG - 8));
    drop(thread);
    setup.verify();
}

/// The same for a thread that has looked in vain and announces itself: what it
/// may be reading is not written, so other code may come to lie elsewhere.
fn lookup_announced_races_reuse() {
    let setup = Setup::announcing(Strategy::DualPkey);
    let mut thread = setup.attach();
    let first = install(&mut thread, 40);
    let address = first.addr();
    let reader = setup.spawn(move |setup| look(setup, address, &[40, 24]));
    drop(first);
    thread.collect();
    let second = install(&mut thread, 24);
    reader.join().unwrap();
    assert_eq!(look(&setup, second.addr(), &[24]), Some(24));
    drop(second);
    thread.collect();
    assert_eq!(look(&setup, address, &[]), None);
    assert_eq!(setup.arena.stats().committed_bytes, 0, "[L1] what was left is not wiped later");
    drop(thread);
    setup.verify();
}

/// What a guard protects is found, whatever is recycled beside it.
fn lookup_races_publish() {
    let setup = Setup::peeking(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    let neighbour = install(&mut thread, 24);
    let reader = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let thread = setup.attach();
            let guard = thread.pin();
            if let Some(entry) = slot.load(&guard) {
                let found = look(setup, entry.addr(), &[40]);
                assert_eq!(found, Some(40), "[L1] protected code was not found");
            }
        })
    };
    let executor = install(&mut thread, 40);
    assert!(slot.install(executor).is_ok());
    drop(neighbour);
    thread.collect();
    reader.join().unwrap();
    drop(slot.invalidate());
    drop(thread);
    setup.verify();
}

/// What a guard protects is found although it is retired.
fn lookup_races_retire() {
    let setup = Setup::peeking(Strategy::DualPkey);
    let slot = Arc::new(setup.arena.slot());
    let mut thread = setup.attach();
    assert!(slot.install(install(&mut thread, 40)).is_ok());
    let reader = {
        let slot = Arc::clone(&slot);
        setup.spawn(move |setup| {
            let thread = setup.attach();
            let guard = thread.pin();
            if let Some(entry) = slot.load(&guard) {
                let found = look(setup, entry.addr(), &[40]);
                assert_eq!(found, Some(40), "[L1] protected code was not found");
            }
        })
    };
    drop(slot.invalidate());
    thread.collect();
    reader.join().unwrap();
    drop(thread);
    setup.verify();
}

/// A thread that knows where the next executor will lie runs it as soon as a
/// lookup finds it: published is sealed.
fn publish_lookup_call(strategy: Strategy) {
    let setup = Setup::peeking(strategy);
    let mut thread = setup.attach();
    // Given back before its unit is sealed, so the next one gets it.
    let address = thread.write().reserve(CodeLayout::new(CODE)).expect("there is room").entry();
    let caller = setup.spawn(move |setup| {
        let thread = setup.attach();
        let _guard = thread.pin();
        if let Some(found) = setup.arena.lookup(address) {
            // Its owner keeps it.
            assert_eq!(setup.run(found.entry()), 1);
        }
    });
    let executor = super::install(&mut thread, 1);
    assert_eq!(executor.addr(), address, "the next place is the one that was given back");
    caller.join().unwrap();
    drop(thread);
    setup.verify();
}

/// A walk over all executors while one of them dies and another comes: all that
/// it lists are whole, and who lives throughout is among them.
fn walk_races_retire() {
    let setup = Setup::peeking(Strategy::DualPkey);
    let mut thread = setup.attach();
    let (stays, goes) = (install(&mut thread, 32), install(&mut thread, 40));
    let address = stays.addr();
    let walker = setup.spawn(move |setup| {
        let pages = setup.arena.evacuation_candidates(usize::MAX).expect("no thread is exiting");
        let listed: Vec<_> = pages.iter().flat_map(|page| &page.executors).collect();
        for code in &listed {
            assert_eq!(code.tag, code.code.len as u64, "[L1] parts of two headers: {code:x?}");
        }
        assert!(listed.iter().any(|code| code.entry() == address), "[L1] one is overlooked");
    });
    drop(goes);
    thread.collect();
    let comes = install(&mut thread, 24);
    walker.join().unwrap();
    drop((stays, comes, thread));
    setup.verify();
}
