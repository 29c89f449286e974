//! Threads that take granules from pages, and give them back.

use jit_arena::{CodeLayout, GRANULE, Strategy};

use super::{Bounds, CODE, M, Setup, install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "claims_on_one_page",
        checks: &["B1", "P1", "P2", "P4"],
        eager: Bounds { preemptions: 1, least: 1000 },
        epoch: None,
        body: || claims_on_one_page(Strategy::DualPkey),
    },
    M {
        name: "claims_on_one_page_mprotect",
        checks: &["B1", "P1", "P2", "P4", "W3"],
        eager: Bounds { preemptions: 2, least: 3000 },
        epoch: None,
        body: || claims_on_one_page(Strategy::Mprotect),
    },
    M {
        name: "claims_on_many_pages",
        checks: &["B1", "P2", "P4"],
        eager: Bounds { preemptions: 1, least: 300 },
        epoch: None,
        body: claims_on_many_pages,
    },
    M {
        name: "installs_on_one_page",
        checks: &["B1", "P1", "P4", "X2"],
        eager: Bounds { preemptions: 1, least: 1000 },
        epoch: None,
        body: installs_on_one_page,
    },
    M {
        name: "page_return_races_claim",
        checks: &["B1", "P2", "P3", "P4", "D3"],
        eager: Bounds { preemptions: 3, least: 2500 },
        epoch: None,
        body: page_return_races_claim,
    },
];

/// Reserves and writes, which loom reports as a race if anybody else owns the
/// granules, and gives all back.
fn reserve_and_write(setup: &Setup, id: u64) {
    let mut thread = setup.attach();
    let mut reservation = thread.reserve(CodeLayout::new(CODE)).expect("there is room");
    thread.write().write_at(&mut reservation, 0, &id.to_le_bytes()).expect("it is ours");
}

/// Two threads take a claim each from the only page, write, and leave.
fn claims_on_one_page(strategy: Strategy) {
    let setup = Setup::new(strategy);
    let other = setup.spawn(|setup| reserve_and_write(setup, 2));
    reserve_and_write(&setup, 1);
    other.join().unwrap();
    setup.verify();
    assert_eq!(setup.arena.stats().claimed_bytes, 0);
}

/// The same with more pages than one node of the index has children, each as
/// long as a claim.
fn claims_on_many_pages() {
    let setup = Setup::with(Strategy::DualPkey, 4096, 9);
    let other = setup.spawn(|setup| reserve_and_write(setup, 2));
    reserve_and_write(&setup, 1);
    other.join().unwrap();
    setup.verify();
    assert_eq!(setup.arena.stats().claimed_bytes, 0);
}

/// Two threads install on one page and exit, leaving the rests of their claims.
fn installs_on_one_page() {
    let setup = Setup::new(Strategy::DualPkey);
    let other = setup.spawn(|setup| install(&mut setup.attach(), 2));
    let mine = install(&mut setup.attach(), 1);
    let theirs = other.join().unwrap();
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.live_executors, stats.claimed_bytes), (2, 0));
    assert_eq!(stats.hole_bytes, stats.committed_bytes - 2 * GRANULE as u64);
    let thread = setup.attach();
    let _guard = thread.pin();
    assert_eq!((setup.run(mine.addr()), setup.run(theirs.addr())), (1, 2));
}

/// A page without executors gives its memory back to the system while another
/// thread takes a claim on it.
fn page_return_races_claim() {
    let setup = Setup::with(Strategy::DualPkey, 4096, 1);
    // Leaves the page free and committed.
    drop(setup.attach().reserve(CodeLayout::new(CODE)).expect("there is room"));
    assert_eq!(setup.arena.stats().committed_bytes, 4096);
    let other = setup.spawn(|setup| {
        let mut thread = setup.attach();
        // There is no hole while the page is on its way back.
        if let Ok(mut reservation) = thread.reserve(CodeLayout::new(CODE)) {
            let written = thread.write().write_at(&mut reservation, 0, &[1]);
            assert!(written.is_ok());
        }
    });
    setup.attach().collect();
    other.join().unwrap();
    setup.verify();
    assert_eq!(setup.arena.stats().committed_bytes, setup.machine.present() as u64);
}
