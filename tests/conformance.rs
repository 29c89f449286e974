//! One suite for every protection strategy: whatever the machine does beneath,
//! a client sees the same. What each strategy forbids is in `protection.rs`.

mod common;

use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{
    Barrier, KIB, MIB, RESERVE, arena_of, bytes_at, call, call_at, child, code, constant, install,
    maps,
};
use jit_arena::{Arena, CodeLayout, MAX_EXECUTOR, STRATEGY_VARIABLE, Strategy, ThreadHandle};

/// Makes each check a test of each strategy.
macro_rules! suites {
    ([$($module:ident: $strategy:ident),* $(,)?] $checks:tt) => {
        $(mod $module {
            suites!($strategy $checks);
        })*
    };
    ($strategy:ident [$($check:ident),* $(,)?]) => {
        $(#[test]
        fn $check() {
            let strategy = jit_arena::Strategy::$strategy;
            if crate::common::arena_of(strategy).is_some() {
                let name = concat!(module_path!(), "::", stringify!($check));
                // As the harness has it: without the name of the crate.
                let name = name.split_once("::").map_or(name, |(_, name)| name);
                crate::$check(strategy, name);
            }
        })*
    };
}

suites! {
    [
        dual_pkey: DualPkey,
        dual_transient: DualTransient,
        dual_open: DualOpen,
        single_pkey: SinglePkey,
        mprotect: Mprotect,
        map_jit: MapJit,
    ]
    [
        says_what_it_is,
        is_chosen_by_the_environment,
        runs_what_was_written,
        writes_far_apart_in_one_scope,
        writes_in_nested_scopes,
        writes_nothing_in_a_scope,
        runs_neighbours_while_one_is_written,
        runs_new_code_where_old_code_was,
        runs_in_signal_handlers,
        runs_the_largest_executors,
        takes_code_pages_of_all_sizes,
        calls_the_host_directly,
        takes_memory_again_after_giving_it_back,
        leaves_nothing_behind,
    ]
}

fn arena(strategy: Strategy) -> Arena {
    arena_of(strategy).unwrap()
}

fn says_what_it_is(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let report = arena.report();
    assert_eq!(report.strategy, strategy);
    assert_eq!((report.reserve, report.span), (RESERVE, arena.span()));
    assert_eq!(arena.span().len, RESERVE);
    assert!(report.attempts.iter().all(|attempt| attempt.strategy == strategy));
    let text = report.to_string();
    assert!(text.contains(&format!("strategy: {strategy} on {}", report.memory)), "{text}");
    assert!(text.contains("chosen"), "{text}");
    assert_eq!(strategy.name().parse(), Ok(strategy));
}

fn is_chosen_by_the_environment(strategy: Strategy, test: &str) {
    if child::part().is_some() {
        let arena = Arena::builder().reserve(RESERVE).build().unwrap();
        println!("\nstrategy: {}", arena.report().strategy);
        assert_eq!(call(&arena.attach().unwrap(), &install(&mut arena.attach().unwrap(), 3)), 3);
        return;
    }
    let ended =
        child::run_with(test, "client", |command| command.env(STRATEGY_VARIABLE, strategy.name()));
    ended.expect_success();
    assert_eq!(ended.said("strategy"), Some(strategy.name()));
}

fn runs_what_was_written(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let mut thread = arena.attach().unwrap();
    let mut all = Vec::new();
    for value in 0..1000_u32 {
        let data = value.to_le_bytes();
        let layout = CodeLayout::new(code::LOAD_DATA_LEN).data(4, 4).tag(value.into());
        let mut reservation = thread.reserve(layout).unwrap();
        let mut scope = thread.write();
        let offset = layout.data_offset();
        scope.write_at(&mut reservation, 0, &code::load_data(offset)).unwrap();
        scope.write_at(&mut reservation, offset, &data).unwrap();
        drop(scope);
        all.push(thread.publish(reservation).unwrap());
    }
    for (value, executor) in (0..).zip(&all) {
        assert_eq!(call(&thread, executor), value);
        assert_eq!(executor.tag(), value.into());
        assert_eq!(bytes_at(executor.addr() + executor.data_offset(), 4), value.to_le_bytes());
    }
    arena.verify().unwrap();
}

fn writes_far_apart_in_one_scope(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let mut thread = arena.attach().unwrap();
    // Longer than any claim, so that each needs a window of its own, in turn.
    let mut reserved: Vec<_> =
        (0..6).map(|_| thread.reserve(CodeLayout::new(50 * KIB)).unwrap()).collect();
    let mut scope = thread.write();
    for at in (0..50).rev() {
        for (value, reservation) in (0_u8..).zip(&mut reserved) {
            scope.write_at(reservation, at * KIB, &[value ^ at as u8; KIB]).unwrap();
        }
    }
    for (value, reservation) in (0..).zip(&mut reserved) {
        scope.write_at(reservation, 0, &constant(value)).unwrap();
    }
    drop(scope);
    for (value, reservation) in (0_u8..).zip(reserved) {
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &executor), value.into());
        for at in 1..50 {
            let seen = bytes_at(executor.addr() + at * KIB, KIB);
            assert!(seen.iter().all(|byte| *byte == value ^ at as u8));
        }
    }
    arena.verify().unwrap();
}

fn writes_in_nested_scopes(strategy: Strategy, _: &str) {
    fn nested(thread: &mut jit_arena::WriteScope<'_>, depth: u32) -> Vec<jit_arena::Reservation> {
        let mut scope = thread.nest();
        let mut own = scope.reserve(CodeLayout::new(64)).unwrap();
        let mut all = if depth == 0 { Vec::new() } else { nested(&mut scope, depth - 1) };
        // The scopes inside have closed; this one is open.
        scope.write_at(&mut own, 0, &constant(depth)).unwrap();
        all.push(own);
        all
    }
    let arena = arena(strategy);
    let mut thread = arena.attach().unwrap();
    let all = nested(&mut thread.write(), 20);
    for (value, reservation) in (0..).zip(all) {
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &executor), value);
    }
    arena.verify().unwrap();
}

fn writes_nothing_in_a_scope(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let mut thread = arena.attach().unwrap();
    for _ in 0..3 {
        drop(thread.write());
        drop(thread.write().nest());
        let executor = install(&mut thread, 1);
        assert_eq!(call(&thread, &executor), 1);
    }
}

/// Where writing flips a page, what runs is not on it, `[W3]`.
fn runs_neighbours_while_one_is_written(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut thread = arena.attach().unwrap();
    let all: Vec<_> = (0..64).map(|value| install(&mut thread, value)).collect();
    thread::scope(|threads| {
        threads.spawn(|| {
            let thread = arena.attach().unwrap();
            while !stop.load(Ordering::Relaxed) {
                for (value, executor) in (0..).zip(&all) {
                    assert_eq!(call(&thread, executor), value);
                }
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Until it has run through all of them, some of it inside scopes.
        for value in 0.. {
            drop(install(&mut thread, value));
            let mut scope = thread.write();
            let mut reservation = scope.reserve(CodeLayout::new(64)).unwrap();
            scope.write_at(&mut reservation, 0, &constant(1)).unwrap();
            if calls.load(Ordering::Relaxed) > 100 && value > 500 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    arena.verify().unwrap();
}

fn runs_new_code_where_old_code_was(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let turn = Barrier::new(2);
    let (entry, expected) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut addresses = Vec::new();
    const ROUNDS: u32 = 200;
    thread::scope(|threads| {
        // Another core, which has run what was there before.
        threads.spawn(|| {
            for _ in 0..ROUNDS {
                turn.wait();
                let value = call_at(entry.load(Ordering::Relaxed));
                assert_eq!(value as usize, expected.load(Ordering::Relaxed));
                turn.wait();
            }
        });
        let mut thread = arena.attach().unwrap();
        for value in 0..ROUNDS {
            let executor = install(&mut thread, value);
            addresses.push(executor.addr());
            entry.store(executor.addr(), Ordering::Relaxed);
            expected.store(value as usize, Ordering::Relaxed);
            turn.wait();
            turn.wait();
            drop(executor);
            thread.collect();
        }
    });
    addresses.sort_unstable();
    addresses.dedup();
    assert!(addresses.len() < ROUNDS as usize / 2, "{} addresses", addresses.len());
}

thread_local! {
    // Constant, and without a destructor: safe to look at in a handler.
    static ENTRY: Cell<usize> = const { Cell::new(0) };
    static RESULT: Cell<u32> = const { Cell::new(0) };
}

extern "C" fn run_entry(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    RESULT.set(call_at(ENTRY.get()));
}

fn runs_in_signal_handlers(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    child::handle(libc::SIGUSR2, run_entry, 0);
    let mut thread = arena.attach().unwrap();
    for value in 1..50 {
        let executor = install(&mut thread, value);
        ENTRY.set(executor.addr());
        // SAFETY: raise(3) has no preconditions; the signal is this thread's.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(RESULT.get(), value);
    }
}

fn runs_the_largest_executors(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let mut thread = arena.attach().unwrap();
    let mut all = Vec::new();
    for value in 0..3 {
        let mut code = vec![0x90; MAX_EXECUTOR];
        let at = (MAX_EXECUTOR - constant(value).len()) & !3;
        code[at..][..constant(value).len()].copy_from_slice(&constant(value));
        let head = code::jump_ahead(at);
        code[..head.len()].copy_from_slice(&head);
        all.push(thread.install(&code, &[]).unwrap());
    }
    for (value, executor) in (0..).zip(&all) {
        assert_eq!(call(&thread, executor), value);
    }
    arena.verify().unwrap();
    drop(all);
    thread.collect();
    assert_eq!(arena.stats().committed_bytes, 0);
}

fn takes_code_pages_of_all_sizes(strategy: Strategy, _: &str) {
    let system_page = arena(strategy).report().system_page;
    let mut page = system_page.max(4 * KIB);
    while page <= 256 * KIB {
        let builder = Arena::builder().strategy(strategy).reserve(4 * MIB).code_page(page);
        let arena = builder.build().unwrap();
        let mut thread = arena.attach().unwrap();
        let mut all = Vec::new();
        for value in 0..300 {
            // Every tenth is longer than the smallest page.
            let padding = if value % 10 == 0 { 10_000 } else { value as usize };
            let code = [constant(value), vec![0x90; padding]].concat();
            all.push(thread.install(&code, &[]).unwrap());
        }
        for (value, executor) in (0..).zip(&all) {
            assert_eq!(call(&thread, executor), value);
        }
        arena.verify().unwrap();
        drop(all);
        thread.collect();
        assert_eq!(arena.stats().committed_bytes, 0, "{page}");
        page *= 2;
    }
}

extern "C" fn host() -> u32 {
    0xC0DE
}

/// Code that calls [`host`] by the distance to it.
#[cfg(target_arch = "x86_64")]
fn direct_call(entry: usize) -> Vec<u8> {
    // sub rsp, 8; call host; add rsp, 8; ret
    let distance = i32::try_from(host as *const () as isize - (entry + 9) as isize).unwrap();
    [&[0x48, 0x83, 0xEC, 8, 0xE8][..], &distance.to_le_bytes(), &[0x48, 0x83, 0xC4, 8, 0xC3]]
        .concat()
}

/// Code that goes on in [`host`] by the distance to it.
#[cfg(target_arch = "aarch64")]
fn direct_call(entry: usize) -> Vec<u8> {
    let distance = (host as *const () as isize - entry as isize) / 4;
    assert!((-(1 << 25)..1 << 25).contains(&distance));
    (0x1400_0000 | distance as u32 & 0x03FF_FFFF).to_le_bytes().to_vec()
}

fn calls_the_host_directly(strategy: Strategy, _: &str) {
    let near = host as *const () as usize;
    let builder = Arena::builder().strategy(strategy).reserve(RESERVE).near(near);
    let arena = builder.build().unwrap();
    let reach = arena.report().reach().unwrap();
    let branch = if cfg!(target_arch = "aarch64") { 128 * MIB } else { 2048 * MIB };
    assert!(reach < branch, "{}", arena.report());
    let mut thread = arena.attach().unwrap();
    let mut reservation = thread.reserve(CodeLayout::new(16)).unwrap();
    let code = direct_call(reservation.entry());
    let mut scope = thread.write();
    scope.write_at(&mut reservation, 0, &code).unwrap();
    drop(scope);
    let executor = thread.publish(reservation).unwrap();
    assert_eq!(call(&thread, &executor), 0xC0DE);
}

fn takes_memory_again_after_giving_it_back(strategy: Strategy, _: &str) {
    let arena = arena(strategy);
    let mut thread = arena.attach().unwrap();
    for round in 0..20 {
        let all: Vec<_> = (0..100).map(|value| install(&mut thread, round * 100 + value)).collect();
        for (value, executor) in (0..).zip(&all) {
            assert_eq!(call(&thread, executor), round * 100 + value);
        }
        drop(all);
        thread.collect();
        assert_eq!(arena.stats().committed_bytes, 0);
    }
    arena.verify().unwrap();
}

fn use_up(thread: &mut ThreadHandle) {
    let all: Vec<_> = (0..200).map(|value| install(thread, value)).collect();
    let mut scope = thread.write();
    let mut abandoned = scope.reserve(CodeLayout::new(100)).unwrap();
    scope.write_at(&mut abandoned, 0, &[1; 100]).unwrap();
    drop(all);
}

fn leaves_nothing_behind(strategy: Strategy, test: &str) {
    if child::part().is_none() {
        return child::run(test, "client").expect_success();
    }
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let build = || {
        let builder = Arena::builder().strategy(strategy).reserve(RESERVE).name("left-behind");
        let arena = builder.build().unwrap();
        use_up(&mut arena.attach().unwrap());
        arena
    };
    drop(build());
    let (files, mappings) = (open_files(), maps::all().len());
    for _ in 0..50 {
        let arena = build();
        assert!(maps::at(arena.span().start).is_some());
        drop(arena);
        assert!(!maps::all().iter().any(|mapping| mapping.name.contains("left-behind")));
    }
    assert_eq!(open_files(), files);
    if !common::is_sanitized() {
        // A few, for what the allocator does.
        assert!(maps::all().len() <= mappings + 3, "{:?}", maps::all());
    }
}
