//! What the arena relies on, for both schemes alike, then what only the eager
//! one promises.

use std::sync::Arc;

use crate::sync::ghost::Ghost;
use crate::sync::{AtomicUsize, Ordering, SEES_CROSSBEAM, Watched, explore, thread};

/// Counts hand overs without ordering anything.
#[derive(Clone)]
struct Count(Arc<Ghost<usize>>);

impl Count {
    fn new() -> Self {
        Self(Arc::new(Ghost::new(0)))
    }

    fn get(&self) -> usize {
        self.0.with(|count| *count)
    }

    fn handover(&self) -> impl FnOnce() + Send + 'static {
        let count = self.clone();
        move || count.0.with(|count| *count += 1)
    }
}

/// Rounds of pin and flush after which either scheme has run what is due.
const ROUNDS: usize = 8;

macro_rules! contract {
    ($scheme:ident, $seen:expr) => {
        mod $scheme {
            use super::super::$scheme::{Collector, Local};
            use super::*;

            fn explore(body: impl Fn() + Send + Sync + 'static) {
                if $seen {
                    super::explore(body);
                } else {
                    println!("not run: {}: its atomics are not the checker's", stringify!($scheme));
                }
            }

            fn push(local: &Local) {
                for _ in 0..ROUNDS {
                    local.pin().flush();
                }
            }

            #[test]
            fn handover_waits_for_the_pin_it_was_deferred_under() {
                explore(|| {
                    let count = Count::new();
                    let local = Collector::new().register();
                    let pin = local.pin();
                    // SAFETY: hands over nothing that anyone could reach.
                    unsafe { pin.defer(count.handover()) };
                    for _ in 0..ROUNDS {
                        pin.flush();
                        assert_eq!(count.get(), 0);
                    }
                    drop(pin);
                    push(&local);
                    assert_eq!(count.get(), 1);
                });
            }

            #[test]
            fn handover_waits_for_every_other_pin() {
                explore(|| {
                    let count = Count::new();
                    let collector = Collector::new();
                    let (reader, writer) = (collector.register(), collector.register());
                    let old = reader.pin();
                    // SAFETY: hands over nothing that anyone could reach.
                    unsafe { writer.pin().defer(count.handover()) };
                    push(&writer);
                    assert_eq!(count.get(), 0);
                    drop(old);
                    push(&writer);
                    assert_eq!(count.get(), 1);
                });
            }

            #[test]
            fn inner_pins_neither_end_nor_renew_the_outer_one() {
                explore(|| {
                    let count = Count::new();
                    let collector = Collector::new();
                    let (reader, writer) = (collector.register(), collector.register());
                    assert!(!reader.is_pinned());
                    let mut outer = reader.pin();
                    let mut inner = reader.pin();
                    // SAFETY: hands over nothing that anyone could reach.
                    unsafe { writer.pin().defer(count.handover()) };
                    inner.repin();
                    push(&writer);
                    drop(inner);
                    assert!(reader.is_pinned());
                    push(&writer);
                    assert_eq!(count.get(), 0);
                    // The only pin again, so a new one begins: after the defer.
                    outer.repin();
                    assert!(reader.is_pinned());
                    for _ in 0..ROUNDS {
                        outer.repin();
                        writer.pin().flush();
                    }
                    assert_eq!(count.get(), 1);
                    drop(outer);
                    assert!(!reader.is_pinned());
                });
            }

            #[test]
            fn pin_outlives_its_local_and_the_collector() {
                explore(|| {
                    let count = Count::new();
                    let collector = Collector::new();
                    let local = collector.register();
                    let pin = local.pin();
                    drop(local);
                    drop(collector);
                    // SAFETY: hands over nothing that anyone could reach.
                    unsafe { pin.defer(count.handover()) };
                    assert_eq!(count.get(), 0);
                    drop(pin);
                    assert_eq!(count.get(), 1);
                });
            }

            #[test]
            fn last_owner_gone_runs_what_is_left() {
                explore(|| {
                    let count = Count::new();
                    let collector = Collector::new();
                    let blocker = collector.register();
                    let held = blocker.pin();
                    let local = collector.register();
                    for _ in 0..3 {
                        // SAFETY: hands over nothing that anyone could reach.
                        unsafe { local.pin().defer(count.handover()) };
                    }
                    drop(local);
                    drop(collector);
                    assert_eq!(count.get(), 0);
                    drop(held);
                    drop(blocker);
                    assert_eq!(count.get(), 3);
                });
            }

            /// The use it is made for: one thread unpublishes a place and
            /// overwrites it after the grace period, another reads it under a
            /// pin. Fails where the two are not ordered and the checker sees it.
            #[test]
            fn overwriting_after_the_grace_period_races_no_reader() {
                explore(|| {
                    let collector = Arc::new(Collector::new());
                    let places = Arc::new([Watched::new(), Watched::new()]);
                    places[0].write();
                    places[1].write();
                    let published = Arc::new(AtomicUsize::new(0));
                    let reader = {
                        let (collector, places) = (Arc::clone(&collector), Arc::clone(&places));
                        let published = Arc::clone(&published);
                        thread::spawn(move || {
                            let local = collector.register();
                            let _pin = local.pin();
                            places[published.load(Ordering::Acquire)].read();
                        })
                    };
                    let local = collector.register();
                    {
                        let pin = local.pin();
                        published.store(1, Ordering::Release);
                        let places = Arc::clone(&places);
                        // SAFETY: place 0 is no longer published.
                        unsafe { pin.defer(move || places[0].write()) };
                        pin.flush();
                    }
                    local.pin().flush();
                    reader.join().unwrap();
                });
            }
        }
    };
}

contract!(epoch, SEES_CROSSBEAM);
contract!(eager, true);

#[test]
fn eager_runs_in_the_step_in_which_the_last_blocker_ends() {
    explore(|| {
        let count = Count::new();
        let collector = super::eager::Collector::new();
        let (a, b) = (collector.register(), collector.register());
        let old = a.pin();
        {
            let own = b.pin();
            // SAFETY: hands over nothing that anyone could reach.
            unsafe { own.defer(count.handover()) };
        }
        // Began after the defer, so it blocks nothing.
        let new = b.pin();
        assert_eq!(count.get(), 0);
        drop(old);
        assert_eq!(count.get(), 1);
        drop(new);
    });
}

#[test]
fn eager_gives_places_of_participants_out_again() {
    explore(|| {
        let collector = super::eager::Collector::new();
        for _ in 0..200 {
            drop(collector.register().pin());
        }
    });
}
