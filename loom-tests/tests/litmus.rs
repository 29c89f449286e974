//! What loom and shuttle see and do not see, as the models rely on it.
//!
//! Each test states one fact by the set of outcomes a small program can have.
//! Where a fact is a blind spot or a false alarm, the test fails when a later
//! version of the tool changes it: the notes in the models then change too.

#[cfg(jit_arena_loom)]
mod in_loom {
    use std::collections::BTreeSet;
    use std::fmt::Debug;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
    use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};
    use loom::thread;

    /// All outcomes of a program, and in how many schedules loom ran it.
    fn outcomes<T: Ord + Debug + Send + 'static>(program: fn() -> T) -> (BTreeSet<T>, usize) {
        let seen = std::sync::Arc::new(Mutex::new((BTreeSet::new(), 0)));
        let inner = std::sync::Arc::clone(&seen);
        loom::model(move || {
            let outcome = program();
            let mut seen = inner.lock().unwrap();
            seen.0.insert(outcome);
            seen.1 += 1;
        });
        std::mem::take(&mut *seen.lock().unwrap())
    }

    fn pair() -> (Arc<[AtomicUsize; 2]>, Arc<[AtomicUsize; 2]>) {
        let pair = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        (Arc::clone(&pair), pair)
    }

    /// Store to one, load from the other, both ways.
    fn store_buffering(access: Ordering, fences: bool) -> (usize, usize) {
        let (mine, theirs) = pair();
        let half = move |x: &AtomicUsize, y: &AtomicUsize| {
            x.store(1, access);
            if fences {
                fence(SeqCst);
            }
            y.load(access)
        };
        let other = thread::spawn(move || half(&theirs[0], &theirs[1]));
        let here = half(&mine[1], &mine[0]);
        (here, other.join().unwrap())
    }

    #[test]
    fn seqcst_fences_order_stores_before_loads() {
        let (seen, _) = outcomes(|| store_buffering(Relaxed, true));
        assert_eq!(seen, BTreeSet::from([(0, 1), (1, 0), (1, 1)]));
    }

    #[test]
    fn without_fences_both_loads_may_miss() {
        let (seen, _) = outcomes(|| store_buffering(Relaxed, false));
        assert!(seen.contains(&(0, 0)));
    }

    /// False alarm: the language forbids (0, 0) here. So no algorithm of ours
    /// relies on SeqCst accesses, only on fences.
    #[test]
    fn seqcst_accesses_are_taken_for_acquire_release() {
        let (seen, _) = outcomes(|| store_buffering(SeqCst, false));
        assert!(seen.contains(&(0, 0)));
    }

    fn message(store: Ordering, load: Ordering) -> Option<usize> {
        let (mine, theirs) = pair();
        let reader =
            thread::spawn(move || (theirs[1].load(load) == 1).then(|| theirs[0].load(Relaxed)));
        mine[0].store(7, Relaxed);
        mine[1].store(1, store);
        reader.join().unwrap()
    }

    #[test]
    fn a_missing_release_or_acquire_shows_in_values() {
        let (seen, _) = outcomes(|| message(Release, Acquire));
        assert_eq!(seen, BTreeSet::from([None, Some(7)]));
        for (seen, _) in
            [outcomes(|| message(Relaxed, Acquire)), outcomes(|| message(Release, Relaxed))]
        {
            assert!(seen.contains(&Some(0)), "{seen:?}");
        }
    }

    #[test]
    fn an_unordered_access_to_a_cell_fails_in_any_schedule() {
        let race = || {
            let cell = Arc::new(UnsafeCell::new(0));
            let other = Arc::clone(&cell);
            let reader = thread::spawn(move || {
                other.with(|place| {
                    // SAFETY: loom fails the model before two threads meet here.
                    unsafe { *place }
                })
            });
            cell.with_mut(|place| {
                // SAFETY: as above.
                unsafe { *place = 1 };
            });
            reader.join().unwrap();
        };
        assert!(catch_unwind(AssertUnwindSafe(|| loom::model(race))).is_err());
    }

    /// An atomic counts as written by whoever made it, so a pointer to something
    /// new that is passed on without order is noticed at the first look at an
    /// atomic in it; what is plain in it needs a watched place.
    #[test]
    fn an_atomic_looked_at_before_its_making_is_known_fails_in_any_schedule() {
        let race = || {
            let place = Arc::new(AtomicPtr::new(std::ptr::null_mut::<AtomicUsize>()));
            let other = Arc::clone(&place);
            let reader = thread::spawn(move || {
                let seen = other.load(Relaxed);
                // SAFETY: never freed while the threads run.
                unsafe { seen.as_ref() }.map(|new| new.load(Relaxed))
            });
            let new = Box::into_raw(Box::new(AtomicUsize::new(7)));
            place.store(new, Relaxed);
            reader.join().unwrap();
            // SAFETY: made above, and nobody else is left.
            drop(unsafe { Box::from_raw(new) });
        };
        assert!(catch_unwind(AssertUnwindSafe(|| loom::model(race))).is_err());
    }

    /// Blind spot: an Acquire fence pairs with the stores that its own thread has
    /// read, so the language allows 0 here. loom's pairs with all that were read
    /// by whoever comes before it.
    #[test]
    fn fences_acquire_what_others_have_read() {
        fn program() -> Option<usize> {
            let (mine, theirs) = pair();
            let (third, passed) = (Arc::clone(&mine), Arc::new(AtomicUsize::new(0)));
            let pass = Arc::clone(&passed);
            let writer = thread::spawn(move || {
                theirs[0].store(7, Relaxed);
                theirs[1].store(1, Release);
            });
            let between = thread::spawn(move || pass.store(third[1].load(Relaxed), Release));
            let seen = (passed.load(Acquire) == 1).then(|| {
                fence(Acquire);
                mine[0].load(Relaxed)
            });
            writer.join().unwrap();
            between.join().unwrap();
            seen
        }
        assert_eq!(outcomes(program).0, BTreeSet::from([None, Some(7)]));
    }

    #[test]
    fn a_release_sequence_goes_on_through_read_modify_writes() {
        fn program() -> Option<usize> {
            let (mine, theirs) = pair();
            let third = Arc::clone(&mine);
            let reader = thread::spawn(move || {
                (theirs[1].load(Acquire) == 2).then(|| theirs[0].load(Relaxed))
            });
            let adder = thread::spawn(move || {
                let _ = third[1].compare_exchange(1, 2, Relaxed, Relaxed);
            });
            mine[0].store(7, Relaxed);
            mine[1].store(1, Release);
            adder.join().unwrap();
            reader.join().unwrap()
        }
        let (seen, _) = outcomes(program);
        assert_eq!(seen, BTreeSet::from([None, Some(7)]));
    }

    #[test]
    fn read_modify_writes_read_the_newest_value() {
        fn program() -> usize {
            let (mine, theirs) = pair();
            let other = thread::spawn(move || theirs[0].fetch_add(1, Relaxed));
            let here = mine[0].fetch_add(1, Relaxed);
            assert_ne!(here, other.join().unwrap());
            mine[0].load(Relaxed)
        }
        assert_eq!(outcomes(program).0, BTreeSet::from([2]));
    }

    /// Blind spot: the language allows (1, 1). What needs this excluded (an
    /// unpin that must not be Relaxed, for one) is not checked here.
    #[test]
    fn load_buffering_is_never_seen() {
        fn program() -> (usize, usize) {
            let (mine, theirs) = pair();
            let other = thread::spawn(move || {
                let seen = theirs[0].load(Relaxed);
                theirs[1].store(1, Relaxed);
                seen
            });
            let seen = mine[1].load(Relaxed);
            mine[0].store(1, Relaxed);
            (seen, other.join().unwrap())
        }
        assert_eq!(outcomes(program).0, BTreeSet::from([(0, 0), (0, 1), (1, 0)]));
    }

    /// Blind spot: loops around weak exchanges are run without their retry,
    /// unless another thread causes it.
    #[test]
    fn weak_exchanges_never_fail_by_themselves() {
        fn program() -> bool {
            let word = AtomicUsize::new(0);
            word.compare_exchange_weak(0, 1, AcqRel, Relaxed).is_ok()
        }
        assert_eq!(outcomes(program).0, BTreeSet::from([true]));
    }

    /// Blind spot, and what ghosts rely on: state outside loom's types is no
    /// step, so orders that differ in it alone are not told apart.
    #[test]
    fn state_outside_looms_types_is_not_explored() {
        fn program() -> Vec<u8> {
            let log = std::sync::Arc::new(Mutex::new(Vec::new()));
            let theirs = std::sync::Arc::clone(&log);
            let other = thread::spawn(move || theirs.lock().unwrap().push(2));
            log.lock().unwrap().push(1);
            other.join().unwrap();
            std::mem::take(&mut *log.lock().unwrap())
        }
        let (seen, _) = outcomes(program);
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    #[test]
    fn a_preemption_bound_hides_what_needs_more() {
        fn schedules(bound: Option<usize>) -> usize {
            let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let inner = std::sync::Arc::clone(&count);
            let mut model = loom::model::Builder::new();
            model.preemption_bound = bound;
            model.check(move || {
                inner.fetch_add(1, Relaxed);
                let (mine, theirs) = pair();
                let other = thread::spawn(move || {
                    for _ in 0..3 {
                        theirs[0].fetch_add(1, Relaxed);
                    }
                });
                for _ in 0..3 {
                    mine[0].fetch_add(1, Relaxed);
                }
                other.join().unwrap();
            });
            count.load(Relaxed)
        }
        let counts = [schedules(Some(0)), schedules(Some(1)), schedules(None)];
        assert!(counts.is_sorted() && counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
    }
}

#[cfg(jit_arena_shuttle)]
mod in_shuttle {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use shuttle::sync::Arc;
    use shuttle::sync::atomic::{AtomicUsize, Ordering};
    use shuttle::thread;

    /// Blind spot: to shuttle every atomic is sequentially consistent.
    #[test]
    fn a_missing_release_is_not_seen() {
        let program = || {
            let data = Arc::new(AtomicUsize::new(0));
            let ready = Arc::new(AtomicUsize::new(0));
            let (theirs, flag) = (Arc::clone(&data), Arc::clone(&ready));
            let reader = thread::spawn(move || {
                if flag.load(Ordering::Relaxed) == 1 {
                    assert_eq!(theirs.load(Ordering::Relaxed), 7);
                }
            });
            data.store(7, Ordering::Relaxed);
            ready.store(1, Ordering::Relaxed);
            reader.join().unwrap();
        };
        shuttle::check_pct(program, 500, 3);
    }

    /// A read and a write where a read-modify-write belongs.
    fn lost_update() {
        let count = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let count = Arc::clone(&count);
                thread::spawn(move || {
                    let seen = count.load(Ordering::SeqCst);
                    count.store(seen + 1, Ordering::SeqCst);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_lost_update_is_found_by_random_and_by_prioritised_schedules() {
        let fails = |run: fn()| catch_unwind(AssertUnwindSafe(run)).is_err();
        assert!(fails(|| shuttle::check_random(lost_update, 500)));
        assert!(fails(|| shuttle::check_pct(lost_update, 500, 2)));
    }
}
