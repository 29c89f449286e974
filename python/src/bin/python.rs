//! Runs a program, or one of the bundled ones by its name.
//!
//! `cargo run --release -p jit-arena-python --bin python -- PROGRAM [--interpret]`

use std::process::ExitCode;

use jit_arena::Arena;
use jit_arena_python::programs::BUNDLED;
use jit_arena_python::{Options, Program, Runtime};

fn run(name: &str, machine_code: bool) -> Result<(), Box<dyn std::error::Error>> {
    let text = match BUNDLED.iter().find(|bundled| bundled.name == name) {
        Some(bundled) => bundled.text.to_owned(),
        None => std::fs::read_to_string(name)?,
    };
    let program = Program::parse(name, &text)?;
    let options = Options { machine_code, ..Options::default() };
    let runtime = Runtime::new(Arena::builder(), options)?;
    let world = runtime.world(&program);
    let outcome = runtime.attach()?.start(&world);
    print!("{}", world.take_output());
    Ok(outcome?)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let [name] = names.as_slice() else {
        eprintln!("usage: python PROGRAM [--interpret]");
        return ExitCode::from(2);
    };
    match run(name, !args.iter().any(|arg| arg == "--interpret")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
