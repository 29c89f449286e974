//! Replays recorded traces in order and prints the memory they take for each
//! live byte.

use std::error::Error;

use clap::Parser;
use jit_arena_benches::rival::{self, NotHere, Rival, Room, Visit};
use jit_arena_benches::trace;
use jit_arena_cli::bundled;
use jit_arena_cli::trace::Trace;

/// Memory of recorded traces: committed ÷ live, weighted by time.
#[derive(Debug, Parser)]
struct Options {
    /// What to replay them on.
    #[arg(default_values_t = ["dual-open".to_owned()])]
    rivals: Vec<String>,
}

struct Replay<'t> {
    trace: &'t Trace,
    ratio: Option<f64>,
}

impl Visit for Replay<'_> {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        self.ratio = Some(trace::replay(&rival, self.trace).committed_over_live);
    }

    fn missing(&mut self, name: &str, why: NotHere) {
        println!("not run: {name}: {why}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    for name in &options.rivals {
        let mut logs = Vec::new();
        for trace in bundled::names().filter_map(bundled::open) {
            let trace = trace?;
            let mut replay = Replay { trace: &trace, ratio: None };
            rival::visit(name, Room { bytes: 64 << 20, threads: 1 }, &mut replay);
            let Some(ratio) = replay.ratio else { break };
            println!("{name:16} {:20} {ratio:.3}", trace.name);
            logs.push(ratio.ln());
        }
        if !logs.is_empty() {
            let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
            println!("{name:16} {:20} {mean:.3}", "geometric mean");
        }
    }
    Ok(())
}
