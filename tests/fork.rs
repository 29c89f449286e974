//! fork(2): parent and child both go on running, installing and freeing code,
//! whatever threads were doing when it came, and neither sees what the other
//! writes.

#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::child::{self, Ended, expect_passed};
use common::code::{self, CallsHelper};
use common::{KIB, Random, bytes_at, call, call_at, constant, install, maps};
use jit_arena::{
    Arena, BuildError, CodeLayout, Executor, InstallError, PublishErrorKind, ReserveError, Slot,
    Strategy, ThreadHandle, TrampolineError, WriteError,
};
use jit_arena::{CodeInfo, Span, Symbol, Tool};

/// Longest that a forked child may take, in seconds: one that hangs is ended.
const LIMIT: libc::c_uint = 120;

/// Forks; runs `body` in the child, which then ends. Returns the child.
fn fork(body: impl FnOnce()) -> libc::pid_t {
    // SAFETY: what the child does is what is tested here.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid != 0 {
        return pid;
    }
    // SAFETY: ends the process, unless it ends before.
    unsafe { libc::alarm(LIMIT) };
    let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
    // SAFETY: ends the process without what the parent has at its exit.
    unsafe { libc::_exit(if passed { 0 } else { 101 }) }
}

fn succeeds(_: Strategy, ended: &Ended) {
    ended.expect_success();
}

/// What the open descriptors are of, but for the one that this takes.
fn descriptors() -> Vec<String> {
    let of = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path());
    let mut all: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| Some(of(entry).ok()?.display().to_string()))
        .filter(|name| !name.ends_with("/fd"))
        .collect();
    all.sort();
    all
}

/// Installs. Far more threads than processors may have retired all there is
/// before one that is pinned gets to run again: then lets others run.
fn patiently(thread: &mut ThreadHandle, code: &[u8]) -> Executor {
    let begun = Instant::now();
    loop {
        match thread.install(code, &[]) {
            Err(InstallError::Reserve(ReserveError::Exhausted { .. }))
                if begun.elapsed() < Duration::from_secs(60) =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            done => return done.unwrap(),
        }
    }
}

/// Executors that return the numbers from `from` on, of many sizes.
fn make(thread: &mut ThreadHandle, from: u32, count: u32) -> Vec<(Executor, u32)> {
    let mut random = Random::new(from.into());
    let one = |value| {
        let mut code = constant(value);
        code.resize(code.len() + random.below(2000) / 4 * 4, 0);
        (patiently(thread, &code), value)
    };
    (from..from + count).map(one).collect()
}

fn check(thread: &ThreadHandle, executors: &[(Executor, u32)]) {
    for (executor, value) in executors {
        assert_eq!(call(thread, executor), *value);
    }
}

/// Drops and installs, and calls all of them now and then.
fn churn(thread: &mut ThreadHandle, executors: &mut Vec<(Executor, u32)>, from: u32, rounds: u32) {
    let mut random = Random::new(from.into());
    for round in 0..rounds {
        let at = random.below(executors.len());
        drop(executors.swap_remove(at));
        executors.extend(make(thread, from + round, 1));
        if round % 50 == 0 {
            check(thread, executors);
        }
    }
    check(thread, executors);
}

/// Has other threads stop, also where this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Drops everything and finds nothing left.
fn expect_nothing_left(arena: &Arena, thread: &mut ThreadHandle) {
    thread.collect();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
    assert_eq!((stats.committed_bytes, stats.padding_bytes), (0, 0), "{stats:?}");
}

#[test]
fn f1_neither_sees_what_the_other_writes() {
    child::each_strategy(
        "f1_neither_sees_what_the_other_writes",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut executors = make(&mut thread, 1000, 300);
            let (mappings, descriptors_before) = (maps::all().len(), descriptors());
            for generation in 0..5 {
                let base = 100_000 * (generation + 1);
                let child = fork(|| {
                    arena.verify().unwrap();
                    check(&thread, &executors);
                    churn(&mut thread, &mut executors, base + 50_000, 400);
                    arena.verify().unwrap();
                    executors.clear();
                    expect_nothing_left(&arena, &mut thread);
                    assert!(maps::writable_and_executable().is_empty() || !never_wx(&arena));
                });
                churn(&mut thread, &mut executors, base, 400);
                arena.verify().unwrap();
                expect_passed(child);
                check(&thread, &executors);
            }
            assert_eq!(descriptors(), descriptors_before);
            let now = maps::all().len();
            // A sanitizer maps memory for itself.
            assert!(
                now <= mappings + 2 || common::is_sanitized(),
                "{mappings} mappings before, {now} after"
            );
            executors.clear();
            expect_nothing_left(&arena, &mut thread);
        },
        succeeds,
    );
}

fn never_wx(arena: &Arena) -> bool {
    arena.report().strategy.never_wx()
}

#[test]
fn f1_a_child_has_the_views_of_its_parent_and_no_more() {
    child::each_strategy(
        "f1_a_child_has_the_views_of_its_parent_and_no_more",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let executors = make(&mut thread, 1, 50);
            let ours = |mapping: &maps::Mapping| mapping.name.contains("jit-arena");
            let named = || maps::all().iter().filter(|mapping| ours(mapping)).count();
            let shape = |addr| maps::at(addr).map(|mapping| mapping.rights);
            let span = arena.span();
            let (before, files, rights) = (named(), descriptors(), shape(span.start));
            expect_passed(fork(|| {
                assert_eq!((named(), descriptors()), (before, files));
                assert_eq!(shape(span.start), rights);
                drop(executors);
                drop(thread);
                drop(arena);
                assert_eq!(named(), 0);
                assert!(maps::at(span.start).is_none(), "the region is still mapped");
            }));
        },
        succeeds,
    );
}

/// Slots that all threads replace and call. What is in one says which it is.
const SLOTS: usize = 24;

fn replace_and_call(arena: &Arena, slots: &[Slot], random: &mut Random, rounds: usize) {
    let mut thread = arena.attach().unwrap();
    let mut own = Vec::new();
    for round in 0..rounds {
        work(&mut thread, slots, random, &mut own, round);
    }
    check(&thread, &own);
}

/// One step of a thread.
fn work(
    thread: &mut ThreadHandle,
    slots: &[Slot],
    random: &mut Random,
    own: &mut Vec<(Executor, u32)>,
    round: usize,
) {
    let at = random.below(SLOTS);
    let value = (random.below(1 << 20) * SLOTS + at) as u32;
    let mut code = constant(value);
    code.resize(code.len() + random.below(3000) / 4 * 4, 0);
    if random.below(3) == 0 {
        own.push((patiently(thread, &code), value));
        if own.len() > 20 {
            drop(own.swap_remove(random.below(own.len())));
        }
    } else {
        drop(slots[at].replace(patiently(thread, &code)).unwrap());
    }
    let guard = thread.pin();
    for (at, slot) in slots.iter().enumerate() {
        if let Some(entry) = slot.load(&guard) {
            // SAFETY: the slots hold such functions, and the guard lives.
            let function: extern "C" fn() -> u32 = unsafe { entry.cast() };
            assert_eq!(function() as usize % SLOTS, at);
        }
    }
    drop(guard);
    if round.is_multiple_of(64) {
        check(thread, own);
    }
}

/// Forks again and again while threads churn. Children run, install, free,
/// start threads, fork again, exec or just exit.
fn forks_under_load(arena: Arena, forks: usize) {
    const THREADS: usize = 16;
    let slots: Vec<Slot> = (0..SLOTS).map(|_| arena.slot()).collect();
    let stop = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    let descriptors_before = descriptors();
    thread::scope(|scope| {
        let churning = (0..THREADS).map(|number| {
            let (arena, slots, stop, rounds) = (&arena, &slots, &stop, &rounds);
            scope.spawn(move || {
                let mut random = Random::new(number as u64);
                while !stop.load(Ordering::Relaxed) {
                    replace_and_call(arena, slots, &mut random, 200);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let churning: Vec<_> = churning.collect();
        let stops = Stop(&stop);
        let mut thread = arena.attach().unwrap();
        let mut executors = make(&mut thread, 1, 50);
        let mut random = Random::new(77);
        for number in 0..forks {
            let child = fork(|| child_under_load(&arena, &slots, &mut thread, &executors, number));
            churn(&mut thread, &mut executors, 1000 * number as u32, 20);
            work(&mut thread, &slots, &mut random, &mut Vec::new(), 1);
            expect_passed(child);
        }
        check(&thread, &executors);
        drop(stops);
        // To its end, which a scope does not wait for: a thread that frees its heap may
        // have a file of the C library's open.
        churning.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(rounds.load(Ordering::Relaxed) >= THREADS, "the others got nowhere");
    assert_eq!(descriptors(), descriptors_before);
    drop(slots);
    let mut thread = arena.attach().unwrap();
    expect_nothing_left(&arena, &mut thread);
}

fn child_under_load(
    arena: &Arena,
    slots: &[Slot],
    thread: &mut ThreadHandle,
    executors: &[(Executor, u32)],
    number: usize,
) {
    if number % 10 == 3 {
        return;
    }
    if number % 10 == 7 {
        let path = c"/bin/true".as_ptr();
        let arguments = [path, std::ptr::null()];
        // SAFETY: a path, and a list of arguments that ends.
        unsafe { libc::execv(path, arguments.as_ptr()) };
        panic!("exec: {}", std::io::Error::last_os_error());
    }
    arena.verify().unwrap();
    check(thread, executors);
    let mut random = Random::new(number as u64 + 1000);
    let mut own = Vec::new();
    for round in 0..150 {
        work(thread, slots, &mut random, &mut own, round);
    }
    if number.is_multiple_of(4) {
        // A child with threads, which forks in its turn.
        thread::scope(|scope| {
            for seed in 0..3 {
                scope.spawn(move || {
                    replace_and_call(arena, slots, &mut Random::new(seed + 55), 100);
                });
            }
            expect_passed(fork(|| {
                arena.verify().unwrap();
                for round in 0..50 {
                    work(thread, slots, &mut random, &mut own, round);
                }
                arena.verify().unwrap();
            }));
        });
    }
    check(thread, executors);
    check(thread, &own);
    own.clear();
    thread.collect();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.attached_threads, stats.retired_executors), (1, 0), "{stats:?}");
}

#[test]
fn f2_forks_under_load() {
    child::each_strategy("f2_forks_under_load", |arena| forks_under_load(arena, 8), succeeds);
}

/// The long form: `cargo test --release --test fork -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn f2_a_thousand_forks_under_load() {
    child::each_strategy(
        "f2_a_thousand_forks_under_load",
        |arena| forks_under_load(arena, 1000),
        |strategy, ended| {
            ended.expect_success();
            println!("1000 forks with {strategy}: passed");
        },
    );
}

#[test]
fn f2_what_threads_that_are_gone_had_is_free_again() {
    child::each_strategy(
        "f2_what_threads_that_are_gone_had_is_free_again",
        |arena| {
            let barrier = common::Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut thread = arena.attach().unwrap();
                    let mut executors = make(&mut thread, 1, 200);
                    // Holes of its own, a batch not handed over, a reservation
                    // that is written, one that is not, a scope that is open.
                    executors.retain(|(_, value)| value % 3 == 0);
                    let mut place = thread.reserve(CodeLayout::new(5000)).unwrap();
                    let _other = thread.reserve(CodeLayout::new(100)).unwrap();
                    let mut scope = thread.write();
                    scope.write_at(&mut place, 0, &constant(7)).unwrap();
                    std::mem::forget(executors.pop().map(|(executor, _)| executor));
                    barrier.wait();
                    barrier.wait();
                });
                barrier.wait();
                let child = fork(|| {
                    arena.verify().unwrap();
                    let before = arena.stats();
                    assert_eq!(before.attached_threads, 0);
                    // Live are those that only the other thread could drop.
                    assert_eq!(before.live_executors, 66);
                    let mut thread = arena.attach().unwrap();
                    thread.collect();
                    arena.verify().unwrap();
                    let after = arena.stats();
                    assert_eq!(after.retired_executors, 0, "{after:?}");
                    assert_eq!(after.claimed_bytes, 0, "{after:?}");
                    // Headers, granules and, where pages flip, whole pages.
                    let whole = (after.live_executors + 1) * 3 * 4096;
                    assert!(after.committed_bytes <= after.live_bytes + whole, "{after:?}");
                });
                expect_passed(child);
                barrier.wait();
            });
            let mut thread = arena.attach().unwrap();
            thread.collect();
            arena.verify().unwrap();
            assert_eq!(arena.stats().live_executors, 1, "the one that was forgotten");
        },
        succeeds,
    );
}

/// Recycles and installs, and finds no executor where reservations are.
fn expect_kept(arena: &Arena, thread: &mut ThreadHandle, places: &[Range<usize>]) {
    thread.collect();
    arena.verify().unwrap();
    let executors = make(thread, 1, 300);
    for (executor, _) in &executors {
        let begin = executor.addr();
        let mut kept = places.iter();
        let hit = kept.find(|kept| begin < kept.end && kept.start < begin + 8);
        assert_eq!(hit, None, "{begin:x}");
    }
    check(thread, &executors);
}

#[test]
fn f2_a_reservation_whose_handle_ended_before_the_fork_stays() {
    child::each_strategy(
        "f2_a_reservation_whose_handle_ended_before_the_fork_stays",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let place = thread.reserve(CodeLayout::new(5000)).unwrap();
            drop(thread);
            let mut place = Some(place);
            let range = place.as_ref().map(|place| place.entry()..place.data()).unwrap();
            expect_passed(fork(|| {
                let mut thread = arena.attach().unwrap();
                expect_kept(&arena, &mut thread, std::slice::from_ref(&range));
                expect_kept(&arena, &mut thread, std::slice::from_ref(&range));
                drop(place.take());
                expect_nothing_left(&arena, &mut thread);
            }));
            drop(place);
            expect_nothing_left(&arena, &mut arena.attach().unwrap());
        },
        succeeds,
    );
}

#[test]
fn f2_reservations_may_outlive_their_handles_in_a_child() {
    child::each_strategy(
        "f2_reservations_may_outlive_their_handles_in_a_child",
        |arena| {
            let barrier = common::Barrier::new(2);
            // One handle ends before the fork, the other in the child.
            let mut first = arena.attach().unwrap();
            let early = first.reserve(CodeLayout::new(5000)).unwrap();
            drop(first);
            let mut thread = arena.attach().unwrap();
            let late = thread.reserve(CodeLayout::new(5000)).unwrap();
            let other = thread.reserve(CodeLayout::new(700)).unwrap();
            let places = [&early, &late, &other].map(|place| place.entry()..place.data());
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut thread = arena.attach().unwrap();
                    let _place = thread.reserve(CodeLayout::new(50_000)).unwrap();
                    drop(make(&mut thread, 1, 50));
                    barrier.wait();
                    barrier.wait();
                });
                barrier.wait();
                let mut all = (Some(thread), Some(early), Some(late), Some(other));
                let child = fork(|| {
                    drop(all.0.take());
                    let mut thread = arena.attach().unwrap();
                    expect_kept(&arena, &mut thread, &places);
                    drop(all.1.take());
                    expect_kept(&arena, &mut thread, &places[1..]);
                    drop(all.2.take());
                    expect_kept(&arena, &mut thread, &places[2..]);
                    let before = arena.stats();
                    drop(all.3.take());
                    expect_nothing_left(&arena, &mut thread);
                    let after = arena.stats();
                    assert_eq!(after.claimed_bytes, 0, "{before:?} {after:?}");
                });
                barrier.wait();
                expect_passed(child);
                drop(all);
            });
            let mut thread = arena.attach().unwrap();
            expect_nothing_left(&arena, &mut thread);
        },
        succeeds,
    );
}

#[test]
fn f2_a_fork_in_the_midst_of_a_write_scope() {
    child::each_strategy(
        "f2_a_fork_in_the_midst_of_a_write_scope",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let older = make(&mut thread, 1, 20);
            let mut first = thread.reserve(CodeLayout::new(64)).unwrap();
            let unwritten = thread.reserve(CodeLayout::new(3000)).unwrap();
            let mut scope = thread.write();
            let bytes = scope.bytes(&mut first).unwrap();
            let (head, tail) = bytes.split_at_mut(3);
            let code = constant(4711);
            head.copy_from_slice(&code[..3]);
            // SAFETY: as in `fork`.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            // Both write on, through a slice of before the fork.
            tail[..code.len() - 3].copy_from_slice(&code[3..]);
            let value = if pid == 0 { 1 } else { 2 };
            let mut second = scope.reserve(CodeLayout::new(2000)).unwrap();
            scope.write_at(&mut second, 0, &constant(value)).unwrap();
            drop(scope);
            let passed = catch_unwind(AssertUnwindSafe(|| {
                let first = thread.publish(first).unwrap();
                let second = thread.publish(second).unwrap();
                assert_eq!((call(&thread, &first), call(&thread, &second)), (4711, value));
                arena.verify().unwrap();
                drop((first, second, unwritten));
                check(&thread, &older);
                let more = make(&mut thread, 500, 100);
                check(&thread, &more);
                drop((older, more));
                expect_nothing_left(&arena, &mut thread);
            }));
            if pid == 0 {
                // SAFETY: as in `fork`.
                unsafe { libc::_exit(i32::from(passed.is_err())) };
            }
            passed.unwrap();
            expect_passed(pid);
        },
        succeeds,
    );
}

/// Where `helper` leaves what fork returned.
static FORKED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn helper(_: usize) {
    // SAFETY: as in `fork`.
    let pid = unsafe { libc::fork() };
    FORKED.store(pid as usize, Ordering::Relaxed);
}

#[test]
fn f2_a_fork_inside_an_executor_returns_to_it_in_both() {
    child::each_strategy(
        "f2_a_fork_inside_an_executor_returns_to_it_in_both",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let executor = thread.install(&code::call_helper(99), &[]).unwrap();
            let slot = arena.slot();
            slot.install(executor).unwrap();
            let guard = thread.pin();
            let entry = slot.load(&guard).unwrap();
            // SAFETY: such a function, under its guard.
            let function: CallsHelper = unsafe { entry.cast() };
            // Dropped before the fork: only the guard keeps it.
            drop(slot.invalidate());
            assert_eq!(function(helper, 0), 99);
            let pid = FORKED.load(Ordering::Relaxed) as libc::pid_t;
            let passed = catch_unwind(AssertUnwindSafe(|| {
                // Whatever is recycled now, that is not.
                let mut other = arena.attach().unwrap();
                let junk = make(&mut other, 1, 300);
                drop(junk);
                other.collect();
                let again = make(&mut other, 1000, 300);
                check(&other, &again);
                extern "C" fn nothing(_: usize) {}
                assert_eq!(function(nothing, 0), 99);
                assert_eq!(arena.stats().retired_executors.min(1), 1);
            }));
            drop(guard);
            let passed = passed.and_then(|()| {
                catch_unwind(AssertUnwindSafe(|| expect_nothing_left(&arena, &mut thread)))
            });
            if pid == 0 {
                // SAFETY: as in `fork`.
                unsafe { libc::_exit(i32::from(passed.is_err())) };
            }
            passed.unwrap();
            expect_passed(pid);
        },
        succeeds,
    );
}

#[test]
fn f2_holds_and_parks_survive_a_fork() {
    child::each_strategy(
        "f2_holds_and_parks_survive_a_fork",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let slot = arena.slot();
            slot.install(install(&mut thread, 31)).unwrap();
            let mut other = arena.attach().unwrap();
            let mut guard = thread.pin();
            let mut running = guard.enter(&slot).unwrap();
            let entry = running.addr();
            running.park(|| {
                expect_passed(fork(|| {
                    drop(slot.invalidate());
                    let junk = make(&mut other, 1, 300);
                    drop(junk);
                    other.collect();
                    assert_eq!(arena.stats().retired_executors, 1, "the one that is held");
                    assert_eq!(call_at(entry), 31);
                }));
            });
            drop(running);
            drop(guard);
            assert_eq!(call_at(entry), 31);
        },
        succeeds,
    );
}

/// A tool that is locked most of the time.
#[derive(Debug, Default)]
struct Slow(Mutex<usize>);

impl Tool for Slow {
    fn published(&self, _: &CodeInfo, _: &[u8], _: &Symbol<'_>) {
        let mut told = self.0.lock().unwrap();
        thread::sleep(Duration::from_micros(300));
        *told += 1;
    }

    fn recycled(&self, _: usize) {
        drop(self.0.lock().unwrap());
    }

    fn unmapped(&self, _: Span) {
        let _told = self.0.lock().unwrap();
        thread::sleep(Duration::from_micros(300));
    }
}

fn publish_named(thread: &mut ThreadHandle) -> Executor {
    let mut place = thread.reserve(CodeLayout::new(64)).unwrap();
    thread.write().write_at(&mut place, 0, &constant(6)).unwrap();
    thread.publish_named(place, &Symbol::new("six")).unwrap()
}

#[test]
fn f2_no_tool_is_locked_in_a_child() {
    child::each_strategy(
        "f2_no_tool_is_locked_in_a_child",
        |small| {
            let tool = Arc::new(Slow::default());
            let builder = Arena::builder().reserve(common::RESERVE).tool(tool);
            let arena = builder.strategy(small.report().strategy).build().unwrap();
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let mut thread = arena.attach().unwrap();
                        while !stop.load(Ordering::Relaxed) {
                            drop(publish_named(&mut thread));
                        }
                    });
                }
                let _stop = Stop(&stop);
                let mut thread = arena.attach().unwrap();
                for _ in 0..10 {
                    expect_passed(fork(|| {
                        let named = publish_named(&mut thread);
                        assert_eq!(call(&thread, &named), 6);
                        drop(named);
                        thread.collect();
                        arena.verify().unwrap();
                    }));
                }
            });
        },
        succeeds,
    );
}

#[test]
fn f2_trampolines_lead_where_they_led() {
    extern "C" fn target() -> u32 {
        5
    }
    child::each_strategy(
        "f2_trampolines_lead_where_they_led",
        |arena| {
            let target = target as extern "C" fn() -> u32 as usize;
            let others: Vec<usize> = (1..100).map(|n| target + n * 64).collect();
            arena.make_trampolines(&others).unwrap();
            let jump = arena.trampoline(target).unwrap();
            expect_passed(fork(|| {
                assert_eq!(call_at(jump), 5);
                assert_eq!(arena.trampoline(target).unwrap(), jump);
                arena.trampoline(target + 7).unwrap();
                arena.collect().unwrap();
                arena.verify().unwrap();
                assert_eq!(arena.trampolines().len(), 101);
                assert_eq!(call_at(jump), 5);
            }));
            assert_eq!(arena.trampolines().len(), 100);
        },
        succeeds,
    );
}

#[test]
fn f1_a_child_whose_parent_ends_during_the_fork_copies_by_itself() {
    extern "C" fn end() {
        // SAFETY: ends this process, in the middle of its fork.
        unsafe { libc::_exit(0) };
    }
    const NAME: &str = "f1_a_child_whose_parent_ends_during_the_fork_copies_by_itself";
    let Some(part) = child::part() else {
        for strategy in Strategy::ALL {
            if common::arena_of(strategy).is_some() {
                let ended = child::run(NAME, strategy.name());
                assert_eq!(ended.said("survived"), Some("yes"), "{ended:?}");
            }
        }
        return;
    };
    // Registered first, so it runs before the library's.
    // SAFETY: a function that stays.
    assert_eq!(unsafe { libc::pthread_atfork(None, Some(end), None) }, 0);
    let arena = common::arena_of(part.parse().unwrap()).unwrap();
    let mut thread = arena.attach().unwrap();
    let mut executors = make(&mut thread, 1, 500);
    fork(|| {
        arena.verify().unwrap();
        check(&thread, &executors);
        churn(&mut thread, &mut executors, 1000, 100);
        println!("\nsurvived: yes");
    });
    unreachable!("the parent ended as it forked");
}

#[test]
fn f3_a_child_whose_parent_becomes_another_program_goes_without() {
    extern "C" fn become_another() {
        let path = c"/bin/sleep".as_ptr();
        let arguments = [path, c"60".as_ptr(), std::ptr::null()];
        // SAFETY: a path, and a list of arguments that ends.
        unsafe { libc::execv(path, arguments.as_ptr()) };
        // SAFETY: there is no such program: ends the process.
        unsafe { libc::_exit(1) };
    }
    const NAME: &str = "f3_a_child_whose_parent_becomes_another_program_goes_without";
    const STRATEGY: Strategy = Strategy::DualTransient;
    if child::part().is_none() {
        if common::arena_of(STRATEGY).is_some() {
            let ended = child::run(NAME, STRATEGY.name());
            assert_eq!(ended.said("lost"), Some("yes"), "{ended:?}");
        }
        return;
    }
    // Registered first, so it runs before the library's.
    // SAFETY: a function that stays.
    assert_eq!(unsafe { libc::pthread_atfork(None, Some(become_another), None) }, 0);
    let arena = common::arena_of(STRATEGY).unwrap();
    let mut thread = arena.attach().unwrap();
    let executors = make(&mut thread, 1, 10);
    let parent = std::process::id() as libc::pid_t;
    fork(|| {
        assert_eq!(arena.verify().unwrap_err().invariant, "F3");
        drop(executors);
        println!("\nlost: yes");
        // SAFETY: getppid(2) has no preconditions.
        assert_eq!(unsafe { libc::getppid() }, parent, "the parent is no more");
        // SAFETY: the program that it has become.
        unsafe { libc::kill(parent, libc::SIGKILL) };
    });
    unreachable!("the parent is another program");
}

#[test]
fn f3_a_child_that_can_have_no_memory_says_so_and_can_exit() {
    child::each_strategy(
        "f3_a_child_that_can_have_no_memory_says_so_and_can_exit",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let executors = make(&mut thread, 1, 50);
            let place = thread.reserve(CodeLayout::new(64)).unwrap();
            let private = arena.report().memory == jit_arena::MemoryKind::Private;
            let in_use: usize = maps::all().iter().map(|mapping| mapping.range.len()).sum();
            // Room for the test, and not for another region.
            limit(libc::RLIMIT_AS, (in_use + arena.span().len / 2) as u64);
            expect_passed(fork(|| {
                if private {
                    check(&thread, &executors);
                    return;
                }
                let error = thread.reserve(CodeLayout::new(64)).unwrap_err();
                assert!(matches!(error, ReserveError::Os(os) if os.call == "fork"), "{error:?}");
                assert_eq!(arena.verify().unwrap_err().invariant, "F3");
                let at = maps::at(executors[0].0.addr()).unwrap();
                assert!(!at.rights.contains('x') && !at.rights.contains('s'), "{at:?}");
                drop((executors, place));
                thread.collect();
                drop(thread);
                drop(arena);
            }));
        },
        |strategy, ended| {
            if !common::is_sanitized() {
                succeeds(strategy, ended);
            }
        },
    );
}

#[test]
fn f1_a_process_out_of_descriptors_forks_all_the_same() {
    child::each_strategy(
        "f1_a_process_out_of_descriptors_forks_all_the_same",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut executors = make(&mut thread, 1, 50);
            let open: Vec<_> =
                std::iter::from_fn(|| fs::File::open("/dev/null").ok()).take(100).collect();
            // They fill what gaps there were.
            limit(libc::RLIMIT_NOFILE, open.last().unwrap().as_raw_fd() as u64 + 1);
            assert!(fs::File::open("/dev/null").is_err(), "there is room for more");
            let mut open = Some(open);
            // Of another thread's window nothing is left, though the list of mappings
            // takes a descriptor to read.
            let barrier = common::Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut other = arena.attach().unwrap();
                    let mut place = other.reserve(CodeLayout::new(64)).unwrap();
                    let mut scope = other.write();
                    scope.write_at(&mut place, 0, &constant(7)).unwrap();
                    barrier.wait();
                    barrier.wait();
                });
                barrier.wait();
                let child = fork(|| {
                    check(&thread, &executors);
                    churn(&mut thread, &mut executors, 1000, 100);
                    arena.verify().unwrap();
                    drop(open.take());
                    // Its own memory has no file.
                    let parents = maps::all().into_iter().filter(|mapping| {
                        mapping.rights.ends_with('s') && mapping.name.contains("jit-arena")
                    });
                    assert_eq!(parents.map(|it| it.name).collect::<Vec<_>>(), [""; 0]);
                });
                barrier.wait();
                expect_passed(child);
            });
            drop(open);
        },
        succeeds,
    );
}

#[test]
fn f2_arenas_may_come_and_go_during_a_fork() {
    child::each_strategy(
        "f2_arenas_may_come_and_go_during_a_fork",
        |small| {
            let tool = Arc::new(Slow::default());
            let build = || {
                let builder = Arena::builder().reserve(64 * KIB).code_page(64 * KIB);
                builder.strategy(small.report().strategy).tool(tool.clone()).build().unwrap()
            };
            let use_it = |arena: Arena| {
                let mut thread = arena.attach().unwrap();
                let named = publish_named(&mut thread);
                assert_eq!(call(&thread, &named), 6);
                drop(named);
                thread.collect();
                arena.verify().unwrap();
            };
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            use_it(build());
                        }
                    });
                }
                let _stop = Stop(&stop);
                for _ in 0..30 {
                    expect_passed(fork(|| use_it(build())));
                }
            });
        },
        succeeds,
    );
}

/// Signals that came in the child before its memory was its own, and what of them was
/// handled then.
static RAISED: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static EARLY: AtomicUsize = AtomicUsize::new(0);

#[test]
fn f1_signals_are_handled_once_a_child_has_its_memory() {
    extern "C" fn handle(_: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    extern "C" fn raise() {
        RAISED.fetch_add(1, Ordering::Relaxed);
        let before = HANDLED.load(Ordering::Relaxed);
        // SAFETY: of this thread, which handles it.
        unsafe { libc::raise(libc::SIGUSR1) };
        EARLY.fetch_add(HANDLED.load(Ordering::Relaxed) - before, Ordering::Relaxed);
    }
    const NAME: &str = "f1_signals_are_handled_once_a_child_has_its_memory";
    if child::part().is_none() {
        child::run(NAME, "any").expect_success();
        return;
    }
    let handler = handle as extern "C" fn(libc::c_int);
    // SAFETY: a handler that adds to a count.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // Registered first, so they run before the library's.
    // SAFETY: functions that stay.
    assert_eq!(unsafe { libc::pthread_atfork(None, Some(raise), Some(raise)) }, 0);
    let counts = || [&RAISED, &HANDLED, &EARLY].map(|count| count.load(Ordering::Relaxed));
    let arena = Arena::new().unwrap();
    let mut thread = arena.attach().unwrap();
    let executors = make(&mut thread, 1, 10);
    let child = fork(|| {
        assert_eq!(counts(), [1, 1, 0]);
        check(&thread, &executors);
    });
    assert_eq!(counts(), [1, 1, 0]);
    expect_passed(child);
    check(&thread, &executors);
    drop((executors, thread, arena));
    // Without an arena nobody holds anything back for long.
    expect_passed(fork(|| assert_eq!(counts(), [2, 2, 0])));
}

fn limit(which: libc::__rlimit_resource_t, to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: a live rlimit.
    assert_eq!(unsafe { libc::setrlimit(which, &raw const limit) }, 0);
}

#[test]
fn f1_children_without_the_arena_cost_and_have_nothing() {
    const NAME: &str = "f1_children_without_the_arena_cost_and_have_nothing";
    let Some(part) = child::part() else {
        for strategy in Strategy::ALL {
            if common::arena_of(strategy).is_some() {
                child::run(NAME, strategy.name()).expect_success();
            }
        }
        return;
    };
    let strategy = part.parse().unwrap();
    let builder = Arena::builder().reserve(common::RESERVE).strategy(strategy);
    let arena = builder.forks(false).build().unwrap();
    let mut thread = arena.attach().unwrap();
    let executors = make(&mut thread, 1, 50);
    expect_passed(fork(|| {
        assert!(maps::at(arena.span().start).is_none());
    }));
    check(&thread, &executors);
}

#[test]
fn f1_the_guards_of_a_childs_views_are_there() {
    child::each_strategy(
        "f1_the_guards_of_a_childs_views_are_there",
        |small| {
            let builder = Arena::builder().reserve(common::RESERVE).anonymous(true);
            let arena = builder.strategy(small.report().strategy).build().unwrap();
            let span = arena.span();
            let guards = || [span.start - 1, span.end()].map(|at| maps::at(at).unwrap().rights);
            let before = guards();
            assert!(before.iter().all(|rights| rights.starts_with("---")), "{before:?}");
            expect_passed(fork(|| assert_eq!(guards(), before)));
        },
        succeeds,
    );
}

/// Arenas that children are to have nothing of, of both kinds of memory, and one that
/// they cannot have memory for.
const WITHOUT: [&str; 5] = ["hidden", "hidden anonymous", "sealed", "short", "short anonymous"];

/// None where it cannot be had here.
fn arena_without(strategy: Strategy, kind: &str) -> Option<Arena> {
    let builder = Arena::builder().reserve(common::RESERVE).strategy(strategy);
    let builder = builder.anonymous(kind.ends_with("anonymous"));
    let builder = builder.forks(!kind.starts_with("hidden"));
    match builder.sealed(kind.starts_with("sealed")).build() {
        Ok(arena) => Some(arena),
        Err(BuildError::Seal(error)) => {
            common::not_run(&error.to_string());
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// In a child for each strategy that works here and each of [`WITHOUT`].
fn each_without(test: &str, body: impl FnOnce(Arena, &str)) {
    if let Some(part) = child::part() {
        let (strategy, kind) = part.split_once(' ').unwrap();
        if let Some(arena) = arena_without(strategy.parse().unwrap(), kind) {
            body(arena, kind);
        }
        return;
    }
    for strategy in Strategy::ALL {
        if common::arena_of(strategy).is_none() {
            continue;
        }
        for kind in WITHOUT {
            if kind.starts_with("short") && common::is_sanitized() {
                continue;
            }
            child::run(test, &format!("{strategy} {kind}")).expect_success();
        }
    }
}

/// Leaves a "short" arena's children no room for memory of their own.
fn leave_no_room(arena: &Arena, kind: &str) {
    if kind.starts_with("short") {
        let in_use: usize = maps::all().iter().map(|mapping| mapping.range.len()).sum();
        limit(libc::RLIMIT_AS, (in_use + arena.span().len / 2) as u64);
    }
}

fn is_private(arena: &Arena) -> bool {
    arena.report().memory == jit_arena::MemoryKind::Private
}

#[test]
fn f3_a_child_without_memory_leaves_its_parents_as_it_was() {
    each_without("f3_a_child_without_memory_leaves_its_parents_as_it_was", |arena, kind| {
        // A handle that is kept goes with the thread.
        let kept = arena.with_thread(|thread| make(thread, 500, 10)).unwrap();
        let mut thread = arena.attach().unwrap();
        let mut executors = make(&mut thread, 1, 100);
        // Far longer than a handle remembers.
        let long = thread.install(&[0x90; 100 * KIB], &[]).unwrap();
        // Holes of the thread's own, and all of a claim but its beginning.
        executors.retain(|(_, value)| value % 3 != 0);
        thread.collect();
        executors.extend(make(&mut thread, 700, 5));
        let mut place = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut written = thread.reserve(CodeLayout::new(64)).unwrap();
        thread.write().write_at(&mut written, 0, &constant(5)).unwrap();
        let slot = arena.slot();
        slot.install(install(&mut thread, 41)).unwrap();
        leave_no_room(&arena, kind);
        let shared = !is_private(&arena);
        let bytes = || shared.then(|| bytes_at(arena.span().start, 512 * KIB));
        let before = bytes();
        let has_memory = kind.starts_with("short") && !shared;
        let transient = arena.report().strategy == Strategy::DualTransient;
        // SAFETY: as in `fork`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            // SAFETY: as in `fork`.
            unsafe { libc::alarm(LIMIT) };
            let passed = catch_unwind(AssertUnwindSafe(move || {
                if has_memory {
                    return;
                }
                let error = thread.reserve(CodeLayout::new(64)).unwrap_err();
                assert!(matches!(error, ReserveError::Os(os) if os.call == "fork"), "{error:?}");
                assert_eq!(arena.verify().unwrap_err().invariant, "F3");
                let error = thread.write().write_at(&mut place, 0, &[1; 64]).unwrap_err();
                assert!(matches!(error, WriteError::Os(os) if os.call == "fork"), "{error:?}");
                let error = thread.publish(written).unwrap_err();
                let PublishErrorKind::Os(os) = error.kind else { panic!("{error:?}") };
                assert_eq!(os.call, "fork");
                drop(error);
                let error = arena.trampoline(usize::MAX / 2).unwrap_err();
                assert!(matches!(error, TrampolineError::Os(os) if os.call == "fork"), "{error:?}");
                assert!(arena.lookup(long.addr()).is_none());
                assert_eq!(long.tag(), 0);
                if transient {
                    let files = descriptors();
                    assert!(!files.iter().any(|name| name.contains("jit-arena")), "{files:?}");
                }
                arena.collect().unwrap();
                drop((executors, long, kept, place, slot));
                thread.collect();
                drop((thread, arena));
            }));
            // With this thread's destructors, as a program ends that returns from its
            // main function.
            let status = if passed.is_ok() { 0 } else { 101 };
            if common::is_sanitized() {
                // Its search for leaks takes what threads have that are not here for some.
                // SAFETY: ends the child.
                unsafe { libc::_exit(status) };
            }
            // SAFETY: the only thread.
            unsafe { libc::exit(status) }
        }
        expect_passed(pid);
        assert_eq!(bytes(), before);
        check(&thread, &executors);
        check(&thread, &kept);
        churn(&mut thread, &mut executors, 1000, 200);
        thread.write().write_at(&mut place, 0, &constant(8)).unwrap();
        let last = thread.publish(place).unwrap();
        let written = thread.publish(written).unwrap();
        assert_eq!((call(&thread, &last), call(&thread, &written)), (8, 5));
        arena.verify().unwrap();
        drop((executors, kept, long, slot, last, written));
        arena.collect().unwrap();
        expect_nothing_left(&arena, &mut thread);
    });
}

#[test]
fn f3_a_child_without_memory_has_no_window_of_its_parents() {
    each_without("f3_a_child_without_memory_has_no_window_of_its_parents", |arena, kind| {
        let mut thread = arena.attach().unwrap();
        let mut place = thread.reserve(CodeLayout::new(64)).unwrap();
        leave_no_room(&arena, kind);
        let barrier = common::Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut thread = arena.attach().unwrap();
                let mut place = thread.reserve(CodeLayout::new(64)).unwrap();
                let mut scope = thread.write();
                scope.write_at(&mut place, 0, &constant(7)).unwrap();
                barrier.wait();
                barrier.wait();
            });
            barrier.wait();
            let mut scope = thread.write();
            scope.write_at(&mut place, 0, &constant(8)).unwrap();
            let child = fork(|| {
                let shows = |mapping: &maps::Mapping| {
                    mapping.rights.ends_with('s')
                        && !mapping.rights.starts_with("---")
                        && ["jit-arena", "/dev/zero"].iter().any(|of| mapping.name.contains(of))
                };
                let left: Vec<_> = maps::all().into_iter().filter(shows).collect();
                assert!(left.is_empty(), "{left:?}");
                // Also through the window that was open.
                if kind == "hidden" {
                    let error = scope.write_at(&mut place, 0, &constant(9)).unwrap_err();
                    assert!(matches!(error, WriteError::Os(os) if os.call == "fork"), "{error:?}");
                }
                drop(scope);
                drop(place);
            });
            barrier.wait();
            expect_passed(child);
        });
    });
}

#[test]
fn spawned_programs_and_vforked_children_are_nothing_to_the_arena() {
    child::each_strategy(
        "spawned_programs_and_vforked_children_are_nothing_to_the_arena",
        |arena| {
            extern "C" fn at_once(_: *mut libc::c_void) -> libc::c_int {
                0
            }
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut thread = arena.attach().unwrap();
                    let mut executors = make(&mut thread, 1, 50);
                    while !stop.load(Ordering::Relaxed) {
                        churn(&mut thread, &mut executors, 1000, 50);
                    }
                });
                let _stop = Stop(&stop);
                for _ in 0..5 {
                    let status = std::process::Command::new("/bin/true").status().unwrap();
                    assert!(status.success());
                    // What vfork(2) is, with a stack of its own.
                    let mut stack = vec![0_u64; 4096];
                    let top = stack.as_mut_ptr_range().end.cast();
                    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
                    // SAFETY: the stack outlives the child, for which this waits.
                    let pid = unsafe { libc::clone(at_once, top, flags, std::ptr::null_mut()) };
                    expect_passed(pid);
                }
            });
            let mut thread = arena.attach().unwrap();
            expect_nothing_left(&arena, &mut thread);
        },
        succeeds,
    );
}

#[test]
fn f1_a_full_region_waits_for_a_fork_rather_than_fail() {
    child::each_strategy(
        "f1_a_full_region_waits_for_a_fork_rather_than_fail",
        |arena| {
            // Nearly full, so that each install needs what was just dropped.
            let stop = AtomicBool::new(false);
            let installed = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut thread = arena.attach().unwrap();
                    let mut kept = Vec::new();
                    while let Ok(executor) = thread.install(&[0; 60 * KIB], &[]) {
                        kept.push(executor);
                    }
                    while !stop.load(Ordering::Relaxed) {
                        drop(kept.pop());
                        kept.push(thread.install(&[0; 60 * KIB], &[]).unwrap());
                        installed.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let _stop = Stop(&stop);
                while installed.load(Ordering::Relaxed) < 5 {
                    thread::yield_now();
                }
                for _ in 0..5 {
                    expect_passed(fork(|| ()));
                }
                let seen = installed.load(Ordering::Relaxed);
                let begun = Instant::now();
                while installed.load(Ordering::Relaxed) == seen {
                    assert!(begun.elapsed() < Duration::from_secs(60), "nothing goes on");
                    thread::yield_now();
                }
            });
        },
        succeeds,
    );
}

#[test]
fn d3_free_memory_of_a_child_holds_traps() {
    child::each_strategy(
        "d3_free_memory_of_a_child_holds_traps",
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut executors = make(&mut thread, 1, 100);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut thread = arena.attach().unwrap();
                    let mut executors = Vec::new();
                    let mut from = 5000;
                    while !stop.load(Ordering::Relaxed) {
                        executors.extend(make(&mut thread, from, 10));
                        from += 10;
                        if executors.len() > 1000 {
                            executors.clear();
                        }
                    }
                });
                let _stop = Stop(&stop);
                for _ in 0..10 {
                    expect_passed(fork(|| {
                        // `verify` reads every hole.
                        arena.verify().unwrap();
                        executors.extend(make(&mut thread, 7000, 400));
                        arena.verify().unwrap();
                        check(&thread, &executors);
                        let dead = executors[0].0.addr();
                        executors.clear();
                        arena.attach().unwrap().collect();
                        thread.collect();
                        let word = bytes_at(dead & !7, 4);
                        let word = u32::from_ne_bytes(word.try_into().unwrap());
                        assert!(word == 0 || word == code::TRAPS, "{word:#x}");
                    }));
                }
            });
        },
        succeeds,
    );
}
