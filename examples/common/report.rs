//! Progress on standard error, and plots.

use std::io::{stderr, IsTerminal};
use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;

/// How far a training is: a bar, or lines where nobody looks on.
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
}

impl Progress {
    /// Of `steps` steps, of which some may be `done`.
    pub fn new(steps: usize, done: usize) -> Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} [{elapsed} of {duration}] {msg}")?;
        let bar = || ProgressBar::new(steps as u64).with_style(style).with_position(done as u64);
        Ok(Self { bar: stderr().is_terminal().then(bar), steps })
    }

    pub fn step(&self, step: usize, message: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.set_position(step as u64);
            }
            None if step.is_multiple_of(self.steps.div_ceil(20)) || step == self.steps => {
                eprintln!("step {step}/{} {message}", self.steps)
            }
            None => (),
        }
    }

    /// Prints a text to standard output, next to the bar.
    pub fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Lines over one axis.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x: &'a str,
    /// Whether the axis shows powers of two.
    pub logarithmic: bool,
    pub range: (f64, f64),
    /// Points in the order of their first coordinate, by the name of the line.
    pub lines: &'a [(&'a str, Vec<(f64, f64)>)],
}

/// One line of the values after each step.
pub fn after_each_step(values: &[f64]) -> Vec<(f64, f64)> {
    values.iter().enumerate().map(|(step, &value)| ((step + 1) as f64, value)).collect()
}

/// The range from zero to somewhat more than the largest of `values`.
pub fn from_zero(values: &[f64]) -> (f64, f64) {
    (0., 1.05 * values.iter().fold(f64::MIN_POSITIVE, |m, &value| m.max(value)))
}

/// Draws charts into an SVG file, one below the other.
pub fn plot(path: &Path, charts: &[Chart]) -> Result<()> {
    let root = SVGBackend::new(path, (800, 400 * charts.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, chart) in root.split_evenly((charts.len(), 1)).iter().zip(charts) {
        draw(area, chart)?;
    }
    Ok(root.present()?)
}

fn draw(area: &DrawingArea<SVGBackend, plotters::coord::Shift>, chart: &Chart) -> Result<()> {
    let at = |x: f64| if chart.logarithmic { x.log2() } else { x };
    let label = |x: &f64| if chart.logarithmic { x.exp2().round().to_string() } else { x.to_string() };
    let xs = chart.lines.iter().flat_map(|(_, points)| points.iter().map(|&(x, _)| at(x)));
    let (low, high) = xs.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    let low = if chart.logarithmic { low } else { 0. };
    let mut context = ChartBuilder::on(area)
        .caption(chart.title, ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(35)
        .y_label_area_size(50)
        .build_cartesian_2d(low..high.max(low + 1.), chart.range.0..chart.range.1)?;
    context.configure_mesh().x_desc(chart.x).x_label_formatter(&label).draw()?;
    for (n, (name, points)) in chart.lines.iter().enumerate() {
        let style = Palette99::pick(n).stroke_width(2);
        let points = points.iter().map(|&(x, y)| (at(x), y));
        let line = context.draw_series(LineSeries::new(points, style))?;
        line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 15, y)], style));
    }
    if chart.lines.len() > 1 {
        context.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    }
    Ok(())
}
