//! What goes wrong in code memory shared by threads, each by name: rights that
//! threads and handlers inherit, keys that run out, drops in odd places, and
//! threads that sleep.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use common::child::{self, SEGV_PKUERR};
use common::{Barrier, RESERVE, arena_of, call, call_at, code, constant, each_strategy, install};
use common::{each_strategy_with, maps};
#[cfg(target_os = "linux")]
use common::{filter, not_run, requires};
use jit_arena::{
    Arena, Builder, CodeLayout, Executor, InstallError, ReserveError, Running, Strategy,
    ThreadHandle,
};

/// The strategies in which a thread has rights of its own.
const KEYED: [Strategy; 2] = [Strategy::DualPkey, Strategy::SinglePkey];

/// Writes a byte of the writable view.
fn write(addr: usize) {
    // SAFETY: either refused by the machine, or a byte of the test's own.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(addr).write_volatile(0x90) };
}

/// Installs a function that reads `value` from the data beside it.
fn install_loader(thread: &mut ThreadHandle, value: u32) -> Executor {
    let layout = CodeLayout::new(code::LOAD_DATA_LEN).data(4, 4);
    let code = code::load_data(layout.data_offset());
    let mut reservation = thread.reserve(layout).unwrap();
    let mut scope = thread.write();
    scope.write_at(&mut reservation, 0, &code).unwrap();
    scope.write_at(&mut reservation, layout.data_offset(), &value.to_le_bytes()).unwrap();
    drop(scope);
    thread.publish(reservation).unwrap()
}

// 1. Stores that leave the window.

/// A writer that the compiler may inline into the scope: its parameter is
/// `noalias`, and nothing but the close keeps its stores from sinking.
fn emit(code: &mut [u8], value: u32) {
    code.copy_from_slice(&constant(value)[..code.len()]);
}

/// Hazard 1, `[W4]`. Writes through every door of a scope, with the close right
/// behind: a store that moved out of the window faults, because the writable
/// view is unmapped or closed there, or is missing from what runs. The checks
/// run this once more with full optimisation.
#[test]
fn w4_stores_stay_inside_the_write_window() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let len = constant(0).len();
        for value in 0..400 {
            let mut one = thread.reserve(CodeLayout::new(len)).unwrap();
            let mut two = thread.reserve(CodeLayout::new(len)).unwrap();
            let mut scope = thread.write();
            emit(scope.bytes(&mut one).unwrap(), value);
            scope.write_at(&mut two, 0, &constant(!value)).unwrap();
            drop(scope);
            let one = thread.publish(one).unwrap();
            let two = thread.publish(two).unwrap();
            assert_eq!((call(&thread, &one), call(&thread, &two)), (value, !value));
        }
    });
}

/// `[W2]` for scopes that are forgotten, which is safe to do: they end before
/// the thread can run anything, and before its next scope.
#[test]
fn w2_a_forgotten_scope_ends_before_code_runs() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut executors = Vec::new();
        for value in 1..=3 {
            let code = constant(value);
            let mut place = thread.reserve(CodeLayout::new(code.len())).unwrap();
            let mut scope = thread.write();
            scope.write_at(&mut place, 0, &code).unwrap();
            std::mem::forget(scope);
            if value == 2 {
                drop(thread.write());
            }
            let executor = thread.publish(place).unwrap();
            assert_eq!(call(&thread, &executor), value);
            executors.push(executor);
        }
        for (executor, value) in executors.iter().zip(1..) {
            assert_eq!(call(&thread, executor), value);
        }
        drop((executors, thread));
        arena.verify().unwrap();
    });
}

// 2. Threads born inside a write scope.

#[test]
fn h2_a_thread_born_inside_a_write_scope_has_no_rights_once_attached() {
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        let bytes = scope.bytes(&mut reservation).unwrap();
        let writable = bytes.as_mut_ptr().expose_provenance();
        thread::scope(|threads| {
            threads.spawn(|| {
                // What the system does: the reason for what attaching does.
                println!("\ninherited: {}", child::errno_of_reading(writable) == 0);
                let mut thread = arena.attach().unwrap();
                let executor = install(&mut thread, 5);
                assert_eq!(call(&thread, &executor), 5);
                println!("\nattached: yes");
                write(writable);
            });
        });
    };
    let test = "h2_a_thread_born_inside_a_write_scope_has_no_rights_once_attached";
    child::each_of(&KEYED, test, body, |strategy, ended| {
        assert_eq!(ended.said("inherited"), Some("true"), "{strategy}: {ended:?}");
        assert_eq!(ended.said("attached"), Some("yes"), "{strategy}: {ended:?}");
        ended.expect_fault(SEGV_PKUERR);
    });
}

// 3. siglongjmp out of a handler.

#[cfg(target_arch = "x86_64")]
mod jump {
    //! What sigsetjmp(3) and siglongjmp(3) do, less the signal mask: C's
    //! version returns twice, which Rust has no way to express.

    use std::sync::atomic::{AtomicPtr, Ordering};

    std::arch::global_asm!(
        ".globl jit_arena_test_try",
        "jit_arena_test_try:",
        "mov [rdi], rbx",
        "mov [rdi + 8], rbp",
        "mov [rdi + 16], r12",
        "mov [rdi + 24], r13",
        "mov [rdi + 32], r14",
        "mov [rdi + 40], r15",
        "lea rax, [rsp + 8]",
        "mov [rdi + 48], rax",
        "mov rax, [rsp]",
        "mov [rdi + 56], rax",
        "sub rsp, 8",
        "call rsi",
        "add rsp, 8",
        "xor eax, eax",
        "ret",
        ".globl jit_arena_test_escape",
        "jit_arena_test_escape:",
        "mov rbx, [rdi]",
        "mov rbp, [rdi + 8]",
        "mov r12, [rdi + 16]",
        "mov r13, [rdi + 24]",
        "mov r14, [rdi + 32]",
        "mov r15, [rdi + 40]",
        "mov rsp, [rdi + 48]",
        "mov eax, 1",
        "jmp [rdi + 56]",
    );

    unsafe extern "C" {
        fn jit_arena_test_try(frame: *mut [usize; 8], f: extern "C" fn()) -> u32;
        fn jit_arena_test_escape(frame: *mut [usize; 8]) -> !;
    }

    static FRAME: AtomicPtr<[usize; 8]> = AtomicPtr::new(std::ptr::null_mut());

    extern "C" fn leave(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: `raise_and_leave` is on the stack below, and the frames
        // between have nothing to drop.
        unsafe { jit_arena_test_escape(FRAME.load(Ordering::Relaxed)) }
    }

    extern "C" fn raise() {
        // SAFETY: raise(3) has no preconditions.
        unsafe { libc::raise(libc::SIGUSR1) };
    }

    /// Raises a signal and jumps out of its handler.
    pub(crate) fn raise_and_leave() {
        // The signal would stay blocked otherwise: the handler never returns.
        super::child::handle(libc::SIGUSR1, leave, libc::SA_NODEFER);
        let mut frame = [0; 8];
        FRAME.store(&raw mut frame, Ordering::Relaxed);
        // SAFETY: the frame outlives the call, and `raise` ends in the jump.
        let left = unsafe { jit_arena_test_try(&raw mut frame, raise) };
        assert_eq!(left, 1);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn h3_jumping_out_of_a_handler_outside_a_scope_leaves_everything_working() {
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let before = install(&mut thread, 5);
        jump::raise_and_leave();
        assert_eq!(call(&thread, &before), 5);
        let mut reservation = thread.reserve(CodeLayout::new(64).tag(3)).unwrap();
        let mut scope = thread.write();
        let bytes = scope.bytes(&mut reservation).unwrap();
        bytes[..constant(6).len()].copy_from_slice(&constant(6));
        let writable = bytes.as_mut_ptr().expose_provenance();
        drop(scope);
        let after = thread.publish(reservation).unwrap();
        assert_eq!((call(&thread, &after), after.tag()), (6, 3));
        if arena.report().strategy == Strategy::DualPkey {
            assert_eq!(child::errno_of_reading(writable), libc::EFAULT, "closed again");
        }
        drop((before, after));
        thread.collect();
        assert_eq!(arena.stats().recycles, 2);
        // A single view under a key cannot be read with a handler's rights;
        // attaching gives the thread's own back.
        let mut thread = arena.attach().unwrap();
        let loader = install_loader(&mut thread, 77);
        assert_eq!(call(&thread, &loader), 77);
        arena.verify().unwrap();
    };
    let test = "h3_jumping_out_of_a_handler_outside_a_scope_leaves_everything_working";
    child::each_strategy(test, body, |_, ended| ended.expect_success());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn h3_jumping_out_of_a_handler_inside_a_scope_leaves_it_closed_not_open() {
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        let bytes = scope.bytes(&mut reservation).unwrap();
        let writable = bytes.as_mut_ptr().expose_provenance();
        assert_eq!(child::errno_of_reading(writable), 0);
        jump::raise_and_leave();
        assert_eq!(child::errno_of_reading(writable), libc::EFAULT, "the handler's rights");
        // A scope inside has them back.
        scope.nest().write_at(&mut reservation, 0, &constant(6)).unwrap();
        drop(scope);
        let executor = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &executor), 6);
        let another = install(&mut thread, 7);
        assert_eq!(call(&thread, &another), 7);
        println!("\nwent on: yes");
        write(writable);
    };
    let test = "h3_jumping_out_of_a_handler_inside_a_scope_leaves_it_closed_not_open";
    child::each_of(&KEYED, test, body, |_, ended| {
        assert_eq!(ended.said("went on"), Some("yes"));
        ended.expect_fault(SEGV_PKUERR);
    });
}

// 4. Threads older than the key.

#[test]
fn h4_threads_older_than_the_key_run_read_and_install() {
    for strategy in Strategy::ALL {
        let (to_elder, for_elder) = mpsc::channel::<(Arena, usize)>();
        let (begun, wait_for_begin) = mpsc::channel();
        let elder = thread::spawn(move || {
            begun.send(()).unwrap();
            let Ok((arena, loader)) = for_elder.recv() else { return };
            if arena.report().strategy != Strategy::SinglePkey {
                assert_eq!(call_at(loader), 77, "never attached, and reads a literal");
            }
            let mut thread = arena.attach().unwrap();
            assert_eq!(call_at(loader), 77);
            let own = install_loader(&mut thread, 78);
            assert_eq!((call(&thread, &own), own.data_len()), (78, 4));
        });
        wait_for_begin.recv().unwrap();
        // The thread runs before the arena, and its key, exist.
        if let Some(arena) = arena_of(strategy) {
            let mut thread = arena.attach().unwrap();
            let loader = install_loader(&mut thread, 77);
            to_elder.send((arena.clone(), loader.addr())).unwrap();
            elder.join().unwrap();
            arena.verify().unwrap();
        } else {
            drop(to_elder);
            elder.join().unwrap();
        }
    }
}

#[test]
fn h4_a_single_view_under_a_key_cannot_be_read_by_older_threads() {
    // The weakness that two views do not have, and attaching mends.
    let test = "h4_a_single_view_under_a_key_cannot_be_read_by_older_threads";
    if child::part().is_some() {
        child::report_faults();
        let (to_elder, for_elder) = mpsc::channel::<usize>();
        let elder = thread::spawn(move || call_at(for_elder.recv().unwrap()));
        let arena = arena_of(Strategy::SinglePkey).unwrap();
        let loader = install_loader(&mut arena.attach().unwrap(), 77);
        to_elder.send(loader.addr()).unwrap();
        let _ = elder.join();
        return;
    }
    if arena_of(Strategy::SinglePkey).is_some() {
        child::run(test, "elder").expect_fault(SEGV_PKUERR);
    }
}

// 5. A signal during a write scope.

static LOADER: AtomicUsize = AtomicUsize::new(0);
static WRITABLE: AtomicUsize = AtomicUsize::new(0);
static LOADED: AtomicU32 = AtomicU32::new(0);
static ERRNO: AtomicI32 = AtomicI32::new(-1);

/// Runs code, and looks what it may do with the writable view.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Relaxed: the handler runs on the thread that stores and loads these.
    LOADED.store(call_at(LOADER.load(Ordering::Relaxed)), Ordering::Relaxed);
    ERRNO.store(child::errno_of_reading(WRITABLE.load(Ordering::Relaxed)), Ordering::Relaxed);
}

#[test]
fn h5_a_signal_during_a_write_scope_has_no_rights_and_takes_none() {
    let body = |arena: Arena| {
        let mut thread = arena.attach().unwrap();
        // Handlers read no literals in a single view under a key.
        let reads = arena.report().strategy != Strategy::SinglePkey;
        let executor =
            if reads { install_loader(&mut thread, 77) } else { install(&mut thread, 77) };
        LOADER.store(executor.addr(), Ordering::Relaxed);
        child::handle(libc::SIGUSR1, on_signal, 0);

        let mut reservation = thread.reserve(CodeLayout::new(64)).unwrap();
        let mut scope = thread.write();
        let bytes = scope.bytes(&mut reservation).unwrap();
        WRITABLE.store(bytes.as_mut_ptr().expose_provenance(), Ordering::Relaxed);
        bytes[0] = 1;
        // SAFETY: raise(3) has no preconditions.
        unsafe { libc::raise(libc::SIGUSR1) };
        // The scope has its rights again.
        scope.write_at(&mut reservation, 0, &constant(6)).unwrap();
        drop(scope);
        assert_eq!(LOADED.load(Ordering::Relaxed), 77);
        println!("\nerrno: {}", ERRNO.load(Ordering::Relaxed));
        let written = thread.publish(reservation).unwrap();
        assert_eq!(call(&thread, &written), 6);

        // Outside scopes handlers run code all the same.
        LOADED.store(0, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(LOADED.load(Ordering::Relaxed), 77);
    };
    let test = "h5_a_signal_during_a_write_scope_has_no_rights_and_takes_none";
    child::each_strategy(test, body, |strategy, ended| {
        ended.expect_success();
        let errno = if KEYED.contains(&strategy) { libc::EFAULT } else { 0 };
        assert_eq!(ended.said("errno"), Some(&*errno.to_string()), "{strategy}");
    });
}

// 6. Keys run out.

#[cfg(target_os = "linux")]
#[test]
fn h6_when_keys_run_out_the_next_strategy_is_chosen() {
    let test = "h6_when_keys_run_out_the_next_strategy_is_chosen";
    if child::part().is_none() {
        return child::run(test, "poor").expect_success();
    }
    let mut keys = 0;
    // SAFETY: pkey_alloc(2) takes two numbers.
    while unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) } >= 0 {
        keys += 1;
        assert!(keys <= 15, "a processor has 16 keys");
    }
    assert!(keys > 0 || !requires("pkey"), "keys are required");
    if keys == 0 {
        not_run("there were no keys to run out of; the next strategy is chosen all the same");
    }
    let arena = Arena::builder().reserve(RESERVE).build().unwrap();
    let report = arena.report();
    assert!(report.strategy.by_default() && !KEYED.contains(&report.strategy), "{report}");
    assert!(report.to_string().contains("dual-pkey on memfd: refused: pkey_alloc"), "{report}");
    let mut thread = arena.attach().unwrap();
    let executor = install(&mut thread, 3);
    assert_eq!(call(&thread, &executor), 3);
    let forced = Arena::builder().strategy(Strategy::DualPkey).build();
    assert!(forced.is_err());
}

#[test]
fn h6_more_arenas_than_keys() {
    let test = "h6_more_arenas_than_keys";
    if child::part().is_none() {
        return child::run(test, "rich").expect_success();
    }
    let first = Arena::builder().reserve(RESERVE).build().unwrap().report().strategy;
    let mut arenas = Vec::new();
    for value in 0..20 {
        let arena = Arena::builder().reserve(RESERVE).build().unwrap();
        let mut thread = arena.attach().unwrap();
        let executor = install(&mut thread, value);
        assert_eq!(call(&thread, &executor), value);
        arenas.push(arena);
    }
    let last = arenas.last().unwrap().report().strategy;
    assert!(!KEYED.contains(&last), "20 arenas and 15 keys");
    drop(arenas);
    // Their keys came back.
    let next = Arena::builder().reserve(RESERVE).build().unwrap().report().strategy;
    assert_eq!(next, first);
}

// 10. Drops in odd places.

/// Everything dropped is reclaimed by the next who collects.
fn expect_reclaimed(arena: &Arena) {
    arena.attach().unwrap().collect();
    arena.verify().unwrap();
    let stats = arena.stats();
    assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
    assert_eq!((stats.live_bytes, stats.retired_bytes), (0, 0), "{stats:?}");
    assert_eq!((stats.committed_bytes, stats.padding_bytes), (0, 0), "{stats:?}");
}

#[test]
fn h10_drops_on_a_thread_never_attached() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let mut executors: Vec<_> = (0..300).map(|value| install(&mut thread, value)).collect();
        let slot = arena.slot();
        slot.install(executors.pop().unwrap()).unwrap();
        let also = executors.pop().unwrap();
        thread::spawn(move || {
            drop(executors);
            drop(slot.replace(also).unwrap());
            drop(slot);
        })
        .join()
        .unwrap();
        let stats = arena.stats();
        assert_eq!((stats.live_executors, stats.retired_executors), (0, 300), "{stats:?}");
        drop(thread);
        expect_reclaimed(&arena);
        assert_eq!(arena.stats().recycles, 300);
    });
}

#[test]
fn h10_orphans_are_adopted_by_those_who_install() {
    // Without anybody calling `collect`.
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        for round in 0..60 {
            let executors: Vec<_> =
                (0..20).map(|_| thread.install(&[0x90; 10_000], &[]).unwrap()).collect();
            thread::spawn(move || drop(executors)).join().unwrap();
            let stats = arena.stats();
            assert!(stats.committed_bytes <= 4 << 20, "round {round}: {stats:?}");
        }
        drop(thread);
        expect_reclaimed(&arena);
    });
}

thread_local! {
    static KEPT: RefCell<Vec<Executor>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn h10_drops_in_a_thread_local_destructor() {
    each_strategy(|arena| {
        for handle_first in [true, false] {
            let theirs = arena.clone();
            thread::spawn(move || {
                // Destructors run in the reverse of the order of first use:
                // the executors die with the handle gone, or still there.
                if !handle_first {
                    KEPT.with(|kept| kept.borrow_mut().reserve(1));
                }
                theirs
                    .with_thread(|thread| {
                        for value in 0..100 {
                            let executor = install(thread, value);
                            assert_eq!(call(thread, &executor), value);
                            KEPT.with(|kept| kept.borrow_mut().push(executor));
                        }
                    })
                    .unwrap();
            })
            .join()
            .unwrap();
        }
        assert_eq!(arena.stats().retires, 200);
        expect_reclaimed(&arena);
    });
}

#[test]
fn h10_drops_during_unwinding() {
    each_strategy(|arena| {
        let mut thread = arena.attach().unwrap();
        let before = install(&mut thread, 1);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _executor = install(&mut thread, 2);
            let _slot = arena.slot();
            _slot.install(install(&mut thread, 3)).unwrap();
            let mut unwritten = thread.reserve(CodeLayout::new(500)).unwrap();
            let mut scope = thread.write();
            let mut written = scope.reserve(CodeLayout::new(500)).unwrap();
            scope.write_at(&mut written, 0, &[0x90; 500]).unwrap();
            scope.bytes(&mut unwritten).unwrap()[0] = 1;
            panic!("with everything open");
        }));
        assert!(unwound.is_err());
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let slot = arena.slot();
            slot.install(install(&mut thread, 4)).unwrap();
            let mut guard = thread.pin();
            let mut running = guard.enter(&slot).unwrap();
            running.park(|| panic!("while parked inside an executor"));
        }));
        assert!(unwound.is_err());
        assert_eq!(call(&thread, &before), 1);
        let stats = arena.stats();
        assert_eq!((stats.live_executors, stats.retires), (1, 3), "{stats:?}");
        drop(before);
        // Nothing is pinned or held for ever.
        drop(thread);
        expect_reclaimed(&arena);
    });
}

#[test]
fn h10_drops_after_the_arena_handle_is_gone() {
    let body = |arena: Arena| {
        let start = arena.span().start;
        let mut thread = arena.attach().unwrap();
        let slot = arena.slot();
        let executors: Vec<_> = (0..100).map(|value| install(&mut thread, value)).collect();
        slot.install(install(&mut thread, 100)).unwrap();
        drop((arena, thread));
        thread::spawn(move || {
            assert_eq!(call_at(executors[50].addr()), 50);
            drop(executors);
            assert!(maps::at(start).is_some());
            drop(slot);
            assert!(maps::at(start).is_none(), "unmapped with the last handle");
        })
        .join()
        .unwrap();
    };
    let test = "h10_drops_after_the_arena_handle_is_gone";
    child::each_strategy(test, body, |_, ended| ended.expect_success());
}

// 11. Deferred work under somebody's pin, [D2].

#[cfg(target_os = "linux")]
#[test]
fn h11_a_pin_makes_no_system_call_whatever_is_deferred() {
    static PHASE: AtomicUsize = AtomicUsize::new(0);
    fn wait_for(phase: usize) {
        while PHASE.load(Ordering::Acquire) < phase {
            std::hint::spin_loop();
        }
    }
    let body = |arena: Arena| {
        let theirs = arena.clone();
        let slot = std::sync::Arc::new(arena.slot());
        let their_slot = slot.clone();
        let mut thread = arena.attach().unwrap();
        slot.install(install(&mut thread, 9)).unwrap();
        thread::spawn(move || {
            let thread = theirs.attach().unwrap();
            let guard = thread.pin();
            PHASE.store(1, Ordering::Release);
            wait_for(2);
            // From here on nothing stands in the way of what was retired.
            drop(guard);
            filter::forbid_all();
            for _ in 0..20_000 {
                let mut guard = thread.pin();
                assert!(their_slot.load(&guard).is_some());
                guard.safepoint();
            }
            PHASE.store(3, Ordering::Release);
            // Ending a thread takes system calls.
            loop {
                std::hint::spin_loop();
            }
        });
        wait_for(1);
        // Retired while the other is pinned, so that none of it is over yet.
        let dead: Vec<_> = (0..2000).map(|_| thread.install(&[0x90; 300], &[]).unwrap()).collect();
        drop(dead);
        let before = arena.stats();
        assert!(before.retired_executors > 1000, "{before:?}");
        PHASE.store(2, Ordering::Release);
        wait_for(3);
        assert_eq!(arena.stats().recycles, before.recycles, "pins recycle nothing");
        thread.collect();
        assert!(arena.stats().recycles >= before.recycles + before.retired_executors);
        println!("\npins: done");
        // Without waiting for the other thread, which cannot end.
        std::process::exit(0);
    };
    let test = "h11_a_pin_makes_no_system_call_whatever_is_deferred";
    child::each_strategy(test, body, |strategy, ended| {
        ended.expect_success();
        assert_eq!(ended.said("pins"), Some("done"), "{strategy}: {ended:?}");
    });
}

// 12. One thread asleep, [E1] [E2].

/// Installs and drops `bytes` of code in pieces; returns the most that was
/// retired at once.
fn churn(arena: &Arena, thread: &mut ThreadHandle, bytes: usize) -> u64 {
    const PIECE: [u8; 10_000] = [0x90; 10_000];
    let mut most = 0;
    for _ in 0..bytes / PIECE.len() {
        drop(thread.install(&PIECE, &[]).unwrap());
        most = most.max(arena.stats().retired_bytes);
    }
    most
}

/// A region that is used up sooner than the tests here end, if what is dropped
/// in it does not come back.
fn small(builder: Builder) -> Builder {
    builder.reserve(4 << 20)
}

/// What the arena may hold of dropped code when nobody is in its way.
const BOUND: u64 = 1 << 20;

#[test]
fn h12_a_thread_asleep_while_pinned_keeps_what_was_dropped_and_no_longer() {
    each_strategy_with(small, |arena| {
        let (asleep, awake) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|threads| {
            threads.spawn(|| {
                let thread = arena.attach().unwrap();
                let _guard = thread.pin();
                asleep.wait();
                awake.wait();
            });
            let mut thread = arena.attach().unwrap();
            asleep.wait();
            churn(&arena, &mut thread, 2 << 20);
            let stats = arena.stats();
            assert!(stats.retired_bytes > 1 << 20, "a pin protects all it might see: {stats:?}");
            // The arena goes on until it is full, and then says why.
            let error = (0..).find_map(|_| thread.install(&[0x90; 100_000], &[]).err());
            let text = std::error::Error::source(&error.unwrap()).unwrap().to_string();
            assert!(text.contains("retired and not yet reclaimable"), "{text}");
            awake.wait();
        });
        let mut thread = arena.attach().unwrap();
        let executor = thread.install(&[0x90; 100_000], &[]).unwrap();
        drop((executor, thread));
        expect_reclaimed(&arena);
    });
}

#[test]
fn h12_a_thread_asleep_while_parked_holds_nothing_up() {
    each_strategy_with(small, |arena| {
        let (asleep, awake) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|threads| {
            threads.spawn(|| {
                let thread = arena.attach().unwrap();
                thread.pin().park(|| {
                    asleep.wait();
                    awake.wait();
                });
            });
            let mut thread = arena.attach().unwrap();
            asleep.wait();
            let most = churn(&arena, &mut thread, 6 << 20);
            assert!(most < BOUND, "{most} bytes retired at once");
            thread.collect();
            assert_eq!(arena.stats().retired_bytes, 0);
            awake.wait();
        });
        expect_reclaimed(&arena);
    });
}

/// What code that calls [`sleep`] passes to it.
struct Sleeper<'a, 'g> {
    running: Running<'g>,
    asleep: &'a Barrier,
    awake: &'a Barrier,
}

/// A helper that machine code calls, and that blocks.
extern "C" fn sleep(sleeper: usize) {
    let sleeper = std::ptr::with_exposed_provenance_mut::<Sleeper<'_, '_>>(sleeper);
    // SAFETY: `run_and_sleep` passes its own, which nobody else uses now.
    let sleeper = unsafe { &mut *sleeper };
    sleeper.running.park(|| {
        sleeper.asleep.wait();
        sleeper.awake.wait();
    });
}

/// Runs the executor in `slot`, a [`code::call_helper`], which sleeps.
fn run_and_sleep(arena: &Arena, slot: &jit_arena::Slot, asleep: &Barrier, awake: &Barrier) -> u32 {
    let thread = arena.attach().unwrap();
    let mut guard = thread.pin();
    let running = guard.enter(slot).unwrap();
    // SAFETY: the code is such a function; `running` holds it.
    let function: code::CallsHelper = unsafe { running.cast() };
    let mut sleeper = Sleeper { running, asleep, awake };
    function(sleep, (&raw mut sleeper).expose_provenance())
}

#[test]
fn h12_a_thread_asleep_inside_an_executor_holds_just_that() {
    each_strategy_with(small, |arena| {
        let (asleep, awake) = (Barrier::new(2), Barrier::new(2));
        let mut thread = arena.attach().unwrap();
        let slot = arena.slot();
        slot.install(thread.install(&code::call_helper(0xA11), &[]).unwrap()).unwrap();
        let (entry, bytes) = thread::scope(|threads| {
            let sleeper = threads.spawn(|| run_and_sleep(&arena, &slot, &asleep, &awake));
            asleep.wait();
            // The code it sleeps in is dropped.
            let dead = slot.invalidate().unwrap();
            let (entry, bytes) = (dead.addr(), dead.code_len());
            drop(dead);
            let most = churn(&arena, &mut thread, 6 << 20);
            assert!(most < BOUND, "{most} bytes retired at once");
            thread.collect();
            let stats = arena.stats();
            assert_eq!(stats.retired_executors, 1, "{stats:?}");
            assert_eq!(stats.retired_bytes, bytes as u64, "{stats:?}");
            arena.verify().unwrap();
            assert_eq!(common::bytes_at(entry, bytes), code::call_helper(0xA11));
            awake.wait();
            // It goes on in code that was dropped six megabytes ago.
            assert_eq!(sleeper.join().unwrap(), 0xA11);
            (entry, bytes)
        });
        thread.collect();
        assert_eq!(arena.stats().retired_executors, 0, "{bytes} bytes at {entry:#x}");
        drop(thread);
        drop(slot);
        expect_reclaimed(&arena);
    });
}

/// Ends a loop, also where the test fails: its thread is waited for.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn h12_a_thread_that_loops_lets_the_epoch_move_at_safepoints() {
    each_strategy_with(small, |arena| {
        let stop = AtomicBool::new(false);
        let (running, dropped) = (Barrier::new(2), Barrier::new(2));
        let slot = arena.slot();
        let mut thread = arena.attach().unwrap();
        slot.install(install(&mut thread, 5)).unwrap();
        thread::scope(|threads| {
            threads.spawn(|| {
                let thread = arena.attach().unwrap();
                let mut guard = thread.pin();
                let mut executor = guard.enter(&slot).unwrap();
                running.wait();
                dropped.wait();
                // A loop that never leaves its executor.
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: such a function, and held.
                    let function: extern "C" fn() -> u32 = unsafe { executor.cast() };
                    assert_eq!(function(), 5);
                    executor.safepoint();
                }
            });
            running.wait();
            drop(slot.invalidate());
            dropped.wait();
            // Where the loop is preempted it is pinned until it runs again, and
            // the region may fill up: what it lets go of then comes back.
            let _stops = Stops(&stop);
            let mut installed = 0;
            while installed < 600 {
                match thread.install(&[0x90; 10_000], &[]) {
                    Ok(executor) => {
                        drop(executor);
                        installed += 1;
                    }
                    Err(InstallError::Reserve(ReserveError::Exhausted { .. })) => {
                        thread::yield_now();
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            while arena.stats().retired_executors > 1 {
                thread.collect();
                thread::yield_now();
            }
            assert_eq!(arena.stats().retired_executors, 1, "the one it runs");
        });
        drop(thread);
        drop(slot);
        expect_reclaimed(&arena);
    });
}
