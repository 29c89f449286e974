//! Atomics whose orderings can be weakened one at a time, for
//! `--cfg jit_arena_mutants` builds.
//!
//! Every place in the source that asks for an ordering stronger than Relaxed is
//! a *site*, found by running: `JIT_ARENA_WEAKEN` set to what [`sites`] lists
//! makes that one place ask for less. So no ordering is without its mutants,
//! and no line of the algorithms knows of them.

use core::panic::Location;
use core::sync::atomic::Ordering;
use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::imp;

static SITES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static CHOSEN: OnceLock<String> = OnceLock::new();
static REACHED: OnceLock<()> = OnceLock::new();

/// What a weaker ordering than this can be.
fn weaker(order: Ordering) -> &'static [Ordering] {
    match order {
        Ordering::SeqCst => &[Ordering::AcqRel],
        Ordering::AcqRel => &[Ordering::Acquire, Ordering::Release],
        Ordering::Acquire | Ordering::Release => &[Ordering::Relaxed],
        _ => &[],
    }
}

/// The ordering to use where `order` is asked for at `place`.
fn weaken(order: Ordering, place: &Location<'_>) -> Ordering {
    let chosen = CHOSEN.get_or_init(|| std::env::var("JIT_ARENA_WEAKEN").unwrap_or_default());
    for &weaker in weaker(order) {
        let (file, line, column) = (place.file(), place.line(), place.column());
        if chosen.is_empty() || chosen.starts_with(file) {
            let site = format!("{file}:{line}:{column} {order:?} to {weaker:?}");
            if site == *chosen {
                if REACHED.set(()).is_ok() {
                    eprintln!("mutant reached: {site}");
                }
                return weaker;
            }
            SITES.lock().unwrap_or_else(PoisonError::into_inner).insert(site);
        }
    }
    order
}

/// All weakenings that the program has passed so far.
pub(crate) fn sites() -> Vec<String> {
    SITES.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// As `fence` of `core`; an Acquire or Release fence is weakened to none.
#[track_caller]
pub(crate) fn fence(order: Ordering) {
    let order = weaken(order, Location::caller());
    if order != Ordering::Relaxed {
        imp::fence(order);
    }
}

/// `len` atomic words, all zero.
pub(crate) fn zeroed_words(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// `len` atomic bytes, all zero.
pub(crate) fn zeroed_bytes(len: usize) -> Box<[AtomicU8]> {
    (0..len).map(|_| AtomicU8::new(0)).collect()
}

macro_rules! atomics {
    ($($name:ident $(<$of:ident>)?, $value:ty;)*) => {
        $(
            #[derive(Debug)]
            pub(crate) struct $name $(<$of>)? (imp::$name $(<$of>)?);

            #[allow(dead_code, reason = "the same methods for all")]
            impl $(<$of>)? $name $(<$of>)? {
                pub(crate) fn new(value: $value) -> Self {
                    Self(imp::$name::new(value))
                }

                #[track_caller]
                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.0.load(weaken(order, Location::caller()))
                }

                #[track_caller]
                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, weaken(order, Location::caller()));
                }

                #[track_caller]
                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, weaken(order, Location::caller()))
                }

                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    let success = weaken(success, Location::caller());
                    self.0.compare_exchange(current, new, success, failure)
                }

                #[track_caller]
                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    let success = weaken(success, Location::caller());
                    self.0.compare_exchange_weak(current, new, success, failure)
                }
            }
        )*
    };
}

atomics! {
    AtomicU8, u8;
    AtomicU64, u64;
    AtomicUsize, usize;
    AtomicPtr<T>, *mut T;
}

macro_rules! arithmetic {
    ($($name:ident, $value:ty: $($method:ident)*;)*) => {
        $(
            #[allow(dead_code, reason = "the same methods for all")]
            impl $name {
                $(
                    #[track_caller]
                    pub(crate) fn $method(&self, value: $value, order: Ordering) -> $value {
                        self.0.$method(value, weaken(order, Location::caller()))
                    }
                )*
            }
        )*
    };
}

arithmetic! {
    AtomicU64, u64: fetch_add fetch_sub fetch_or fetch_and fetch_max fetch_min;
    AtomicUsize, usize: fetch_add fetch_sub fetch_or fetch_and fetch_max fetch_min;
}
