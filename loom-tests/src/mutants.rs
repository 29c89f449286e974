//! Seeded faults, and the proof that some model notices each.
//!
//! Three kinds, one build (`--cfg jit_arena_mutants`):
//!
//! - *weakened orderings*: every place in the library that asks for more than
//!   Relaxed, found by running the models, weakened one step at a time;
//! - *lost effects*: a call on the machine, or on the reclamation scheme, that
//!   does nothing, as if the library had not made it;
//! - *faults in the source*, where the library asks `mutant("name")`.
//!
//! Each runs in a process of its own, model after model, until one fails.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Faults that have a name.
pub const NAMED: &[(&str, &str)] = &[
    ("no-grace-period", "what is retired is recycled at once"),
    ("pin-does-nothing", "a guard protects nothing"),
    ("cores-not-synchronised", "memory is used again without a membarrier"),
    ("no-traps", "dead code is left as it is"),
    ("key-stays-open", "a write scope, or attaching, leaves the key open"),
    ("toggle-stays-writable", "a write scope leaves JIT memory writable"),
    ("window-stays-mapped", "a write scope leaves its window mapped"),
    ("window-stays-writable", "a write scope leaves its pages writable"),
    ("data-cache-not-cleaned", "written code is left in the data cache"),
    ("instruction-cache-not-invalidated", "the instruction cache keeps old code"),
];

/// Orderings whose weakening no model can notice, and why that is right.
pub const BEYOND: &[(&str, &str)] = &[];

/// What became of a mutant.
#[derive(Clone, Debug)]
pub enum Fate {
    /// A model failed: its name, and in which schedule.
    Killed(String, usize),
    /// No model failed.
    Survived {
        /// Whether any model came by the fault.
        reached: bool,
    },
    /// Still running after the limit.
    TimedOut,
}

/// Runs models, in this order, with one fault on. `variable` is
/// `JIT_ARENA_MUTANT` or `JIT_ARENA_WEAKEN`.
///
/// # Errors
///
/// If no process can be started.
pub fn try_kill(
    variable: &str,
    fault: &str,
    models: &[&str],
    limit: Duration,
) -> std::io::Result<Fate> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(models)
        .env(variable, fault)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        stderr.map(|mut stderr| stderr.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = reader.join().unwrap_or_default();
    Ok(match status {
        None => Fate::TimedOut,
        Some(status) if status.success() => {
            Fate::Survived { reached: said.contains("mutant reached: ") }
        }
        Some(_) => {
            let (model, schedule) = said
                .lines()
                .find_map(|line| {
                    let rest = line.strip_prefix("model ")?;
                    let (model, schedule) = rest.split_once(" failed in schedule ")?;
                    Some((model.to_owned(), schedule.parse().ok()?))
                })
                .unwrap_or_else(|| ("(no model said so)".to_owned(), 0));
            Fate::Killed(model, schedule)
        }
    })
}
