//! Target 7: what memory it takes. The traces are replayed by `jit-arena
//! replay`'s own code, so these are its figures.

use std::error::Error;

use jit_arena_benches::crew::{Crew, Plan};
use jit_arena_benches::rival::{self, NotHere, Rival, Visit};
use jit_arena_benches::sample::Spread;
use jit_arena_benches::trace;
use jit_arena_benches::workload;
use jit_arena_cli::bundled;
use jit_arena_cli::replay::{self, ReplayOptions, Speed};
use jit_arena_cli::trace::Trace;

use crate::bench::{Bench, Length, ROOM};
use crate::report::Limit;

/// Live and committed bytes over the time of a trace.
pub(crate) struct Curve {
    pub(crate) trace: String,
    pub(crate) rival: String,
    /// Nanoseconds, live and committed bytes.
    pub(crate) points: Vec<(u64, usize, usize)>,
}

/// The smallest trace, of 360 KB: claims of eight threads are much of it.
const SMALLEST: &str = "bm_richards";

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let mut traces = Vec::new();
    for name in bundled::names() {
        traces.push(bundled::open(name).ok_or("a bundled trace is missing")??);
        if bench.length == Length::Smoke {
            break;
        }
    }
    for (threads, most) in [(1, 1.10), (8, 1.15)] {
        let mut logs = Vec::new();
        for trace in &traces {
            let ratio = replayed(bench, trace, threads)?;
            let limit = Limit::AtMost(if trace.name == SMALLEST { 1.35 } else { 1.3 });
            let what = format!("committed / live, {}, {threads} threads", trace.name);
            bench.report.judge(&what, Some(ratio), limit);
            logs.push(ratio.median.ln());
        }
        let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
        let what = format!("committed / live, geometric mean, {threads} threads");
        bench.report.judge(&what, Some(Spread::exact(mean)), Limit::AtMost(most));
    }
    for name in [bench.ours, "asmjit", "talc-rwx", "alias", "mapping"] {
        let mut thinned = Thinned(None);
        let plan = Plan::new(1, 4096);
        rival::visit(name, plan.room(), &mut thinned);
        let what = format!("committed / live once 90 % of 4,096 died, {name}");
        let ratio = thinned.0.map(Spread::exact);
        if name == bench.ours {
            bench.report.judge(&what, ratio, Limit::AtMost(2.5));
        } else {
            bench.report.tell(&what, ratio);
        }
    }
    for trace in &traces {
        for name in [bench.ours, "asmjit", "mapping"] {
            let mut curved = Curved { trace, curve: None };
            rival::visit(name, ROOM, &mut curved);
            bench.curves.extend(curved.curve);
        }
    }
    Ok(())
}

/// Committed ÷ live over the time of a trace; several times with threads,
/// whose races make each a little different.
fn replayed(bench: &Bench, trace: &Trace, threads: usize) -> Result<Spread, Box<dyn Error>> {
    let times = if threads == 1 { 1 } else { bench.pick(1, 3, 5) };
    let options = ReplayOptions {
        threads,
        strategy: Some(bench.strategy()),
        speed: Speed::Max,
        random_placement: false,
        sabotage: None,
    };
    let mut ratios = Vec::new();
    for _ in 0..times {
        ratios.push(replay::run(trace, options, &mut |_| {})?.committed_over_live);
    }
    Spread::of(ratios).ok_or_else(|| "replayed nothing".into())
}

/// How much is held for a live byte once most died and `collect()` has run.
struct Thinned(Option<f64>);

impl Visit for Thinned {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        let crew = Crew::new(rival, Plan::new(1, 4096));
        // Who keeps no count has what all have.
        let all = (4096.0 * workload::MEAN) as usize / 10;
        crew.thin(90);
        let usage = crew.usage();
        let live = if usage.live > 0 { usage.live } else { all };
        self.0 = Some(usage.committed as f64 / live as f64).filter(|it| it.is_finite());
    }

    fn missing(&mut self, _name: &str, _why: NotHere) {}
}

struct Curved<'t> {
    trace: &'t Trace,
    curve: Option<Curve>,
}

impl Visit for Curved<'_> {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        let points = trace::replay(&rival, self.trace).curve;
        self.curve = Some(Curve { trace: self.trace.name.clone(), rival: rival.name(), points });
    }

    fn missing(&mut self, _name: &str, _why: NotHere) {}
}
