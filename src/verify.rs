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
    // Executors that touch each page, counted by the executors.
    let mut touching = vec![0_u64; pages.count()];
    for number in 0..pages.count() {
        if number < pages.high_water() {
            verify_executors(shared, number, &mut touching, &mut seen)?;
            verify_holes(shared, number)?;
        }
        verify_page(shared, number, touching[number], &mut seen)?;
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
        let page = pages.page(granule / pages.granules());
        let low = granule % pages.granules();
        // Acquire: exact at quiescence.
        let taken = bitmap::test(page.taken, low, Ordering::Acquire);
        let starts = bitmap::test(page.starts, low, Ordering::Acquire);
        ensure(taken && !starts, "T1", || format!("{at:#x} is not an island's"))?;
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
fn verify_executors(
    shared: &Shared,
    number: usize,
    touching: &mut [u64],
    seen: &mut Seen,
) -> Result<(), VerifyError> {
    let pages = &shared.pages;
    let page = pages.page(number);
    let mut free_from = 0;
    for at in bitmap::ones(page.starts) {
        let start = pages.address(number * pages.granules() + at);
        let Some((entry, block)) = read_header(shared, start) else {
            return broken("X1", format!("no header in the granule at {start:#x}"));
        };
        let span = block.span_at(entry);
        ensure(start >= free_from, "B1", || format!("two executors overlap at {start:#x}"))?;
        free_from = span.end();
        let run = pages.run(span);
        for granule in run.start..run.end() {
            let home = pages.page(granule / pages.granules());
            let taken = bitmap::test(home.taken, granule % pages.granules(), Ordering::Acquire);
            ensure(taken, "B1", || format!("a granule of the executor at {start:#x} is nobody's"))?;
        }
        let (first, last) = (run.start / pages.granules(), (run.end() - 1) / pages.granules());
        touching[first..=last].iter_mut().for_each(|count| *count += 1);
        // Acquire: pairs with whoever marked it; exact at quiescence.
        if bitmap::test(page.retired, at, Ordering::Acquire) {
            seen.retired += 1;
            seen.retired_bytes += block.bytes() as u64;
        } else {
            seen.live += 1;
            seen.live_bytes += block.bytes() as u64;
        }
    }
    for at in bitmap::ones(page.retired) {
        ensure(bitmap::test(page.starts, at, Ordering::Acquire), "D1", || {
            format!("granule {at} of page {number} is retired but starts nothing")
        })?;
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

/// The page's count, memory and filing agree with its bitmaps.
fn verify_page(
    shared: &Shared,
    number: usize,
    touching: u64,
    seen: &mut Seen,
) -> Result<(), VerifyError> {
    let pages = &shared.pages;
    let page = pages.page(number);
    // Acquire: exact at quiescence, like all of this.
    let live = page.live.load(Ordering::Acquire);
    ensure(live == touching, "P1", || {
        format!("page {number} counts {live} executors and has {touching}")
    })?;
    for at in bitmap::ones(page.taken) {
        let run = Run::new(number * pages.granules() + at, 1);
        ensure(pages.is_committed(run), "P2", || {
            format!("granule {at} of page {number} is taken and not committed")
        })?;
    }
    ensure(pages.is_filed(number), "P4", || format!("page {number} is misfiled"))?;
    seen.taken += bitmap::count(page.taken) as u64;
    seen.resident += u64::from(page.resident.load(Ordering::Acquire).count_ones());
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
