//! Who may write, and when.

use jit_arena::platform::model::spawn;
use jit_arena::{CodeLayout, Strategy};

use super::{Bounds, M, Setup, install, try_install};

pub(super) const MODELS: &[M] = &[
    M {
        name: "scopes_on_one_page",
        checks: &["W1", "W2", "B1", "X2"],
        eager: Some(Bounds { preemptions: 7, least: 6 }),
        epoch: None,
        body: || scopes_on_one_page(Strategy::DualPkey),
    },
    M {
        name: "scopes_on_one_page_transient",
        checks: &["W1", "W2", "B1", "X2"],
        eager: Some(Bounds { preemptions: 7, least: 6 }),
        epoch: None,
        body: || scopes_on_one_page(Strategy::DualTransient),
    },
    M {
        name: "scopes_on_one_page_map_jit",
        checks: &["W1", "W2", "B1", "X2"],
        eager: Some(Bounds { preemptions: 7, least: 6 }),
        epoch: None,
        body: || scopes_on_one_page(Strategy::MapJit),
    },
    M {
        name: "scopes_on_one_page_mprotect",
        checks: &["W1", "W2", "W3", "B1"],
        eager: Some(Bounds { preemptions: 2, least: 99 }),
        epoch: None,
        body: || scopes_on_one_page(Strategy::Mprotect),
    },
    M {
        name: "birth_inside_a_scope",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || birth_inside_a_scope(Strategy::DualPkey),
    },
    M {
        name: "birth_inside_a_scope_single_pkey",
        checks: &["W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || birth_inside_a_scope(Strategy::SinglePkey),
    },
    M {
        name: "birth_inside_a_scope_map_jit",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || birth_inside_a_scope(Strategy::MapJit),
    },
    M {
        name: "scopes_on_one_page_single_pkey",
        checks: &["W2", "B1", "X2"],
        eager: Some(Bounds { preemptions: 7, least: 6 }),
        epoch: None,
        body: || scopes_on_one_page(Strategy::SinglePkey),
    },
    M {
        name: "scopes_on_one_page_open",
        checks: &["W1", "B1", "X2"],
        eager: Some(Bounds { preemptions: 7, least: 6 }),
        epoch: None,
        body: || scopes_on_one_page(Strategy::DualOpen),
    },
    M {
        name: "scopes_of_two_handles",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || scopes_of_two_handles(Strategy::DualPkey),
    },
    M {
        name: "scopes_of_two_handles_single_pkey",
        checks: &["W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || scopes_of_two_handles(Strategy::SinglePkey),
    },
    M {
        name: "scopes_of_two_handles_map_jit",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || scopes_of_two_handles(Strategy::MapJit),
    },
    M {
        name: "scopes_of_two_handles_mprotect",
        checks: &["W1", "W3"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || scopes_of_two_handles(Strategy::Mprotect),
    },
    M {
        name: "forgotten_scope",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || forgotten_scope(Strategy::DualPkey),
    },
    M {
        name: "forgotten_scope_mprotect",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || forgotten_scope(Strategy::Mprotect),
    },
    M {
        name: "forgotten_scope_map_jit",
        checks: &["W1", "W2"],
        eager: Some(Bounds { preemptions: 7, least: 1 }),
        epoch: None,
        body: || forgotten_scope(Strategy::MapJit),
    },
    M {
        name: "abandon_inside_a_scope_mprotect",
        checks: &["W1", "W3", "B1"],
        eager: Some(Bounds { preemptions: 1, least: 16000 }),
        epoch: None,
        body: abandon_inside_a_scope,
    },
];

/// A thread writes on a page while another runs what lies beside it, and
/// writes there too.
fn scopes_on_one_page(strategy: Strategy) {
    // Room for a system page of each.
    let setup = Setup::with(strategy, 4 * 4096, 1);
    let mut thread = setup.attach();
    let neighbour = install(&mut thread, 1);
    let other = setup.spawn(move |setup| {
        let mut thread = setup.attach();
        {
            let _guard = thread.pin();
            assert_eq!(setup.run(neighbour.addr()), 1);
        }
        let executor = install(&mut thread, 2);
        assert!(!setup.machine.rights().may_write(), "[W2] a scope left its rights open");
        let _guard = thread.pin();
        assert_eq!(setup.run(neighbour.addr()), 1);
        assert_eq!(setup.run(executor.addr()), 2);
        (neighbour, executor)
    });
    let executor = install(&mut thread, 3);
    assert!(!setup.machine.rights().may_write(), "[W2] a scope left its rights open");
    {
        let _guard = thread.pin();
        assert_eq!(setup.run(executor.addr()), 3);
    }
    let theirs = other.join().unwrap();
    setup.verify();
    drop(theirs);
}

/// A thread is born inside a write scope, inherits its rights, and attaches.
fn birth_inside_a_scope(strategy: Strategy) {
    let setup = Setup::new(strategy);
    let mut thread = setup.attach();
    let executor = install(&mut thread, 1);
    let addr = executor.addr();
    let mut reservation = thread.reserve(CodeLayout::new(40)).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut reservation, 0, &2_u64.to_le_bytes()).unwrap();
    assert!(setup.machine.rights().may_write());
    let born = {
        let child = setup.clone();
        spawn(&setup.machine, move || {
            assert!(child.machine.rights().may_write(), "rights are inherited");
            let thread = child.attach();
            assert!(
                !child.machine.rights().may_write(),
                "[W2] attaching closes what was inherited"
            );
            let _guard = thread.pin();
            assert_eq!(child.machine.fetch(addr), 1);
        })
    };
    scope.write_at(&mut reservation, 8, &3_u64.to_le_bytes()).unwrap();
    drop(scope);
    let second = thread.publish(reservation).unwrap();
    born.join().unwrap();
    {
        let _guard = thread.pin();
        assert_eq!(setup.machine.fetch(second.addr()), 2);
    }
    setup.verify();
    drop((executor, second));
}

/// The scopes of two handles of one thread end in the order in which they began, with
/// another handle made in between: rights end with the last of them. Meanwhile another
/// thread runs what lies beside it.
fn scopes_of_two_handles(strategy: Strategy) {
    // Room for a system page of each.
    let setup = Setup::with(strategy, 4 * 4096, 1);
    let (mut one, mut two) = (setup.attach(), setup.attach());
    let neighbour = install(&mut one, 3);
    let addr = neighbour.addr();
    let other = setup.spawn(move |setup| {
        assert!(!setup.machine.rights().may_write(), "[W2] born with another's rights");
        assert_eq!(setup.machine.fetch(addr), 3);
    });
    let mut first = one.reserve(CodeLayout::new(40)).unwrap();
    let mut second = two.reserve(CodeLayout::new(40)).unwrap();
    let mut outer = one.write();
    outer.write_at(&mut first, 0, &1_u64.to_le_bytes()).unwrap();
    let mut inner = two.write();
    inner.write_at(&mut second, 0, &2_u64.to_le_bytes()).unwrap();
    drop(outer);
    inner.write_at(&mut second, 8, &0_u64.to_le_bytes()).unwrap();
    drop(setup.attach());
    inner.write_at(&mut second, 16, &0_u64.to_le_bytes()).unwrap();
    drop(inner);
    assert!(!setup.machine.rights().may_write(), "[W2] a scope left its rights open");
    let executors = (one.publish(first).unwrap(), two.publish(second).unwrap());
    {
        let _guard = one.pin();
        assert_eq!(setup.machine.fetch(executors.0.addr()), 1);
        assert_eq!(setup.machine.fetch(executors.1.addr()), 2);
    }
    other.join().unwrap();
    drop((neighbour, one, two));
    setup.verify();
}

/// A thread forgets its scope and publishes; another runs the code.
fn forgotten_scope(strategy: Strategy) {
    let setup = Setup::with(strategy, 2 * 4096, 1);
    let mut thread = setup.attach();
    let mut reservation = thread.reserve(CodeLayout::new(40)).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut reservation, 0, &1_u64.to_le_bytes()).unwrap();
    std::mem::forget(scope);
    let executor = thread.publish(reservation).unwrap();
    let addr = executor.addr();
    let other = setup.spawn(move |setup| {
        assert!(!setup.machine.rights().may_write(), "[W2] it inherited a forgotten scope's");
        let thread = setup.attach();
        let _guard = thread.pin();
        assert_eq!(setup.machine.fetch(addr), 1);
    });
    let another = install(&mut thread, 2);
    other.join().unwrap();
    drop((executor, another, thread));
    setup.verify();
}

/// A thread gives up, inside its scope, what it has a window on, while another
/// takes what becomes free: it must not be on a page that is flipped yet.
fn abandon_inside_a_scope() {
    let setup = Setup::with(Strategy::Mprotect, 2 * 4096, 1);
    let mut thread = setup.attach();
    let mut scope = thread.write();
    // Whole units, so that they could be taken at once.
    let mut given_up = scope.reserve(CodeLayout::new(4096 - 16)).unwrap();
    scope.write_at(&mut given_up, 0, &1_u64.to_le_bytes()).unwrap();
    drop(given_up);
    let other = setup.spawn(|setup| {
        let mut thread = setup.attach();
        thread.collect();
        // The other half, or what was given up.
        if let Some(executor) = try_install(&mut thread, 2) {
            let _guard = thread.pin();
            assert_eq!(setup.run(executor.addr()), 2);
        }
    });
    drop(scope);
    thread.collect();
    other.join().unwrap();
    thread.collect();
    drop(thread);
    setup.verify();
}
