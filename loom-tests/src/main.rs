//! Lists and runs models, and the mutants that prove them.
//!
//! ```text
//! loom-tests --list        models, invariants, bounds, and what was counted last
//! loom-tests [--record] [NAME]...
//!                          runs them, all by default, and says what it came to
//! loom-tests --mutants [--record] [PART]...
//!                          seeds each fault whose name contains a PART, all by
//!                          default, and says which model notices it
//! ```
//!
//! `--record` keeps the result for the next `--list`, or for the order in which
//! models are tried on a fault next time.

use std::process::ExitCode;
use std::time::Duration;

use loom_tests::mutants::{self, Fate};
use loom_tests::{Bounds, CHECKER, Model, models, record};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let keep = args.iter().any(|arg| arg == "--record");
    args.retain(|arg| arg != "--record");
    let done = match args.first().map(String::as_str) {
        Some("--list") => {
            list();
            Ok(true)
        }
        Some("--mutants") => seed(&args[1..], keep),
        // For `--mutants`: what there is to weaken in what the models run.
        Some("--weakenings") => {
            let ran = run(&args[1..], false);
            print_weakenings();
            ran
        }
        _ => run(&args, keep),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loom-tests: {error}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    println!(
        "{:<34} {:<26} {:<28} {:<28} shuttle",
        "model", "checks", "loom, eager scheme", "loom, crossbeam-epoch"
    );
    println!("{:<61} preemptions: schedules (least), seconds, when recorded last", "");
    for model in models::all() {
        let checks = model.checks.join(" ");
        let eager = explored("loom-eager", model, model.eager);
        let epoch = explored("loom-epoch", model, model.epoch);
        let shuttle = counted("shuttle", model, "");
        println!("{:<34} {checks:<26} {eager:<28} {epoch:<28} {shuttle}", model.name);
    }
}

/// How far loom takes a model, and what that came to.
fn explored(checker: &str, model: &Model, bounds: Option<Bounds>) -> String {
    let Some(Bounds { preemptions, least }) = bounds else { return "-".to_owned() };
    format!("{preemptions}: {}", counted(checker, model, &format!(" ({least})")))
}

fn counted(checker: &str, model: &Model, least: &str) -> String {
    record::count(checker, model.name).map_or("not recorded".to_owned(), |(schedules, seconds)| {
        format!("{schedules}{least}, {seconds}")
    })
}

fn run(names: &[String], keep: bool) -> std::io::Result<bool> {
    let mut chosen: Vec<&Model> = Vec::new();
    for name in names {
        let model = Model::named(name);
        chosen.push(
            model.ok_or_else(|| std::io::Error::other(format!("no model `{name}`; try --list")))?,
        );
    }
    if names.is_empty() {
        chosen.extend(models::all());
    }
    let mut counts = Vec::new();
    for model in chosen {
        match model.run() {
            Some(ran) => {
                println!(
                    "{:<34} {:>9} schedules {:>8.1} s{}",
                    model.name,
                    ran.schedules,
                    ran.time.as_secs_f64(),
                    if ran.finished { "" } else { "  (unfinished)" }
                );
                counts.push((model.name, ran));
            }
            None => println!("not run: {}: beyond reach of {CHECKER}", model.name),
        }
    }
    if keep {
        record::keep_counts(CHECKER, &counts)?;
    }
    Ok(true)
}

#[cfg(jit_arena_mutants)]
fn print_weakenings() {
    for site in jit_arena::platform::model::weakenings() {
        println!("weaken: {site}");
    }
}

#[cfg(not(jit_arena_mutants))]
fn print_weakenings() {}

/// Longest that one mutant may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Faults to seed: the variable that turns one on, and its name.
fn faults(parts: &[String]) -> std::io::Result<Vec<(&'static str, String)>> {
    let named = mutants::NAMED.iter().map(|(name, _)| ("JIT_ARENA_MUTANT", (*name).to_owned()));
    let mut faults: Vec<_> = named.collect();
    let found = std::process::Command::new(std::env::current_exe()?)
        .arg("--weakenings")
        // Enough for every line to be passed.
        .env("JIT_ARENA_PREEMPTIONS", "1")
        .output()?;
    if !found.status.success() {
        let why = "no model may fail without a fault: run them first";
        return Err(std::io::Error::other(why));
    }
    let sites = String::from_utf8_lossy(&found.stdout).into_owned();
    faults.extend(
        sites
            .lines()
            .filter_map(|line| line.strip_prefix("weaken: "))
            // The eager scheme is part of the checking.
            .filter(|site| !site.contains("reclaim/eager.rs"))
            .map(|site| ("JIT_ARENA_WEAKEN", site.to_owned())),
    );
    faults.retain(|(_, fault)| {
        parts.is_empty() || parts.iter().any(|part| fault.contains(part.as_str()))
    });
    Ok(faults)
}

/// Runs the mutants; whether all that had to die did.
fn seed(parts: &[String], keep: bool) -> std::io::Result<bool> {
    if !cfg!(jit_arena_mutants) {
        let why = "this build has no faults to seed; build with --cfg jit_arena_mutants";
        return Err(std::io::Error::other(why));
    }
    let (mut killers, mut explained, mut alive) = (Vec::new(), 0, 0);
    println!("{:<56} killed by, in schedule", "fault");
    for (variable, fault) in faults(parts)? {
        let mut models: Vec<&str> = models::by_cost().map(|model| model.name).collect();
        if let Some(known) = record::killer(&fault).and_then(Model::named) {
            models.insert(0, known.name);
        }
        let beyond = mutants::beyond(&fault);
        if let (Some(why), true) = (beyond, parts.is_empty()) {
            // Every model would have to be run to its end, to no end.
            explained += 1;
            println!("{fault:<56} not tried, beyond the models: {why}");
            continue;
        }
        let outcome = match (mutants::try_kill(variable, &fault, &models, LIMIT)?, beyond) {
            (Fate::Killed(model, schedule), _) => {
                killers.push((fault.clone(), format!("{model}, {schedule}")));
                format!("{model}, {schedule}")
            }
            (_, Some(why)) => {
                explained += 1;
                format!("beyond the models: {why}")
            }
            (Fate::Survived { reached }, None) => {
                alive += 1;
                format!("SURVIVED{}", if reached { "" } else { ", never reached" })
            }
            (Fate::TimedOut, None) => {
                alive += 1;
                "SURVIVED, timed out".to_owned()
            }
        };
        println!("{fault:<56} {outcome}");
    }
    println!(
        "{} killed, {explained} beyond the models and explained, {alive} unexplained survivors",
        killers.len()
    );
    if keep {
        record::keep_killers(&killers)?;
    }
    Ok(alive == 0)
}
