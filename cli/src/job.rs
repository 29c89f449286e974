//! The commands, and the main job that is all of them.

use std::path::Path;
use std::time::Duration;

use crate::args::{Command, CommandLine, Common, ReplayArgs, StressArgs, TrampolinesArgs};
use crate::bundled;
use crate::doctor::{self, cores};
use crate::dump::dump;
use crate::failure::{Failure, Request};
use crate::forks;
use crate::human;
use crate::output::Output;
use crate::python::{self, Ended, Page, PythonOptions, PythonReport};
use crate::replay::{self, ReplayOptions, ReplayReport, Speed};
use crate::stress::{self, StressOptions, StressReport};
use crate::tables;
use crate::trace::{Trace, TraceError, TraceErrorKind};
use crate::trampolines::savings;

/// Threads of the second replay of a trace that was recorded with several.
const THREADS: usize = 8;

/// How long the main job's stress test runs.
const STRESS_TIME: Duration = Duration::from_secs(10);

/// Does what the command line says.
///
/// # Errors
///
/// The request cannot be carried out, or a check did not hold.
pub fn run(line: CommandLine) -> Result<(), Failure> {
    let output = Output::new(line.common.json);
    match line.command {
        None => main_job(line.common, output),
        Some(Command::Doctor) => {
            let report = doctor::examine(line.common.strategy)?;
            output.object(&report)?;
            output.text(&report.text())
        }
        Some(Command::Replay(args)) => replay_command(&args, line.common, output),
        Some(Command::Stress(args)) => stress_command(&args, line.common, output),
        Some(Command::Dump(args)) => {
            let trace = open(&args.trace)?;
            let report = dump(&trace, args.executors as usize, line.common.strategy)?;
            output.object(&report)?;
            output.text(report.text.trim_end())
        }
        Some(Command::Forks(args)) => {
            let rows = forks::measure(line.common.strategy, args.forks as usize)?;
            rows.iter().try_for_each(|row| output.object(row))?;
            output.text(&forks::text(&rows))
        }
        Some(Command::Trampolines(args)) => trampolines_command(&args, line.common, output),
    }
}

fn main_job(common: Common, output: Output) -> Result<(), Failure> {
    let machine = doctor::examine(common.strategy)?;
    output.object(&machine)?;
    output.text(&machine.summary())?;
    output.text("")?;

    let options = ReplayOptions {
        threads: 1,
        strategy: common.strategy,
        speed: Speed::Max,
        random_placement: false,
        sabotage: None,
    };
    let mut replays = Vec::new();
    for name in bundled::names() {
        let trace = open(name)?;
        replays.push(replay(&trace, options, output)?);
        if trace.recorded_threads > 1 && trace.executors.len() > 10_000 {
            replays.push(replay(&trace, ReplayOptions { threads: THREADS, ..options }, output)?);
        }
    }
    let stress = stress(
        StressOptions {
            threads: cores(),
            time: STRESS_TIME,
            seed: fastrand::u64(..),
            strategy: common.strategy,
            sabotage: None,
        },
        output,
    )?;
    output.text(&tables::memory(&replays))?;
    output.text("")?;
    output.text(&tables::work(&replays, std::slice::from_ref(&stress)))?;
    output.text("")?;
    output.text(&stress_text(&stress))?;
    verdict(&replays, &[stress], output)
}

fn replay_command(args: &ReplayArgs, common: Common, output: Output) -> Result<(), Failure> {
    let options = ReplayOptions {
        threads: args.threads.into(),
        strategy: common.strategy,
        speed: args.speed,
        random_placement: args.random_placement,
        sabotage: args.sabotage,
    };
    // All are read first: a damaged one is told before any work is done.
    let traces = args.traces.iter().map(|name| open(name)).collect::<Result<Vec<_>, _>>()?;
    let mut replays = Vec::new();
    for trace in &traces {
        replays.push(replay(trace, options, output)?);
    }
    output.text(&tables::memory(&replays))?;
    output.text("")?;
    output.text(&tables::work(&replays, &[]))?;
    output.text("")?;
    verdict(&replays, &[], output)
}

fn python_command(args: &StressArgs, common: Common, output: Output) -> Result<(), Failure> {
    let page = args.report.as_deref().map(Page::create).transpose()?;
    let options = PythonOptions {
        threads: args.threads.map_or_else(cores, usize::from),
        time: args.seconds,
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
        strategy: common.strategy,
        chaos: args.chaos,
        forks: !args.no_forks,
    };
    let threads = options.threads;
    // The seed is told first, as for the synthetic test.
    let what = format!("stress, {threads} thread{}, seed {}", plural(threads), options.seed);
    let mut progress = output.progress(&what, options.time.as_millis() as u64);
    progress.in_two_lines();
    let ended = python::run(&options, &mut |live| {
        progress.tell(live.time.as_millis() as u64, &live.text);
    });
    drop(progress);
    let Ended { report, held } = ended?;
    let told = tell_python(&report, output);
    // Also if nobody reads what is told, and if a check did not hold.
    let written = match page {
        Some(page) => {
            page.write(&report).and_then(|path| output.text(&format!("plots: {}", path.display())))
        }
        None => Ok(()),
    };
    held?;
    report.check()?;
    told?;
    written?;
    output.text("every check held")
}

fn tell_python(report: &PythonReport, output: Output) -> Result<(), Failure> {
    output.object(report)?;
    output.text(&tables::python(report))?;
    output.text(&format!(
        "W^X audit: {} in {} readings of the process's mappings",
        report.audit().describe(report.strategy),
        human::count(report.wx_readings),
    ))
}

fn stress_command(args: &StressArgs, common: Common, output: Output) -> Result<(), Failure> {
    if !args.synthetic {
        return python_command(args, common, output);
    }
    let report = stress(
        StressOptions {
            threads: args.threads.map_or_else(cores, usize::from),
            time: args.seconds,
            seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
            strategy: common.strategy,
            sabotage: args.sabotage,
        },
        output,
    )?;
    let stress = [report];
    output.text(&tables::work(&[], &stress))?;
    output.text("")?;
    output.text(&stress_text(&stress[0]))?;
    verdict(&[], &stress, output)
}

fn trampolines_command(
    args: &TrampolinesArgs,
    common: Common,
    output: Output,
) -> Result<(), Failure> {
    let traces = if args.traces.is_empty() {
        bundled::names().map(open).collect::<Result<Vec<_>, _>>()?
    } else {
        args.traces.iter().map(|name| open(name)).collect::<Result<Vec<_>, _>>()?
    };
    let mut all = Vec::new();
    for trace in &traces {
        let savings = savings(trace, args.helpers as usize, common.strategy)?;
        output.object(&savings)?;
        all.push(savings);
    }
    output.text(&tables::savings(&all))
}

/// A trace by its path or, if there is no such file, by its bundled name.
fn open(name: &str) -> Result<Trace, Request> {
    match Trace::open(Path::new(name)) {
        Err(TraceError { kind: TraceErrorKind::Read(e), .. })
            if e.kind() == std::io::ErrorKind::NotFound && bundled::names().any(|n| n == name) =>
        {
            bundled::open(name).unwrap_or_else(|| Trace::open(Path::new(name)))
        }
        read => read,
    }
    .map_err(Request::from)
}

fn replay(trace: &Trace, options: ReplayOptions, output: Output) -> Result<ReplayReport, Failure> {
    let threads = options.threads;
    let what = format!("replay {}, {threads} thread{}", trace.name, plural(threads));
    let mut progress = output.progress(&what, trace.events.len() as u64);
    let report = replay::run(trace, options, &mut |done| progress.set(done as u64))?;
    drop(progress);
    output.object(&report)?;
    Ok(report)
}

fn stress(options: StressOptions, output: Output) -> Result<StressReport, Failure> {
    let threads = options.threads;
    // The seed is told first: a run that crashes can be repeated, too.
    let what = format!("stress, {threads} thread{}, seed {}", plural(threads), options.seed);
    let mut progress = output.progress(&what, options.time.as_millis() as u64);
    let report = stress::run(options, &mut |time| progress.set(time.as_millis() as u64))?;
    drop(progress);
    output.object(&report)?;
    Ok(report)
}

fn stress_text(stress: &StressReport) -> String {
    format!(
        "stress: {} operations of {} threads in {:.1} s, seed {}\n  \
         {} threads born, {} parks, {} safepoints, {} of code compared\n  \
         {} profiling signals, {} of them inside code, all of which was found\n  \
         every count exact after each of {} rounds, nothing live at the end",
        human::count(stress.operations),
        stress.threads,
        stress.seconds,
        stress.seed,
        human::count(stress.threads_born),
        human::count(stress.parks),
        human::count(stress.safepoints),
        human::bytes(stress.compared_bytes),
        human::count(stress.profiled_signals),
        human::count(stress.profiled_in_code),
        stress.rounds,
    )
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// The last word: what the audits saw, and whether every check held.
fn verdict(
    replays: &[ReplayReport],
    stress: &[StressReport],
    output: Output,
) -> Result<(), Failure> {
    let audits = || {
        let of_replays = replays.iter().map(|r| (r.audit(), r.strategy));
        of_replays.chain(stress.iter().map(|s| (s.audit(), s.strategy)))
    };
    let readings = audits().map(|(audit, _)| audit.readings).sum();
    if let Some((audit, strategy)) = audits().max_by_key(|(audit, _)| audit.wx.len()) {
        output.text(&format!(
            "W^X audit: {} in {} readings of the process's mappings",
            audit.describe(strategy),
            human::count(readings),
        ))?;
    }
    for (audit, strategy) in audits() {
        audit.check(strategy)?;
    }
    output.text("every check held")
}
