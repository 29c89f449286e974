//! Target 3: what more threads make of throughput and of the worst thousandth.

use std::error::Error;

use jit_arena_benches::crew::{Plan, Round};
use jit_arena_benches::race::{Effort, Entry, Race};
use jit_arena_benches::sample::Spread;

use crate::bench::Bench;
use crate::report::Limit;

/// Live executors, of all threads together.
const LIVE: usize = 4096;

/// Beside ours and the limit, for the plot.
const PEERS: [&str; 3] = ["asmjit", "talc-rwx", "mapping"];

/// How much a tail may grow with threads: the error of a quotient.
const MORE: f64 = 1.1;

/// What one rival did with so many threads.
pub(crate) struct Throughput {
    pub(crate) name: String,
    pub(crate) threads: usize,
    /// Millions of replacements a second, of all threads together.
    pub(crate) rate: Spread,
}

impl Throughput {
    fn of(threads: usize, lane: &jit_arena_benches::race::Lane) -> Option<Self> {
        let rate = lane.spread(|round| 1000.0 / round.wall_ns())?;
        Some(Self { name: lane.name.clone(), threads, rate })
    }
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let (ours, probe) = (bench.ours, bench.probe);
    let many: &[usize] = bench.pick(&[2, 8], &[2, 8, 32, 128], &[2, 8, 32, 128]);
    let mut names = vec![ours, probe];
    names.extend(PEERS);
    let mut of_two = None;
    let mut tails = [None; 3];
    for &threads in many {
        let effort = effort(bench, threads);
        // One thread's rounds between those of many, for the same hour.
        let entries: Vec<_> = names
            .iter()
            .flat_map(|name| [1, threads].map(|it| Entry::new(name, Plan::new(it, LIVE))))
            .collect();
        let race = Race::run(&entries, effort);
        let gain =
            |at: usize| Race::ratio(race.lane(2 * at), race.lane(2 * at + 1), Round::wall_ns);
        let what = format!("throughput of {threads} threads / of one, {ours}");
        if threads == 2 {
            of_two = gain(0);
            bench.report.judge(&what, gain(0), Limit::AtLeast(1.9));
        } else {
            bench.report.tell(&what, gain(0));
            let relative = gain(0).zip(of_two).map(|(it, two)| it.map(|it| it / two.median));
            bench.report.judge("  that of two threads being 1", relative, Limit::AtLeast(0.9));
        }
        for (at, name) in (1..).zip(&names[1..]) {
            bench.report.tell(&format!("  {threads} threads / one, {name}"), gain(at));
        }
        for at in 0..names.len() {
            if threads == 2 {
                bench.throughputs.extend(race.lane(2 * at).and_then(|it| Throughput::of(1, it)));
            }
            let all = race.lane(2 * at + 1);
            bench.throughputs.extend(all.and_then(|it| Throughput::of(threads, it)));
        }
        drop(race);
        tail(bench, threads, effort, &mut tails);
    }
    Ok(())
}

/// Rounds long enough for each thread to get the processor several times.
fn effort(bench: &Bench, threads: usize) -> Effort {
    let Effort { rounds, millis } = bench.effort();
    if threads <= 2 {
        return Effort { rounds, millis };
    }
    let millis = millis.max(bench.pick(1.0, 1.5, 4.0) * threads as f64);
    Effort { rounds: rounds.min(bench.pick(3, 5, 15)), millis }
}

/// p99.9, beside that of operations as long that touch no memory. The scheduler takes
/// the processor from one in far more than a thousand of those, so what grows with
/// threads is ours.
fn tail(bench: &mut Bench, threads: usize, effort: Effort, of_two: &mut [Option<f64>; 3]) {
    let (ours, probe) = (bench.ours, bench.probe);
    let names = [ours, probe, "spin"];
    let race =
        Race::run(&names.map(|name| Entry::new(name, Plan::new(threads, LIVE).timed())), effort);
    let mut growths = [None; 3];
    for (at, name) in names.iter().enumerate() {
        let tail = race.lane(at).and_then(|lane| lane.spread(Round::p999_ns));
        let tail = tail.map(|it| it.map(|ns| ns / 1000.0));
        let what = match *name {
            "spin" => "no memory",
            name => name,
        };
        bench.report.tell(&format!("  p99.9 with {threads} threads, us, {what}"), tail);
        let first = *of_two[at].get_or_insert(tail.map_or(f64::NAN, |it| it.median));
        growths[at] = tail.map(|it| it.map(|it| it / first));
    }
    if threads > 2 {
        bench.report.judge("  growth of p99.9 since two threads", growths[0], Limit::AtMost(MORE));
        bench.report.tell(&format!("  growth of p99.9 since two threads, {probe}"), growths[1]);
    }
}
