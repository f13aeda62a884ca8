//! The results as a table, as JSON and as a plot.

use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use plotters::prelude::*;
use serde::Serialize;

use crate::data::Pass;
use crate::measure::Times;

/// One pass over one shape.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub dtype: &'static str,
    pub shape: [usize; 3],
    pub pass: &'static str,
    /// Tensors of the shape that cross memory at least once.
    pub tensors: usize,
    /// Median time of a call.
    pub ms: f64,
    pub ms_min: f64,
    /// Half of the range of the middle half of all times, as a share of the median.
    pub noise: f64,
    /// Of the fewest bytes, in the median time.
    pub gb_per_s: f64,
    /// What it is held against: `stream` and a number of tensors, or `copy` on a CUDA device.
    pub yardstick: &'static str,
    pub yardstick_ms: f64,
    pub yardstick_gb_per_s: f64,
    /// Time over that of the yardstick: ratio of medians, and of minima.
    pub vs_yardstick: f64,
    pub vs_yardstick_min: f64,
    /// Time over that of candle's `&x * &a`, scaled to as many tensors.
    pub vs_candle: f64,
    pub vs_candle_min: f64,
    /// Time on a decaying state over that on random data.
    pub decaying: f64,
    pub decaying_min: f64,
}

/// The times of one pass.
pub struct PassTimes {
    pub scan: Times,
    pub yardstick: Times,
    pub candle: Times,
    pub decaying: Times,
}

impl Row {
    pub fn new(
        dtype: DType,
        shape: [usize; 3],
        pass: Pass,
        tensors: usize,
        yardstick: &'static str,
        times: &PassTimes,
    ) -> Self {
        let PassTimes { scan, yardstick: plain, candle, decaying } = times;
        let bytes = (shape.iter().product::<usize>() * dtype.size_in_bytes() * tensors) as f64;
        // `&x * &a` moves three tensors
        let scale = tensors as f64 / 3.;
        let ratio = |stat: fn(&Times) -> f64, other: &Times| stat(scan) / stat(other);
        Self {
            dtype: dtype.as_str(),
            shape,
            pass: pass.name(),
            tensors,
            ms: scan.median() * 1e3,
            ms_min: scan.min() * 1e3,
            noise: scan.noise().max(plain.noise()),
            gb_per_s: bytes / scan.median() / 1e9,
            yardstick,
            yardstick_ms: plain.median() * 1e3,
            yardstick_gb_per_s: bytes / plain.median() / 1e9,
            vs_yardstick: ratio(Times::median, plain),
            vs_yardstick_min: ratio(Times::min, plain),
            vs_candle: ratio(Times::median, candle) / scale,
            vs_candle_min: ratio(Times::min, candle) / scale,
            decaying: decaying.median() / scan.median(),
            decaying_min: decaying.min() / scan.min(),
        }
    }

    fn label(&self) -> String {
        format!("{} {:?} {}", self.dtype, self.shape, self.pass)
    }
}

/// Prints the heading of the table.
pub fn print_heading() {
    println!(
        "{:5} {:17} {:9} {:>10} {:>7} {:>6}  {:>15} {:>15} {:>15}",
        "dtype", "shape", "pass", "time ms", "GB/s", "noise", "x yardstick", "x candle", "decaying"
    );
}

/// Prints a row; a ratio is one of medians, behind it in brackets that of minima.
pub fn print_row(row: &Row) {
    let pair = |median: f64, min: f64| format!("{median:.2} ({min:.2})");
    println!(
        "{:5} {:17} {:9} {:>10.3} {:>7.1} {:>4.0} %  {:>15} {:>15} {:>15}",
        row.dtype,
        format!("{:?}", row.shape).replace(' ', ""),
        row.pass,
        row.ms,
        row.gb_per_s,
        row.noise * 100.,
        pair(row.vs_yardstick, row.vs_yardstick_min),
        pair(row.vs_candle, row.vs_candle_min),
        pair(row.decaying, row.decaying_min)
    );
}

/// What the rows were measured on and how.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub device: String,
    pub threads: usize,
    pub candle_threads: usize,
    pub allocator: &'static str,
    /// Whether the plain kernels asked for them.
    pub huge_pages: bool,
    pub rounds: usize,
    pub seed: u64,
    pub rows: &'a [Row],
}

/// Writes everything as JSON.
pub fn write_json(path: &Path, report: &Report) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string_pretty(report)? + "\n")?)
}

/// Draws a bar for each row, its bandwidth, and a line across it where its yardstick is.
pub fn plot(path: &Path, report: &Report) -> Result<()> {
    let rows = report.rows;
    let most = rows.iter().map(|r| r.gb_per_s.max(r.yardstick_gb_per_s)).fold(1., f64::max);
    let area = SVGBackend::new(path, (900, 80 + 24 * rows.len() as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("GB/s on the fewest bytes (line: plain kernel), {}", report.device);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(260)
        .build_cartesian_2d(0f64..most * 1.05, rows.len() as f64..0f64)?;
    let label = |y: &f64| {
        // the ticks lie at whole numbers, the bar of row i around i + 0.5
        rows.get(*y as usize).map(Row::label).unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .max_light_lines(1)
        .y_labels(rows.len() + 1)
        .y_label_formatter(&label)
        .y_label_offset(12)
        .draw()?;
    for (i, row) in rows.iter().enumerate() {
        let (top, bottom) = (i as f64 + 0.2, i as f64 + 0.8);
        let colour = match row.pass {
            "forward" => RGBColor(31, 119, 180),
            "gradients" => RGBColor(44, 160, 44),
            _ => RGBColor(255, 127, 14),
        };
        chart.draw_series([Rectangle::new([(0., top), (row.gb_per_s, bottom)], colour.filled())])?;
        let x = row.yardstick_gb_per_s;
        chart.draw_series([PathElement::new(vec![(x, top - 0.1), (x, bottom + 0.1)], BLACK.stroke_width(2))])?;
    }
    area.present()?;
    Ok(())
}
