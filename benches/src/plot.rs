//! Pictures of results, as SVG: no system fonts are needed to make them.
//!
//! Each line is named at its end, in its colour, rather than in a legend.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// One thing drawn.
pub struct Line {
    /// What is written at its end.
    pub label: String,
    /// Which colour: 0 is ours, 1 the limit, the rest are peers.
    pub colour: usize,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    /// What is live: drawn as an area under the others.
    #[must_use]
    pub fn live(points: Vec<(f64, f64)>) -> Self {
        Self { label: "live".to_owned(), colour: LIVE, points }
    }

    /// Holds each value until the next: nothing grows between two events.
    #[must_use]
    pub fn in_steps(mut self) -> Self {
        let mut steps: Vec<(f64, f64)> = Vec::with_capacity(2 * self.points.len());
        for (x, y) in self.points {
            if let Some(&(_, before)) = steps.last() {
                steps.push((x, before));
            }
            steps.push((x, y));
        }
        self.points = steps;
        self
    }

    fn style(&self) -> ShapeStyle {
        let colour = match self.colour {
            LIVE => RGBColor(0x77, 0x77, 0x77),
            0 => RGBColor(0xD0, 0x3B, 0x1F),
            1 => BLACK,
            peer => PEERS[(peer - 2) % PEERS.len()],
        };
        colour.stroke_width(if self.colour == 0 { 4 } else { 2 })
    }
}

const LIVE: usize = usize::MAX;

/// Colours of peers; all can be told apart by who sees no red or no green.
const PEERS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0x99, 0x8E, 0xC3),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0x8C, 0x6D, 0x31),
];

/// Of a picture, in pixels.
const SIZE: (u32, u32) = (960, 540);
/// Room for the names of lines.
const NAMES: i32 = 215;
/// Between two names.
const NAME_HEIGHT: i32 = 18;

type Drawing<'p> = DrawingArea<SVGBackend<'p>, Shift>;

/// Cost of a replacement against live executors, both logarithmic.
///
/// # Errors
///
/// The picture cannot be written.
pub fn cost(path: &Path, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let root = start(path)?;
    let (x, y) = bounds(lines);
    let frame = Frame {
        title: "Cost of replacing an executor, one thread (lower is better)",
        x: "live executors",
        y: "time each",
    };
    let format = Format { x: &|it| grouped(*it), y: &|it| nanoseconds(*it), x_labels: 10 };
    draw(&root, &frame, x.log_scale().base(2.0), decades(&y).log_scale(), &format, lines)?;
    Ok(root.present()?)
}

/// Throughput of all threads together, against threads, both logarithmic.
///
/// # Errors
///
/// The picture cannot be written.
pub fn throughput(path: &Path, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let root = start(path)?;
    let (x, y) = bounds(lines);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let frame = Frame {
        title: &format!("Replacements a second, all threads on {cores} cores (higher is better)"),
        x: "threads",
        y: "replacements a second",
    };
    let format = Format { x: &|it| grouped(*it), y: &|it| millions(*it), x_labels: 8 };
    draw(&root, &frame, x.log_scale().base(2.0), decades(&y).log_scale(), &format, lines)?;
    Ok(root.present()?)
}

/// MiB over the time of a trace; those that are live are an area.
///
/// # Errors
///
/// The picture cannot be written.
pub fn memory(path: &Path, trace: &str, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let root = start(path)?;
    let (x, y) = bounds(lines);
    let frame = Frame {
        title: &format!("Code memory held over the trace {trace} (lower is better)"),
        x: "seconds",
        y: "MiB",
    };
    let digits = |span: f64| usize::from(span < 10.0);
    let (x_digits, y_digits) = (digits(x.end), digits(y.end));
    let format = Format {
        x: &|it| format!("{it:.x_digits$}"),
        y: &|it| format!("{it:.y_digits$}"),
        x_labels: 10,
    };
    draw(&root, &frame, 0.0..x.end, 0.0..y.end * 1.05, &format, lines)?;
    Ok(root.present()?)
}

struct Frame<'s> {
    title: &'s str,
    x: &'s str,
    y: &'s str,
}

struct Format<'f> {
    x: &'f dyn Fn(&f64) -> String,
    y: &'f dyn Fn(&f64) -> String,
    x_labels: usize,
}

fn start(path: &Path) -> Result<Drawing<'_>, Box<dyn Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

fn draw<X, Y>(
    root: &Drawing<'_>,
    frame: &Frame<'_>,
    x: X,
    y: Y,
    format: &Format<'_>,
    lines: &[Line],
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(root)
        .caption(frame.title, ("sans-serif", 20))
        .margin(12)
        .margin_right(NAMES)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(format.x_labels)
        .x_label_formatter(format.x)
        .y_label_formatter(format.y)
        .x_desc(frame.x)
        .y_desc(frame.y)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    let mut names = Vec::new();
    // Ours last, so that it lies on top.
    for line in lines.iter().rev() {
        let style = line.style();
        let points = line.points.iter().copied();
        if line.colour == LIVE {
            chart.draw_series(AreaSeries::new(points, 0.0, style.color.mix(0.3)))?;
        } else {
            chart.draw_series(LineSeries::new(points, style))?;
            if line.points.len() < 16 {
                let dots = line.points.iter().map(|&at| Circle::new(at, 4, style.filled()));
                chart.draw_series(dots)?;
            }
        }
        if let Some(last) = line.points.last() {
            names.push((chart.backend_coord(last), line));
        }
    }
    names.sort_by_key(|it| it.0.1);
    let right = SIZE.0 as i32 - NAMES;
    for ((_, y), line) in spread_out(names) {
        let anchor = Pos::new(HPos::Left, VPos::Center);
        let colour = line.style().color;
        let style = ("sans-serif", 14).into_text_style(root).color(&colour).pos(anchor);
        root.draw(&Text::new(line.label.clone(), (right + 10, y), style))?;
    }
    Ok(())
}

type Named<'l> = ((i32, i32), &'l Line);

/// Moves names, sorted from the top, apart until none covers another.
fn spread_out(mut names: Vec<Named<'_>>) -> Vec<Named<'_>> {
    for _ in 0..100 {
        for at in 1..names.len() {
            let overlap = NAME_HEIGHT - (names[at].0.1 - names[at - 1].0.1);
            if overlap > 0 {
                names[at - 1].0.1 -= overlap / 2;
                names[at].0.1 += overlap - overlap / 2;
            }
        }
    }
    names
}

/// What the axes have to span.
fn bounds(lines: &[Line]) -> (Range<f64>, Range<f64>) {
    let span = |pick: fn(&(f64, f64)) -> f64| {
        let values = || lines.iter().flat_map(|line| line.points.iter().map(pick));
        values().fold(f64::MAX, f64::min)..values().fold(f64::MIN, f64::max)
    };
    (span(|it| it.0), span(|it| it.1))
}

/// `range`, widened to whole halves of powers of ten.
fn decades(range: &Range<f64>) -> Range<f64> {
    let low = 10_f64.powf((range.start.log10() * 2.0).floor() / 2.0);
    let high = 10_f64.powf((range.end.log10() * 2.0).ceil() / 2.0);
    low..high
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn nanoseconds(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0} ns") } else { format!("{} us", value / 1000.0) }
}

fn millions(value: f64) -> String {
    if value < 1.0 { format!("{:.0} k", value * 1000.0) } else { format!("{value:.0} M") }
}

/// Points of a curve, few enough for a picture: of each stretch of time its
/// highest.
#[must_use]
pub fn thin(points: &[(u64, usize, usize)]) -> Vec<(u64, usize, usize)> {
    const MOST: usize = 600;
    let stretch = points.len().div_ceil(MOST).max(1);
    let highest = |part: &[(u64, usize, usize)]| {
        let first = part.first().copied().unwrap_or_default();
        part.iter().fold(first, |high, it| (first.0, high.1.max(it.1), high.2.max(it.2)))
    };
    points.chunks(stretch).map(highest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_what_they_show() {
        assert_eq!(decades(&(120.0..9000.0)), 100.0..10_000.0);
        assert_eq!(grouped(32_768.0), "32,768");
        assert_eq!(grouped(512.0), "512");
        assert_eq!(nanoseconds(500.0), "500 ns");
        assert_eq!(nanoseconds(10_000.0), "10 us");
        assert_eq!(millions(0.03), "30 k");
    }

    #[test]
    fn thinning_keeps_peaks() {
        let points: Vec<_> = (0..6000).map(|at| (at, usize::from(at == 77), 5)).collect();
        let thinned = thin(&points);
        assert_eq!(thinned.len(), 600);
        assert_eq!(thinned.iter().filter(|it| it.1 == 1).count(), 1);
        assert!(thin(&[]).is_empty());
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let line = Line { label: String::new(), colour: 0, points: Vec::new() };
        let names = spread_out(vec![((0, 50), &line), ((0, 52), &line), ((0, 300), &line)]);
        assert!(names.windows(2).all(|it| it[1].0.1 - it[0].0.1 >= NAME_HEIGHT - 1));
        assert_eq!(names[2].0.1, 300);
    }
}
