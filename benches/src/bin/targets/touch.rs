//! Target 6: memory that is used for the first time.

use std::error::Error;

use jit_arena_benches::rival::{self, NotHere, Rival, RivalThread, Room, Visit};
use jit_arena_benches::sample::Spread;
use jit_arena_benches::workload::{self, Churn};

use crate::bench::Bench;
use crate::report::Limit;
use crate::syscalls;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let count = bench.pick(1000, 20_000, 20_000);
    let room = Room { bytes: (count as f64 * workload::MEAN) as usize, threads: 1 };
    for name in [bench.ours, "asmjit", "mapping"] {
        let mut fresh = Fresh { count, outcome: Err("not here".to_owned()) };
        rival::visit(name, room, &mut fresh);
        match fresh.outcome {
            Ok(counts) => {
                let limit = |it| if name == bench.ours { Limit::AtMost(it) } else { Limit::None };
                let per = |it: u64| Some(Spread::exact(it as f64 / count as f64));
                let report = &mut bench.report;
                match counts.calls {
                    // "Not one an executor": a quarter of one is well below.
                    Ok(calls) => report.judge(
                        &format!("system calls a fresh executor, {name}"),
                        per(calls),
                        limit(0.25),
                    ),
                    Err(why) => report.not_run(&format!("system calls, {name}"), &why),
                }
                report.judge(
                    &format!("page faults a fresh executor, first run included, {name}"),
                    per(counts.faults.saturating_sub(counts.populated)),
                    limit(0.25),
                );
                report.tell("  pages brought by system calls beside", per(counts.populated));
            }
            Err(why) => bench.report.not_run(name, &why),
        }
    }
    let (arena, mut thread) = bench.attach()?;
    let source = workload::source();
    let mut churn = Churn::new(3, 1, 0);
    let kept: Result<Vec<_>, _> = (0..count)
        .map(|_| thread.install(&source[..churn.next(1)[0].size as usize], &[]))
        .collect();
    let kept = kept?;
    let stats = arena.stats();
    let what = "bytes committed / live with all of them live: populating ahead is bounded";
    let ratio = stats.committed_bytes as f64 / stats.live_bytes as f64;
    bench.report.judge(what, Some(Spread::exact(ratio)), Limit::AtMost(1.10));
    drop(kept);
    Ok(())
}

/// Installs a number of executors in an allocator that held none.
struct Fresh {
    count: usize,
    outcome: Result<Counts, String>,
}

struct Counts {
    calls: Result<u64, String>,
    /// Page faults of the thread, those the system takes on its behalf in a
    /// call that populates included.
    faults: u64,
    /// Of these, what such calls brought.
    populated: u64,
}

impl Visit for Fresh {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        let count = self.count;
        let calls = syscalls::count(|| Filler::new(&rival, count), |filler| drop(filler.fill()));
        let filler = Filler::new(&rival, count);
        let before = faults();
        let filled = filler.fill();
        let faults = faults() - before;
        // Only ours has the system bring pages ahead of use.
        let populated = if rival.populates() { rival.usage().committed / PAGE } else { 0 };
        filled.free();
        self.outcome = Ok(Counts {
            calls: calls.map_err(|error| error.to_string()),
            faults,
            populated: populated as u64,
        });
    }

    fn missing(&mut self, _name: &str, why: NotHere) {
        self.outcome = Err(why.to_string());
    }
}

/// A system page here, in bytes.
const PAGE: usize = rival::view::PAGE;

/// What installs, with everything it needs made already.
struct Filler<R: Rival> {
    thread: R::Thread,
    source: Vec<u8>,
    sizes: Churn,
    codes: Vec<<R::Thread as RivalThread>::Code>,
    count: usize,
}

impl<R: Rival> Filler<R> {
    fn new(rival: &R, count: usize) -> Self {
        let mut codes: Vec<<R::Thread as RivalThread>::Code> = Vec::with_capacity(count);
        // Its own pages are not to be counted.
        codes.spare_capacity_mut().iter_mut().for_each(|it| {
            // SAFETY: within the vector's own capacity.
            unsafe { it.as_mut_ptr().cast::<u8>().write_volatile(0) };
        });
        let mut thread = rival.attach();
        let source = workload::source();
        // A thread's first install makes what it keeps.
        codes.push(thread.install(&source[..64]));
        Self { thread, source, sizes: Churn::new(3, 1, 0), codes, count: count - 1 }
    }

    fn fill(mut self) -> Self {
        for _ in 0..self.count {
            let size = self.sizes.next(1)[0].size as usize;
            let code = self.thread.install(&self.source[..size]);
            let entry = R::Thread::addr(&code) as *const u8;
            // As a first call would: through the view that runs.
            // SAFETY: installed just now, and readable.
            unsafe { entry.read_volatile() };
            self.codes.push(code);
        }
        self
    }

    fn free(mut self) {
        for code in self.codes.drain(..) {
            self.thread.free(code);
        }
    }
}

/// Page faults of the calling thread that needed no input.
fn faults() -> u64 {
    // SAFETY: all zeros are an rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_minflt as u64
}
