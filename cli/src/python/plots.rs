//! Plots, as SVG: no fonts of the system are needed to make them.

use std::error::Error;
use std::ops::Range;

use plotters::prelude::*;

use super::report::Seen;
use super::sample::PARTS;
use crate::human::{bytes, count, duration};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of a plot, in pixels.
const SIZE: (u32, u32) = (900, 320);

/// Colours that who sees no red or no green can tell apart.
pub(super) const LIVE: RGBColor = RGBColor(0x00, 0x9E, 0x73);
pub(super) const RETIRED: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
pub(super) const HOLES: RGBColor = RGBColor(0x56, 0xB4, 0xE9);
pub(super) const COMMITTED: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// Bytes over time: live, retired, holes, committed.
pub(super) fn memory(seen: &Seen) -> Result<String> {
    let all = &seen.samples.all;
    let most = all.iter().map(|s| s.stats.committed_bytes).max().unwrap_or(1).max(1);
    let end = all.last().map_or(1.0, |s| s.time.as_secs_f64()).max(0.1);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, 0.0..most as f64 * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds")
            .y_label_formatter(&|y| bytes(*y as u64))
            .draw()?;
        type Of = fn(&jit_arena::Stats) -> u64;
        let lines: [(RGBColor, Of); 4] = [
            (COMMITTED, |s| s.committed_bytes),
            (HOLES, |s| s.hole_bytes),
            (RETIRED, |s| s.retired_bytes),
            (LIVE, |s| s.live_bytes),
        ];
        for (colour, of) in lines {
            let points = all.iter().map(|s| (s.time.as_secs_f64(), of(&s.stats) as f64));
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Each code page as a row of parts, darker where more is live.
pub(super) fn map(seen: &Seen) -> Result<Option<String>> {
    let Some(map) = &seen.samples.map else { return Ok(None) };
    let rows = map.pages.len().max(1);
    let height = 14;
    let mut svg = String::new();
    {
        let size = (SIZE.0, 30 + height * rows as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let width = (SIZE.0 as i32 - 90) / PARTS as i32;
        let style = ("sans-serif", 11).into_font().color(&BLACK);
        for (row, page) in map.pages.iter().enumerate() {
            let y = 4 + row as i32 * height as i32;
            let full = 100.0 * page.iter().sum::<f64>() / PARTS as f64;
            root.draw(&Text::new(format!("{row}: {full:.0} %"), (4, y + 1), style.clone()))?;
            for (at, part) in page.iter().enumerate() {
                let x = 70 + at as i32 * width;
                let shade = |c: u8| (255.0 - (255.0 - f64::from(c)) * part.clamp(0.0, 1.0)) as u8;
                let colour = RGBColor(shade(LIVE.0), shade(LIVE.1), shade(LIVE.2));
                let corners = [(x, y), (x + width - 1, y + height as i32 - 2)];
                root.draw(&Rectangle::new(corners, colour.filled()))?;
            }
        }
        root.present()?;
    }
    Ok(Some(svg))
}

/// How often what latency: classes of a quarter of a doubling.
pub(super) fn histogram(classes: &[(u64, u64)], colour: RGBColor) -> Result<Option<String>> {
    let (Some(first), Some(last)) = (classes.first(), classes.last()) else { return Ok(None) };
    let log = |value: u64| (value.max(1) as f64).log2();
    let range: Range<f64> = log(first.0) - 0.25..log(last.0) + 0.5;
    let most = classes.iter().map(|(_, n)| *n).max().unwrap_or(1) as f64;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (SIZE.0 / 2, 260)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(56)
            .build_cartesian_2d(range, 0.0..most * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .disable_x_mesh()
            .x_labels(5)
            .x_label_formatter(&|x| duration(x.exp2() as u64))
            .y_label_formatter(&|y| count(*y as u64))
            .draw()?;
        chart.draw_series(classes.iter().map(|(value, n)| {
            let x = log(*value);
            Rectangle::new([(x, 0.0), (x + 0.23, *n as f64)], colour.filled())
        }))?;
        root.present()?;
    }
    Ok(Some(svg))
}

/// Columns of the plot of threads.
const COLUMNS: usize = 120;

/// How many calls each thread of the crew made when: a row a thread.
pub(super) fn threads(seen: &Seen) -> Result<String> {
    let all = &seen.samples.all;
    let end = seen.samples.time().as_secs_f64().max(0.1);
    let rows = all.last().map_or(0, |sample| sample.calls.len());
    // The first sample of each column, and the last of all.
    let columns = COLUMNS.min(all.len()).max(1);
    let marks: Vec<_> = (0..=columns)
        .filter_map(|at| all.get((at * all.len() / columns).min(all.len().saturating_sub(1))))
        .collect();
    let mut cells = Vec::new();
    for pair in marks.windows(2) {
        let (from, to) = (pair[0].time.as_secs_f64(), pair[1].time.as_secs_f64());
        for row in 0..rows {
            let calls = (pair[1].calls[row] - pair[0].calls[row]) as f64;
            cells.push((from, to, row, calls / (to - from).max(0.001)));
        }
    }
    let most = cells.iter().map(|cell| cell.3).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let size = (SIZE.0, 60 + 6 * rows as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, 0.0..rows.max(1) as f64)?;
        chart.configure_mesh().disable_mesh().x_desc("seconds").y_desc("thread").draw()?;
        chart.draw_series(cells.iter().map(|(from, to, row, rate)| {
            // By the logarithm: some calls take a hundred times as long as others.
            let part = (1.0 + rate).ln() / (1.0 + most).ln();
            let colour = HSLColor(0.58, 0.7, 0.97 - 0.65 * part);
            let y = *row as f64;
            Rectangle::new([(*from, y), (*to, y + 0.9)], colour.filled())
        }))?;
        root.present()?;
    }
    Ok(svg)
}
