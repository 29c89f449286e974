//! Every error a client can get: what provokes it, that its message says what
//! to do, and that nothing has changed after it.

mod common;

use std::error::Error;

use common::{
    KIB, MIB, RESERVE, arena_of, call, child, constant, each_strategy, each_strategy_with, install,
};
#[cfg(target_os = "linux")]
use common::{filter, is_sanitized, not_run};
use jit_arena::{
    Arena, AttachError, BuildError, CodeLayout, InstallError, MAX_ALIGN, MAX_EXECUTOR,
    PublishErrorKind, RegionError, Reservation, ReserveError, STRATEGY_VARIABLE, SlotError, Stats,
    Strategy, ThreadHandle, WriteError,
};

/// An error's message with those of its sources.
fn message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Fails the test unless each of `parts` occurs in the error's message.
fn expect_message(error: &dyn Error, parts: &[&str]) {
    let text = message(error);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// What an error must leave alone: all that a client owns or did.
fn owned(stats: &Stats) -> [u64; 7] {
    [
        stats.live_executors,
        stats.live_bytes,
        stats.installs,
        stats.retires,
        stats.retired_executors + stats.recycles,
        stats.attached_threads,
        stats.reserved_bytes,
    ]
}

/// Runs `operation` and checks that it changed no figure.
fn unchanged<R>(arena: &Arena, operation: impl FnOnce() -> R) -> R {
    let before = arena.stats();
    let result = operation();
    assert_eq!(arena.stats(), before);
    arena.verify().unwrap();
    result
}

/// Runs `operation` and checks that it changed nothing a client owns; it may
/// have moved free memory about.
fn unharmed<R>(arena: &Arena, operation: impl FnOnce() -> R) -> R {
    let before = owned(&arena.stats());
    let result = operation();
    assert_eq!(owned(&arena.stats()), before);
    arena.verify().unwrap();
    result
}

/// After an error the handle still works.
fn expect_working(thread: &mut ThreadHandle) {
    let executor = install(thread, 4711);
    assert_eq!(call(thread, &executor), 4711);
}

#[test]
fn builder_options_out_of_range() {
    let refused = |option: &str, error: BuildError, value| {
        match &error {
            BuildError::OutOfRange { option: named, value: seen, min, max } => {
                assert_eq!((*named, *seen), (option, value));
                assert!(!(*min..=*max).contains(&value), "{error:?}");
            }
            _ => panic!("{error:?}"),
        }
        expect_message(&error, &[option, &value.to_string(), "choose from"]);
    };
    for value in [0, 1, 32 * KIB, (2 << 30) + 64 * KIB, isize::MAX as usize, usize::MAX] {
        refused("reserve", Arena::builder().reserve(value).build().unwrap_err(), value);
    }
    for value in [0, 64, 2048, 512 * KIB, usize::MAX] {
        refused("code_page", Arena::builder().code_page(value).build().unwrap_err(), value);
    }
}

#[test]
fn builder_options_that_are_no_multiple() {
    let error = Arena::builder().reserve(MIB + 4096).build().unwrap_err();
    assert!(matches!(error, BuildError::Unaligned { option: "reserve", unit: 65_536, .. }));
    expect_message(&error, &["reserve", "1052672", "multiple of 65536"]);

    let error = Arena::builder().code_page(96 * KIB).build().unwrap_err();
    assert!(matches!(error, BuildError::Unaligned { option: "code_page", unit: 0, .. }));
    expect_message(&error, &["code_page", "98304", "power of two"]);
}

#[test]
fn the_range_of_builder_options_works_to_both_ends() {
    for (reserve, page) in
        [(64 * KIB, 64 * KIB), (4 * KIB, 4 * KIB), (256 * KIB, 256 * KIB), (2 << 30, 64 * KIB)]
    {
        let Ok(arena) = Arena::builder().reserve(reserve).code_page(page).build() else {
            // Systems whose pages are larger than the smallest code page.
            assert_eq!(page, 4 * KIB);
            continue;
        };
        assert_eq!(arena.span().len, reserve);
        expect_working(&mut arena.attach().unwrap());
        if reserve < 2 << 30 {
            arena.verify().unwrap();
        }
    }
}

#[test]
fn strategy_names_in_the_environment() {
    if let Some(part) = child::part() {
        match part.as_str() {
            "unknown" => {
                let error = Arena::new().unwrap_err();
                assert!(matches!(error, BuildError::Strategy(_)), "{error:?}");
                expect_message(&error, &["`dual-typo`", "known are", "dual-transient", "mprotect"]);
                // The builder wins.
                let arena = arena_of(Strategy::DualOpen).unwrap();
                assert_eq!(arena.report().strategy, Strategy::DualOpen);
            }
            "known" => {
                let arena = Arena::new().unwrap();
                assert_eq!(arena.report().strategy, Strategy::Mprotect);
            }
            "empty" => assert!(Arena::new().unwrap().report().strategy.by_default()),
            _ => unreachable!("{part}"),
        }
        return;
    }
    for (part, name) in [("unknown", "dual-typo"), ("known", "mprotect"), ("empty", "")] {
        child::run_with("strategy_names_in_the_environment", part, |command| {
            command.env(STRATEGY_VARIABLE, name)
        })
        .expect_success();
    }
}

#[test]
fn a_strategy_that_does_not_work_here_says_which_call_was_refused() {
    let elsewhere = if cfg!(target_os = "linux") { Strategy::MapJit } else { Strategy::DualPkey };
    let error = Arena::builder().strategy(elsewhere).build().unwrap_err();
    let BuildError::Region(RegionError::Refused { forced, attempts, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*forced, Some(elsewhere));
    assert!(!attempts.is_empty() && attempts.iter().all(|it| it.strategy == elsewhere));
    expect_message(&error, &[elsewhere.name(), "refused: ", "Leave the choice"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_reserve_beyond_the_address_space_left() {
    if child::part().is_some() {
        limit(libc::RLIMIT_AS, 1 << 30);
        let error = Arena::builder().reserve(2 << 30).build().unwrap_err();
        let BuildError::Region(RegionError::Refused { reserve, attempts, .. }) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*reserve, 2 << 30);
        assert!(attempts.len() > 1, "{attempts:?}");
        expect_message(&error, &["Ask for a smaller reserve, or raise the limits"]);
        // Nothing was left mapped, so a smaller one fits.
        let arena = Arena::builder().reserve(64 * MIB).build().unwrap();
        expect_working(&mut arena.attach().unwrap());
        return;
    }
    if is_sanitized() {
        return not_run("the address space of this build cannot be limited");
    }
    child::run("a_reserve_beyond_the_address_space_left", "limited").expect_success();
}

#[cfg(target_os = "linux")]
fn limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit is there for the call to read.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

#[test]
fn layouts_that_no_arena_takes() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        expect_working(&mut thread);
        let mut refuse = |layout, error: ReserveError, advice: &[&str]| {
            let seen = unchanged(&arena, || thread.reserve(layout).unwrap_err());
            assert_eq!(seen, error);
            expect_message(&seen, advice);
            let mut scope = thread.write();
            let seen = unchanged(&arena, || scope.reserve(layout).unwrap_err());
            assert_eq!(seen, error);
        };
        let empty = ["at least one byte"];
        refuse(CodeLayout::new(0), ReserveError::Empty, &empty);
        refuse(CodeLayout::new(0).data(100, 8), ReserveError::Empty, &empty);
        for align in [0, 3, 24, 4097, 2 * MAX_ALIGN, 1 << 40, usize::MAX] {
            let error = ReserveError::BadAlign { align };
            let advice = [&*align.to_string(), "choose a power of two up to 4096"];
            refuse(CodeLayout::new(8).align(align), error, &advice);
            refuse(CodeLayout::new(8).data(8, align), error, &advice);
        }
        for (code, data) in [
            (MAX_EXECUTOR + 1, 0),
            (MAX_EXECUTOR, 1),
            (usize::MAX, 0),
            (1, usize::MAX),
            (usize::MAX, usize::MAX),
        ] {
            let bytes = code.saturating_add(data);
            let error = ReserveError::TooLarge { bytes, max: MAX_EXECUTOR };
            let advice = [&*bytes.to_string(), "split it", "4194304 is the most"];
            refuse(CodeLayout::new(code).data(data, 1), error, &advice);
        }
        expect_working(&mut thread);
    });
}

#[test]
fn an_executor_larger_than_the_region() {
    each_strategy_with(
        |builder| builder.reserve(MIB),
        |arena| {
            let mut thread = arena.attach().unwrap();
            expect_working(&mut thread);
            let error = unchanged(&arena, || thread.reserve(CodeLayout::new(MIB)).unwrap_err());
            assert_eq!(error, ReserveError::TooLarge { bytes: MIB, max: MIB });
            expect_message(&error, &["split it"]);
            expect_working(&mut thread);
        },
    );
}

#[test]
fn reservations_of_other_handles() {
    each_strategy(|arena| {
        let elsewhere = Arena::builder().reserve(RESERVE).build().unwrap();
        let mut thread = arena.attach().unwrap();
        let mut second = arena.attach().unwrap();
        let mut other = elsewhere.attach().unwrap();
        for handle in [&mut second, &mut other] {
            let mut reservation = handle.reserve(CodeLayout::new(64)).unwrap();
            // Unwritten, and once more written: neither may pass.
            for written in [false, true] {
                if written {
                    let mut scope = handle.write();
                    scope.write_at(&mut reservation, 0, &constant(1)).unwrap();
                }
                let mut scope = thread.write();
                unchanged(&arena, || {
                    for error in [
                        scope.write_at(&mut reservation, 0, &constant(2)).unwrap_err(),
                        scope.bytes(&mut reservation).unwrap_err(),
                        scope.shrink(&mut reservation, 16, 0).unwrap_err(),
                    ] {
                        assert_eq!(error, WriteError::Foreign);
                        expect_message(&error, &["another handle", "use that one"]);
                    }
                });
                drop(scope);
                let error = unchanged(&arena, || thread.publish(reservation).unwrap_err());
                assert_eq!(error.kind, PublishErrorKind::Foreign);
                expect_message(&error, &["another handle", "use that one"]);
                reservation = error.reservation;
            }
            // It is as it was: its own handle takes it, unshrunk.
            assert_eq!(reservation.code_len(), 64);
            let executor = handle.publish(reservation).unwrap();
            assert_eq!(call(handle, &executor), 1);
        }
    });
}

#[test]
fn bytes_outside_the_reservation() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(100).data(20, 8)).unwrap();
        let reserved = reservation.len();
        assert_eq!(reserved, 124);
        let mut scope = thread.write();
        for (offset, len) in [
            (reserved, 1),
            (reserved + 1, 0),
            (0, reserved + 1),
            (120, 5),
            (usize::MAX, 1),
            (usize::MAX - 1, 8),
        ] {
            let error = unchanged(&arena, || {
                scope.write_at(&mut reservation, offset, &vec![1; len]).unwrap_err()
            });
            assert_eq!(error, WriteError::OutOfBounds { offset, len, reserved });
            let advice = [&*offset.to_string(), &len.to_string(), "reserve more"];
            expect_message(&error, &advice);
        }
        // The ends themselves are inside.
        scope.write_at(&mut reservation, reserved, &[]).unwrap();
        scope.write_at(&mut reservation, reserved - 1, &[1]).unwrap();
    });
}

#[test]
fn shrinking_to_more_or_to_nothing() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(100).data(20, 8)).unwrap();
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &constant(3)).unwrap();
        for (code, data) in [(0, 0), (0, 20), (101, 20), (100, 21), (99, 20), (99, 1)] {
            let error =
                unchanged(&arena, || scope.shrink(&mut reservation, code, data).unwrap_err());
            assert_eq!(error, WriteError::BadShrink, "{code} + {data}");
            expect_message(&error, &["fewer bytes", "drop the data"]);
            assert_eq!((reservation.code_len(), reservation.data_len()), (100, 20));
        }
        scope.shrink(&mut reservation, 100, 20).unwrap();
        drop(scope);
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &executor), 3);
    });
}

#[test]
fn a_reservation_sealed_with_the_scope_it_was_made_in() {
    let Some(arena) = arena_of(Strategy::Mprotect) else { return };
    let mut thread = arena.attach().unwrap();
    let reserve_in_scope = |thread: &mut ThreadHandle, write| -> Reservation {
        let mut scope = thread.write();
        let mut reservation = scope.reserve(CodeLayout::new(64)).unwrap();
        if write {
            scope.write_at(&mut reservation, 0, &constant(8)).unwrap();
        }
        reservation
    };
    for write in [false, true] {
        let mut reservation = reserve_in_scope(&mut thread, write);
        let mut scope = thread.write();
        unchanged(&arena, || {
            for error in [
                scope.write_at(&mut reservation, 0, &constant(9)).unwrap_err(),
                scope.bytes(&mut reservation).unwrap_err(),
            ] {
                assert_eq!(error, WriteError::Sealed);
                expect_message(&error, &["has closed", "write it in that scope"]);
            }
        });
        drop(scope);
        if write {
            let executor = thread.publish(reservation).unwrap();
            assert_eq!(call(&thread, &executor), 8);
        }
    }
    // Made outside any scope, it can be written in as many as one likes.
    let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
    for value in [1, 2] {
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &constant(value)).unwrap();
    }
    let executor = thread.publish(reservation).unwrap();
    assert_eq!(call(&thread, &executor), 2);
}

#[test]
fn publishing_what_was_never_written() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let error = unchanged(&arena, || thread.publish(reservation).unwrap_err());
        assert_eq!(error.kind, PublishErrorKind::Unwritten);
        expect_message(&error, &["nothing was written", "write it in a write scope"]);
        let mut reservation = error.reservation;
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &constant(6)).unwrap();
        drop(scope);
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &executor), 6);
    });
}

#[test]
fn executors_that_do_not_fit_a_slot() {
    each_strategy(|arena| {
        let elsewhere = Arena::builder().reserve(RESERVE).build().unwrap();
        let mut thread = arena.attach().unwrap();
        let mut other = elsewhere.attach().unwrap();
        let slot = arena.slot();
        let foreign = install(&mut other, 1);
        let error = unchanged(&arena, || slot.install(foreign).unwrap_err());
        expect_message(&error, &["another arena", "use a slot of its own arena"]);
        let SlotError::Foreign(foreign) = error else { panic!("{error:?}") };
        let error = unchanged(&arena, || slot.replace(foreign).unwrap_err());
        let SlotError::Foreign(foreign) = error else { panic!("{error:?}") };
        assert!(slot.is_empty());
        assert_eq!(call(&other, &foreign), 1, "it was handed back alive");

        let [first, second] = [2, 3].map(|value| install(&mut thread, value));
        slot.install(first).unwrap();
        let error = unchanged(&arena, || slot.install(second).unwrap_err());
        expect_message(&error, &["holds an executor", "replace"]);
        let SlotError::Occupied(second) = error else { panic!("{error:?}") };
        assert_eq!(call(&thread, &second), 3);
        let first = slot.replace(second).unwrap().unwrap();
        assert_eq!(call(&thread, &first), 2);

        // A guard of another arena protects nothing here.
        assert!(slot.load(&other.pin()).is_none());
        assert!(other.pin().enter(&slot).is_none());
    });
}

#[test]
fn exhaustion_says_where_the_bytes_are_and_passes() {
    each_strategy_with(
        |builder| builder.reserve(MIB).keep_free(0),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut all = Vec::new();
            let len = 3000;
            let fill = |thread: &mut ThreadHandle, all: &mut Vec<_>| loop {
                match thread.install(&vec![0x90; len], &[]) {
                    Ok(executor) => all.push(executor),
                    Err(error) => return error,
                }
            };
            let error = fill(&mut thread, &mut all);
            expect_message(&error, &["no hole of", "region of 1048576", "drop executors"]);
            let InstallError::Reserve(ReserveError::Exhausted {
                bytes,
                live,
                retired,
                holes,
                reserved,
            }) = error
            else {
                panic!("{error:?}");
            };
            let unit = if arena.report().strategy == Strategy::Mprotect { 4096 } else { 64 };
            assert!((len..len + 2 * unit).contains(&bytes), "{bytes}");
            assert_eq!(reserved, MIB);
            assert_eq!((live, retired), (all.len() * len, 0));
            // Each code page holds as many as fit, and one hole.
            let whole = (len + 16).next_multiple_of(unit);
            assert_eq!(all.len() * whole + holes, MIB);
            assert!(holes < 16 * whole, "{holes}");
            arena.verify().unwrap();

            // Nothing has changed: the same again.
            let again = unharmed(&arena, || thread.install(&vec![0x90; len], &[]).unwrap_err());
            assert!(matches!(
                again,
                InstallError::Reserve(ReserveError::Exhausted { live: now, .. }) if now == live
            ));

            // Shorter ones may still find a hole, until there is none either.
            let mut short = Vec::new();
            while let Ok(executor) = thread.install(&constant(1), &[]) {
                short.push(executor);
            }
            // Dropped while somebody may run them, they are retired, and no use.
            let mut reader = arena.attach().unwrap();
            let guard = reader.pin();
            let count = all.len();
            drop(all.split_off(count / 2));
            let error = thread.reserve(CodeLayout::new(len)).unwrap_err();
            let ReserveError::Exhausted { live: now, retired, .. } = error else {
                panic!("{error:?}");
            };
            assert_eq!(retired, (count - count / 2) * len);
            assert_eq!(now + retired, live + short.len() * constant(1).len());
            expect_message(&error, &[&format!("{retired} retired and not yet reclaimable")]);

            // Once nobody can run them, they are.
            drop(guard);
            reader.collect();
            let half = all.len();
            let error = fill(&mut thread, &mut all);
            assert!(matches!(error, InstallError::Reserve(ReserveError::Exhausted { .. })));
            assert!(all.len() >= count - 4, "{} of {count} fit again", all.len());
            assert!(all.len() > half);
            drop((all, short));
            thread.collect();
            arena.verify().unwrap();
            assert_eq!(arena.stats().live_bytes, 0);
            expect_working(&mut thread);
        },
    );
}

#[test]
fn exhausted_holes_that_are_too_short_are_counted() {
    each_strategy_with(
        |builder| builder.reserve(MIB).keep_free(0),
        |arena| {
            let mut thread = arena.attach().unwrap();
            let mut all = Vec::new();
            while let Ok(executor) = thread.install(&[0x90; 4000], &[]) {
                all.push(executor);
            }
            // Every other one dies: half the region is holes of one executor.
            let mut index = 0;
            all.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            thread.collect();
            let error = unharmed(&arena, || thread.reserve(CodeLayout::new(20_000)).unwrap_err());
            let ReserveError::Exhausted { holes, retired, .. } = error else {
                panic!("{error:?}");
            };
            assert_eq!(retired, 0);
            assert!((MIB * 2 / 5..MIB * 3 / 5).contains(&holes), "{holes} in holes");
            let _fits = thread.install(&[0x90; 4000], &[]).unwrap();
        },
    );
}

#[test]
fn attaching_in_the_last_moments_of_a_thread() {
    use std::cell::RefCell;
    use std::sync::mpsc;

    struct AtExit(Arena, mpsc::Sender<Result<(), AttachError>>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.with_thread(|_| ()));
            // An explicit handle works even here.
            expect_working(&mut self.0.attach().unwrap());
        }
    }
    std::thread_local! {
        static AT_EXIT: RefCell<Option<AtExit>> = const { RefCell::new(None) };
    }
    each_strategy(|arena| {
        let (sender, outcome) = mpsc::channel();
        let theirs = arena.clone();
        std::thread::spawn(move || {
            // Destructors run last in, first out: this one after the handle's.
            AT_EXIT.with(|slot| *slot.borrow_mut() = Some(AtExit(theirs.clone(), sender)));
            theirs.with_thread(expect_working).unwrap();
        })
        .join()
        .unwrap();
        let error = outcome.recv().unwrap().unwrap_err();
        assert_eq!(error, AttachError::ThreadExiting);
        expect_message(&error, &["the thread is exiting", "attach explicitly"]);
        arena.collect().unwrap();
        arena.verify().unwrap();
        assert_eq!(arena.stats().live_executors, 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_system_that_has_no_memory_left() {
    // The calls by which memory is committed answer as they do then.
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, 1);
        drop(thread);
        let mut thread = arena.attach().unwrap();
        filter::refuse(&[filter::any(libc::SYS_madvise)], libc::ENOMEM);
        // Until what has been committed already is used up.
        let mut all = Vec::new();
        let error = (0..100).find_map(|_| match thread.install(&[0x90; 4000], &[]) {
            Ok(executor) => {
                all.push(executor);
                None
            }
            Err(error) => Some(error),
        });
        match error {
            Some(error) => {
                assert!(matches!(error, InstallError::Reserve(ReserveError::Os(_))), "{error:?}");
                expect_message(&error, &["no memory", "drop executors", "madvise", "os error 12"]);
                let layout = CodeLayout::new(4000);
                let again = unharmed(&arena, || thread.reserve(layout).unwrap_err());
                assert!(matches!(again, ReserveError::Os(_)), "{again:?}");
            }
            // Pages of private memory come without a call.
            None => assert_eq!(arena.report().strategy, Strategy::Mprotect),
        }
        assert_eq!(call(&thread, &executor), 1);
    };
    child::each_strategy("a_system_that_has_no_memory_left", body, |_, ended| {
        ended.expect_success();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_window_the_system_refuses_to_open() {
    if is_sanitized() {
        return not_run("this build maps memory for itself");
    }
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, 1);
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let opens =
            [filter::any(libc::SYS_mmap), filter::with_third(libc::SYS_mprotect, libc::PROT_WRITE)];
        filter::refuse(&opens, libc::EPERM);
        let mut scope = thread.write();
        let error = unchanged(&arena, || scope.write_at(&mut reservation, 0, &constant(2)).err());
        let strategy = arena.report().strategy;
        let needs_calls = matches!(strategy, Strategy::DualTransient | Strategy::Mprotect);
        assert_eq!(error.is_some(), needs_calls);
        drop(scope);
        if let Some(error) = error {
            assert!(matches!(error, WriteError::Os(_)), "{error:?}");
            expect_message(&error, &["refused", "write window", "allow the call", "os error 1"]);
            let unwritten = thread.publish(reservation).unwrap_err();
            assert_eq!(unwritten.kind, PublishErrorKind::Unwritten);
            drop(unwritten);
            let error = unharmed(&arena, || thread.install(&constant(3), &[]).unwrap_err());
            assert!(matches!(error, InstallError::Write(WriteError::Os(_))), "{error:?}");
            expect_message(&error, &["could not be written", "os error 1"]);
        }
        assert_eq!(call(&thread, &executor), 1);
    };
    child::each_strategy("a_window_the_system_refuses_to_open", body, |_, ended| {
        ended.expect_success();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_window_the_system_refuses_to_close() {
    if is_sanitized() {
        return not_run("this build unmaps memory for itself");
    }
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, 1);
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let closes = [
            filter::any(libc::SYS_munmap),
            filter::with_third(libc::SYS_mprotect, libc::PROT_EXEC),
        ];
        filter::refuse(&closes, libc::EPERM);
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &constant(2)).unwrap();
        drop(scope);
        let strategy = arena.report().strategy;
        if !matches!(strategy, Strategy::DualTransient | Strategy::Mprotect) {
            let executor = thread.publish(reservation).unwrap();
            assert_eq!(call(&thread, &executor), 2);
            return;
        }
        assert_eq!(arena.stats().refusals, 1);
        // Nothing that is still writable is ever published.
        for _ in 0..2 {
            let error = unharmed(&arena, || thread.publish(reservation).unwrap_err());
            assert!(matches!(error.kind, PublishErrorKind::Os(_)), "{error:?}");
            expect_message(&error, &["could not be sealed", "publish it again", "os error 1"]);
            reservation = error.reservation;
        }
        let before = arena.stats();
        let error = thread.install(&constant(3), &[]).unwrap_err();
        assert!(matches!(error, InstallError::Publish(PublishErrorKind::Os(_))), "{error:?}");
        expect_message(&error, &["could not be published", "os error 1"]);
        let after = arena.stats();
        assert_eq!(
            (after.installs, after.live_bytes, after.refusals),
            (before.installs, before.live_bytes, before.refusals + 1)
        );
        assert_eq!(call(&thread, &executor), 1);
        arena.verify().unwrap();
    };
    child::each_strategy("a_window_the_system_refuses_to_close", body, |_, ended| {
        ended.expect_success();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn collecting_ends_where_dead_code_cannot_be_filled() {
    if is_sanitized() {
        return not_run("this build maps memory for itself");
    }
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let executors: Vec<_> = (0..10).map(|n| install(&mut thread, n)).collect();
        let opens =
            [filter::any(libc::SYS_mmap), filter::with_third(libc::SYS_mprotect, libc::PROT_WRITE)];
        filter::refuse(&opens, libc::EPERM);
        drop(executors);
        thread.collect();
        let strategy = arena.report().strategy;
        let needs_calls = matches!(strategy, Strategy::DualTransient | Strategy::Mprotect);
        assert_eq!(arena.stats().refusals > 0, needs_calls, "{:?}", arena.stats());
        arena.verify().unwrap();
    };
    child::each_strategy("collecting_ends_where_dead_code_cannot_be_filled", body, |_, ended| {
        ended.expect_success();
    });
}

#[test]
fn corrupted_code_memory_is_found() {
    // A process that writes where it owns nothing: possible with `dual-open`.
    let Some(arena) = arena_of(Strategy::DualOpen) else { return };
    let mut thread = arena.attach().unwrap();
    let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
    let mut scope = thread.write();
    let writable = scope.bytes(&mut reservation).unwrap().as_mut_ptr();
    scope.write_at(&mut reservation, 0, &constant(1)).unwrap();
    drop(scope);
    let executor = thread.publish(reservation).unwrap();
    // Its claim goes back, so that everything behind it is a hole.
    drop(thread);
    arena.verify().unwrap();
    let expect_broken = |invariant: &str, offset: isize| {
        // SAFETY: the view is mapped for as long as the arena, and the word
        // lies on the executor's own system page.
        let word = unsafe { writable.offset(offset) }.cast::<u64>();
        // SAFETY: as above; nobody runs or reads it meanwhile.
        let before = unsafe { word.read() };
        // SAFETY: as above.
        unsafe { word.write(0x1234_5678_9ABC_DEF0) };
        let error = arena.verify().unwrap_err();
        // SAFETY: as above.
        unsafe { word.write(before) };
        assert_eq!(error.invariant, invariant);
        expect_message(&error, &[invariant, "does not hold"]);
        arena.verify().unwrap();
    };
    expect_broken("D3", 1024);
    expect_broken("X1", -16);
    drop(executor);
}
