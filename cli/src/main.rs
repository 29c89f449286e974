//! `jit-arena`: replays recorded traces through the arena, stresses it, and
//! says what this machine offers. With no command, all of that.

use std::process::ExitCode;

use clap::Parser;
use jit_arena_cli::args::CommandLine;
use jit_arena_cli::failure::chain;
use jit_arena_cli::job;

fn main() -> ExitCode {
    // Ends with status 2 on a command line it does not understand.
    let line = CommandLine::parse();
    match job::run(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Who has stopped reading wants to hear no more.
            if !failure.is_hung_up() {
                eprintln!("jit-arena: {}", chain(&failure));
            }
            failure.exit_code()
        }
    }
}
