//! Eviction: when code memory is short, what was not entered of late goes.

use core::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

use super::unit::Unit;
use crate::runtime::Shared;
use crate::value::objects::locked;

/// Drops the code of sites that were not entered since the last time, or, if
/// there are few of those, every third. Returns how many went.
pub(crate) fn evict(runtime: &Shared) -> usize {
    let _evicting = runtime.evicting.read().unwrap_or_else(PoisonError::into_inner);
    let units: Vec<Arc<Unit>> = {
        let mut known = locked(&runtime.units);
        known.retain(|unit| unit.upgrade().is_some_and(|unit| !unit.is_dead()));
        known.iter().filter_map(Weak::upgrade).collect()
    };
    // Relaxed: the clock's hand; what is missed is seen next time.
    let is_cold =
        |unit: &Arc<Unit>| unit.site().is_none_or(|site| !site.used.load(Ordering::Relaxed));
    let mut victims: Vec<&Arc<Unit>> = units.iter().filter(|unit| is_cold(unit)).collect();
    if victims.len() * 8 < units.len() || victims.is_empty() {
        victims = units.iter().step_by(3).collect();
    }
    for unit in &units {
        if let Some(site) = unit.site() {
            site.used.store(false, Ordering::Relaxed);
        }
    }
    let gone = victims.into_iter().filter(|unit| unit.kill()).count();
    runtime.counts.evicted.fetch_add(gone as u64, Ordering::Relaxed);
    gone
}
