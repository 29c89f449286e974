//! Random replacement under each rival, interleaved: a table of times and of
//! ratios to the first. Also what to run under a profiler, with one rival.

use clap::Parser;
use jit_arena_benches::crew::{Frees, Plan, Round};
use jit_arena_benches::race::{Effort, Entry, Lane, Race};
use jit_arena_benches::sample::median;

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

fn best(lane: &Lane) -> f64 {
    lane.rounds.iter().map(Round::cpu_ns).fold(f64::MAX, f64::min)
}

fn main() {
    let options = Options::parse();
    let frees = match options.mailed {
        0 => Frees::Direct,
        percent => Frees::Mailed { percent, to_other: options.to_other },
    };
    let plan = Plan { frees, latency: options.latency, ..Plan::new(options.threads, options.live) };
    let entries: Vec<_> = options.rivals.iter().map(|name| Entry::new(name, plan)).collect();
    let effort = Effort { rounds: options.rounds, millis: options.millis };
    let race = Race::start(&entries, effort, options.ops, !options.unchecked).finish(effort.rounds);
    for (name, why) in &race.missing {
        println!("not run: {name}: {why}");
    }
    println!(
        "{:16} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "rival", "cpu ns", "best", "wall ns", "ratio", "of best", "p99.9 us"
    );
    for lane in race.lanes() {
        println!(
            "{:16} {:9.1} {:9.1} {:9.1} {:8.2} {:8.2} {:9.2}",
            lane.name,
            median(lane.rounds.iter().map(Round::cpu_ns)),
            best(lane),
            median(lane.rounds.iter().map(Round::wall_ns)),
            Race::ratio(Some(lane), race.lane(0), Round::cpu_ns).map_or(f64::NAN, |it| it.median),
            race.lane(0).map_or(f64::NAN, |first| best(lane) / best(first)),
            median(lane.rounds.iter().map(Round::p999_ns)) / 1000.0,
        );
        let Some(crew) = &lane.crew else { continue };
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
