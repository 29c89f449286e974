//! The nine targets of DESIGN.md, each with what was measured, its limit, and
//! whether it was met; with `--record`, the tables and plots of a record.
//!
//! Everything is a ratio of interleaved rounds where it can be one. With
//! protection keys the arena is measured as `dual-pkey`, against the probe
//! under a key; without them as `dual-open`, the same path without the two
//! changes of rights, against the probe without a key.

mod bench;
mod cost;
mod enter;
mod execute;
mod memory;
mod record;
mod remote;
mod report;
mod scopes;
mod syscalls;
mod threads;
mod touch;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use jit_arena_benches::machine;

use bench::{Bench, Length};

/// Measures all nine targets.
#[derive(Debug, Parser)]
struct Options {
    /// Only these targets, by number.
    #[arg(value_parser = clap::value_parser!(u8).range(1..=9))]
    only: Vec<u8>,
    /// A minute or so, for a look: on a busy machine the figures wander.
    #[arg(long)]
    quick: bool,
    /// Seconds, to see that it runs; the figures mean nothing.
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Write tables, plots and the machine's facts to this folder; if none is
    /// named, to one of today's date in `benches/record`.
    #[arg(long)]
    record: Option<Option<PathBuf>>,
}

type Target = fn(&mut Bench) -> Result<(), Box<dyn Error>>;

const TARGETS: [(&str, Target); 9] = [
    ("Against the limit, one thread", cost::against_the_limit),
    ("Against peers", cost::against_peers),
    ("With threads", threads::run),
    ("Frees by other threads", remote::run),
    ("Entering and leaving code", enter::run),
    ("First touch", touch::run),
    ("Memory", memory::run),
    ("Executing", execute::run),
    ("Write scopes", scopes::run),
];

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let facts = machine::facts();
    for (what, value) in &facts {
        println!("{what}: {value}");
    }
    let length = match (options.smoke, options.quick) {
        (true, _) => Length::Smoke,
        (_, true) => Length::Quick,
        _ => Length::Full,
    };
    let mut bench = Bench::new(length);
    for (number, (title, target)) in (1..).zip(TARGETS) {
        if options.only.is_empty() || options.only.contains(&number) {
            bench.report.target(number.into(), title);
            target(&mut bench)?;
        }
    }
    bench.report.summary();
    if let Some(folder) = options.record {
        let folder = folder.unwrap_or_else(record::of_today);
        record::write(&bench, &facts, &folder)?;
        println!("recorded in {}", folder.display());
    }
    Ok(())
}
