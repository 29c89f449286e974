//! Races: crews that take turns, round by round.
//!
//! Other programs share the machine, and its clock wanders: a ratio of two
//! medians taken a second apart says little, one of two rounds a few
//! milliseconds apart much. So every comparison is the median, over the rounds,
//! of the ratio of two rounds that followed each other. What is compared may
//! be two rivals, or one rival under two plans.

use crate::check;
use crate::crew::{Crew, Plan, Round};
use crate::rival::{self, NotHere, Rival, Visit};
use crate::sample::Spread;

/// A rival, and what it is to do.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'n> {
    /// Its name, of [`rival::ALL`].
    pub name: &'n str,
    /// What it does.
    pub plan: Plan,
}

impl<'n> Entry<'n> {
    /// `name`, doing `plan`.
    #[must_use]
    pub fn new(name: &'n str, plan: Plan) -> Self {
        Self { name, plan }
    }
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each.
    pub rounds: usize,
    /// Length of a round, in milliseconds about.
    pub millis: f64,
}

/// One of a race: its crew, at rest, and what its rounds took.
pub struct Lane {
    /// The rival's name.
    pub name: String,
    /// What it did.
    pub plan: Plan,
    /// One after the other.
    pub rounds: Vec<Round>,
    /// Still holding what it held at the end, unless it was dismissed.
    pub crew: Option<Crew>,
    ops: usize,
}

impl Lane {
    /// The spread of `what` over the rounds.
    #[must_use]
    pub fn spread(&self, what: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(what))
    }
}

/// Rounds of several, the n-th of each right after each other.
#[derive(Default)]
pub struct Race {
    /// In the order of the entries; `None` if it could not run.
    lanes: Vec<Option<Lane>>,
    /// Names of those that could not run, and why.
    pub missing: Vec<(String, String)>,
}

impl Race {
    /// Starts all crews, brings them into their steady state, and runs them.
    #[must_use]
    pub fn run(entries: &[Entry<'_>], effort: Effort) -> Self {
        Self::start(entries, effort, None, true).finish(effort.rounds)
    }

    /// Starts all crews. With `ops`, so many replacements are a round, and
    /// none happen before the first; with `checked`, whoever hands out memory
    /// twice does not run.
    #[must_use]
    pub fn start(entries: &[Entry<'_>], effort: Effort, ops: Option<usize>, checked: bool) -> Self {
        let mut race = Self::default();
        for entry in entries {
            let none = Err("no such rival".to_owned());
            let millis = effort.millis;
            let mut start = Start { plan: entry.plan, millis, ops, checked, lane: none };
            rival::visit(entry.name, entry.plan.room(), &mut start);
            race.lanes.push(match start.lane {
                Ok(lane) => Some(lane),
                Err(why) => {
                    if !race.missing.iter().any(|it| it.0 == entry.name) {
                        race.missing.push((entry.name.to_owned(), why));
                    }
                    None
                }
            });
        }
        race
    }

    /// Runs so many rounds of each.
    #[must_use]
    pub fn finish(mut self, rounds: usize) -> Self {
        for _ in 0..rounds {
            for lane in self.lanes.iter_mut().flatten() {
                lane.rounds.extend(lane.crew.as_ref().map(|crew| crew.churn(lane.ops)));
            }
        }
        self
    }

    /// Keeps the figures, and lets threads and memory go.
    #[must_use]
    pub fn dismissed(mut self) -> Self {
        self.lanes.iter_mut().flatten().for_each(|lane| lane.crew = None);
        self
    }

    /// Those that ran.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().flatten()
    }

    /// The lane of entry number `at`, if it ran.
    #[must_use]
    pub fn lane(&self, at: usize) -> Option<&Lane> {
        self.lanes.get(at)?.as_ref()
    }

    /// The first lane of `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Lane> {
        self.lanes().find(|lane| lane.name == name)
    }

    /// Of `what`: one lane's rounds ÷ another's.
    #[must_use]
    pub fn ratio(
        one: Option<&Lane>,
        other: Option<&Lane>,
        what: impl Fn(&Round) -> f64,
    ) -> Option<Spread> {
        let pairs = one?.rounds.iter().zip(&other?.rounds);
        Spread::of(pairs.map(|(one, other)| what(one) / what(other)))
    }
}

/// Makes one lane ready.
struct Start {
    plan: Plan,
    millis: f64,
    ops: Option<usize>,
    checked: bool,
    lane: Result<Lane, String>,
}

impl Visit for Start {
    fn rival<R: Rival + Clone>(&mut self, rival: R) {
        if self.checked
            && let Err(what) = check::is_sound(&rival)
        {
            self.lane = Err(format!("unsound: {what}"));
            return;
        }
        let name = rival.name();
        let crew = Crew::new(rival, self.plan);
        let ops = self.ops.unwrap_or_else(|| {
            let ops = crew.ops_in(self.millis);
            // Into the steady state.
            crew.churn((4 * self.plan.live).min(50 * ops));
            ops
        });
        self.lane = Ok(Lane { name, plan: self.plan, rounds: Vec::new(), crew: Some(crew), ops });
    }

    fn missing(&mut self, _name: &str, why: NotHere) {
        self.lane = Err(why.to_string());
    }
}
