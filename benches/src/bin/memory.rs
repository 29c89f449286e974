//! Replays recorded traces and prints the memory they take for each live byte.

use std::path::PathBuf;

use clap::Parser;
use jit_arena_benches::rival::{self, NotHere, Rival, Room, Visit};
use jit_arena_benches::trace::{self, Event};

/// Memory of recorded traces: committed ÷ live, weighted by time.
#[derive(Debug, Parser)]
struct Options {
    /// Folder of the traces.
    #[arg(long, default_value = "traces")]
    traces: PathBuf,
    /// What to replay them on.
    #[arg(default_values_t = ["dual-open".to_owned()])]
    rivals: Vec<String>,
}

struct Replay<'e> {
    events: &'e [Event],
    ratio: Option<f64>,
}

impl Visit for Replay<'_> {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        let memory = trace::replay(&rival, self.events);
        self.ratio = Some(memory.committed_over_live);
    }

    fn missing(&mut self, name: &str, why: NotHere) {
        println!("not run: {name}: {why}");
    }
}

fn main() -> Result<(), String> {
    let options = Options::parse();
    let listing = options.traces.read_dir().map_err(|error| error.to_string())?;
    let mut paths: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".csv.gz"));
    paths.sort();
    for name in &options.rivals {
        let mut ratios = Vec::new();
        for path in &paths {
            let events = trace::read(path)?;
            let mut replay = Replay { events: &events, ratio: None };
            rival::visit(name, Room { bytes: 64 << 20, threads: 1 }, &mut replay);
            let Some(ratio) = replay.ratio else { break };
            println!(
                "{name:16} {:40} {ratio:.3}",
                path.file_name().unwrap_or_default().to_string_lossy()
            );
            ratios.push(ratio.ln());
        }
        if !ratios.is_empty() {
            let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
            println!("{name:16} {:40} {mean:.3}", "geometric mean");
        }
    }
    Ok(())
}
