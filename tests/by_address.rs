//! Executors retired by their addresses, and every way to get that wrong.

mod common;

use std::sync::Barrier;
use std::thread;

use common::{KIB, RESERVE, call_at, constant, each_strategy, maps};
use jit_arena::{Arena, CodeLayout, RetireError, ThreadHandle};

/// Installs code that returns `value`, with data, and gives its handle up.
fn install(thread: &mut ThreadHandle, value: u32) -> usize {
    thread.install(&constant(value), &[7; 300]).unwrap().into_addr()
}

fn retire(arena: &Arena, address: usize) -> Result<(), RetireError> {
    // SAFETY: the tests retire what they gave up, and what is wrong on purpose
    // before anything is installed again.
    unsafe { arena.retire_at(address) }
}

#[test]
fn d1_an_address_is_enough_on_any_thread() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let entries: Vec<usize> = (0..40).map(|value| install(&mut thread, value)).collect();
        for (value, entry) in entries.iter().enumerate() {
            assert_eq!(call_at(*entry), value as u32);
        }
        let (here, there) = entries.split_at(20);
        here.iter().for_each(|entry| retire(&arena, *entry).unwrap());
        // Neither attached before nor after.
        thread::scope(|scope| {
            scope.spawn(|| there.iter().for_each(|entry| retire(&arena, *entry).unwrap()));
        });
        assert_eq!(arena.stats().live_executors, 0);
        thread.collect();
        let stats = arena.stats();
        assert_eq!((stats.retired_executors, stats.recycles), (0, 40));
        assert_eq!(stats.attached_threads, 1);
        drop(thread);
        arena.verify().unwrap();
    });
}

#[test]
fn d1_what_is_not_to_be_retired_is_refused() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let span = arena.span();
        let entry = install(&mut thread, 1);
        let abandoned = thread.reserve(CodeLayout::new(64)).unwrap();

        let outside = [0, 1, usize::MAX, span.start - 1, span.end(), &raw const span as usize];
        for address in outside {
            assert_eq!(retire(&arena, address), Err(RetireError::Outside { address }));
        }
        // In the code, at its data, at its end.
        for address in [entry + 1, entry + 16, entry + 64, entry + 200] {
            let refused = RetireError::NotAnEntry { address, inside: Some(entry) };
            assert_eq!(retire(&arena, address), Err(refused));
        }
        // Of no executor: the region's start, a header, reserved only, a hole.
        let hole = span.start + span.len / 2;
        for address in [span.start, entry - 16, entry - 1, abandoned.entry(), hole] {
            let refused = RetireError::NotAnEntry { address, inside: None };
            assert_eq!(retire(&arena, address), Err(refused), "{address:#x}");
        }
        assert_eq!(arena.stats().retires, 0);
        assert_eq!(call_at(entry), 1);

        retire(&arena, entry).unwrap();
        assert_eq!(retire(&arena, entry), Err(RetireError::Retired { entry }));
        // SAFETY: nobody runs it, and it is refused.
        let again = unsafe { arena.retire_quiescent_at(entry) };
        assert_eq!(again, Err(RetireError::Retired { entry }));
        drop(abandoned);
        thread.collect();
        let refused = RetireError::NotAnEntry { address: entry, inside: None };
        assert_eq!(retire(&arena, entry), Err(refused));
        drop(thread);
        arena.verify().unwrap();
    });
}

#[test]
fn d1_of_threads_that_free_at_once_one_does() {
    each_strategy(|arena| {
        const ROUNDS: usize = 200;
        let mut thread = arena.attach().unwrap();
        let entries: Vec<usize> = (0..ROUNDS).map(|_| install(&mut thread, 3)).collect();
        let start = Barrier::new(2);
        let freed: usize = thread::scope(|scope| {
            let both = [false, true].map(|quiescent| {
                let (arena, entries, start) = (&arena, &entries, &start);
                scope.spawn(move || {
                    let mut own = arena.attach().unwrap();
                    let mut freed = 0;
                    for entry in entries {
                        start.wait();
                        let result = if quiescent {
                            // SAFETY: nothing is installed meanwhile, and nobody
                            // runs any of it.
                            unsafe { arena.retire_quiescent_at(*entry) }
                        } else {
                            retire(arena, *entry)
                        };
                        freed += usize::from(result.is_ok());
                        if quiescent {
                            own.collect();
                        }
                    }
                    freed
                })
            });
            both.map(|one| one.join().unwrap()).iter().sum()
        });
        assert_eq!((freed, arena.stats().retires), (ROUNDS, ROUNDS as u64));
        thread.collect();
        drop(thread);
        arena.verify().unwrap();
    });
}

#[test]
fn quiescent_memory_is_used_again_whoever_is_pinned() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let other = arena.attach().unwrap();
        let _pinned = other.pin();
        let big = vec![0xCC; 100 * KIB];
        for _ in 0..500 {
            let entry = thread.install(&big, &[]).unwrap().into_addr();
            // SAFETY: given up just now, and run by nobody.
            unsafe { arena.retire_quiescent_at(entry) }.unwrap();
        }
        let stats = arena.stats();
        assert!(stats.committed_bytes < 8 * 1024 * KIB as u64, "{stats:?}");
    });
}

#[test]
fn code_given_up_does_not_keep_the_arena() {
    const NAME: &str = "given-up";
    let mapped = || maps::all().iter().any(|mapping| mapping.name.contains(NAME));
    let arena = Arena::builder().reserve(RESERVE).name(NAME).build().unwrap();
    let named = mapped();
    let entry = thread::scope(|scope| {
        scope.spawn(|| install(&mut arena.attach().unwrap(), 5)).join().unwrap()
    });
    assert_eq!(call_at(entry), 5);
    drop(arena);
    assert!(!mapped());
    if !named {
        println!("not run: the system names no mappings");
    }
}

#[test]
fn the_offset_leads_to_where_code_is_written() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut place = thread.reserve(CodeLayout::new(64)).unwrap();
        let entry = place.entry();
        let mut scope = thread.write();
        let at = scope.bytes(&mut place).unwrap().as_mut_ptr() as usize;
        if let Some(offset) = arena.write_offset() {
            assert_eq!(entry.wrapping_add_signed(offset), at);
        } else {
            let name = arena.report().strategy.name();
            assert!(["dual-transient", "mprotect"].contains(&name), "{name}");
        }
    });
}

#[test]
fn e2_an_entry_of_the_clients_own_word_is_held() {
    each_strategy(|arena| {
        let other = arena.attach().unwrap();
        // The newer handle is the one that frees.
        let mut thread = arena.attach().unwrap();
        let entry = install(&mut thread, 9);
        let mut guard = other.pin();
        // SAFETY: loaded from a word (this variable) under the guard.
        let mut running = unsafe { guard.enter_at(entry) };
        retire(&arena, entry).unwrap();
        // SAFETY: dropped below, before anything of the guard's is used.
        let parked = unsafe { running.set_parked() };
        thread.collect();
        assert_eq!(arena.stats().retired_executors, 1);
        drop(parked);
        running.safepoint();
        thread.collect();
        assert_eq!(arena.stats().retired_executors, 1);
        assert_eq!(call_at(running.addr()), 9);
        drop(running);
        drop(guard);
        thread.collect();
        assert_eq!(arena.stats().retired_executors, 0);
    });
}
