//! Threads that take granules from pages, and give them back.

use jit_arena::platform::model::Options;
use jit_arena::{CodeLayout, GRANULE, Strategy};

use super::{Bounds, CODE, M, Setup, install, install_long, try_install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "claims_on_one_page",
        checks: &["B1", "P1", "P2", "P4"],
        eager: Some(Bounds { preemptions: 1, least: 300 }),
        epoch: None,
        body: || claims_on_one_page(Strategy::DualPkey),
    },
    M {
        name: "claims_on_one_page_mprotect",
        checks: &["B1", "P1", "P2", "P4", "W3"],
        eager: Some(Bounds { preemptions: 2, least: 1000 }),
        epoch: None,
        body: || claims_on_one_page(Strategy::Mprotect),
    },
    M {
        name: "claims_on_many_pages",
        checks: &["B1", "P2", "P4"],
        eager: Some(Bounds { preemptions: 1, least: 100 }),
        epoch: None,
        body: claims_on_many_pages,
    },
    M {
        name: "installs_on_one_page",
        checks: &["B1", "P1", "P4", "X2"],
        eager: Some(Bounds { preemptions: 1, least: 300 }),
        epoch: None,
        body: installs_on_one_page,
    },
    M {
        name: "page_return_races_claim",
        checks: &["B1", "P2", "P3", "P4", "D3"],
        eager: Some(Bounds { preemptions: 3, least: 2000 }),
        epoch: None,
        body: page_return_races_claim,
    },
    M {
        name: "last_executor_races_claim",
        checks: &["B1", "P1", "P2", "P3", "P4", "D3"],
        eager: Some(Bounds { preemptions: 2, least: 500 }),
        epoch: Some(Bounds { preemptions: 0, least: 1 }),
        body: || last_executor_races_claim(Strategy::DualPkey),
    },
    M {
        name: "last_executor_races_claim_mprotect",
        checks: &["B1", "P1", "P2", "P3", "P4", "D3", "W3"],
        eager: Some(Bounds { preemptions: 2, least: 500 }),
        epoch: None,
        body: || last_executor_races_claim(Strategy::Mprotect),
    },
    M {
        name: "claims_on_one_system_page",
        checks: &["B1", "P2"],
        eager: Some(Bounds { preemptions: 2, least: 6000 }),
        epoch: None,
        body: claims_on_one_system_page,
    },
    M {
        name: "holes_that_join",
        checks: &["B1", "P4"],
        eager: Some(Bounds { preemptions: 1, least: 1000 }),
        epoch: None,
        body: holes_that_join,
    },
    M {
        name: "hole_held_for_a_moment",
        checks: &["B1", "P4"],
        eager: Some(Bounds { preemptions: 2, least: 2000 }),
        epoch: None,
        body: hole_held_for_a_moment,
    },
    M {
        name: "hole_made_behind_a_search",
        checks: &["B1", "P4"],
        eager: Some(Bounds { preemptions: 1, least: 3000 }),
        epoch: None,
        body: hole_made_behind_a_search,
    },
    M {
        name: "commits_within_a_budget",
        checks: &["A2", "P2"],
        eager: Some(Bounds { preemptions: 1, least: 400 }),
        epoch: None,
        body: commits_within_a_budget,
    },
    M {
        name: "claims_in_large_units",
        checks: &["B1", "W3"],
        eager: Some(Bounds { preemptions: 1, least: 100 }),
        epoch: None,
        body: claims_in_large_units,
    },
];

/// Two threads claim on a page of two write units, each four words of the bitmap:
/// what one has taken of a unit already is no hole that begins inside it.
fn claims_in_large_units() {
    let options = Options { system_page: 16 * 1024, ..Options::default() };
    let setup = Setup::on(Strategy::Mprotect, 32 * 1024, 1, options, |builder| builder);
    let other = setup.spawn(|setup| install(&mut setup.attach(), 2));
    let mine = install(&mut setup.attach(), 1);
    let theirs = other.join().unwrap();
    setup.verify();
    let thread = setup.attach();
    let _guard = thread.pin();
    assert_eq!((setup.run(mine.addr()), setup.run(theirs.addr())), (1, 2));
}

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

/// The only executor of a page dies, its count falls to zero and its memory
/// goes back, while another thread takes a claim there.
fn last_executor_races_claim(strategy: Strategy) {
    let setup = Setup::new(strategy);
    let mut thread = setup.attach();
    let executor = install(&mut thread, 1);
    let other = setup.spawn(|setup| {
        let mut thread = setup.attach();
        // There is no hole while all that is free is on its way back.
        try_install(&mut thread, 2)
    });
    drop(executor);
    thread.collect();
    let theirs = other.join().unwrap();
    setup.verify();
    if let Some(theirs) = &theirs {
        let _guard = thread.pin();
        assert_eq!(setup.machine.fetch(theirs.addr()), 2);
    }
    drop(theirs);
    thread.collect();
    setup.verify();
    let stats = setup.arena.stats();
    assert_eq!((stats.recycles, stats.committed_bytes), (stats.installs, 0));
    assert_eq!(setup.machine.present(), 0);
}

/// Two threads claim granules of one system page that is not there yet:
/// whoever is told that it is may rely on it.
fn claims_on_one_system_page() {
    /// More than a system page, so that the next claim begins inside one.
    const LEN: usize = 70 * GRANULE - 16;
    let reserve_and_write = |setup: &Setup| {
        let mut thread = setup.attach();
        let mut reservation = thread.reserve(CodeLayout::new(LEN)).expect("there is room");
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &[1]).expect("it is ours");
        scope.write_at(&mut reservation, LEN - 1, &[1]).expect("it is ours");
    };
    let options = Options { watches: 500, ..Options::default() };
    let setup = Setup::on(Strategy::DualPkey, 16384, 1, options, |builder| builder);
    let other = setup.spawn(move |setup| reserve_and_write(setup));
    reserve_and_write(&setup);
    other.join().unwrap();
    setup.verify();
}

/// Two threads each free the half of a page that is full: together that is one
/// hole, and the index knows it.
fn holes_that_join() {
    let setup = Setup::new(Strategy::DualPkey);
    let mut thread = setup.attach();
    let (low, high) = (install_long(&mut thread, 1, 64), install_long(&mut thread, 2, 64));
    // In vain, so the index has nothing more to say for the page.
    assert!(thread.reserve(CodeLayout::new(CODE)).is_err());
    let other = setup.spawn(move |setup| {
        let mut thread = setup.attach();
        drop(high);
        thread.collect();
    });
    drop(low);
    thread.collect();
    other.join().unwrap();
    thread.collect();
    drop(thread);
    setup.verify();
}

/// A thread takes the first part of a long hole, finds the second gone and lets
/// go of the first, while another searches the page in vain.
fn hole_held_for_a_moment() {
    let setup = Setup::new(Strategy::DualPkey);
    let mut thread = setup.attach();
    let other = setup.spawn(|setup| {
        // Across two words of a bitmap.
        drop(setup.attach().reserve(CodeLayout::new(70 * GRANULE - 16)));
    });
    let executor = thread.reserve(CodeLayout::new(40 * GRANULE - 16));
    let second = thread.reserve(CodeLayout::new(40 * GRANULE - 16));
    other.join().unwrap();
    drop(second);
    setup.verify();
    drop(executor);
    drop(thread);
    setup.verify();
}

/// A page becomes a hole while a thread that searched its neighbours in vain
/// lowers the node above both.
fn hole_made_behind_a_search() {
    // Pages 8 and 9 have a node of their own above them.
    let setup = Setup::with(Strategy::DualPkey, 4096, 10);
    let mut thread = setup.attach();
    let mut full: Vec<_> = (0..10).map(|id| install_long(&mut thread, id, 64)).collect();
    let (last, before) = (full.pop(), full.pop());
    assert!(thread.reserve(CodeLayout::new(CODE)).is_err());
    // The node has a hole to tell of, in page 8.
    drop(before);
    thread.collect();
    let other = setup.spawn(move |setup| {
        let mut thread = setup.attach();
        drop(last);
        thread.collect();
    });
    let held = thread.reserve(CodeLayout::new(64 * GRANULE - 16));
    let found = thread.reserve(CodeLayout::new(64 * GRANULE - 16));
    other.join().unwrap();
    drop((held, found));
    drop(thread);
    setup.verify();
}

/// Two threads commit at once where the budget has room for one.
fn commits_within_a_budget() {
    let setup = Setup::on(Strategy::DualPkey, 8192, 1, Options::default(), |builder| {
        builder.code_budget(4096)
    });
    let try_to_reserve = |setup: &Setup| {
        let mut thread = setup.attach();
        let reserved = thread.reserve(CodeLayout::new(CODE));
        assert!(setup.machine.present() <= 4096, "[A2] more is present than the budget has");
        reserved.is_ok()
    };
    let other = setup.spawn(move |setup| try_to_reserve(setup));
    let mine = try_to_reserve(&setup);
    let theirs = other.join().unwrap();
    assert!(mine || theirs, "a budget that nobody uses");
    setup.verify();
    assert!(setup.arena.stats().committed_bytes <= 4096, "[A2]");
}
