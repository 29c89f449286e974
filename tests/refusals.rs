//! What a system that refuses makes of the default choice: each refusal is real
//! (a filter of system calls, a limit of the process, a policy of the kernel's),
//! in a process of its own, which then does all that a client does, forks
//! included.

#![cfg(target_os = "linux")]

mod common;

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{fs, io};

use common::child::expect_passed;
use common::{RESERVE, Random, call, child, constant, filter, is_sanitized, not_run};
use jit_arena::{Arena, BuildError, Executor, MemoryKind, Outcome, Strategy, ThreadHandle};

/// What a client does: installs, runs, drops, gives back; threads; a fork.
fn exercise(arena: &Arena) {
    let mut thread = arena.attach().unwrap();
    let mut executors = Vec::new();
    churn(&mut thread, &mut executors, 400);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(&mut arena.attach().unwrap(), &mut Vec::new(), 200));
    });
    arena.verify().unwrap();
    let verified = |arena: &Arena| arena.verify().map_err(|error| error.invariant);
    let pid = fork(|| {
        match verified(arena) {
            Ok(()) => churn(&mut thread, &mut executors, 100),
            // Without memory of its own it says so.
            Err(invariant) => {
                assert_eq!(invariant, "F3");
                println!("\nlost: yes");
                let error = thread.install(&[0xC3; 5000], &[]).unwrap_err();
                assert!(error.to_string().len() > 20);
            }
        }
    });
    churn(&mut thread, &mut executors, 100);
    expect_passed(pid);
    executors.clear();
    thread.collect();
    arena.verify().unwrap();
    assert_eq!(arena.stats().live_executors, 0);
}

fn churn(thread: &mut ThreadHandle, executors: &mut Vec<(Executor, u32)>, rounds: u32) {
    let mut random = Random::new(rounds.into());
    for value in 0..rounds {
        let mut code = constant(value);
        code.resize(code.len() + random.below(3000) / 4 * 4, 0);
        executors.push((thread.install(&code, &[]).unwrap(), value));
        if executors.len() > 60 {
            drop(executors.swap_remove(random.below(executors.len())));
        }
    }
    for (executor, value) in executors {
        assert_eq!(call(thread, executor), *value);
    }
}

fn fork(body: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs `body` and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    pid
}

fn build() -> Result<Arena, BuildError> {
    Arena::builder().reserve(RESERVE).build()
}

/// In a child for each part: runs `body` with it, which must pass.
fn each(test: &str, parts: &[&str], body: impl FnOnce(&str)) {
    if let Some(part) = child::part() {
        return body(&part);
    }
    for part in parts {
        child::run(test, part).expect_success();
    }
}

/// Both answers that sandboxes give.
const ERRNOS: [(&str, i32); 2] = [("EPERM", libc::EPERM), ("ENOSYS", libc::ENOSYS)];

fn refuse(calls: &[libc::c_long], name: &str) {
    let errno = ERRNOS.iter().find(|(known, _)| *known == name).unwrap().1;
    let calls: Vec<_> = calls.iter().map(|call| filter::any(*call)).collect();
    filter::refuse(&calls, errno);
}

/// The calls that were refused on the way.
fn refused(arena: &Arena) -> Vec<&'static str> {
    let attempts = arena.report().attempts.iter();
    let call = |outcome: &Outcome| match outcome {
        Outcome::Refused(error) => Some(error.call),
        _ => None,
    };
    attempts.filter_map(|attempt| call(&attempt.outcome)).collect()
}

#[test]
fn no_memory_files() {
    each("no_memory_files", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_memfd_create], errno);
        let arena = build().unwrap();
        assert_eq!(arena.report().memory, MemoryKind::SharedAnonymous);
        assert!(refused(&arena).contains(&"memfd_create"));
        exercise(&arena);
    });
}

#[test]
fn no_memory_files_and_no_second_views() {
    each("no_memory_files_and_no_second_views", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_memfd_create, libc::SYS_mremap], errno);
        let arena = build().unwrap();
        assert_eq!(arena.report().strategy, Strategy::Mprotect);
        assert!(refused(&arena).contains(&"mremap"));
        exercise(&arena);
    });
}

#[test]
fn no_second_views_by_mremap() {
    each("no_second_views_by_mremap", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_mremap], errno);
        let arena = build().unwrap();
        assert_eq!(arena.report().memory, MemoryKind::Memfd);
        exercise(&arena);
    });
}

#[test]
fn no_protection_keys() {
    each("no_protection_keys", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_pkey_alloc], errno);
        let arena = build().unwrap();
        assert_eq!(arena.report().strategy, Strategy::DualTransient);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(refused(&arena)[0], "pkey_alloc");
        }
        exercise(&arena);
    });
}

#[test]
fn no_membarrier() {
    each("no_membarrier", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_membarrier], errno);
        let arena = build().unwrap();
        assert!(arena.report().sync_core.is_err());
        let mut thread = arena.attach().unwrap();
        drop(thread.install(&constant(1), &[]).unwrap());
        thread.collect();
        if arena.stats().recycles == 0 {
            // No other way on this processor: what is dropped stays, counted.
            assert!(arena.stats().refusals > 0);
            let mut executors = Vec::new();
            churn(&mut thread, &mut executors, 300);
            return arena.verify().unwrap();
        }
        drop(thread);
        exercise(&arena);
    });
}

#[test]
fn no_memory_advice() {
    each("no_memory_advice", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_madvise], errno);
        // Memory can neither be had in advance nor given back.
        match build() {
            Ok(arena) => exercise(&arena),
            Err(BuildError::Region(error)) => assert!(error.to_string().contains("madvise")),
            Err(error) => panic!("{error:?}"),
        }
    });
}

#[test]
fn no_names_for_memory() {
    each("no_names_for_memory", &["EPERM", "ENOSYS"], |errno| {
        refuse(&[libc::SYS_prctl], errno);
        exercise(&Arena::builder().reserve(RESERVE).anonymous(true).build().unwrap());
    });
}

#[test]
fn calls_that_are_refused_later() {
    let calls = ["memfd_create", "mremap", "both", "membarrier"];
    each("calls_that_are_refused_later", &calls, |which| {
        let arena = build().unwrap();
        let refused: &[libc::c_long] = match which {
            "memfd_create" => &[libc::SYS_memfd_create],
            "mremap" => &[libc::SYS_mremap],
            "both" => &[libc::SYS_memfd_create, libc::SYS_mremap],
            _ => &[libc::SYS_membarrier],
        };
        refuse(refused, "EPERM");
        // With neither a file nor a second view a child can have no memory.
        exercise(&arena);
    });
}

#[test]
fn memory_that_was_writable_may_never_be_executable() {
    each("memory_that_was_writable_may_never_be_executable", &["yes"], |_| {
        const PR_SET_MDWE: i32 = 65;
        // SAFETY: prctl(2) with numbers only.
        let status = unsafe { libc::prctl(PR_SET_MDWE, 1_usize, 0_usize, 0_usize, 0_usize) };
        if status != 0 {
            return not_run(&format!("PR_SET_MDWE: {}", io::Error::last_os_error()));
        }
        let arena = build().unwrap();
        assert!(arena.report().strategy != Strategy::Mprotect);
        exercise(&arena);
    });
}

fn limit(which: libc::__rlimit_resource_t, to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: a live rlimit.
    assert_eq!(unsafe { libc::setrlimit(which, &raw const limit) }, 0);
}

#[test]
fn files_are_limited_in_size() {
    each("files_are_limited_in_size", &["before", "after"], |when| {
        if when == "before" {
            limit(libc::RLIMIT_FSIZE, 4096);
        }
        let arena = build().unwrap();
        let of_file = arena.report().memory == MemoryKind::Memfd;
        assert_eq!(of_file, when == "after");
        // Beyond the limit of now: never a signal.
        limit(libc::RLIMIT_FSIZE, 4096);
        exercise(&arena);
    });
}

#[test]
fn no_descriptors_are_left() {
    each("no_descriptors_are_left", &["before", "after"], |when| {
        let first = (when == "after").then(|| build().unwrap());
        let open: Vec<_> =
            std::iter::from_fn(|| fs::File::open("/dev/null").ok()).take(50).collect();
        limit(libc::RLIMIT_NOFILE, open.last().unwrap().as_raw_fd() as u64 + 1);
        let arena = first.unwrap_or_else(|| build().unwrap());
        let of_file = arena.report().memory == MemoryKind::Memfd;
        assert_eq!(of_file, when == "after");
        exercise(&arena);
    });
}

#[test]
fn address_space_is_limited() {
    if is_sanitized() {
        return not_run("this build reserves address space for itself");
    }
    each("address_space_is_limited", &["yes"], |_| {
        let in_use: usize = common::maps::all().iter().map(|mapping| mapping.range.len()).sum();
        limit(libc::RLIMIT_AS, (in_use + RESERVE / 2) as u64);
        let error = build().unwrap_err();
        assert!(matches!(error, BuildError::Region(_)), "{error:?}");
        let smaller = Arena::builder().reserve(RESERVE / 16).build().unwrap();
        exercise(&smaller);
    });
}

/// What the system had against it.
fn why(error: &BuildError) -> String {
    let BuildError::Region(error) = error else { panic!("{error:?}") };
    error.to_string()
}

#[test]
fn a_system_that_adds_execution_to_all_rights() {
    each("a_system_that_adds_execution_to_all_rights", &["all"], |_| {
        // SAFETY: a flag of this thread's, which alone maps memory from here on.
        let before = unsafe { libc::personality(libc::READ_IMPLIES_EXEC as libc::c_ulong) };
        assert!(before >= 0, "personality: {}", io::Error::last_os_error());
        let error = why(&build().unwrap_err());
        assert!(error.contains("personality(READ_IMPLIES_EXEC)"), "{error}");
        assert!(error.contains("a stack that is not executable"), "{error}");
        for strategy in Strategy::ALL {
            let built = Arena::builder().reserve(RESERVE).strategy(strategy).build();
            assert!(built.is_err() || !strategy.never_wx(), "{strategy}");
        }
    });
}

#[test]
fn memory_that_is_locked_as_it_is_mapped() {
    if is_sanitized() {
        return not_run("this build maps terabytes, which cannot be locked");
    }
    each("memory_that_is_locked_as_it_is_mapped", &["all"], |_| {
        // SAFETY: mlockall(2) has no preconditions.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return not_run(&format!("mlockall: {}", io::Error::last_os_error()));
        }
        for strategy in Strategy::ALL {
            let builder = Arena::builder().reserve(1 << 20).code_page(1 << 16);
            match builder.strategy(strategy).build() {
                Ok(arena) => exercise(&arena),
                Err(error) => {
                    let error = why(&error);
                    // Where not so much may be locked, or there are no keys.
                    let expected = ["os error 11", "os error 12", "pkey_alloc", "MAP_JIT"];
                    assert!(expected.iter().any(|part| error.contains(part)), "{error}");
                }
            }
        }
    });
}
