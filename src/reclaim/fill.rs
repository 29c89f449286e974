//! Filling with traps what is about to be everybody's, `[D3]`.

use crate::arena::Shared;
use crate::page::bitmap::Run;
use crate::platform::OsResult;
use crate::stats;
use crate::thread::ThreadState;
use crate::units::{GRANULE, KIB, MIB};

use super::retire::{Batch, Dead, Was};

/// Farthest apart and longest that spans share a write window where neighbours
/// may run meanwhile, in bytes: one mapping for many fills.
const WINDOW_GAP: usize = 64 * KIB;
const WINDOW_LEN: usize = MIB;

/// Fills runs with traps. Those that the system refuses to open are taken out,
/// and wait for somebody to try again.
pub(super) fn fill(thread: &ThreadState, runs: &mut Vec<Run>) {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    runs.sort_unstable_by_key(|run| run.start);
    let mut refused: Option<Box<Batch>> = None;
    let mut filled = 0;
    let before = protection.open(platform);
    let mut at = 0;
    while at < runs.len() {
        let group = at..at + group_len(shared, &runs[at..]);
        at = group.end;
        if fill_group(thread, &runs[group.clone()]).is_ok() {
            runs.copy_within(group.clone(), filled);
            filled += group.len();
            continue;
        }
        stats::add(&thread.tallies().refusals, 1);
        for run in &runs[group] {
            let span = shared.pages.span(*run);
            refused.get_or_insert_with(Batch::new).push(Dead { span, was: Was::Unit }, span.len);
        }
    }
    protection.close(platform, before);
    runs.truncate(filled);
    for run in runs {
        let span = shared.pages.span(*run);
        // SAFETY: memory of the region, executable again now that the rights
        // are closed: where one toggle serves a whole thread it was not before.
        unsafe { platform.invalidate_instruction_cache(span.start, span.len) };
    }
    if let Some(refused) = refused {
        shared.waiting.push(refused);
    }
}

/// How many of the first runs share a window. At least one.
fn group_len(shared: &Shared, runs: &[Run]) -> usize {
    let coarse = shared.units.are_coarse();
    let start = runs[0].start;
    let mut end = runs[0].end();
    1 + runs[1..]
        .iter()
        .take_while(|next| {
            let near = (next.start - end) * GRANULE <= WINDOW_GAP
                && (next.end() - start) * GRANULE <= WINDOW_LEN;
            let shares = if coarse { next.start == end } else { near };
            end = next.end();
            shares
        })
        .count()
}

/// Fills runs that share a window; an error if the system refuses to open it, or to
/// close one that is the runs' own pages.
fn fill_group(thread: &ThreadState, group: &[Run]) -> OsResult<()> {
    let shared = thread.shared();
    let (protection, platform) = (shared.region.protection(), shared.region.platform());
    let (start, end) = (group[0].start, group[group.len() - 1].end());
    let around = shared.pages.span(Run::new(start, end - start));
    // SAFETY: [W3] the span begins and ends with dead granules in whole units;
    // where units are coarse all of it is dead.
    let window = unsafe { protection.window(platform, around) }?;
    for run in group {
        let span = shared.pages.span(*run);
        let to = window.writable_at(span.start);
        // SAFETY: [E2] nobody runs it, [B1] nobody else owns it, and the
        // window is open.
        unsafe { platform.fill_traps(to, span.len) };
        // SAFETY: just written through the same window.
        unsafe { platform.clean_data_cache(to, span.len) };
    }
    // SAFETY: opened above, and not used again.
    match unsafe { protection.close_window(platform, &window) } {
        // The pages are the window: who closed it later would flip what is
        // somebody else's by then, [W3]. Whoever is given them opens it anew.
        Err(error) if shared.units.are_coarse() => Err(error),
        Err(_) => {
            thread.keep_unsealed(window);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
