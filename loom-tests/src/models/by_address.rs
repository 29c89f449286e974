//! Executors retired by their addresses, by threads that both think it is theirs
//! to do.

use jit_arena::{CodeLayout, RetireError, Strategy, ThreadHandle};

use super::{Bounds, CODE, M, Setup, install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "two_free_by_address",
        checks: &["D1", "E1"],
        eager: Some(Bounds { preemptions: 1, least: 90 }),
        epoch: None,
        body: || two_free_by_address(false),
    },
    M {
        name: "two_free_one_as_quiescent",
        checks: &["D1", "E1", "L1"],
        eager: Some(Bounds { preemptions: 2, least: 18_000 }),
        epoch: None,
        body: || two_free_by_address(true),
    },
];

/// Installs code whose first granule is that of an [`install`], and whose entry is
/// not.
fn install_behind(thread: &mut ThreadHandle) -> usize {
    let layout = CodeLayout::new(CODE).align(32);
    let mut place = thread.reserve(layout).expect("there is room");
    let mut scope = thread.write();
    scope.write_at(&mut place, 0, &[0x90; CODE]).expect("it fits");
    drop(scope);
    thread.publish(place).expect("it was written").into_addr()
}

/// One of two threads frees, and the other is told; what is installed in the same
/// granule afterwards is left alone.
fn two_free_by_address(quiescent: bool) {
    let setup = Setup::peeking(Strategy::DualPkey);
    let mut thread = setup.attach();
    let address = install(&mut thread, 1).into_addr();
    let other = setup.spawn(move |setup| {
        // SAFETY: given up above. Freed twice on purpose, and what is installed
        // meanwhile has another entry.
        unsafe { setup.arena.retire_at(address) }
    });
    let own = if quiescent {
        // SAFETY: as above; nobody runs it.
        unsafe { setup.arena.retire_quiescent_at(address) }
    } else {
        // SAFETY: as above.
        unsafe { setup.arena.retire_at(address) }
    };
    thread.collect();
    let next = install_behind(&mut thread);
    let other = other.join().unwrap();
    assert!(own.is_ok() != other.is_ok(), "[D1] {own:?} and {other:?}");
    let refused = own.and(other);
    let told = [
        Err(RetireError::Retired { entry: address }),
        Err(RetireError::NotAnEntry { address, inside: None }),
    ];
    assert!(told.contains(&refused), "[D1] {refused:?}");
    assert_eq!(setup.arena.stats().live_executors, 1, "[D1] the next one was retired");
    // SAFETY: given up above, and freed once.
    assert_eq!(unsafe { setup.arena.retire_at(next) }, Ok(()));
    thread.collect();
    drop(thread);
    setup.verify();
}
