//! What this machine offers the arena: the strategy it chose, what it tried
//! before, and which strategies work when asked for by name.

use std::error::Error;
use std::fmt::Write;
use std::thread;

use jit_arena::{Arena, BuildError, RegionError, Strategy};
use serde::Serialize;

use crate::check::{self, Bytes};
use crate::code::Program;
use crate::failure::{Failure, Request, chain};
use crate::human;
use crate::replay::strategy_name;
use crate::trace::Shape;

/// What was found. The fields are the keys of the JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct DoctorReport {
    kind: &'static str,
    /// The operating system and its release.
    pub system: String,
    /// The processor architecture.
    pub architecture: &'static str,
    /// The processor, as the system names it.
    pub processor: Option<String>,
    /// Threads that can run at once.
    pub cores: usize,
    /// Bytes of a system page.
    pub system_page_bytes: usize,
    /// The strategy chosen, or asked for.
    #[serde(serialize_with = "strategy_name")]
    pub strategy: Strategy,
    /// Where its memory comes from.
    pub memory: &'static str,
    /// Bytes of address space of a view.
    pub reserve_bytes: usize,
    /// How cores are made to drop stale instructions.
    pub core_serialisation: String,
    /// Whether huge pages can be had, if asked for.
    pub huge_pages: String,
    /// Every attempt until one worked, in order.
    pub attempts: Vec<Attempt>,
    /// Every strategy there is, best first, and whether it works here.
    pub strategies: Vec<Offer>,
}

/// One strategy tried on one kind of memory.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// Name of the strategy.
    pub strategy: &'static str,
    /// The memory it was tried on.
    pub memory: &'static str,
    /// What came of it.
    pub outcome: String,
}

/// A strategy and whether this machine has it.
#[derive(Clone, Debug, Serialize)]
pub struct Offer {
    /// Name of the strategy.
    pub name: &'static str,
    /// Whether code was installed and run with it just now.
    pub works: bool,
    /// Why not, if not.
    pub why_not: Option<String>,
    /// Whether the arena may choose it without being told to.
    pub by_default: bool,
    /// Whether it promises that no mapping is ever writable and executable.
    pub never_writable_and_executable: bool,
}

/// Looks at the machine; with `strategy`, at what that one gives.
///
/// # Errors
///
/// No arena can be built.
pub fn examine(strategy: Option<Strategy>) -> Result<DoctorReport, Failure> {
    // Asked for, to see whether they can be had: nothing runs in this arena.
    let mut builder = Arena::builder().huge_pages(true);
    if let Some(strategy) = strategy {
        builder = builder.strategy(strategy);
    }
    let arena = builder.build().map_err(Request::from)?;
    let report = arena.report();
    let attempts = report.attempts.iter().map(|attempt| Attempt {
        strategy: attempt.strategy.name(),
        memory: attempt.memory.name(),
        outcome: attempt.outcome.to_string(),
    });
    Ok(DoctorReport {
        kind: "doctor",
        system: system(),
        architecture: std::env::consts::ARCH,
        processor: processor(),
        cores: cores(),
        system_page_bytes: report.system_page,
        strategy: report.strategy,
        memory: report.memory.name(),
        reserve_bytes: report.reserve,
        core_serialisation: match &report.sync_core {
            Ok(()) => "by the kernel (membarrier)".to_owned(),
            Err(e) => format!("not by the kernel ({e})"),
        },
        huge_pages: match &report.huge_pages {
            Some(Ok(())) => "granted when asked for".to_owned(),
            Some(Err(e)) => format!("not granted ({e})"),
            None => "not asked for".to_owned(),
        },
        attempts: attempts.collect(),
        strategies: Strategy::ALL.map(offer).to_vec(),
    })
}

/// Threads that can run at once.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned()
}

fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn offer(strategy: Strategy) -> Offer {
    let tried = install_and_run(strategy);
    Offer {
        name: strategy.name(),
        works: tried.is_ok(),
        why_not: tried.err().map(|e| why_not(e.as_ref())),
        by_default: strategy.by_default(),
        never_writable_and_executable: strategy.never_wx(),
    }
}

/// What was refused, if that is what failed; the whole error if it is something
/// else.
fn why_not(error: &(dyn Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref() {
        Some(BuildError::Region(RegionError::Refused { attempts, .. })) => {
            attempts.iter().map(|a| a.outcome.to_string()).collect::<Vec<_>>().join("; ")
        }
        _ => chain(error),
    }
}

/// The whole path of one executor.
fn install_and_run(strategy: Strategy) -> Result<(), Box<dyn Error + Send + Sync>> {
    let arena = Arena::builder().reserve(1 << 20).strategy(strategy).build()?;
    let mut thread = arena.attach()?;
    let program = Program { seed: 1, shape: Shape { code: 400, data: 100 } };
    let mut bytes = Bytes::default();
    bytes.make(&program);
    let executor = thread.install(&bytes.code, &bytes.data)?;
    let guard = thread.pin();
    // SAFETY: the executor was made of a full program.
    let got = unsafe { check::call(executor.entry(&guard), 7) };
    check::outcome(&program, 7, got, || "the trial executor".to_owned())?;
    Ok(())
}

impl DoctorReport {
    /// The short form that the main job begins with.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{}, {}{}, {} cores, system pages of {}\n",
            self.system,
            self.architecture,
            self.processor.as_ref().map(|name| format!(" ({name})")).unwrap_or_default(),
            self.cores,
            human::bytes(self.system_page_bytes as u64),
        );
        // Writing to a string cannot fail.
        let _ = write!(text, "protection strategy: {} on {} memory", self.strategy, self.memory);
        for (strategy, why) in self.passed_over() {
            let _ = write!(text, "\n  not {strategy}: {why}");
        }
        text
    }

    /// The strategies that are better than the one chosen, and why each was
    /// passed over.
    fn passed_over(&self) -> Vec<(Strategy, String)> {
        let better = Strategy::ALL.into_iter().take_while(|s| *s != self.strategy);
        let told = better.map(|strategy| {
            let outcomes = self.attempts.iter().filter(|a| a.strategy == strategy.name());
            (strategy, outcomes.map(|a| a.outcome.as_str()).collect::<Vec<_>>().join("; "))
        });
        told.filter(|(_, why)| !why.is_empty()).collect()
    }

    /// The long form.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.summary();
        let _ = write!(
            text,
            "\nregion: {} of address space a view\nstale instructions: cores serialised {}\nhuge pages: {}\n\nstrategies, best first:",
            human::bytes(self.reserve_bytes as u64),
            self.core_serialisation,
            self.huge_pages,
        );
        for offer in &self.strategies {
            let state = match (&offer.why_not, offer.by_default) {
                (Some(why), _) => why.clone(),
                (None, true) => "works".to_owned(),
                (None, false) => "works; only when asked for".to_owned(),
            };
            let mark = if offer.name == self.strategy.name() { '*' } else { ' ' };
            let _ = write!(text, "\n{mark} {:15}{state}", offer.name);
        }
        text
    }
}
