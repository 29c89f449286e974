//! Lists and runs models, and the mutants that prove them.
//!
//! ```text
//! loom-tests --list        models, invariants, bounds, and what was counted last
//! loom-tests [--record] [NAME]...
//!                          runs them, all by default, and says what it came to
//! loom-tests --mutants [--record] [--new] [PART]...
//!                          seeds each fault whose name or place contains a
//!                          PART, all by default, and says which model notices it
//! ```
//!
//! `--record` keeps the result for the next `--list`, or for the order in which
//! models are tried on a fault next time; of what was not run it keeps what it had.
//! `--new` leaves out what is recorded as noticed.

use std::process::ExitCode;
use std::time::Duration;

use loom_tests::mutants::{self, Fate};
use loom_tests::record::{self, Killers};
use loom_tests::{Bounds, CHECKER, Model, models, site};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let keep = args.iter().any(|arg| arg == "--record");
    let only_new = args.iter().any(|arg| arg == "--new");
    args.retain(|arg| arg != "--record" && arg != "--new");
    let done = match args.first().map(String::as_str) {
        Some("--list") => {
            list();
            Ok(true)
        }
        Some("--mutants") => seed(&args[1..], keep, only_new),
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

/// A fault to seed.
struct Fault {
    /// What it is called.
    name: String,
    /// The variable that turns it on, and the value.
    variable: &'static str,
    value: String,
}

/// All faults.
fn faults() -> std::io::Result<Vec<Fault>> {
    let named = mutants::NAMED.iter().map(|(name, _)| Fault {
        name: (*name).to_owned(),
        variable: "JIT_ARENA_MUTANT",
        value: (*name).to_owned(),
    });
    let found = std::process::Command::new(std::env::current_exe()?)
        .arg("--weakenings")
        // Enough for every line to be passed.
        .env("JIT_ARENA_PREEMPTIONS", "1")
        .env("JIT_ARENA_SECONDS", "5")
        .output()?;
    if !found.status.success() {
        let why = "no model may fail without a fault: run them first";
        return Err(std::io::Error::other(why));
    }
    let listed = String::from_utf8_lossy(&found.stdout).into_owned();
    let sites = listed.lines().filter_map(|line| line.strip_prefix("weaken: "));
    // The eager scheme is part of the checking.
    let sites: Vec<&str> = sites.filter(|site| !site.contains("reclaim/eager.rs")).collect();
    let weakened = site::names(&sites)?.into_iter().map(|(name, value)| Fault {
        name,
        variable: "JIT_ARENA_WEAKEN",
        value,
    });
    Ok(named.chain(weakened).collect())
}

/// Runs the mutants; whether all that had to die did.
fn seed(parts: &[String], keep: bool, only_new: bool) -> std::io::Result<bool> {
    if !cfg!(jit_arena_mutants) {
        let why = "this build has no faults to seed; build with --cfg jit_arena_mutants";
        return Err(std::io::Error::other(why));
    }
    let faults = faults()?;
    let names = || faults.iter().map(|fault| fault.name.as_str());
    if let Some((stale, _)) =
        mutants::BEYOND.iter().find(|(known, _)| !names().any(|name| name.starts_with(known)))
    {
        return Err(std::io::Error::other(format!(
            "beyond the models is `{stale}`: no such fault"
        )));
    }
    let mut killers = Killers::read(names())?;
    let (mut killed, mut explained, mut alive) = (0, 0, 0);
    println!("{:<56} killed by, in schedule", "fault");
    for Fault { name, variable, value } in &faults {
        let is_meant = |part: &String| name.contains(part.as_str()) || value.contains(part);
        if !parts.is_empty() && !parts.iter().any(is_meant) || only_new && killers.is_known(name) {
            continue;
        }
        let beyond = mutants::beyond(name);
        if let (Some(why), true) = (beyond, parts.is_empty()) {
            // Every model would have to be run to its end, to no end.
            explained += 1;
            println!("{name:<56} not tried, beyond the models: {why}");
            continue;
        }
        let fate = mutants::try_kill(variable, value, &killers.order(name), LIMIT)?;
        let (outcome, killer) = match (fate, beyond) {
            (Fate::Killed(model, schedule), _) => {
                killed += 1;
                let killer = format!("{model}, {schedule}");
                (killer.clone(), Some(killer))
            }
            (Fate::Survived { .. } | Fate::TimedOut, Some(why)) => {
                explained += 1;
                (format!("beyond the models: {why}"), None)
            }
            (fate, _) => {
                alive += 1;
                let what = match fate {
                    Fate::Survived { reached: false } => ", never reached",
                    Fate::TimedOut => ", timed out",
                    Fate::Died => ", or died of something else",
                    Fate::Survived { .. } | Fate::Killed(..) => "",
                };
                (format!("SURVIVED{what}"), None)
            }
        };
        println!("{name:<56} {outcome}");
        if keep {
            killers.keep(name, killer)?;
        }
    }
    println!(
        "{killed} killed, {explained} beyond the models and explained, {alive} unexplained survivors"
    );
    Ok(alive == 0)
}
