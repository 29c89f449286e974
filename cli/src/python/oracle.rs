//! What every program should print: as the interpreter has it, and `python3`,
//! if there is one.

use std::io::ErrorKind;
use std::process::Command;
use std::thread;

use jit_arena::{Arena, Strategy};
use jit_arena_python::programs::{BUNDLED, Bundled};
use jit_arena_python::{Options, Program, Runtime, THREAD_STACK};

use super::wrong;
use crate::failure::{Check, Failure, Request};

/// What `run` is called with.
pub(super) const ARGUMENTS: std::ops::RangeInclusive<i64> = 1..=4;

/// A program, and what it should do.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) bundled: Bundled,
    pub(crate) program: Program,
    /// What it prints.
    pub(crate) output: String,
    /// What `run` returns for each of [`ARGUMENTS`].
    pub(crate) results: Vec<String>,
}

/// All programs, with what they should do.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) known: Vec<Known>,
    /// Whether `python3` was there to be asked, and agreed.
    pub(crate) python: bool,
}

impl Oracle {
    pub(crate) fn new() -> Result<Self, Failure> {
        let known = BUNDLED.iter().map(interpret).collect::<Result<Vec<_>, _>>()?;
        let mut python = true;
        for known in &known {
            python &= ask_python(known)?;
        }
        Ok(Self { known, python })
    }
}

/// Runs a program without machine code.
fn interpret(bundled: &Bundled) -> Result<Known, Failure> {
    let work = || -> Result<Known, Failure> {
        let program = Program::parse(bundled.name, bundled.text)
            .map_err(|e| Check::operation("reading a program", e))?;
        let options = Options { machine_code: false, ..Options::default() };
        let builder = Arena::builder().strategy(Strategy::DualOpen);
        let runtime = Runtime::new(builder, options).map_err(Request::from)?;
        let world = runtime.world(&program);
        let mut thread = runtime.attach().map_err(|e| Check::operation("attaching a thread", e))?;
        let failed = |e: String| Check::operation(format!("interpreting {}", bundled.name), e);
        thread.start(&world).map_err(failed)?;
        let output = world.take_output();
        let results = ARGUMENTS.map(|n| thread.call(&world, "run", n).map_err(failed));
        let results = results.collect::<Result<Vec<_>, _>>()?;
        Ok(Known { bundled: *bundled, program, output, results })
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .stack_size(THREAD_STACK)
            .spawn_scoped(scope, work)
            .map_err(|source| Failure::System { what: "start a thread", source })?;
        worker.join().unwrap_or_else(|payload| Err(crate::settle::panicked(&*payload).into()))
    })
}

/// Whether `python3` is there; an error if it does not run the program, or prints
/// something else.
fn ask_python(known: &Known) -> Result<bool, Failure> {
    let python = match Command::new("python3").args(["-c", known.bundled.text]).output() {
        Ok(python) => python,
        // Not found, or in a directory that is closed to this user.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(false);
        }
        Err(source) => return Err(Failure::System { what: "run python3", source }),
    };
    if !python.status.success() {
        let said = String::from_utf8_lossy(&python.stderr).trim_end().to_owned();
        let program = known.bundled.name;
        return Err(Check::Python { program, status: python.status, said }.into());
    }
    let said = String::from_utf8_lossy(&python.stdout).into_owned();
    if said != known.output {
        let output = known.output.clone();
        return Err(wrong(known.bundled.name, "interpreted", output, said).into());
    }
    Ok(true)
}
