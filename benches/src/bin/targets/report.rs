//! What was measured, beside what was aimed at: printed as it comes, kept for
//! the record.

use std::io;
use std::path::Path;

use jit_arena_benches::sample::Spread;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing was promised; told for comparison.
    None,
}

impl Limit {
    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::None => String::new(),
        }
    }

    fn holds(self, it: f64) -> bool {
        match self {
            Self::AtMost(limit) => it <= limit,
            Self::AtLeast(limit) => it >= limit,
            Self::None => true,
        }
    }
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    Told,
    NotRun,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Told => "",
            Self::NotRun => "not run",
        }
    }
}

struct Row {
    target: usize,
    what: String,
    measured: Option<Spread>,
    limit: Limit,
    verdict: Verdict,
    why: String,
}

/// The table of all targets.
#[derive(Default)]
pub(crate) struct Report {
    target: usize,
    rows: Vec<Row>,
}

impl Report {
    /// Begins the rows of a target.
    pub(crate) fn target(&mut self, number: usize, title: &str) {
        self.target = number;
        println!("\n{number}. {title}");
        println!("   {:70} {:>10}  {:21} {:9}", "", "median", "quartiles", "limit");
    }

    /// A figure with its limit. `None` for one that could not be measured.
    pub(crate) fn judge(&mut self, what: &str, measured: Option<Spread>, limit: Limit) {
        let verdict = match (measured, limit) {
            (None, _) => Verdict::NotRun,
            (Some(_), Limit::None) => Verdict::Told,
            (Some(it), _) if limit.holds(it.median) => Verdict::Met,
            (Some(_), _) => Verdict::Missed,
        };
        let why = if measured.is_none() { "a side of it cannot run here" } else { "" };
        self.push(what, measured, limit, verdict, why);
    }

    /// A figure that nothing was promised of; nothing if there is none.
    pub(crate) fn tell(&mut self, what: &str, measured: Option<Spread>) {
        if measured.is_some() {
            self.judge(what, measured, Limit::None);
        }
    }

    /// Something that could not be measured, and why.
    pub(crate) fn not_run(&mut self, what: &str, why: &str) {
        self.push(what, None, Limit::None, Verdict::NotRun, why);
    }

    fn push(
        &mut self,
        what: &str,
        measured: Option<Spread>,
        limit: Limit,
        verdict: Verdict,
        why: &str,
    ) {
        let (middle, quarters) = measured.map_or_else(Default::default, |it| {
            let quarters = format!("{:.3} .. {:.3}", it.low, it.high);
            let exact = it.low == it.high;
            (format!("{:.3}", it.median), if exact { String::new() } else { quarters })
        });
        let told = if why.is_empty() { String::new() } else { format!(": {why}") };
        println!(
            "   {what:70} {middle:>10}  {quarters:21} {:9} {}{told}",
            limit.text(),
            verdict.name()
        );
        self.rows.push(Row {
            target: self.target,
            what: what.to_owned(),
            measured,
            limit,
            verdict,
            why: why.to_owned(),
        });
    }

    /// One line a target: how many of its figures met their limit.
    pub(crate) fn summary(&self) {
        println!();
        for target in 1..=9 {
            let count = |verdict| {
                let rows = self.rows.iter().filter(|row| row.target == target);
                rows.filter(|row| row.limit != Limit::None && row.verdict == verdict).count()
            };
            let (met, missed) = (count(Verdict::Met), count(Verdict::Missed));
            let not_run = count(Verdict::NotRun);
            if met + missed + not_run > 0 {
                let verdict = match (missed, not_run) {
                    (0, 0) => "pass",
                    (0, _) => "not all of it could run",
                    _ => "FAIL",
                };
                println!(
                    "target {target}: {met} met, {missed} missed, {not_run} not run: {verdict}"
                );
            }
        }
        if self.rows.iter().any(|row| matches!(row.target, 8 | 9)) {
            println!("targets 8 and 9 report, and promise nothing");
        }
    }

    /// Writes all rows as CSV.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = csv::Writer::from_path(path)?;
        file.write_record([
            "target",
            "what",
            "median",
            "low_quartile",
            "high_quartile",
            "limit",
            "verdict",
            "why",
        ])?;
        for row in &self.rows {
            let number = |pick: fn(Spread) -> f64| {
                row.measured.map_or(String::new(), |it| format!("{:.4}", pick(it)))
            };
            file.write_record([
                &row.target.to_string(),
                &row.what,
                &number(|it| it.median),
                &number(|it| it.low),
                &number(|it| it.high),
                &row.limit.text(),
                &row.verdict.name().to_lowercase(),
                &row.why,
            ])?;
        }
        file.flush()
    }
}
