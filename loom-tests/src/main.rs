//! Lists and runs models.
//!
//! ```text
//! loom-tests --list        models, invariants, bounds of this build
//! loom-tests [NAME]...     runs them, all by default, and says what it came to
//! ```

use std::process::ExitCode;

use loom_tests::{CHECKER, Model, models};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        list();
        return ExitCode::SUCCESS;
    }
    let mut chosen: Vec<&Model> = Vec::new();
    for name in &args {
        match Model::named(name) {
            Some(model) => chosen.push(model),
            None => {
                eprintln!("no model `{name}`; try --list");
                return ExitCode::from(2);
            }
        }
    }
    if args.is_empty() {
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

fn list() {
    println!("{:<32} {:<16} {CHECKER}", "model", "checks");
    for model in models::all() {
        let bounds = model.bounds().map_or("not run".to_owned(), |bounds| {
            format!("{} preemptions, at least {} schedules", bounds.preemptions, bounds.least)
        });
        println!("{:<32} {:<16} {bounds}", model.name, model.checks.join(" "));
    }
}
