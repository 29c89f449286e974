//! Targets 1 and 2: what a replacement costs, by the number of live executors,
//! against the limit and against peers; all of a number in one race.

use std::error::Error;

use jit_arena_benches::crew::{Plan, Round};
use jit_arena_benches::race::{Entry, Race};
use jit_arena_benches::rival;

use crate::bench::{Bench, Length, PEERS};
use crate::report::Limit;

/// How many are live: those with a target, and those between, for the plot.
const LIVE: [usize; 3] = [512, 4096, 32_768];
const BETWEEN: [usize; 4] = [128, 1448, 11_585, 65_536];

/// The races of replacements on one thread.
pub(crate) struct Cost;

impl Cost {
    pub(crate) fn race(bench: &Bench, live: usize) -> Race {
        let mut names = vec![bench.probe, bench.ours];
        // What takes one mapping each is over the system's limit first.
        let fits = |name: &&str| live <= rival::most_live(name);
        names.extend(PEERS.iter().copied().filter(fits));
        let entries: Vec<_> =
            names.iter().map(|name| Entry::new(name, Plan::new(1, live))).collect();
        bench.race(&entries)
    }
}

pub(crate) fn against_the_limit(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let (ours, probe) = (bench.ours, bench.probe);
    let mut ends = Vec::new();
    for live in LIVE {
        let race = bench.cost(live);
        let ratio = Race::ratio(race.named(ours), race.named(probe), Round::cpu_ns);
        let mut times = vec![(String::new(), ratio)];
        for lane in race.lanes() {
            times.push((lane.name.clone(), lane.spread(Round::cpu_ns)));
        }
        bench.report.judge(&format!("{ours} / {probe}, {live} live"), ratio, Limit::AtMost(1.5));
        for name in [probe, ours] {
            let time = times.iter().find(|it| it.0 == name).and_then(|it| it.1);
            bench.report.tell(&format!("  ns a replacement, {name}"), time);
        }
        ends.push(times);
        what_bounds(bench, live);
    }
    // Flat: what it costs above the limit does not grow with what is live.
    let (first, last) = (&ends[0], &ends[ends.len() - 1]);
    for (name, start) in first {
        let end = last.iter().find(|it| it.0 == *name).and_then(|it| it.1);
        let growth = end.zip(*start).map(|(end, start)| end.map(|it| it / start.median));
        if name.is_empty() {
            let what = "growth of the ratio to the limit from 512 to 32,768 live";
            bench.report.judge(what, growth, Limit::AtMost(1.1));
        } else {
            bench.report.tell(&format!("  growth of the time itself, {name}"), growth);
        }
    }
    if bench.length == Length::Full {
        for live in BETWEEN {
            bench.cost(live);
        }
    }
    Ok(())
}

/// What is not in anybody's hands but the processor's: copies to anywhere in place
/// of copies in order, and translations of small pages.
fn what_bounds(bench: &mut Bench, live: usize) {
    let (ours, probe) = (bench.ours, bench.probe);
    let keyed = probe.strip_prefix("probe").unwrap_or_default();
    let (scattered, huge) = (format!("probe-scattered{keyed}"), format!("{ours}-huge"));
    let names = [probe, &scattered, ours, &huge];
    let race = bench.race(&names.map(|name| Entry::new(name, Plan::new(1, live))));
    for (one, other) in [(&*scattered, probe), (ours, &*scattered), (&*huge, ours)] {
        let ratio = Race::ratio(race.named(one), race.named(other), Round::cpu_ns);
        bench.report.tell(&format!("  {one} / {other}"), ratio);
    }
    for (name, why) in &race.missing {
        bench.report.not_run(&format!("  {name}"), why);
    }
}

pub(crate) fn against_peers(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let ours = bench.ours;
    let race = bench.cost(4096);
    let ratios =
        PEERS.map(|peer| (peer, Race::ratio(race.named(peer), race.named(ours), Round::cpu_ns)));
    let missing = race.missing.clone();
    for (name, why) in &missing {
        bench.report.not_run(name, why);
    }
    for (peer, ratio) in ratios {
        let limit = match peer {
            "asmjit" => Limit::AtLeast(6.0),
            "mapping" => Limit::AtLeast(60.0),
            _ if ratio.is_none() => continue,
            _ => Limit::None,
        };
        bench.report.judge(&format!("{peer} / {ours}, one thread"), ratio, limit);
    }
    let plan = Plan::new(2, 4096);
    let rivals = [ours, "asmjit", "talc-rwx", "mapping"];
    let race = bench.race(&rivals.map(|name| Entry::new(name, plan)));
    for (at, peer) in (1..).zip(&rivals[1..]) {
        let ratio = Race::ratio(race.lane(at), race.lane(0), Round::wall_ns);
        let limit = if *peer == "asmjit" { Limit::AtLeast(25.0) } else { Limit::None };
        bench.report.judge(&format!("{peer} / {ours}, two threads"), ratio, limit);
    }
    drop(race);
    for threads in [1, 2] {
        let plan = Plan::new(threads, 4096).timed();
        let race = bench.race(&rivals.map(|name| Entry::new(name, plan)));
        let ratio = Race::ratio(race.lane(0), race.lane(1), Round::p999_ns);
        let what = format!("{ours} / asmjit, p99.9 of one replacement, {threads} threads");
        bench.report.judge(&what, ratio, Limit::AtMost(0.1));
        for lane in race.lanes() {
            let tail = lane.spread(Round::p999_ns).map(|it| it.map(|ns| ns / 1000.0));
            bench.report.tell(&format!("  p99.9, us, {}", lane.name), tail);
        }
    }
    Ok(())
}
