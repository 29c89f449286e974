//! Lists and runs models, and the mutants that prove them.
//!
//! ```text
//! loom-tests --list        models, invariants, bounds of this build
//! loom-tests [NAME]...     runs them, all by default, and says what it came to
//! loom-tests --mutants [PART]...
//!                          seeds each fault whose name contains a PART, all by
//!                          default, and says which model notices it
//! ```

use std::process::ExitCode;
use std::time::Duration;

use loom_tests::mutants::{self, Fate};
use loom_tests::{CHECKER, Model, models};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--list") => {
            list();
            ExitCode::SUCCESS
        }
        Some("--mutants") => match seed(&args[1..]) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("cannot run mutants: {error}");
                ExitCode::from(2)
            }
        },
        // For `--mutants`: what there is to weaken in what the models run.
        Some("--weakenings") => {
            run(&args[1..]);
            print_weakenings();
            ExitCode::SUCCESS
        }
        _ => run(&args),
    }
}

fn list() {
    println!("{:<32} {:<20} {CHECKER}", "model", "checks");
    for model in models::all() {
        let bounds = model.bounds().map_or("not run".to_owned(), |bounds| {
            format!("{} preemptions, at least {} schedules", bounds.preemptions, bounds.least)
        });
        println!("{:<32} {:<20} {bounds}", model.name, model.checks.join(" "));
    }
}

fn run(names: &[String]) -> ExitCode {
    let mut chosen: Vec<&Model> = Vec::new();
    for name in names {
        match Model::named(name) {
            Some(model) => chosen.push(model),
            None => {
                eprintln!("no model `{name}`; try --list");
                return ExitCode::from(2);
            }
        }
    }
    if names.is_empty() {
        chosen.extend(models::all());
    }
    for model in chosen {
        match model.run() {
            Some(ran) => println!(
                "{:<32} {:>9} schedules {:>8.1} s{}",
                model.name,
                ran.schedules,
                ran.time.as_secs_f64(),
                if ran.finished { "" } else { "  (unfinished)" }
            ),
            None => println!("not run: {}: beyond reach of {CHECKER}", model.name),
        }
    }
    ExitCode::SUCCESS
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
const LIMIT: Duration = Duration::from_secs(600);

/// Runs the mutants; whether all that had to die did.
fn seed(parts: &[String]) -> std::io::Result<bool> {
    if !cfg!(jit_arena_mutants) {
        eprintln!("this build has no faults to seed; build with --cfg jit_arena_mutants");
        return Ok(false);
    }
    let mut faults: Vec<(&str, String)> =
        mutants::NAMED.iter().map(|(name, _)| ("JIT_ARENA_MUTANT", (*name).to_owned())).collect();
    let found = std::process::Command::new(std::env::current_exe()?)
        .arg("--weakenings")
        .env("JIT_ARENA_PREEMPTIONS", "0")
        .output()?;
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
    let models: Vec<&str> = models::by_cost().map(|model| model.name).collect();
    let (mut killed, mut alive) = (0, 0);
    println!("{:<56} killed by, in schedule", "fault");
    for (variable, fault) in &faults {
        let fate = mutants::try_kill(variable, fault, &models, LIMIT)?;
        let explained = mutants::BEYOND.iter().find(|(known, _)| fault.starts_with(known));
        let outcome = match (&fate, explained) {
            (Fate::Killed(model, schedule), _) => {
                killed += 1;
                format!("{model}, {schedule}")
            }
            (_, Some((_, why))) => format!("beyond: {why}"),
            (Fate::Survived { reached }, None) => {
                alive += 1;
                format!("SURVIVED{}", if *reached { "" } else { ", never reached" })
            }
            (Fate::TimedOut, None) => {
                alive += 1;
                "SURVIVED, timed out".to_owned()
            }
        };
        println!("{fault:<56} {outcome}");
    }
    println!("{} faults, {killed} killed, {alive} unexplained survivors", faults.len());
    Ok(alive == 0)
}
