//! Target 4: frees by another thread than the one that installed.

use std::error::Error;

use jit_arena_benches::crew::{Frees, Plan, Round};
use jit_arena_benches::race::{Entry, Race};

use crate::bench::Bench;
use crate::report::Limit;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    // Of both, 80 % go through a mailbox, which costs something itself: the
    // thread's own, and its neighbour's.
    let mailed =
        |to_other| Plan { frees: Frees::Mailed { percent: 80, to_other }, ..Plan::new(2, 4096) };
    let entries = [true, false].map(|to_other| Entry::new(bench.ours, mailed(to_other)));
    let race = bench.race(&entries);
    let what = "80 % of frees by another thread / by the same, two threads";
    let ratio = |what: fn(&Round) -> f64| Race::ratio(race.lane(0), race.lane(1), what);
    bench.report.judge(
        &format!("{what}, processor time"),
        ratio(Round::cpu_ns),
        Limit::AtMost(1.2),
    );
    bench.report.tell(&format!("{what}, elapsed time"), ratio(Round::wall_ns));
    Ok(())
}
