//! Where things are told: JSON or text on standard output, progress on standard
//! error, as a bar where that is a terminal and as plain lines where not.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// How often a plain line tells progress.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The program's output.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    bar: bool,
}

impl Output {
    /// JSON or text on standard output.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json, bar: io::stderr().is_terminal() }
    }

    /// A result, as one line of JSON.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub fn object(self, result: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let line = serde_json::to_string(result).map_err(|e| Failure::Output(e.into()))?;
        write_line(&line)
    }

    /// Text for people, if they are the audience.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { write_line(text) }
    }

    /// Begins to tell the progress of something that takes `total` steps.
    #[must_use]
    pub fn progress(self, what: &str, total: u64) -> Progress {
        let bar = self.bar.then(|| {
            let bar = ProgressBar::new(total);
            let style = "{msg:36} {wide_bar:.cyan/dim} {percent:>3} % {elapsed:>4}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_message(what.to_owned());
            bar
        });
        if bar.is_none() {
            plain(what);
        }
        Progress { what: what.to_owned(), total, bar, told: Instant::now() }
    }
}

fn write_line(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// A line of progress. Where nobody listens, nobody is told.
fn plain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The progress of one thing. Gone without a trace when it is dropped.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    /// So many steps are done.
    pub fn set(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done.min(self.total)),
            None if done < self.total && self.told.elapsed() >= PLAIN_EVERY => {
                self.told = Instant::now();
                plain(&format!("{}: {} %", self.what, 100 * done / self.total));
            }
            None => {}
        }
    }
}

impl Progress {
    /// As [`set`](Self::set), and says what is going on.
    pub fn tell(&mut self, done: u64, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.set_position(done.min(self.total));
            }
            None if self.told.elapsed() >= PLAIN_EVERY => {
                self.told = Instant::now();
                let done = 100 * done.min(self.total) / self.total.max(1);
                plain(&format!("{}: {done} %, {text}", self.what));
            }
            None => {}
        }
    }

    /// Has a line of text where the name was, above the bar.
    pub fn in_two_lines(&mut self) {
        let style = "{msg}\n{wide_bar:.cyan/dim} {percent:>3} % {elapsed:>4}";
        if let (Some(bar), Ok(style)) = (&self.bar, ProgressStyle::with_template(style)) {
            bar.set_style(style.progress_chars("━╸─"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
