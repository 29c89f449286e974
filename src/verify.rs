//! A walk over everything the arena believes, for quiescent moments.

use crate::arch;
use crate::arena::Shared;
use crate::error::VerifyError;
use crate::executor::read_header;
use crate::page::bitmap::{self, Run};
use crate::sync::Ordering;
use crate::units::GRANULE;

/// What the walk counts, to compare with the accounts.
#[derive(Default)]
struct Seen {
    live: u64,
    live_bytes: u64,
    retired: u64,
    retired_bytes: u64,
    taken: u64,
    resident: u64,
}

fn broken(invariant: &'static str, found: String) -> Result<(), VerifyError> {
    Err(VerifyError { invariant, found })
}

fn ensure(
    holds: bool,
    invariant: &'static str,
    found: impl FnOnce() -> String,
) -> Result<(), VerifyError> {
    if holds { Ok(()) } else { broken(invariant, found()) }
}

/// See [`Arena::verify`](crate::Arena::verify).
pub(crate) fn verify(shared: &Shared) -> Result<(), VerifyError> {
    let pages = &shared.pages;
    if let Some(lost) = shared.lost.get() {
        return broken("F3", format!("a fork left this process without code memory: {lost}"));
    }
    let mut seen = Seen::default();
    for number in 0..pages.count() {
        if number < pages.high_water() {
            verify_executors(shared, number, &mut seen)?;
            verify_holes(shared, number)?;
        }
        verify_page(shared, number, &mut seen)?;
    }
    verify_trampolines(shared)?;
    verify_accounts(shared, &seen)
}

/// Every trampoline jumps to its target, in granules of its own, within reach.
fn verify_trampolines(shared: &Shared) -> Result<(), VerifyError> {
    let (region, pages) = (&shared.region, &shared.pages);
    for trampoline in shared.trampolines.list() {
        let at = trampoline.address;
        let granule = pages.granule(at);
        let is_own = pages.is_taken(granule) && !pages.marks.is_start(granule);
        ensure(is_own, "T1", || format!("{at:#x} is not an island's"))?;
        let words = [at, at + 8].map(|at| {
            // SAFETY: aligned, and inside the region.
            unsafe { region.protection().load_word(region.platform(), at) }.to_ne_bytes()
        });
        ensure(words.as_flattened() == arch::far_jump(trampoline.target), "T1", || {
            format!("{at:#x} does not jump to {:#x}", trampoline.target)
        })?;
        ensure(shared.trampolines.is_in_reach(region.span(), &trampoline), "T3", || {
            format!("{at:#x} is out of reach, or not the one to {:#x}", trampoline.target)
        })?;
    }
    Ok(())
}

/// Every executor that starts on the page has a header, owns its granules, and
/// overlaps no other.
fn verify_executors(shared: &Shared, number: usize, seen: &mut Seen) -> Result<(), VerifyError> {
    let pages = &shared.pages;
    let mut free_from = 0;
    for first in pages.marks.starts(pages.granules_of(number)) {
        let start = pages.address(first);
        ensure(pages.is_taken(first), "D1", || {
            format!("a mark is left in the hole at {start:#x}")
        })?;
        let Some((entry, block)) = read_header(shared, start) else {
            return broken("X1", format!("no header in the granule at {start:#x}"));
        };
        let span = block.span_at(entry);
        ensure(start >= free_from, "B1", || format!("two executors overlap at {start:#x}"))?;
        free_from = span.end();
        let run = pages.run(span);
        ensure((run.start..run.end()).all(|granule| pages.is_taken(granule)), "P1", || {
            format!("a granule of the executor at {start:#x} is nobody's")
        })?;
        if pages.marks.is_live(first) {
            seen.live += 1;
            seen.live_bytes += block.bytes() as u64;
        } else {
            seen.retired += 1;
            seen.retired_bytes += block.bytes() as u64;
        }
    }
    Ok(())
}

/// Holes hold traps, or zeros where nothing ever was.
fn verify_holes(shared: &Shared, number: usize) -> Result<(), VerifyError> {
    let pages = &shared.pages;
    let page = pages.page(number);
    let unit = shared.region.platform().system_page() / GRANULE;
    for hole in bitmap::clear_runs(page.taken) {
        let mut at = hole.start;
        while at < hole.end() {
            // By system pages: reading one that is not committed would be the
            // first to use it.
            let end = (at / unit * unit + unit).min(hole.end());
            let run = Run::new(number * pages.granules() + at, end - at);
            if pages.is_committed(run) {
                verify_hole(shared, run)?;
            }
            at = end;
        }
    }
    Ok(())
}

fn verify_hole(shared: &Shared, run: Run) -> Result<(), VerifyError> {
    let region = &shared.region;
    let span = shared.pages.span(run);
    for at in (span.start..span.end()).step_by(8) {
        // SAFETY: aligned, and inside the region.
        let word = unsafe { region.protection().load_word(region.platform(), at) };
        ensure(word == 0 || word == arch::TRAP_WORD, "D3", || {
            format!("{word:#x} in the hole at {at:#x}")
        })?;
    }
    Ok(())
}

/// The page's memory and filing agree with its bitmap.
fn verify_page(shared: &Shared, number: usize, seen: &mut Seen) -> Result<(), VerifyError> {
    let pages = &shared.pages;
    let page = pages.page(number);
    for at in bitmap::ones(page.taken) {
        let run = Run::new(number * pages.granules() + at, 1);
        ensure(pages.is_committed(run), "P2", || {
            format!("granule {at} of page {number} is taken and not committed")
        })?;
    }
    ensure(pages.is_filed(number), "P4", || format!("page {number} is misfiled"))?;
    seen.taken += bitmap::count(page.taken) as u64;
    // Relaxed: whoever sees that the arena is at rest has been ordered after all
    // that was done to it.
    seen.resident += u64::from(page.resident.load(Ordering::Relaxed).count_ones());
    Ok(())
}

/// The accounts agree with what was seen.
fn verify_accounts(shared: &Shared, seen: &Seen) -> Result<(), VerifyError> {
    let totals = shared.totals();
    let stats = shared.stats();
    let system_page = shared.region.platform().system_page() as u64;
    for (what, counted, found) in [
        ("live executors", stats.live_executors, seen.live),
        ("live bytes", stats.live_bytes, seen.live_bytes),
        ("retired executors", stats.retired_executors, seen.retired),
        ("retired bytes", stats.retired_bytes, seen.retired_bytes),
        ("taken bytes", totals.taken_bytes(), seen.taken * GRANULE as u64),
        ("committed bytes", stats.committed_bytes, seen.resident * system_page),
    ] {
        ensure(counted == found, "A1", || format!("{counted} {what} counted, {found} found"))?;
    }
    Ok(())
}
