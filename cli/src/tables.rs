//! The tables that results end in.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::human::{bytes, count, duration, ratio};
use crate::python::PythonReport;
use crate::replay::ReplayReport;
use crate::stress::StressReport;
use crate::trampolines::{PARTS, Savings};

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(header.iter().enumerate().map(|(at, text)| cell(at, text)));
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(at, text)| cell(at, text)));
    }
    table.to_string()
}

/// The first column says what a row is; the others are figures.
fn cell(column: usize, text: &str) -> Cell {
    let alignment = if column == 0 { CellAlignment::Left } else { CellAlignment::Right };
    Cell::new(text).set_alignment(alignment)
}

/// Memory held against memory needed.
#[must_use]
pub fn memory(replays: &[ReplayReport]) -> String {
    let rows = replays.iter().map(|r| {
        vec![
            r.trace.clone(),
            r.threads.to_string(),
            bytes(r.peak_live_bytes),
            ratio(r.committed_over_live),
            r.rss_over_live.map_or_else(|| "-".to_owned(), ratio),
            ratio(r.stock_4k_over_live),
            ratio(r.stock_16k_over_live),
        ]
    });
    let header = [
        "trace",
        "threads",
        "most needed",
        "jit-arena",
        "resident",
        "own mapping\n4 KiB pages",
        "own mapping\n16 KiB pages",
    ];
    format!(
        "Memory held for one byte of code that lives, over the time of each trace\n{}",
        table(&header, rows.collect())
    )
}

/// Work done, and the worst pauses.
#[must_use]
pub fn work(replays: &[ReplayReport], stress: &[StressReport]) -> String {
    let replays = replays.iter().map(|r| {
        vec![
            r.trace.clone(),
            r.threads.to_string(),
            count(r.executors),
            count(r.installs_per_s as u64),
            count(r.calls_verified),
            count(r.retired),
            count(r.recycled),
            duration(r.install_p50_ns),
            duration(r.install_max_ns),
            duration(r.drop_max_ns),
            seen(r.wx_mappings_seen),
        ]
    });
    let stress = stress.iter().map(|s| {
        vec![
            "stress".to_owned(),
            s.threads.to_string(),
            count(s.installs),
            count(s.installs_per_s as u64),
            count(s.calls_verified),
            count(s.retired),
            count(s.recycled),
            duration(s.install_p50_ns),
            duration(s.install_max_ns),
            duration(s.drop_max_ns),
            seen(s.wx_mappings_seen),
        ]
    });
    let header = [
        "run",
        "threads",
        "installed",
        "installs/s",
        "calls\nverified",
        "retired",
        "recycled",
        "median\ninstall",
        "worst\ninstall",
        "worst\ndrop",
        "W+X\nseen",
    ];
    format!(
        "Work, and pauses with whatever else the machine did meanwhile\n{}",
        table(&header, replays.chain(stress).collect())
    )
}

/// What a stress test with programs did.
#[must_use]
pub fn python(report: &PythonReport) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    for (what, value) in report.rows() {
        table.add_row([what, &value]);
    }
    format!("{} Python programs, each call compared with the interpreter\n{table}", report.programs)
}

/// What trampolines save.
#[must_use]
pub fn savings(all: &[Savings]) -> String {
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let rows = all.iter().map(|s| {
        let mut row = vec![
            s.trace.clone(),
            bytes(s.code_bytes as u64),
            bytes(s.data_bytes as u64),
            percent(s.data_part),
            bytes(s.island_bytes),
        ];
        row.extend(s.saved_parts.map(percent));
        row
    });
    let parts = PARTS.map(|part| format!("saved if {part} %\nof it are"));
    let mut header = vec!["trace", "code alive", "data alive", "data of\nboth", "islands"];
    header.extend(parts.iter().map(String::as_str));
    let helpers = all.first().map_or(0, |s| s.helpers);
    format!(
        "Code memory saved by trampolines to {} far helpers, in place of their addresses in each \
         executor's data\n{}",
        count(helpers as u64),
        table(&header, rows.collect())
    )
}

fn seen(wx_mappings: Option<usize>) -> String {
    wx_mappings.map_or_else(|| "-".to_owned(), |seen| seen.to_string())
}
