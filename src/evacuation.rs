//! Evacuation candidates: which few executors keep nearly empty pages.
//!
//! A page goes back to the system once all on it are gone, and holes in a page
//! that lives on are used for whatever fits. After most of a program's code was
//! dropped, what is left may lie one executor a page: a runtime that compiles
//! them anew, or drops those it can do without, gets the pages back.

use crate::arena::ArenaRef;
use crate::dump;
use crate::error::AttachError;
use crate::lookup::CodeInfo;
use crate::thread::ThreadHandle;
use crate::units::{GRANULE, Span};

/// A code page with little on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearlyEmpty {
    /// The page.
    pub page: Span,
    /// Bytes of code and data alive on it.
    pub live_bytes: usize,
    /// The executors they belong to, by address. One that is longer than a page
    /// or lies across two is on each.
    pub executors: Vec<CodeInfo>,
}

/// See [`Arena::evacuation_candidates`](crate::Arena::evacuation_candidates).
pub(crate) fn candidates(
    arena: &ArenaRef,
    most_bytes: usize,
) -> Result<Vec<NearlyEmpty>, AttachError> {
    let shared = arena.get();
    let thread = ThreadHandle::attach(arena)?;
    let guard = thread.pin();
    let live = dump::live(shared, &guard);
    drop(guard);
    let bytes = shared.pages.granules() * GRANULE;
    let base = shared.region.span().start;
    let islands: Vec<usize> = shared.trampolines.list().iter().map(|it| it.address).collect();
    let mut all: Vec<NearlyEmpty> = Vec::new();
    for info in live {
        let end = if info.data.len == 0 { info.code.end() } else { info.data.end() };
        for number in (info.entry() - base) / bytes..=(end - 1 - base) / bytes {
            let page = Span::new(base + number * bytes, bytes);
            if all.last().is_none_or(|last| last.page != page) {
                all.push(NearlyEmpty { page, live_bytes: 0, executors: Vec::new() });
            }
            if let Some(last) = all.last_mut() {
                last.live_bytes += overlap(info.code, page) + overlap(info.data, page);
                last.executors.push(info);
            }
        }
    }
    // A page with an island stays whatever becomes of its executors.
    all.retain(|it| {
        let island = islands.partition_point(|at| *at < it.page.start);
        let has_island = islands.get(island).is_some_and(|at| *at < it.page.end());
        it.live_bytes <= most_bytes && !has_island
    });
    all.sort_by_key(|it| it.live_bytes);
    Ok(all)
}

/// Bytes that two spans share.
fn overlap(one: Span, other: Span) -> usize {
    one.end().min(other.end()).saturating_sub(one.start.max(other.start))
}
