//! From an address to the code it lies in, while that comes and goes.

use std::sync::Arc;

use jit_arena::{CodeLayout, Executor, Strategy, ThreadHandle};

use super::{Bounds, M, Setup};

pub(super) const MODELS: &[M] = &[
    M {
        name: "lookup_races_reuse",
        checks: &["L1"],
        eager: Bounds { preemptions: 3, least: 900 },
        epoch: None,
        body: lookup_races_reuse,
    },
    M {
        name: "lookup_announced_races_reuse",
        checks: &["L1"],
        eager: Bounds { preemptions: 5, least: 500 },
        epoch: None,
        body: lookup_announced_races_reuse,
    },
    M {
        name: "lookup_races_publish",
        checks: &["L1", "X1"],
        eager: Bounds { preemptions: 2, least: 100 },
        epoch: None,
        body: lookup_races_publish,
    },
];

/// Installs code of `len` bytes whose tag is its length.
fn install(thread: &mut ThreadHandle, len: usize) -> Executor {
    let layout = CodeLayout::new(len).tag(len as u64);
    let mut place = thread.reserve(layout).expect("there is room");
    let mut scope = thread.write();
    scope.write_at(&mut place, 0, &vec![0x90; len]).expect("it fits");
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
/// while a thread that protects nothing looks its address up.
fn lookup_races_reuse() {
    let setup = Setup::peeking(Strategy::DualPkey, 4);
    let mut thread = setup.attach();
    let first = install(&mut thread, 40);
    let address = first.addr();
    let reader = setup.spawn(move |setup| look(setup, address, &[40, 24]));
    drop(first);
    thread.collect();
    let second = install(&mut thread, 24);
    assert_eq!(second.addr(), address, "the hole is used again");
    reader.join().unwrap();
    assert_eq!(look(&setup, address, &[24]), Some(24));
    drop(second);
    thread.collect();
    assert_eq!(look(&setup, address, &[]), None);
    drop(thread);
    setup.verify();
}

/// The same for a thread that has looked in vain and announces itself: what it
/// may be reading is not written, so other code may come to lie elsewhere.
fn lookup_announced_races_reuse() {
    let setup = Setup::peeking(Strategy::DualPkey, 0);
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
    let setup = Setup::peeking(Strategy::DualPkey, 4);
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
