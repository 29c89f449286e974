//! A machine that fails: a whole scenario is repeated once for each system call
//! it makes, with that one call refused, and once more with it and all later
//! ones of its kind refused. After each: a typed error or the next rung of the
//! ladder, nothing lost, and an arena that goes on working.
//!
//! Needs the feature `model`, which the tests of the workspace have.

#![cfg(all(target_os = "linux", feature = "model"))]

mod common;

use std::error::Error;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::child::{self, expect_passed};
use common::{KIB, RESERVE, call, constant, install, maps};
use jit_arena::platform::faulty::{Faulty, Kind};
use jit_arena::platform::model::{Machine, Options};
use jit_arena::platform::{Access, Backing, Place, Platform, native};
use jit_arena::{
    Arena, Attempt, BuildError, CodeLayout, Executor, MemoryKind, OsError, Outcome, RegionError,
    Strategy, ThreadHandle,
};

/// The error that a refused call of this kind gives.
fn errno(kind: Kind) -> i32 {
    match kind {
        Kind::CreateFile | Kind::SealFile | Kind::Protect => libc::EPERM,
        Kind::KeyAlloc => libc::ENOSPC,
        Kind::RegisterSyncCore | Kind::SyncCore => libc::ENOSYS,
        _ => libc::ENOMEM,
    }
}

/// What a run of the scenario met.
#[derive(Default)]
struct Met {
    /// Typed errors, each of the system's.
    errors: usize,
    /// What the arena counted and tries again.
    refusals: u64,
    /// Children that went on without memory.
    lost: usize,
}

impl Met {
    /// The value, or else a note of an error that the system is the cause of.
    fn or_note<T, E: Error + 'static>(&mut self, result: Result<T, E>, expected: i32) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors += 1;
                let seen = os_error(&error);
                assert_eq!(seen.map(|os| os.errno), Some(expected), "{error:?}");
                None
            }
        }
    }
}

/// The system's error at the bottom of another.
fn os_error(error: &(dyn Error + 'static)) -> Option<OsError> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(os) = error.downcast_ref::<OsError>() {
            return Some(*os);
        }
        at = error.source();
    }
    None
}

/// Everything that makes system calls: building, committing, windows, lots,
/// trampolines, giving back, forking, the end.
fn scenario(machine: &Arc<Faulty>, strategy: Strategy, expected: i32) -> Met {
    let mut met = Met::default();
    let builder = Arena::builder().reserve(RESERVE).strategy(strategy).huge_pages(true);
    let Some(arena) = met.or_note(builder.build_on(Arc::clone(machine) as _), expected) else {
        return met;
    };
    let mut thread = arena.attach().unwrap();
    let mut executors: Vec<(Executor, u32)> = Vec::new();
    for round in 0..3 {
        for number in 0..30_u32 {
            let mut code = constant(number);
            code.resize(code.len() + number as usize * 100 / 4 * 4, 0);
            let installed = met.or_note(thread.install(&code, &[]), expected);
            executors.extend(installed.map(|executor| (executor, number)));
        }
        // Longer than a code page.
        if let Some(long) = met.or_note(thread.install(&[0; 150 * KIB], &[]), expected) {
            drop(long);
        }
        batch(&mut thread, &mut executors, &mut met, expected);
        let target = 0x1000 + round * 64;
        met.or_note(arena.trampoline(target), expected);
        executors.retain(|(_, number)| number % 3 != round as u32);
        thread.collect();
        for (executor, number) in &executors {
            assert_eq!(call(&thread, executor), *number);
        }
        // Abandoned granules and holes alike are accounted for, whatever failed.
        arena.verify().unwrap();
    }
    met.lost += fork(&arena, &mut thread, &executors, (usize::MAX, usize::MAX));
    met.refusals = arena.stats().refusals;
    machine.heal();
    // It goes on working.
    executors.push((install(&mut thread, 77), 77));
    for (executor, number) in &executors {
        assert_eq!(call(&thread, executor), *number);
    }
    executors.clear();
    thread.collect();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
    met
}

/// Several executors in one scope.
fn batch(
    thread: &mut ThreadHandle,
    executors: &mut Vec<(Executor, u32)>,
    met: &mut Met,
    expected: i32,
) {
    let mut places = Vec::new();
    let mut scope = thread.write();
    for number in 100..105 {
        let Some(mut place) = met.or_note(scope.reserve(CodeLayout::new(2000)), expected) else {
            continue;
        };
        if met.or_note(scope.write_at(&mut place, 0, &constant(number)), expected).is_some()
            && met.or_note(scope.shrink(&mut place, 500, 0), expected).is_some()
        {
            places.push((place, number));
        }
    }
    drop(scope);
    for (place, number) in places {
        match thread.publish(place) {
            Ok(executor) => executors.push((executor, number)),
            Err(error) => {
                assert_eq!(os_error(&error).map(|os| os.errno), Some(expected), "{error:?}");
                met.errors += 1;
            }
        }
    }
}

/// Forks; 1 if the child had no memory. It [holds](held) no more than it may.
fn fork(
    arena: &Arena,
    thread: &mut ThreadHandle,
    executors: &[(Executor, u32)],
    most: (usize, usize),
) -> usize {
    // SAFETY: the child runs what follows and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let (bytes, descriptors) = held();
        let verified = arena.verify();
        let code = match verified {
            _ if bytes > most.0 || descriptors > most.1 => 4,
            Ok(()) => {
                let all =
                    executors.iter().all(|(executor, number)| call(thread, executor) == *number);
                if all { 0 } else { 3 }
            }
            Err(error) if error.invariant == "F3" => 1,
            Err(_) => 2,
        };
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just forked.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    match libc::WEXITSTATUS(status) {
        lost @ 0..=1 => lost as usize,
        other => panic!("the child ended with {other}"),
    }
}

/// An arena on a machine that fails, the only one of the process: what is made once a
/// fork is made by its machine, too.
fn only_arena(small: Arena) -> (Arena, Arc<Faulty>) {
    let strategy = small.report().strategy;
    drop(small);
    let machine = Faulty::new(native());
    let builder = Arena::builder().reserve(RESERVE).strategy(strategy);
    (builder.build_on(Arc::clone(&machine) as _).unwrap(), machine)
}

/// What a child does that can have no memory of its own, and then ends.
fn child_without(arena: Arena, thread: ThreadHandle, executors: Vec<Executor>) {
    assert_eq!(arena.verify().unwrap_err().invariant, "F3");
    let has_rights = |mapping: &&maps::Mapping| {
        let of_memory = ["jit-arena", "/dev/zero"].iter().any(|of| mapping.name.contains(of));
        of_memory && !mapping.rights.starts_with("---")
    };
    let all = maps::all();
    let left: Vec<_> = all.iter().filter(has_rights).collect();
    assert!(left.is_empty(), "{left:?}");
    let inside = arena.span().start;
    assert!(maps::at(inside).is_none_or(|mapping| mapping.rights.starts_with("---")));
    drop((executors, thread, arena));
}

#[test]
fn f3_a_child_that_can_replace_nothing_has_no_rights() {
    child::each_strategy(
        "f3_a_child_that_can_replace_nothing_has_no_rights",
        |small| {
            let (arena, machine) = only_arena(small);
            let mut thread = arena.attach().unwrap();
            let executors: Vec<_> = (0..20).map(|number| install(&mut thread, number)).collect();
            // Longer than its handle remembers.
            let long = thread.install(&[0; 150 * KIB], &[]).unwrap();
            if arena.report().memory == MemoryKind::Private {
                return;
            }
            let executors: Vec<_> = executors.into_iter().chain([long]).collect();
            // Each that is refused is a worse machine; the worst ends the child.
            let all = [Kind::MapOver, Kind::Protect, Kind::Unmap];
            for refused in 1..=all.len() {
                for &kind in &all[..refused] {
                    machine.fail(kind, 0, usize::MAX / 2, libc::ENOMEM);
                }
                // SAFETY: the child runs what follows and ends.
                let pid = unsafe { libc::fork() };
                assert!(pid >= 0);
                if pid == 0 {
                    let without = || child_without(arena, thread, executors);
                    let passed = catch_unwind(AssertUnwindSafe(without)).is_ok();
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(if passed { 0 } else { 101 }) };
                }
                let mut status = 0;
                // SAFETY: waits for the child just forked.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                machine.heal();
                if refused == all.len() {
                    assert!(libc::WIFSIGNALED(status), "{status:#x}");
                    assert_eq!(libc::WTERMSIG(status), libc::SIGABRT);
                } else {
                    assert_eq!(status, 0, "{refused} kinds refused");
                }
            }
            drop(executors);
            thread.collect();
            arena.verify().unwrap();
        },
        |_, ended| {
            ended.expect_success();
        },
    );
}

#[test]
fn f3_nothing_is_left_of_a_fork_that_was_refused_something() {
    child::each_strategy(
        "f3_nothing_is_left_of_a_fork_that_was_refused_something",
        |small| {
            let (arena, machine) = only_arena(small);
            let mut thread = arena.attach().unwrap();
            let executors: Vec<_> = (0..20).map(|n| (install(&mut thread, n), n)).collect();
            let calls = Kind::ALL.map(|kind| machine.calls(kind));
            let before = held();
            assert_eq!(fork(&arena, &mut thread, &executors, before), 0, "without a fault");
            let mut lost = 0;
            for (kind, calls) in Kind::ALL.into_iter().zip(calls) {
                if kind == Kind::Unmap {
                    // What is not removed stays.
                    continue;
                }
                // As many as the parent made, and some that only its child makes.
                for first in 0..machine.calls(kind) - calls + 4 {
                    machine.fail(kind, first, 1, errno(kind));
                    lost += fork(&arena, &mut thread, &executors, before);
                    machine.heal();
                    assert_eq!(held(), before, "{kind:?} {first}");
                }
            }
            assert!(lost > 0 || arena.report().memory == MemoryKind::Private, "all had memory");
        },
        |_, ended| {
            ended.expect_success();
        },
    );
}

#[test]
fn f3_a_child_of_a_child_without_memory_has_none_either() {
    child::each_strategy(
        "f3_a_child_of_a_child_without_memory_has_none_either",
        |small| {
            let (arena, machine) = only_arena(small);
            let mut thread = arena.attach().unwrap();
            let executor = install(&mut thread, 1);
            if arena.report().memory == MemoryKind::Private {
                return;
            }
            machine.fail(Kind::MapOver, 0, 1, libc::ENOMEM);
            // SAFETY: the child runs what follows and ends.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            let passed = catch_unwind(AssertUnwindSafe(|| {
                if pid != 0 {
                    return;
                }
                let calls = machine.calls(Kind::Map);
                // SAFETY: as above.
                let pid = unsafe { libc::fork() };
                assert!(pid >= 0);
                let mapping = maps::at(executor.addr()).unwrap();
                assert!(!mapping.rights.contains('x'), "{mapping:?}");
                assert_eq!(arena.verify().unwrap_err().invariant, "F3");
                if pid != 0 {
                    assert_eq!(machine.calls(Kind::Map), calls, "memory for nothing");
                    expect_passed(pid);
                }
            }));
            if pid == 0 {
                // SAFETY: ends the child, and its own.
                unsafe { libc::_exit(if passed.is_ok() { 0 } else { 101 }) };
            }
            expect_passed(pid);
            machine.heal();
            assert_eq!(call(&thread, &executor), 1);
            drop(executor);
            thread.collect();
        },
        |_, ended| {
            ended.expect_success();
        },
    );
}

#[test]
fn windows_of_a_handles_last_fills_are_tried_again() {
    child::each_strategy(
        "windows_of_a_handles_last_fills_are_tried_again",
        |small| {
            let (arena, machine) = only_arena(small);
            let before = held();
            let mut thread = arena.attach().unwrap();
            drop(thread.install(&[0x90; 4000], &[]).unwrap());
            let calls = machine.calls(Kind::Unmap);
            machine.fail(Kind::Unmap, 0, 1, libc::ENOMEM);
            drop(thread);
            if machine.calls(Kind::Unmap) > calls {
                assert_eq!(arena.stats().refusals, 1);
            }
            machine.heal();
            assert_eq!(held(), before, "a window is left");
        },
        |_, ended| {
            ended.expect_success();
        },
    );
}

/// Bytes of mappings of the arena's, and open descriptors.
fn held() -> (usize, usize) {
    let mappings = maps::all();
    let ours = mappings
        .iter()
        .filter(|mapping| mapping.name.contains("jit-arena") || mapping.rights.ends_with('s'));
    let bytes = ours.map(|mapping| mapping.range.len()).sum();
    (bytes, fs::read_dir("/proc/self/fd").unwrap().count())
}

fn every_call_refused_once(strategy: Strategy) {
    let clean = Faulty::new(native());
    let met = scenario(&clean, strategy, 0);
    assert_eq!((met.errors, met.refusals, met.lost), (0, 0, 0), "without a fault");
    let mut runs = 0;
    for kind in Kind::ALL {
        let (mut noticed, calls) = (0, clean.calls(kind));
        for first in 0..calls {
            for count in [1, usize::MAX / 2] {
                // All later ones: each rung once, then in strides.
                if count > 1 && first > 8 && first % 7 != 0 {
                    continue;
                }
                let before = held();
                let machine = Faulty::new(native());
                machine.fail(kind, first, count, errno(kind));
                let met = scenario(&machine, strategy, errno(kind));
                runs += 1;
                noticed += usize::from(met.errors > 0 || met.refusals > 0 || met.lost > 0);
                let (bytes, descriptors) = held();
                assert_eq!(descriptors, before.1, "{kind:?} {first}: descriptors");
                // A mapping that the system refuses to remove stays: nobody can
                // be told, and nobody uses it.
                if kind != Kind::Unmap {
                    assert_eq!(bytes, before.0, "{kind:?} {first}: bytes mapped");
                }
            }
        }
        println!("{strategy}: {kind:?}: {calls} calls, {noticed} runs met an error");
    }
    println!("{strategy}: {runs} runs");
}

#[test]
fn every_call_that_is_refused_is_met_by_an_error_or_the_next_rung() {
    const NAME: &str = "every_call_that_is_refused_is_met_by_an_error_or_the_next_rung";
    child::each_strategy(
        NAME,
        |arena| every_call_refused_once(arena.report().strategy),
        |_, ended| {
            ended.expect_success();
        },
    );
}

#[test]
fn random_places_without_random_numbers_are_a_typed_error() {
    let build = |machine: &Arc<Faulty>| {
        let builder = Arena::builder().reserve(RESERVE).random_placement(true);
        builder.build_on(Arc::clone(machine) as _)
    };
    let clean = Faulty::new(native());
    drop(build(&clean).unwrap());
    assert!(clean.calls(Kind::Random) > 0);
    for first in 0..clean.calls(Kind::Random) {
        let machine = Faulty::new(native());
        machine.fail(Kind::Random, first, 1, libc::ENOSYS);
        let error = build(&machine).unwrap_err();
        let BuildError::Random(os) = &error else { panic!("{error:?}") };
        assert_eq!(os.errno, libc::ENOSYS);
        assert!(error.to_string().contains("allow the call"), "{error}");
        assert_eq!(machine.calls(Kind::Map), 0, "nothing was built");
    }
}

/// A machine that places everything above `end` from here on.
fn full_below(end: usize) -> Arc<Machine> {
    let machine = Machine::new(Options::default());
    // Views of one memory: it costs a table, and they cost nothing.
    let len = 16 << 30;
    let first = machine.map(Backing::SharedAnonymous, Place::Anywhere, len, Access::None);
    let mut at = first.unwrap();
    while at + len < end {
        // SAFETY: of a machine whose addresses nobody follows.
        at = unsafe { machine.duplicate(at, len) }.unwrap();
    }
    machine
}

#[test]
fn a_region_beyond_48_bits_is_a_typed_error() {
    let build = |machine: &Arc<Machine>, strategy: Option<Strategy>| {
        let builder = Arena::builder().reserve(RESERVE);
        let builder = strategy.into_iter().fold(builder, |builder, s| builder.strategy(s));
        builder.build_on(Arc::clone(machine) as _)
    };
    let works = Machine::new(Options::default());
    let works = build(&works, None).unwrap().report().strategy;
    let machine = full_below(1 << 48);
    let mapped = machine.mapped();
    for strategy in [None, Some(works)] {
        let error = build(&machine, strategy).unwrap_err();
        let BuildError::Region(RegionError::Refused { attempts, .. }) = &error else {
            panic!("{error:?}")
        };
        let too_far = |attempt: &&Attempt| match &attempt.outcome {
            Outcome::Refused(os) => os.errno == libc::EOVERFLOW,
            _ => false,
        };
        let mut refused = attempts.iter().filter(too_far).map(|attempt| attempt.strategy);
        assert!(refused.any(|refused| refused == works), "{attempts:?}");
        assert_eq!(machine.mapped(), mapped, "nothing is left of it");
    }
}

/// An arena of a few system pages that flip, `[W3]`, on a machine that fails.
fn flipping(machine: &Arc<Faulty>) -> Arena {
    let builder = Arena::builder().reserve(64 * KIB).code_page(64 * KIB);
    builder.strategy(Strategy::Mprotect).build_on(Arc::clone(machine) as _).unwrap()
}

/// Another thread writes where there is room, while a handle ends that tries again
/// to close what it could not.
fn writes_while_ends(arena: &Arena, ends: ThreadHandle) {
    let mut thread = arena.attach().unwrap();
    let mut place = thread.reserve(CodeLayout::new(100)).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut place, 0, &constant(8)).unwrap();
    drop(ends);
    scope.write_at(&mut place, 50, &[0x90; 50]).unwrap();
    drop(scope);
    let executor = thread.publish(place).unwrap();
    assert_eq!(call(&thread, &executor), 8);
    drop(executor);
    thread.collect();
    arena.verify().unwrap();
    assert_eq!(arena.stats().committed_bytes, 0, "all pages came back");
}

#[test]
fn pages_whose_window_could_not_be_closed_stay_their_threads() {
    let machine = Faulty::new(native());
    let arena = flipping(&machine);
    let mut thread = arena.attach().unwrap();
    let mut scope = thread.write();
    // A claim of some system pages, all of which the window covers.
    drop(scope.reserve(CodeLayout::new(9000)).unwrap());
    let mut place = scope.reserve(CodeLayout::new(100)).unwrap();
    scope.write_at(&mut place, 0, &constant(7)).unwrap();
    machine.fail(Kind::Protect, 0, usize::MAX, libc::ENOMEM);
    drop(scope);
    let error = thread.publish(place).unwrap_err();
    assert_eq!(os_error(&error).map(|os| os.errno), Some(libc::ENOMEM), "{error:?}");
    drop(error);
    machine.heal();
    thread.collect();
    writes_while_ends(&arena, thread);
}

#[test]
fn a_page_that_dies_under_an_unclosed_window_stays_its_threads() {
    let machine = Faulty::new(native());
    let arena = flipping(&machine);
    let (mut one, mut two) = (arena.attach().unwrap(), arena.attach().unwrap());
    let mut scope = one.write();
    // A claim of some system pages, all of which the window covers.
    drop(scope.reserve(CodeLayout::new(9000)).unwrap());
    let mut kept = scope.reserve(CodeLayout::new(100)).unwrap();
    scope.write_at(&mut kept, 0, &constant(7)).unwrap();
    machine.fail(Kind::Protect, 0, usize::MAX, libc::ENOMEM);
    drop(scope);
    machine.heal();
    // All of the next page but its end is skipped, and that given up.
    let mut scope = one.write();
    drop(scope.reserve(CodeLayout::new(16).align(4096)).unwrap());
    drop(scope);
    one.collect();
    let mut place = two.reserve(CodeLayout::new(100)).unwrap();
    let mut scope = two.write();
    scope.write_at(&mut place, 0, &constant(8)).unwrap();
    let seven = one.publish(kept).unwrap();
    scope.write_at(&mut place, 50, &[0x90; 50]).unwrap();
    drop(scope);
    let eight = two.publish(place).unwrap();
    assert_eq!((call(&one, &seven), call(&two, &eight)), (7, 8));
    drop((seven, eight));
    two.collect();
    one.collect();
    arena.verify().unwrap();
    assert_eq!(arena.stats().committed_bytes, 0, "all pages came back");
}

#[test]
fn pages_that_could_not_be_sealed_after_a_fill_are_nobodys_yet() {
    let machine = Faulty::new(native());
    let arena = flipping(&machine);
    let mut thread = arena.attach().unwrap();
    drop(thread.install(&[0x90; 4000], &[]).unwrap());
    machine.fail(Kind::Protect, 1, 1, libc::ENOMEM);
    thread.collect();
    assert_eq!(arena.stats().refusals, 1);
    writes_while_ends(&arena, thread);
}
