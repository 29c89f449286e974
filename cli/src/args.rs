//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use jit_arena::Strategy;

use crate::replay::{self, Speed};
use crate::stress;

/// Code memory for multi-threaded JITs: replay recorded programs through the
/// arena, stress it, see what this machine offers.
///
/// Without a command: says what this machine offers, replays the bundled
/// traces with real machine code, runs ten seconds of the stress test on all
/// cores, and ends with a table. Takes less than a minute.
#[derive(Debug, Parser)]
#[command(name = "jit-arena", version, max_term_width = 100)]
#[command(after_help = "\
Exit status: 0 if every check held, 1 if one did not, 2 if the request cannot be carried out
(usage, unreadable trace, a strategy this machine does not have).")]
pub struct CommandLine {
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,

    /// What to do; the main job if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of all commands.
#[derive(Clone, Copy, Debug, Args)]
pub struct Common {
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,

    /// Use this protection strategy, and fail if this machine does not have it
    ///
    /// Without it, the environment variable JIT_ARENA_STRATEGY decides, and
    /// without that the arena takes the best that works here.
    #[arg(long, global = true, value_name = "NAME", value_parser = strategy_parser())]
    pub strategy: Option<Strategy>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what this machine offers, and why the arena chose what it chose
    Doctor,
    /// Replay recorded traces, with real machine code for every executor
    Replay(ReplayArgs),
    /// Let threads run Python programs whose hot code is in one arena
    Stress(StressArgs),
    /// Install a trace's first executors and disassemble what the arena holds
    Dump(DumpArgs),
    /// Compute what trampolines save on recorded traces
    Trampolines(TrampolinesArgs),
    /// Measure what fork costs against committed code memory
    Forks(ForksArgs),
}

/// Options of `forks`.
#[derive(Debug, Args)]
pub struct ForksArgs {
    /// Forks of each kind
    #[arg(long, value_name = "N", default_value_t = 31)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub forks: u32,
}

/// Options of `dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// CSV file, plain or gzip, or the name of a bundled trace
    #[arg(value_name = "TRACE", default_value = "bm_richards")]
    pub trace: String,

    /// How many of its executors to install
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub executors: u32,
}

/// Options of `trampolines`.
#[derive(Debug, Args)]
pub struct TrampolinesArgs {
    /// CSV files, plain or gzip, or names of bundled traces [default: all bundled]
    #[arg(value_name = "TRACE")]
    pub traces: Vec<String>,

    /// Far helpers that the runtime has, each with one trampoline
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub helpers: u32,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// CSV files, plain or gzip, or names of bundled traces
    ///
    /// Bundled are bm_richards, bm_sympy, w_reload_nl, t_lib and w_threads_nl.
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<String>,

    /// Spread the events over so many threads
    ///
    /// No executor is freed before it is allocated; four frees in five happen
    /// on another thread than the allocation.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = threads_parser())]
    pub threads: u16,

    /// How fast to replay
    #[arg(long, value_enum, default_value_t = Speed::Max)]
    pub speed: Speed,

    /// Leave where code lies to chance
    #[arg(long)]
    pub random_placement: bool,

    /// Make a check fail on purpose, to see that it can
    #[arg(long, value_enum, value_name = "CHECK", hide = true)]
    pub sabotage: Option<replay::Sabotage>,
}

/// Options of `stress`.
#[derive(Debug, Args)]
pub struct StressArgs {
    /// Disturb: threads end and are born, globals change, guards fail at random,
    /// signals come, forked children go on running, memory is short
    #[arg(long, conflicts_with = "synthetic")]
    pub chaos: bool,

    /// With `--chaos`, fork no children
    #[arg(long, requires = "chaos")]
    pub no_forks: bool,

    /// Write a page with plots, for a browser
    #[arg(long, value_name = "FILE", conflicts_with = "synthetic")]
    pub report: Option<PathBuf>,

    /// Have no programs: let threads install, replace, invalidate and call
    /// generated functions on shared slots, with every count exact
    #[arg(long)]
    pub synthetic: bool,

    /// How many threads run at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads_parser())]
    pub threads: Option<u16>,

    /// How long to run, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,

    /// What to draw every thread's operations from [default: different each time]
    ///
    /// With `--synthetic`, the same seed gives each thread the same sequence of
    /// operations.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,

    /// Make a check fail on purpose, to see that it can
    #[arg(long, value_enum, value_name = "CHECK", hide = true, requires = "synthetic")]
    pub sabotage: Option<stress::Sabotage>,
}

fn strategy_parser() -> impl TypedValueParser<Value = Strategy> {
    PossibleValuesParser::new(Strategy::ALL.map(Strategy::name))
        .try_map(|name| name.parse::<Strategy>())
}

fn threads_parser() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=256)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let day = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= day => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("choose from more than 0 to 86400".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn bundled_traces_are_named_in_the_help() {
        use clap::CommandFactory;
        let help = CommandLine::command()
            .find_subcommand_mut("replay")
            .map(|replay| replay.render_long_help().to_string())
            .expect("a command");
        assert!(crate::bundled::names().all(|name| help.contains(name)), "{help}");
    }
}
