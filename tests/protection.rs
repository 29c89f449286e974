//! Who may do what with code memory: every forbidden access is made, in a
//! process of its own, and must die of the right signal, at the right address,
//! for the right reason. What a strategy does not forbid is tested as well, so
//! that its promise is neither more nor less than what is written.

mod common;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::child::{self, Ended, SEGV_ACCERR, SEGV_MAPERR, SEGV_PKUERR};
use common::{Barrier, bytes_at, call, call_at, code, constant, install, maps};
use jit_arena::{Arena, CodeLayout, Executor, Strategy, ThreadHandle};

/// Says which address is accessed next.
fn aim_at(addr: usize) {
    println!("\naddress: {addr}");
}

fn write(addr: usize) {
    aim_at(addr);
    // SAFETY: either refused by the machine, or allowed by the strategy: a byte
    // of the test's own memory.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(addr).write_volatile(0x90) };
}

fn read(addr: usize) {
    aim_at(addr);
    // SAFETY: either refused by the machine, or a byte of the test's memory.
    black_box(unsafe { std::ptr::with_exposed_provenance::<u8>(addr).read_volatile() });
}

fn execute(addr: usize) {
    aim_at(addr);
    assert_eq!(call_at(addr), 7);
}

/// As [`execute`], with a register that points nowhere in the place in which
/// functions return: zeros are stores through it on x86-64.
fn execute_aimless(addr: usize) {
    aim_at(addr);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: faults, or is a function without parameters; the stack is aligned
    // where the block begins, and all that a call may change is named.
    unsafe {
        std::arch::asm!("xor eax, eax", "call rcx", in("rcx") addr, clobber_abi("C"));
    }
    #[cfg(not(target_arch = "x86_64"))]
    execute(addr);
}

/// Installs `constant(7)`; returns it with the address it was written at.
fn install_seven(thread: &mut ThreadHandle) -> (Executor, usize) {
    let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
    let mut scope = thread.write();
    let bytes = scope.bytes(&mut reservation).unwrap();
    bytes[..constant(7).len()].copy_from_slice(&constant(7));
    let writable = bytes.as_mut_ptr().expose_provenance();
    drop(scope);
    (thread.publish(reservation).unwrap(), writable)
}

/// Runs `access` in a child for each strategy; it must fault with the `si_code`
/// that `expected` gives, or with none if that is `None`.
fn expect(test: &str, access: impl FnOnce(Arena), expected: impl Fn(Strategy) -> Option<i32>) {
    let access = |arena: Arena| {
        access(arena);
        println!("\nsurvived: yes");
    };
    child::each_strategy(test, access, |strategy, ended: &Ended| {
        let Some(code) = expected(strategy) else {
            ended.expect_success();
            assert_eq!(ended.said("survived"), Some("yes"), "{strategy}");
            return;
        };
        ended.expect_fault(code);
        assert_eq!(ended.said("survived"), None, "{strategy}");
        let fault = ended.fault().unwrap();
        assert_eq!(ended.said("address"), Some(&*fault.address.to_string()), "{strategy}");
    });
}

/// What a thread meets that writes the writable view outside its scopes.
fn closed_to_writes(strategy: Strategy) -> Option<i32> {
    match strategy {
        Strategy::DualPkey | Strategy::SinglePkey => Some(SEGV_PKUERR),
        Strategy::DualTransient => Some(SEGV_MAPERR),
        Strategy::Mprotect => Some(SEGV_ACCERR),
        // What it is for: speed over hardening.
        Strategy::DualOpen => None,
        _ => unreachable!("{strategy} does not work on Linux"),
    }
}

#[test]
fn w1_writing_the_executable_view() {
    let access = |arena: Arena| {
        let executor = install(&mut arena.attach().unwrap(), 7);
        write(executor.addr());
    };
    expect("w1_writing_the_executable_view", access, |strategy| {
        Some(if strategy == Strategy::SinglePkey { SEGV_PKUERR } else { SEGV_ACCERR })
    });
}

#[test]
fn w1_writing_the_executable_view_inside_a_scope() {
    let access = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, 7);
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        scope.write_at(&mut reservation, 0, &constant(1)).unwrap();
        write(executor.addr());
    };
    expect("w1_writing_the_executable_view_inside_a_scope", access, |strategy| {
        // The weaker promise of a single view under a key.
        (strategy != Strategy::SinglePkey).then_some(SEGV_ACCERR)
    });
}

#[test]
fn w1_writing_the_closed_writable_view() {
    let access = |arena: Arena| {
        let (_executor, writable) = install_seven(&mut arena.attach().unwrap());
        write(writable);
    };
    expect("w1_writing_the_closed_writable_view", access, closed_to_writes);
}

#[test]
fn reading_the_closed_writable_view() {
    let access = |arena: Arena| {
        let (_executor, writable) = install_seven(&mut arena.attach().unwrap());
        read(writable);
    };
    expect("reading_the_closed_writable_view", access, |strategy| match strategy {
        Strategy::DualPkey => Some(SEGV_PKUERR),
        Strategy::DualTransient => Some(SEGV_MAPERR),
        // The one view there is must be readable; or there is no protection.
        _ => None,
    });
}

#[test]
fn w1_executing_the_writable_view_inside_a_scope() {
    let access = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        let bytes = scope.bytes(&mut reservation).unwrap();
        bytes[..constant(7).len()].copy_from_slice(&constant(7));
        execute(bytes.as_ptr().expose_provenance());
    };
    expect("w1_executing_the_writable_view_inside_a_scope", access, |strategy| {
        // The weaker promise of a single view under a key.
        (strategy != Strategy::SinglePkey).then_some(SEGV_ACCERR)
    });
}

#[test]
fn w1_executing_the_closed_writable_view() {
    let access = |arena: Arena| {
        let (_executor, writable) = install_seven(&mut arena.attach().unwrap());
        execute(writable);
    };
    expect("w1_executing_the_closed_writable_view", access, |strategy| match strategy {
        // Keys govern data alone: it is the page table that forbids this.
        Strategy::DualPkey | Strategy::DualOpen => Some(SEGV_ACCERR),
        Strategy::DualTransient => Some(SEGV_MAPERR),
        // The one view there is, sealed.
        _ => None,
    });
}

#[test]
fn w2_the_rights_of_a_scope_are_its_threads_alone() {
    let access = |arena: Arena| {
        let (opened, done) = (Barrier::new(2), Barrier::new(2));
        let written_at = std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|threads| {
            // Older than the scope, so that it inherits nothing of it.
            threads.spawn(|| {
                opened.wait();
                write(written_at.load(Ordering::Relaxed));
                done.wait();
            });
            let mut thread = arena.attach().unwrap();
            let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
            let mut scope = thread.write();
            let bytes = scope.bytes(&mut reservation).unwrap();
            written_at.store(bytes.as_mut_ptr().expose_provenance(), Ordering::Relaxed);
            opened.wait();
            done.wait();
        });
    };
    expect("w2_the_rights_of_a_scope_are_its_threads_alone", access, |strategy| match strategy {
        Strategy::DualPkey | Strategy::SinglePkey => Some(SEGV_PKUERR),
        // Windows by page table are every thread's; only their address is not.
        _ => None,
    });
}

#[test]
fn w2_a_scope_closes_when_it_unwinds() {
    let access = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut writable = 0;
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let mut scope = thread.write();
            let mut inner = scope.nest();
            let bytes = inner.bytes(&mut reservation).unwrap();
            bytes[..constant(7).len()].copy_from_slice(&constant(7));
            writable = bytes.as_mut_ptr().expose_provenance();
            panic!("inside two scopes");
        }));
        assert!(unwound.is_err());
        // The handle works, and what was written before is there.
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &executor), 7);
        let another = install(&mut thread, 8);
        assert_eq!(call(&thread, &another), 8);
        write(writable);
    };
    expect("w2_a_scope_closes_when_it_unwinds", access, closed_to_writes);
}

#[test]
fn w2_nested_scopes_close_with_the_outermost() {
    let access = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        let mut inner = scope.nest();
        let mut innermost = inner.nest();
        let bytes = innermost.bytes(&mut reservation).unwrap();
        let writable = bytes.as_mut_ptr().expose_provenance();
        drop(innermost);
        write(writable);
        drop(inner);
        // Still open, and still the same window.
        write(writable);
        scope.write_at(&mut reservation, 0, &constant(7)).unwrap();
        drop(scope);
        write(writable);
    };
    let test = "w2_nested_scopes_close_with_the_outermost";
    let access = |arena: Arena| {
        access(arena);
        println!("\nsurvived: yes");
    };
    child::each_strategy(test, access, |strategy, ended| {
        match closed_to_writes(strategy) {
            Some(code) => ended.expect_fault(code),
            None => ended.expect_success(),
        }
        let writes = ended.output.matches("address: ").count();
        assert_eq!(writes, 3, "{strategy}: the third write is the first outside");
    });
}

#[test]
fn d3_running_freed_code_traps() {
    let access = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let dead = install(&mut thread, 7);
        // Keeps the system page from going back.
        let _neighbour = install(&mut thread, 8);
        let addr = dead.addr();
        drop(dead);
        thread.collect();
        execute_aimless(addr);
    };
    child::each_strategy("d3_running_freed_code_traps", access, |strategy, ended| {
        let signal = ended.fault().map(|fault| fault.signal);
        if strategy == Strategy::Mprotect {
            // A page of its own, which went back: zeros.
            assert!(signal.is_some(), "{ended:?}");
        } else {
            assert_eq!(signal, Some(libc::SIGTRAP), "{ended:?}");
        }
    });
}

#[test]
fn w1_writing_the_executable_view_through_proc_self_mem() {
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, 7);
        let memory = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
        let written = memory.write_at(&constant(8), executor.addr() as u64);
        println!("\nwritten: {written:?}");
        println!("\nreturns: {}", call(&thread, &executor));
    };
    let test = "w1_writing_the_executable_view_through_proc_self_mem";
    child::each_strategy(test, body, |strategy, ended| {
        ended.expect_success();
        let (written, returns) = (ended.said("written").unwrap(), ended.said("returns").unwrap());
        match strategy {
            Strategy::DualPkey | Strategy::DualTransient | Strategy::DualOpen => {
                assert!(written.starts_with("Err"), "{strategy}: {written}");
                assert_eq!(returns, "7", "{strategy}");
            }
            // Private memory: the system may force a copy, as debuggers need.
            _ => println!("{strategy} allows it: {written}"),
        }
    });
}

#[test]
fn system_calls_cannot_use_the_closed_writable_view() {
    let body = |arena: Arena| {
        let (_executor, writable) = install_seven(&mut arena.attach().unwrap());
        println!("\nerrno: {}", child::errno_of_reading(writable));
    };
    let test = "system_calls_cannot_use_the_closed_writable_view";
    child::each_strategy(test, body, |strategy, ended| {
        ended.expect_success();
        let errno = match strategy {
            Strategy::DualPkey | Strategy::DualTransient => libc::EFAULT,
            _ => 0,
        };
        assert_eq!(ended.said("errno"), Some(&*errno.to_string()), "{strategy}");
    });
}

#[test]
fn w1_no_mapping_is_ever_writable_and_executable() {
    const TEST: &str = "w1_no_mapping_is_ever_writable_and_executable";
    fn expect_clean(when: &str) {
        let found = maps::writable_and_executable();
        assert!(found.is_empty(), "{when}: {found:?}");
    }
    let body = |arena: Arena| {
        expect_clean("before anything was installed");
        let mut thread = arena.attach().unwrap();
        let mut all: Vec<_> = (0..200).map(|value| install(&mut thread, value)).collect();
        expect_clean("outside a scope");
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        expect_clean("inside a scope without a window");
        scope.write_at(&mut reservation, 0, &constant(1)).unwrap();
        expect_clean("inside a scope with a window");
        drop(scope.nest());
        expect_clean("after a nested scope");
        drop(scope);
        all.push(thread.publish(reservation).unwrap());
        expect_clean("after a scope");
        all.clear();
        thread.collect();
        expect_clean("after recycling and returning memory");

        // And at no moment between: one thread looks while two work.
        let stop = AtomicBool::new(false);
        thread::scope(|threads| {
            for seed in 0..2 {
                let (arena, stop) = (&arena, &stop);
                threads.spawn(move || {
                    let mut thread = arena.attach().unwrap();
                    let mut kept = std::collections::VecDeque::new();
                    let mut value = seed;
                    while !stop.load(Ordering::Relaxed) {
                        value += 2;
                        kept.push_back((value, install(&mut thread, value)));
                        let (expected, executor) = &kept[kept.len() / 2];
                        assert_eq!(call(&thread, executor), *expected);
                        if kept.len() > 100 {
                            kept.pop_front();
                        }
                        if value % 500 < 2 {
                            thread.collect();
                        }
                    }
                });
            }
            for _ in 0..200 {
                expect_clean("while threads install");
            }
            stop.store(true, Ordering::Relaxed);
        });
        println!("\nmaps: clean");
    };
    let body = |arena: Arena| {
        if arena.report().strategy.never_wx() {
            return body(arena);
        }
        // So that it cannot be said to keep what it does not promise.
        let executor = install(&mut arena.attach().unwrap(), 1);
        let mapping = maps::at(executor.addr()).unwrap();
        assert!(mapping.is_writable_and_executable(), "{mapping:?}");
        println!("\nmaps: writable and executable");
    };
    child::each_strategy(TEST, body, |strategy, ended| {
        ended.expect_success();
        let said = if strategy.never_wx() { "clean" } else { "writable and executable" };
        assert_eq!(ended.said("maps"), Some(said), "{strategy}");
    });
}

#[test]
fn both_views_show_the_same_bytes() {
    common::each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(3000)).unwrap();
        let pattern: Vec<u8> = (0..3000_u32).map(|i| (i * 7) as u8).collect();
        let mut scope = thread.write();
        scope.bytes(&mut reservation).unwrap().copy_from_slice(&pattern);
        assert_eq!(scope.bytes(&mut reservation).unwrap(), pattern);
        drop(scope);
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(bytes_at(executor.addr(), 3000), pattern);
    });
}

#[test]
fn a_tampered_return_value_would_be_seen() {
    // The oracle of this file: without protection the write does take effect.
    let Some(arena) = common::arena_of(Strategy::DualOpen) else { return };
    let mut thread = arena.attach().unwrap();
    let (executor, writable) = install_seven(&mut thread);
    let to = std::ptr::with_exposed_provenance_mut::<u8>(writable);
    // SAFETY: this strategy leaves the view open, and nobody runs the code.
    unsafe { to.copy_from_nonoverlapping(constant(9).as_ptr(), constant(9).len()) };
    assert_eq!(call(&thread, &executor), 9);
    assert_eq!(bytes_at(executor.addr(), 4), code::constant(9)[..4]);
}
