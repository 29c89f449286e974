//! Random replacement under each rival, interleaved: a table of times and of
//! ratios to the first. Also what to run under a profiler, with one rival.

use clap::Parser;
use jit_arena_benches::rival::{self, NotHere, Rival, Room, Visit};
use jit_arena_benches::round::{Crew, Frees, Plan, Round, check, median};
use jit_arena_benches::workload;

/// Random replacement of executors, rivals interleaved.
#[derive(Debug, Parser)]
struct Options {
    /// Rivals, the first being what the others are compared with.
    #[arg(default_values_t = ["probe".to_owned(), "dual-open".to_owned()])]
    rivals: Vec<String>,
    /// Live executors.
    #[arg(long, short, default_value_t = 4096)]
    live: usize,
    /// Threads.
    #[arg(long, short, default_value_t = 1)]
    threads: usize,
    /// Rounds of each rival.
    #[arg(long, short, default_value_t = 40)]
    rounds: usize,
    /// Length of a round, in milliseconds about.
    #[arg(long, default_value_t = 10.0)]
    millis: f64,
    /// Replacements a round, in place of a length.
    #[arg(long)]
    ops: Option<usize>,
    /// Frees out of a hundred that go through a mailbox.
    #[arg(long, default_value_t = 0)]
    mailed: u32,
    /// The mailbox is another thread's.
    #[arg(long)]
    to_other: bool,
    /// Take the time of each operation.
    #[arg(long)]
    latency: bool,
    /// Skip the comparison of contents.
    #[arg(long)]
    unchecked: bool,
}

struct Crews<'o> {
    options: &'o Options,
    crews: Vec<(Crew, usize)>,
}

impl Visit for Crews<'_> {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        let options = self.options;
        if !options.unchecked
            && !rival.name().starts_with("probe")
            && let Err(what) = check(&rival, 64, 20_000)
        {
            // What it costs to hand out memory twice is of no interest.
            println!("not run: {}: unsound: {what}", rival.name());
            return;
        }
        let frees = match options.mailed {
            0 => Frees::Direct,
            percent => Frees::Mailed { percent, to_other: options.to_other },
        };
        let (threads, live) = (options.threads, options.live);
        let plan = Plan { threads, live, frees, latency: options.latency };
        let crew = Crew::new(rival, plan);
        // Warm, and into the steady state.
        let trial = crew.churn(1000 * options.threads);
        let ops = options
            .ops
            .unwrap_or_else(|| (options.millis * 1e6 / trial.wall_ns()).clamp(100.0, 1e7) as usize);
        if options.ops.is_none() {
            crew.churn((4 * options.live).min(50 * ops));
        }
        self.crews.push((crew, ops));
    }

    fn missing(&mut self, name: &str, why: NotHere) {
        println!("not run: {name}: {why}");
    }
}

fn main() {
    let options = Options::parse();
    let mut crews = Crews { options: &options, crews: Vec::new() };
    for name in &options.rivals {
        let bytes = (options.live as f64 * workload::MEAN) as usize;
        rival::visit(name, Room { bytes, threads: options.threads }, &mut crews);
    }
    let mut rounds: Vec<Vec<Round>> = crews.crews.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for ((crew, ops), rounds) in crews.crews.iter().zip(&mut rounds) {
            rounds.push(crew.churn(*ops));
        }
    }
    println!(
        "{:16} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "rival", "cpu ns", "best", "wall ns", "ratio", "of best", "p99.9 us"
    );
    let best = |rounds: &[Round]| rounds.iter().map(Round::cpu_ns).fold(f64::MAX, f64::min);
    for ((crew, _), mine) in crews.crews.iter().zip(&rounds) {
        let ratio = mine.iter().zip(&rounds[0]).map(|(mine, first)| mine.cpu_ns() / first.cpu_ns());
        let tail = median(
            mine.iter()
                .filter_map(|round| round.latency.as_ref())
                .map(|it| it.value_at_quantile(0.999) as f64 / 1000.0),
        );
        println!(
            "{:16} {:9.1} {:9.1} {:9.1} {:8.2} {:8.2} {:9.2}",
            crew.name(),
            median(mine.iter().map(Round::cpu_ns)),
            best(mine),
            median(mine.iter().map(Round::wall_ns)),
            median(ratio),
            best(mine) / best(&rounds[0]),
            tail,
        );
        let usage = crew.usage();
        if usage.live > 0 && usage.committed > 0 {
            let part = |bytes: usize| bytes as f64 / usage.live as f64;
            println!(
                "{:16} of live: committed {:.3}, retired {:.3}, holes {:.3}",
                "",
                part(usage.committed),
                part(usage.retired),
                part(usage.holes)
            );
        }
        if !crew.note().is_empty() {
            println!("{:16} {}", "", crew.note());
        }
    }
}
