//! That the machine allows what real ones do, and notices what they would
//! punish.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::sync::{AtomicUsize, Ordering, explore};

const PAGE: usize = 4096;

fn dual(machine: &Machine) -> (usize, usize) {
    let file = machine.create_file("test", 4 * PAGE).unwrap();
    let run = machine
        .map(Backing::File(file, 0), Place::Anywhere, 4 * PAGE, Access::ReadExecute)
        .unwrap();
    let write =
        machine.map(Backing::File(file, 0), Place::Anywhere, 4 * PAGE, Access::ReadWrite).unwrap();
    machine.seal_file(file).unwrap();
    machine.close_file(file);
    // SAFETY: just mapped, writable.
    unsafe { machine.populate(write, 2 * PAGE) }.unwrap();
    (run, write)
}

fn write(machine: &Machine, to: usize, bytes: &[u8]) {
    // SAFETY: the simulated machine checks what a real one would rely on.
    unsafe { machine.copy_in(to, bytes) }
}

fn traps(machine: &Machine, to: usize, len: usize) {
    // SAFETY: as in `write`.
    unsafe { machine.fill_traps(to, len) }
}

fn load(machine: &Machine, addr: usize) -> u64 {
    // SAFETY: as in `write`.
    unsafe { machine.load_word(addr) }
}

fn protect(machine: &Machine, addr: usize, access: Access, key: Option<Key>) {
    // SAFETY: as in `write`.
    unsafe { machine.protect(addr, PAGE, access, key) }.unwrap();
}

/// Runs a body and expects the machine, or the checker, to fail it so.
fn fails(expected: &str, body: impl Fn() + Send + Sync + 'static) {
    let panic = catch_unwind(AssertUnwindSafe(|| explore(body))).expect_err("no failure");
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("");
    assert!(message.contains(expected), "failed with `{message}`, not with `{expected}`");
}

#[test]
fn m1_what_one_view_writes_the_other_runs_and_reads() {
    explore(|| {
        let machine = Machine::new(Options::default());
        let (run, writable) = dual(&machine);
        write(&machine, writable + 60, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(machine.fetch(run + 60), 0x0403_0201);
        assert_eq!(machine.fetch(run + 64), 0x0807_0605);
        assert_eq!(load(&machine, run + 64), 0x0807_0605);
        traps(&machine, writable, 2 * PAGE);
        assert_eq!(load(&machine, run + PAGE + 8), 0xCCCC_CCCC_CCCC_CCCC);
        assert_eq!(machine.present(), 2 * PAGE);
        // SAFETY: nothing there is needed.
        unsafe { machine.discard(writable, PAGE) }.unwrap();
        assert_eq!(machine.present(), PAGE);
        assert_eq!(load(&machine, run), 0);
    });
}

#[test]
fn w1_no_page_becomes_writable_and_executable() {
    fails("[W1] becomes writable and executable", || {
        let machine = Machine::new(Options::default());
        let (run, _) = dual(&machine);
        protect(&machine, run, Access::ReadWriteExecute, None);
    });
    // Not even to one thread, for a moment.
    fails("[W1] becomes writable and executable", || {
        let machine = Machine::new(Options::default());
        let key = machine.key_alloc().unwrap();
        let (run, _) = dual(&machine);
        protect(&machine, run, Access::ReadWrite, Some(key));
        protect(&machine, run, Access::ReadWriteExecute, Some(key));
        machine.set_key_access(key, KeyAccess::Open);
    });
}

#[test]
fn m1_keys_govern_writes_and_reads_but_no_fetches() {
    explore(|| {
        let machine = Machine::new(Options { allow_wx: true, ..Options::default() });
        let (run, writable) = dual(&machine);
        write(&machine, writable, &[7]);
        let key = machine.key_alloc().unwrap();
        protect(&machine, run, Access::ReadWriteExecute, Some(key));
        assert_eq!(machine.key_access(key), KeyAccess::Closed);
        assert_eq!(machine.fetch(run), 7);
        machine.set_key_access(key, KeyAccess::ReadOnly);
        assert_eq!(load(&machine, run), 7);
        machine.set_key_access(key, KeyAccess::Open);
        write(&machine, run, &[8]);
        machine.set_key_access(key, KeyAccess::Closed);
    });
    for access in [KeyAccess::Closed, KeyAccess::ReadOnly] {
        fails("is not writable to it", move || {
            let machine = Machine::new(Options::default());
            let (_, writable) = dual(&machine);
            let key = machine.key_alloc().unwrap();
            protect(&machine, writable, Access::ReadWrite, Some(key));
            machine.set_key_access(key, access);
            write(&machine, writable, &[7]);
        });
    }
    fails("is not readable to it", || {
        let machine = Machine::new(Options::default());
        let (_, writable) = dual(&machine);
        let key = machine.key_alloc().unwrap();
        protect(&machine, writable, Access::ReadWrite, Some(key));
        load(&machine, writable);
    });
}

#[test]
fn w2_a_thread_that_could_write_does_not_run() {
    fails("[W2] runs inside a write scope", || {
        let machine = Machine::new(Options::default());
        let (run, writable) = dual(&machine);
        write(&machine, writable, &[7]);
        let key = machine.key_alloc().unwrap();
        machine.set_key_access(key, KeyAccess::Open);
        machine.fetch(run);
    });
}

#[test]
fn m1_rights_are_each_threads_own_and_inherited_at_birth_only() {
    explore(|| {
        let machine = Machine::new(Options::default());
        let key = machine.key_alloc().unwrap();
        machine.set_key_access(key, KeyAccess::Open);
        let other = machine.clone();
        let born_inside = spawn(&machine, move || {
            assert_eq!(other.key_access(key), KeyAccess::Open);
            other.set_key_access(key, KeyAccess::Closed);
        });
        let other = machine.clone();
        let older = thread::spawn(move || assert_eq!(other.key_access(key), KeyAccess::Closed));
        born_inside.join().unwrap();
        older.join().unwrap();
        assert_eq!(machine.key_access(key), KeyAccess::Open);
    });
}

#[test]
fn m1_apple_toggle_flips_jit_memory_for_one_thread() {
    let options = Options { jit: true, ..Options::default() };
    let map = |machine: &Machine| {
        let addr =
            machine.map(Backing::Jit, Place::Anywhere, PAGE, Access::ReadWriteExecute).unwrap();
        machine.set_jit_writable(true);
        // SAFETY: just mapped, writable.
        unsafe { machine.populate(addr, PAGE) }.unwrap();
        write(machine, addr, &[7]);
        addr
    };
    explore(move || {
        let machine = Machine::new(options);
        let addr = map(&machine);
        machine.set_jit_writable(false);
        assert_eq!(machine.fetch(addr), 7);
    });
    fails("is not executable to it", move || {
        let machine = Machine::new(options);
        let addr = map(&machine);
        machine.fetch(addr);
    });
    fails("is not writable to it", move || {
        let machine = Machine::new(options);
        let addr = map(&machine);
        machine.set_jit_writable(false);
        write(&machine, addr, &[8]);
    });
}

#[test]
fn x2_a_core_runs_stale_bytes_until_it_is_synchronised() {
    let prepare = || {
        let machine = Machine::new(Options::default());
        machine.register_sync_core().unwrap();
        let (run, writable) = dual(&machine);
        write(&machine, writable, &[7]);
        assert_eq!(machine.fetch(run), 7);
        write(&machine, writable, &[8]);
        (machine, run)
    };
    explore(move || {
        let (machine, run) = prepare();
        machine.sync_core().unwrap();
        assert_eq!(machine.fetch(run), 8);
    });
    fails("[X2] stale", move || {
        let (machine, run) = prepare();
        machine.fetch(run);
    });
}

#[test]
fn x2_incoherent_caches_need_the_data_cleaned_and_the_run_address_invalidated() {
    // Writes over code that has been run; `clean` and `invalidate` say what is
    // done about it.
    let rewrite = |clean: bool, invalidate: bool| {
        let machine = Machine::new(Options { coherent: false, ..Options::default() });
        let (run, writable) = dual(&machine);
        for byte in [7, 8] {
            write(&machine, writable, &[byte]);
            if clean || byte == 7 {
                // SAFETY: mapped, and the machine checks.
                unsafe { machine.clean_data_cache(writable, 1) };
            }
            if invalidate || byte == 7 {
                // SAFETY: mapped, and the machine checks.
                unsafe { machine.invalidate_instruction_cache(run, 1) };
            }
            assert_eq!(machine.fetch(run), u64::from(byte));
        }
    };
    explore(move || rewrite(true, true));
    fails("[X2] stale", move || rewrite(false, true));
    fails("[X2] stale", move || rewrite(true, false));
    fails("nothing runs at", || {
        let machine = Machine::new(Options { coherent: false, ..Options::default() });
        let (_, writable) = dual(&machine);
        // SAFETY: mapped, and the machine checks.
        unsafe { machine.invalidate_instruction_cache(writable, 1) };
    });
}

#[test]
fn d3_running_traps_or_nothing_fails() {
    fails("[D3] traps", || {
        let machine = Machine::new(Options::default());
        let (run, writable) = dual(&machine);
        traps(&machine, writable, PAGE);
        machine.fetch(run + 64);
    });
    fails("was never written", || {
        let machine = Machine::new(Options::default());
        let (run, _) = dual(&machine);
        machine.fetch(run);
    });
    fails("is mapped nowhere", || {
        let machine = Machine::new(Options::default());
        let (run, _) = dual(&machine);
        // SAFETY: nothing uses it but the next line, which is to fail.
        unsafe { machine.unmap(run, PAGE) }.unwrap();
        machine.fetch(run);
    });
}

#[test]
fn p2_writes_need_memory_present() {
    fails("[P2] is not present", || {
        let machine = Machine::new(Options::default());
        let (_, writable) = dual(&machine);
        write(&machine, writable + 3 * PAGE, &[7]);
    });
    explore(|| {
        let machine = Machine::new(Options { memory: 3 * PAGE, ..Options::default() });
        let (_, writable) = dual(&machine);
        // SAFETY: mapped, writable.
        let refused = unsafe { machine.populate(writable, 4 * PAGE) }.unwrap_err();
        assert_eq!(refused.errno, libc::ENOMEM);
    });
}

#[test]
fn m1_mappings_split_where_rights_change_and_go_where_unmapped() {
    explore(|| {
        let machine = Machine::new(Options::default());
        let addr = machine.map(Backing::Private, Place::Anywhere, 4 * PAGE, Access::None).unwrap();
        protect(&machine, addr + PAGE, Access::ReadWrite, None);
        // SAFETY: mapped, writable.
        unsafe { machine.populate(addr + PAGE, PAGE) }.unwrap();
        write(&machine, addr + PAGE, &[7]);
        protect(&machine, addr + PAGE, Access::ReadExecute, None);
        assert_eq!(machine.fetch(addr + PAGE), 7);
        // SAFETY: nothing uses it.
        unsafe { machine.unmap(addr, PAGE) }.unwrap();
        assert_eq!(machine.mapped(), 3 * PAGE);
        // SAFETY: nothing uses it.
        unsafe { machine.unmap(addr + PAGE, 3 * PAGE) }.unwrap();
        assert_eq!(machine.mapped(), 0);
    });
}

#[test]
fn m1_shared_anonymous_memory_duplicates_with_its_rights() {
    explore(|| {
        let machine = Machine::new(Options { files: false, ..Options::default() });
        assert_eq!(machine.create_file("x", PAGE).unwrap_err().errno, libc::ENOSYS);
        let addr = machine
            .map(Backing::SharedAnonymous, Place::Near(0x10_0000), 2 * PAGE, Access::ReadExecute)
            .unwrap();
        assert_eq!(addr, 0x10_0000);
        // SAFETY: shared, and whole.
        let twin = unsafe { machine.duplicate(addr, 2 * PAGE) }.unwrap();
        protect(&machine, twin, Access::ReadWrite, None);
        // SAFETY: mapped, writable.
        unsafe { machine.populate(twin, PAGE) }.unwrap();
        write(&machine, twin, &[7]);
        assert_eq!(machine.fetch(addr), 7);
    });
    fails("is not inside one shared mapping", || {
        let machine = Machine::new(Options::default());
        let addr = machine.map(Backing::Private, Place::Anywhere, PAGE, Access::ReadWrite).unwrap();
        // SAFETY: the machine checks.
        let _ = unsafe { machine.duplicate(addr, PAGE) };
    });
}

#[test]
fn m1_keys_run_out_and_come_back() {
    explore(|| {
        let machine = Machine::new(Options { keys: 2, ..Options::default() });
        let first = machine.key_alloc().unwrap();
        machine.key_alloc().unwrap();
        assert_eq!(machine.key_alloc().unwrap_err().errno, libc::ENOSPC);
        // SAFETY: nothing carries it.
        unsafe { machine.key_free(first) };
        assert_eq!(machine.key_alloc(), Ok(first));
        let none = Machine::new(Options { keys: 0, ..Options::default() });
        assert_eq!(none.key_alloc().unwrap_err().errno, libc::EINVAL);
    });
}

/// Writes code, then says so to a thread that runs it.
fn hand_over(store: Ordering, load: Ordering) {
    let machine = Machine::new(Options::default());
    let (run, writable) = dual(&machine);
    traps(&machine, writable, PAGE);
    let ready = Arc::new(AtomicUsize::new(0));
    let runner = {
        let (machine, ready) = (machine.clone(), Arc::clone(&ready));
        thread::spawn(move || {
            if ready.load(load) == 1 {
                assert_eq!(machine.fetch(run), 7);
            }
        })
    };
    write(&machine, writable, &7_u64.to_le_bytes());
    ready.store(1, store);
    runner.join().unwrap();
}

#[test]
fn x1_ordered_hand_over_is_no_race() {
    explore(|| hand_over(Ordering::Release, Ordering::Acquire));
}

#[test]
#[cfg(jit_arena_loom)]
fn x1_unordered_hand_over_is_a_race() {
    fails("Causality violation", || hand_over(Ordering::Relaxed, Ordering::Acquire));
    fails("Causality violation", || hand_over(Ordering::Release, Ordering::Relaxed));
}

#[test]
#[cfg(jit_arena_loom)]
fn d3_traps_over_a_runner_are_a_race() {
    fails("Causality violation", || {
        let machine = Machine::new(Options::default());
        let (run, writable) = dual(&machine);
        write(&machine, writable, &[7]);
        let runner = {
            let machine = machine.clone();
            thread::spawn(move || machine.fetch(run))
        };
        traps(&machine, writable, PAGE);
        runner.join().unwrap();
    });
}

#[test]
#[cfg(jit_arena_loom)]
fn m1_unordered_protection_is_a_race() {
    fails("Causality violation", || {
        let machine = Machine::new(Options::default());
        let (run, writable) = dual(&machine);
        write(&machine, writable, &[7]);
        assert_eq!(machine.fetch(run), 7);
        let runner = {
            let machine = machine.clone();
            thread::spawn(move || machine.fetch(run))
        };
        protect(&machine, run, Access::ReadExecute, None);
        runner.join().unwrap();
    });
}
