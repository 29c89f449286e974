//! What only a machine with protection keys can show: whose rights are what,
//! in threads older and younger than a key and in signal handlers.
//!
//! Each case runs in a process of its own, which has all keys to itself and
//! may install handlers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use super::*;
use crate::platform::{Key, OsError};
use crate::region::RegionRequest;
use crate::report::Outcome;

/// Runs `body` in a process of its own if this machine has keys.
fn with_keys(name: &str, body: fn()) {
    let _keys = hold_keys();
    let platform = native();
    match platform.key_alloc() {
        // SAFETY: no mapping carries it.
        Ok(key) => unsafe { platform.key_free(key) },
        Err(why) => return missing(name, "pkey", &why),
    }
    in_own_process("keys", name, body);
}

const KEYED: [(Strategy, MemoryKind); 3] = [
    (Strategy::DualPkey, MemoryKind::Memfd),
    (Strategy::DualPkey, MemoryKind::SharedAnonymous),
    (Strategy::SinglePkey, MemoryKind::Private),
];

/// What a thread outside any scope may do under the strategy's key.
fn outside(strategy: Strategy) -> KeyAccess {
    if strategy == Strategy::DualPkey { KeyAccess::Closed } else { KeyAccess::ReadOnly }
}

/// The calling thread's rights, seen without changing them.
fn rights(region: &Region) -> KeyAccess {
    let before = region.protection().open(region.platform());
    region.protection().close(region.platform(), before);
    before.0
}

#[test]
fn keys_are_chosen_by_default_where_they_can_be_had() {
    with_keys("keys_are_chosen_by_default_where_they_can_be_had", || {
        let request = RegionRequest {
            name: "keys",
            reserve: MIB,
            near: None,
            seeds: None,
            strategy: None,
            huge_pages: false,
            anonymous: false,
        };
        let (_region, report) = Region::create(native(), &request).unwrap();
        assert_eq!(report.strategy, Strategy::DualPkey, "{report}");
        assert_eq!(report.attempts.len(), 1, "{report}");
    });
}

#[test]
fn running_out_of_keys_means_the_next_strategy() {
    with_keys("running_out_of_keys_means_the_next_strategy", || {
        let platform = native();
        let mut keys: Vec<Key> = std::iter::from_fn(|| platform.key_alloc().ok()).collect();
        assert!(!keys.is_empty());
        let request = RegionRequest {
            name: "keys",
            reserve: MIB,
            near: None,
            seeds: None,
            strategy: None,
            huge_pages: false,
            anonymous: false,
        };
        let (region, report) = Region::create(Arc::clone(&platform), &request).unwrap();
        assert_eq!(report.strategy, Strategy::DualTransient, "{report}");
        assert!(
            matches!(
                report.attempts[0].outcome,
                Outcome::Refused(OsError { call: "pkey_alloc", errno: libc::ENOSPC, .. })
            ),
            "{report}"
        );
        assert!(matches!(report.attempts[1].outcome, Outcome::Skipped(_)), "{report}");
        assert_eq!(call(write(&region, 0, &returning(3))), 3);
        // With one key back, one region gets it, and gives it back each time.
        // SAFETY: no mapping carries it.
        unsafe { platform.key_free(keys.pop().unwrap()) };
        for _ in 0..20 {
            let (_region, report) = Region::create(Arc::clone(&platform), &request).unwrap();
            assert_eq!(report.strategy, Strategy::DualPkey, "{report}");
        }
    });
}

#[test]
fn w2_scopes_nest_and_restore_what_they_found() {
    with_keys("w2_scopes_nest_and_restore_what_they_found", || {
        for (strategy, memory) in KEYED {
            let region = rung(strategy, memory).unwrap();
            let (platform, protection) = (region.platform(), region.protection());
            assert_eq!(rights(&region), outside(strategy));
            let outer = protection.open(platform);
            let inner = protection.open(platform);
            assert_eq!(inner.0, KeyAccess::Open);
            protection.close(platform, inner);
            assert_eq!(rights(&region), KeyAccess::Open, "still inside the outer scope");
            protection.close(platform, outer);
            assert_eq!(rights(&region), outside(strategy));
        }
    });
}

#[test]
fn w2_a_thread_born_inside_a_scope_loses_its_rights_when_it_attaches() {
    with_keys("w2_a_thread_born_inside_a_scope_loses_its_rights_when_it_attaches", || {
        for (strategy, memory) in KEYED {
            let region = rung(strategy, memory).unwrap();
            let (platform, protection) = (region.platform(), region.protection());
            let before = protection.open(platform);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    assert_eq!(rights(&region), KeyAccess::Open, "threads inherit");
                    protection.close_rights(platform);
                    assert_eq!(rights(&region), outside(strategy));
                });
            });
            protection.close(platform, before);
        }
    });
}

#[test]
fn threads_older_than_the_key_run_and_read_code() {
    with_keys("threads_older_than_the_key_run_and_read_code", || {
        let (give, take) = mpsc::channel::<(Arc<Region>, usize)>();
        let old = std::thread::spawn(move || {
            for (region, entry) in take {
                assert_eq!(rights(&region), KeyAccess::Closed, "never attached");
                assert_eq!(call(entry), 5);
                assert_eq!(load(&region, entry).to_ne_bytes()[..4], returning(5)[..4]);
                assert_eq!(rights(&region), KeyAccess::Closed, "as before the load");
                // Attached, it writes like any other.
                region.protection().close_rights(region.platform());
                assert_eq!(call(write(&region, GRANULE, &returning(6))), 6);
            }
        });
        for (strategy, memory) in KEYED {
            let region = Arc::new(rung(strategy, memory).unwrap());
            let entry = write(&region, 0, &returning(5));
            give.send((region, entry)).unwrap();
        }
        drop(give);
        old.join().unwrap();
    });
}

/// For the handler: the region it looks at, and what it saw.
static REGION: Mutex<Option<Arc<Region>>> = Mutex::new(None);
static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

extern "C" fn look(_signal: i32) {
    // Raised by the thread itself, which does not hold the lock.
    let region = REGION.lock().unwrap();
    let region = region.as_ref().unwrap();
    let entry = region.span().start;
    SEEN[0].store(u64::from(call(entry)), Ordering::Relaxed);
    SEEN[1].store(load(region, entry), Ordering::Relaxed);
    SEEN[2].store(u64::from(rights(region) == KeyAccess::Closed), Ordering::Relaxed);
    SEEN[3].fetch_add(1, Ordering::Relaxed);
}

#[test]
fn w2_handlers_run_without_rights_and_scopes_survive_them() {
    with_keys("w2_handlers_run_without_rights_and_scopes_survive_them", || {
        // SAFETY: installs a handler; the process is this test's own.
        unsafe { libc::signal(libc::SIGUSR1, look as *const () as usize) };
        for (strategy, memory) in KEYED {
            let region = Arc::new(rung(strategy, memory).unwrap());
            let entry = write(&region, 0, &returning(8));
            *REGION.lock().unwrap() = Some(Arc::clone(&region));
            let word = load(&region, entry);
            let raise_and_check = || {
                let times = SEEN[3].load(Ordering::Relaxed);
                // SAFETY: a signal to this thread, handled above.
                assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
                assert_eq!(SEEN[3].load(Ordering::Relaxed), times + 1);
                assert_eq!(SEEN[0].load(Ordering::Relaxed), 8, "code runs in the handler");
                assert_eq!(SEEN[1].load(Ordering::Relaxed), word, "and can be read");
                assert_eq!(SEEN[2].load(Ordering::Relaxed), 1, "but the key is closed");
            };
            raise_and_check();
            assert_eq!(rights(&region), outside(strategy));
            let span = Span::new(region.span().start + GRANULE, GRANULE);
            in_window(&region, span, |window| {
                raise_and_check();
                assert_eq!(rights(&region), KeyAccess::Open, "the scope has them again");
                // SAFETY: inside an open window of ours.
                unsafe { region.platform().copy_in(window.writable_at(span.start), &[1; 8]) };
            });
            assert_eq!(load(&region, span.start), u64::from_ne_bytes([1; 8]));
            *REGION.lock().unwrap() = None;
        }
    });
}

/// Why strategies open the key around `populate`, and need not around
/// `discard`.
#[test]
fn the_system_faults_pages_in_with_the_callers_rights() {
    with_keys("the_system_faults_pages_in_with_the_callers_rights", || {
        let platform = native();
        let len = 4 * platform.system_page();
        for backing in [Backing::SharedAnonymous, Backing::Private] {
            let key = platform.key_alloc().unwrap();
            let addr = platform.map(backing, Place::Anywhere, len, Access::None).unwrap();
            // SAFETY: mapped just now, ours.
            unsafe { platform.protect(addr, len, Access::ReadWrite, Some(key)) }.unwrap();
            platform.set_key_access(key, KeyAccess::Closed);
            // SAFETY: a writable mapping of ours.
            let closed = unsafe { platform.populate(addr, len) };
            assert_eq!(closed.unwrap_err().errno, libc::EFAULT, "{backing:?}");
            platform.set_key_access(key, KeyAccess::Open);
            // SAFETY: as above.
            unsafe { platform.populate(addr, len) }.unwrap();
            // SAFETY: as above, and writable to this thread now.
            unsafe { platform.copy_in(addr, &[1; 8]) };
            platform.set_key_access(key, KeyAccess::Closed);
            // SAFETY: whole pages that nobody needs.
            unsafe { platform.discard(addr, len) }.unwrap();
            platform.set_key_access(key, KeyAccess::ReadOnly);
            // SAFETY: aligned and readable now.
            assert_eq!(unsafe { platform.load_word(addr) }, 0);
            // SAFETY: ours, not used again.
            unsafe { platform.unmap(addr, len) }.unwrap();
            // SAFETY: the only mapping that carried it is gone.
            unsafe { platform.key_free(key) };
        }
    });
}
