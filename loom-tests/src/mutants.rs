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
    ("cores-not-waited-for", "memory is used again before the cores are synchronised"),
    ("no-traps", "dead code is left as it is"),
    ("key-stays-open", "a write scope, or attaching, leaves the key open"),
    ("toggle-stays-writable", "a write scope leaves JIT memory writable"),
    ("window-stays-mapped", "a write scope leaves its window mapped"),
    ("window-stays-writable", "a write scope leaves its pages writable"),
    ("data-cache-not-cleaned", "written code is left in the data cache"),
    ("instruction-cache-not-invalidated", "the instruction cache keeps old code"),
    ("publish-before-close", "an executor is published before its write scope is closed"),
    ("inherited-rights-kept", "attaching leaves the rights that a thread was born with"),
    ("mark-cleared-early", "an executor is off its page's count as soon as it is dropped"),
    ("mark-not-cleared", "a recycled executor stays marked as one"),
    ("freed-before-traps", "granules are free before they are filled with traps"),
    ("hole-kept-and-given", "a hole stays with a thread and becomes everybody's as well"),
    ("claim-returned-twice", "a thread goes on using a claim that it gave back"),
    ("claim-lost-at-exit", "a thread exits without handing its claim over"),
    ("batch-lost-at-exit", "a thread exits without deferring what it dropped"),
    ("orphan-without-grace", "what an unattached thread dropped is recycled at once"),
    ("holds-not-looked-at", "what a sleeper holds is recycled"),
    ("memory-not-committed", "granules are handed out without memory behind them"),
    ("trimmed-unowned", "memory goes back although somebody may claim it meanwhile"),
    ("hole-not-filed", "the index does not hear of what becomes free"),
    ("held-hole-not-filed", "the index does not hear of what was taken for a moment"),
    ("joined-hole-not-filed", "the index hears of two holes and not of the one they make"),
    ("leaf-lowered-blindly", "the index forgets a hole made while it measured the page"),
    ("node-lowered-blindly", "the index forgets a page raised while it lowered the node above"),
    ("unit-freed-half-dead", "a unit is filled while executors in it live"),
    ("unit-left-open", "a unit is written again after it was published"),
    ("abandoned-inside-scope", "what a window covers becomes another thread's"),
    ("anothers-scope-ended", "a scope's end closes the rights of another of the same thread"),
    ("forgotten-scope-left-open", "code is published inside a scope that was forgotten"),
    ("parts-of-units-claimed", "a claim begins or ends inside a write unit"),
    ("generation-not-advanced", "lookups do not hear of a lot"),
    ("trampoline-entered-unwritten", "a trampoline is found before it is written"),
    ("trampoline-entered-twice", "a target has two trampolines"),
    ("budget-not-kept", "memory is committed beyond the budget"),
];

/// Faults that no model can notice: the start of the name, as it is printed,
/// and why, and what does notice it.
pub const BEYOND: &[(&str, &str)] = &[
    (
        "src/reclaim/sync.rs",
        "the machine synchronises all cores in one step that needs no order; on hardware \
         tests/conformance.rs runs new code where old code was",
    ),
    (
        "src/fork/",
        "no model forks: the gate orders recyclers before a copy that another process makes; \
         tests/fork.rs, and the forks of jit-arena stress --chaos",
    ),
    (
        "src/lookup.rs let_wipe Acquire",
        "a read that saw a later write would be load buffering, which loom never shows; on \
         hardware tests/profiler.rs",
    ),
    ("src/lookup.rs drop Release", "as its Acquire: load buffering; tests/profiler.rs"),
    (
        "src/reclaim/hold.rs collect Acquire",
        "one thread sees a hold gone and buries, another completes the unit, looks no more, and \
         passes a fence that loom takes to acquire what the first saw (tests/litmus.rs); the \
         test in src/reclaim/hold.rs, in .ci/loom",
    ),
    ("src/reclaim/depot.rs put Release", DEPOT),
    ("src/reclaim/depot.rs take_from Acquire", DEPOT),
];

const DEPOT: &str = "what lies there was synchronised on all cores or never written: no model \
                     accesses what this alone orders; the test in src/reclaim/depot.rs, in \
                     .ci/loom";

/// Why no model can notice this fault, if that is known.
#[must_use]
pub fn beyond(fault: &str) -> Option<&'static str> {
    BEYOND.iter().find(|(known, _)| fault.starts_with(known)).map(|(_, why)| *why)
}

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
    /// Its process ended, and no model said that it failed.
    Died,
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
        Some(_) => said
            .lines()
            .find_map(|line| {
                let rest = line.strip_prefix("model ")?;
                let (model, schedule) = rest.split_once(" failed in schedule ")?;
                Some(Fate::Killed(model.to_owned(), schedule.parse().ok()?))
            })
            .unwrap_or(Fate::Died),
    })
}
