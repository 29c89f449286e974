//! Trampolines that several threads ask for at once.

use std::sync::Arc;

use jit_arena::Strategy;

use super::{Bounds, M, Setup, install_long};

pub(super) const MODELS: &[M] = &[
    M {
        name: "trampoline_two_ask",
        checks: &["T1", "T2", "B1", "W1", "X2"],
        eager: Some(Bounds { preemptions: 2, least: 3000 }),
        epoch: None,
        body: two_ask,
    },
    M {
        name: "trampoline_two_ask_mprotect",
        checks: &["T1", "T2", "B1", "W1", "W3"],
        eager: Some(Bounds { preemptions: 3, least: 200 }),
        epoch: None,
        body: two_ask_for_pages,
    },
    M {
        name: "trampoline_islands_grow",
        checks: &["T1", "T2", "B1", "P4", "W1"],
        eager: Some(Bounds { preemptions: 3, least: 100 }),
        epoch: None,
        body: || islands_grow(Strategy::DualPkey),
    },
    M {
        name: "trampoline_islands_grow_transient",
        checks: &["T1", "T2", "B1", "P4", "W1"],
        eager: Some(Bounds { preemptions: 3, least: 100 }),
        epoch: None,
        body: || islands_grow(Strategy::DualTransient),
    },
    M {
        name: "trampolines_counted",
        checks: &["T1", "A1"],
        eager: Some(Bounds { preemptions: 3, least: 1000 }),
        epoch: None,
        body: trampolines_counted,
    },
];

/// Asks for a trampoline and runs it: at its second word is where it leads.
fn ask(setup: &Setup, target: usize) -> usize {
    let address = setup.arena.trampoline(target).expect("there is room");
    assert_eq!(setup.machine.run(address + 8, 8), target as u64, "[T1] it leads elsewhere");
    address
}

/// Two threads ask for one target, and one of them for another.
fn two_ask() {
    let setup = Arc::new(Setup::new(Strategy::DualPkey));
    let other = setup.spawn(|setup| ask(setup, 0x1234));
    let mine = ask(&setup, 0x1234);
    let different = ask(&setup, 0x5678);
    assert_eq!(other.join().unwrap(), mine, "[T2] one target has two");
    assert_ne!(different, mine, "[T2] two targets share one");
    let mut thread = setup.attach();
    thread.collect();
    assert_eq!(ask(&setup, 0x1234), mine);
    drop(thread);
    setup.verify();
}

/// The same where each writes system pages of its own.
fn two_ask_for_pages() {
    let setup = Arc::new(Setup::with(Strategy::Mprotect, 2 * 4096, 1));
    let other = setup.spawn(|setup| ask(setup, 0x1234));
    let mine = ask(&setup, 0x1234);
    assert_eq!(other.join().unwrap(), mine, "[T2] one target has two");
    setup.verify();
}

/// Two threads ask where the newest island is used up, so that both make one.
fn islands_grow(strategy: Strategy) {
    let setup = Setup::with(strategy, 4096, 1);
    let mut thread = setup.attach();
    let lengths = [20, 1, 20, 1, 20, 2];
    let full: Vec<_> =
        (1..).zip(lengths).map(|(id, len)| install_long(&mut thread, id, len)).collect();
    // Holes of one granule, one and two: an island each.
    let kept: Vec<_> = full.into_iter().step_by(2).collect();
    thread.collect();
    let first = ask(&setup, 0x1234);
    let other = setup.spawn(|setup| ask(setup, 0x5678));
    let mine = ask(&setup, 0x5678);
    assert_eq!(other.join().unwrap(), mine, "[T2] one target has two");
    assert_ne!(first, mine, "[T2] two targets share one");
    thread.collect();
    drop((kept, thread));
    setup.verify();
}

/// A thread asks while another counts the islands and lists what is in them.
fn trampolines_counted() {
    let setup = Setup::peeking(Strategy::DualPkey);
    let other = setup.spawn(|setup| {
        // The second hangs on the first.
        ask(setup, 0x1234);
        ask(setup, 0x5678);
    });
    let _ = setup.arena.evacuation_candidates(0);
    let bytes = setup.arena.stats().island_bytes;
    assert!(bytes == 0 || bytes == 4096, "{bytes} bytes of islands");
    other.join().unwrap();
    setup.verify();
}
