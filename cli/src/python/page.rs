//! The report as one page of HTML that needs nothing else: plots are in it.

use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use plotters::style::RGBColor;

use super::plots::{self, COMMITTED, HOLES, LIVE, RETIRED};
use super::report::PythonReport;
use crate::failure::{Failure, Request};

const STYLE: &str = "\
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fafafa;
       max-width: 960px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: .2em; }
h2 { font-size: 1.1em; margin: 1.8em 0 .4em; }
table { border-collapse: collapse; background: #fff; }
td { padding: .25em .8em; border: 1px solid #ddd; vertical-align: top; }
td:first-child { color: #555; white-space: nowrap; }
.plot { background: #fff; border: 1px solid #ddd; overflow-x: auto; }
.pair { display: flex; flex-wrap: wrap; gap: 12px; }
.key span { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em;
            vertical-align: -.1em; }
p { margin: .3em 0; color: #555; }
svg { display: block; max-width: 100%; height: auto; }
";

/// The file that a page is to be in.
#[derive(Debug)]
pub struct Page {
    path: PathBuf,
    file: File,
}

impl Page {
    /// Opens the file and empties it: before a run, which may take hours and be for
    /// nothing otherwise.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn create(path: &Path) -> Result<Self, Request> {
        let path = path.to_owned();
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Request::Page { path, source }),
        }
    }

    /// Writes the page; where it is.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(mut self, report: &PythonReport) -> Result<PathBuf, Failure> {
        let text = page(report).map_err(|e| io::Error::other(e.to_string()));
        let written = text.and_then(|text| self.file.write_all(text.as_bytes()));
        match written {
            Ok(()) => Ok(self.path),
            Err(source) => Err(Failure::Page { path: self.path, source }),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn page(report: &PythonReport) -> Result<String, Box<dyn Error>> {
    let mut html = String::new();
    write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>jit-arena stress, seed {seed}</title><style>{STYLE}</style></head><body>\
         <h1>jit-arena stress</h1><p>{programs} Python programs on {threads} threads for \
         {seconds:.0} s{chaos}, seed {seed}</p><table>",
        seed = report.seed,
        programs = report.programs,
        threads = report.threads,
        seconds = report.seconds,
        chaos = if report.chaos { ", with chaos" } else { "" },
    )?;
    for (what, value) in report.rows() {
        write!(html, "<tr><td>{}</td><td>{}</td></tr>", escaped(what), escaped(&value))?;
    }
    let audit = report.audit().describe(report.strategy);
    let readings = report.wx_readings;
    write!(
        html,
        "<tr><td>W^X audit</td><td>{}, {readings} readings</td></tr></table>",
        escaped(&audit)
    )?;

    html.push_str("<h2>Memory over time</h2><p class=\"key\">");
    for (name, colour) in
        [("live", LIVE), ("retired", RETIRED), ("holes", HOLES), ("committed", COMMITTED)]
    {
        let RGBColor(r, g, b) = colour;
        write!(html, "<span style=\"background:rgb({r},{g},{b})\"></span>{name}")?;
    }
    write!(html, "</p><div class=\"plot\">{}</div>", plots::memory(&report.seen)?)?;

    html.push_str("<h2>Code pages</h2><p>Each row a page of 64 KiB, each cell 1 KiB of it: the darker, the more of it is live code. ");
    match plots::map(&report.seen)? {
        Some(svg) => write!(
            html,
            "Taken once, after three fifths of the run.</p><div class=\"plot\">{svg}</div>"
        )?,
        None => html.push_str("The run was too short for one.</p>"),
    }

    html.push_str("<h2>Latencies</h2><div class=\"pair\">");
    for (what, classes, colour) in [
        (
            "Install: from the decision to compile to the code being there",
            &report.seen.installs,
            LIVE,
        ),
        ("Reclaim: from drop to the memory being usable again", &report.seen.reclaims, RETIRED),
    ] {
        let plot = plots::histogram(classes, colour)?;
        let plot = plot.unwrap_or_else(|| "<p>none</p>".to_owned());
        write!(html, "<div><p>{what}</p><div class=\"plot\">{plot}</div></div>")?;
    }
    html.push_str(
        "</div><h2>Threads</h2><p>Each row a thread of the crew and, when that ends, its \
         successor; the darker, the more calls of programs it finished at that time.</p><div class=\"plot\">",
    );
    html.push_str(&plots::threads(&report.seen)?);
    html.push_str("</div></body></html>\n");
    Ok(html)
}
