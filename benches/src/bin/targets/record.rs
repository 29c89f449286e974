//! The record of a run: tables, plots, and the facts of the machine.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jit_arena_benches::crew::Round;
use jit_arena_benches::plot::{self, Line};

use crate::bench::Bench;

/// `benches/record/` and today's date (UTC).
pub(crate) fn of_today() -> PathBuf {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Path::new("benches/record").join(date((passed.as_secs() / 86_400) as i64))
}

/// The date so many days after 1 January 1970.
fn date(days: i64) -> String {
    // Years begin in March, so that the odd day is the last; 400 of them are
    // an era of equal length (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + carry)
}

/// Writes everything to `folder`.
pub(crate) fn write(
    bench: &Bench,
    facts: &[(&str, String)],
    folder: &Path,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut machine = fs::File::create(folder.join("machine.txt"))?;
    for (what, value) in facts {
        writeln!(machine, "{what}: {value}")?;
    }
    bench.report.write(&folder.join("targets.csv"))?;
    cost(bench, folder)?;
    throughput(bench, folder)?;
    memory(bench, folder)
}

/// Ours first, then the limit, then the peers in the order of the races: each
/// keeps its colour in all plots.
fn place(bench: &Bench, name: &str) -> usize {
    let named = [bench.ours, bench.probe].into_iter().chain(crate::bench::PEERS);
    named.into_iter().position(|it| it == name).unwrap_or(usize::MAX)
}

fn label(bench: &Bench, name: &str) -> String {
    match name {
        name if name == bench.ours => format!("jit-arena ({name})"),
        name if name == bench.probe => "limit (probe)".to_owned(),
        "mapping" => "one mapping each (CPython)".to_owned(),
        "asmjit" => "asmjit, dual view".to_owned(),
        "talc-rwx" => "talc over RWX, mutex".to_owned(),
        "alias" => "transient alias".to_owned(),
        "flip" => "mprotect flips".to_owned(),
        "cranelift" => "cranelift-jit provider".to_owned(),
        name => name.to_owned(),
    }
}

fn lines(bench: &Bench, points: Vec<(String, f64, f64)>) -> Vec<Line> {
    let mut lines: Vec<(usize, Line)> = Vec::new();
    for (name, x, y) in points {
        let place = place(bench, &name);
        match lines.iter_mut().find(|it| it.0 == place) {
            Some((_, line)) => line.points.push((x, y)),
            None => lines.push((
                place,
                Line { label: label(bench, &name), colour: place, points: vec![(x, y)] },
            )),
        }
    }
    lines.sort_by_key(|it| it.0);
    lines.into_iter().map(|it| it.1).collect()
}

/// Cost against live executors.
fn cost(bench: &Bench, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut table = csv::Writer::from_path(folder.join("cost.csv"))?;
    table.write_record(["rival", "live", "cpu_ns", "low_quartile", "high_quartile"])?;
    let mut points = Vec::new();
    for (live, race) in bench.costs() {
        for lane in race.lanes() {
            let Some(cost) = lane.spread(Round::cpu_ns) else { continue };
            table.serialize((&lane.name, live, cost.median, cost.low, cost.high))?;
            points.push((lane.name.clone(), live as f64, cost.median));
        }
    }
    table.flush()?;
    if !points.is_empty() {
        plot::cost(&folder.join("cost.svg"), &lines(bench, points))?;
    }
    Ok(())
}

/// Throughput against threads.
fn throughput(bench: &Bench, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut table = csv::Writer::from_path(folder.join("threads.csv"))?;
    table.write_record([
        "rival",
        "threads",
        "millions_a_second",
        "low_quartile",
        "high_quartile",
    ])?;
    let mut points = Vec::new();
    for it in &bench.throughputs {
        let rate = it.rate;
        table.serialize((&it.name, it.threads, rate.median, rate.low, rate.high))?;
        points.push((it.name.clone(), it.threads as f64, rate.median));
    }
    table.flush()?;
    if !points.is_empty() {
        plot::throughput(&folder.join("threads.svg"), &lines(bench, points))?;
    }
    Ok(())
}

/// Memory over the time of each trace.
fn memory(bench: &Bench, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut table = csv::Writer::from_path(folder.join("memory.csv"))?;
    table.write_record(["trace", "rival", "seconds", "live_bytes", "committed_bytes"])?;
    let mut traces: Vec<&str> = bench.curves.iter().map(|it| it.trace.as_str()).collect();
    traces.dedup();
    for trace in traces {
        let mut drawn = Vec::new();
        for curve in bench.curves.iter().filter(|it| it.trace == trace) {
            let thinned = plot::thin(&curve.points);
            for &(time, live, committed) in &thinned {
                table.serialize((trace, &curve.rival, time as f64 / 1e9, live, committed))?;
            }
            let mib = |pick: fn(&(u64, usize, usize)) -> usize| {
                let point = |it: &(u64, usize, usize)| {
                    (it.0 as f64 / 1e9, pick(it) as f64 / f64::from(1 << 20))
                };
                thinned.iter().map(point).collect::<Vec<_>>()
            };
            if curve.rival == bench.ours {
                drawn.push(Line::live(mib(|it| it.1)).in_steps());
            }
            drawn.push(
                Line {
                    label: label(bench, &curve.rival),
                    colour: place(bench, &curve.rival),
                    points: mib(|it| it.2),
                }
                .in_steps(),
            );
        }
        plot::memory(&folder.join(format!("memory-{trace}.svg")), trace, &drawn)?;
    }
    table.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(59), "1970-03-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_514), "2026-03-02");
    }
}
