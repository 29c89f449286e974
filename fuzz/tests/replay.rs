//! Replays the corpus and every input that once found a fault.

use std::fs;
use std::path::{Path, PathBuf};

use jit_arena_fuzz::{Outcome, TARGETS};

/// The files in `folder`, sorted; none if it does not exist.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

#[test]
fn corpus_and_regressions_hold() {
    for (name, target) in TARGETS {
        let mut steps = 0;
        let mut ran = 0;
        for kind in ["corpus", "regressions"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(name);
            let files = inputs(&folder);
            assert!(kind == "regressions" || !files.is_empty(), "no corpus in {folder:?}");
            for path in files {
                // Shown with the failure, if there is one.
                println!("{}", path.display());
                match target(&fs::read(&path).unwrap()) {
                    Outcome::Ran { steps: more } => {
                        steps += more;
                        ran += 1;
                    }
                    Outcome::NotRun => println!("not run: {}", path.display()),
                }
            }
        }
        println!("{name}: {ran} inputs, {steps} operations");
        assert!(ran > 0, "{name}: nothing ran");
    }
}
