//! How the cost of the scan grows with each of its sizes.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use plotters::prelude::*;
use serde::Serialize;

use crate::data::{Data, Pass};
use crate::measure::interleaved;
use crate::passes::{contender, Operation};
use crate::stream::Element;
use crate::yardstick::clock;
use crate::Args;

/// One size of a sweep.
#[derive(Debug, Serialize)]
pub struct Point {
    /// `B`, `L` or `D`.
    pub size: &'static str,
    pub shape: [usize; 3],
    /// Median nanoseconds for each element of the shape.
    pub forward_ns: f64,
    pub gradients_ns: f64,
}

/// A sweep over one of the sizes, in powers of four, up to `most` elements.
fn shapes(size: usize, most: usize) -> Vec<[usize; 3]> {
    let base = [[1, 1024, 256], [1, 1, 64], [1, 4096, 1]][size];
    let sweep = (0..).map(|k| {
        let mut shape = base;
        shape[size] <<= 2 * k;
        shape
    });
    sweep.take_while(|shape| shape.iter().product::<usize>() <= most).collect()
}

/// Measures `B`, `L` and `D`, each up to as much as `memory` bytes hold, and prints a line for each point.
pub fn measure<T: Element>(device: &Device, args: &Args, memory: usize) -> Result<Vec<Point>> {
    // five arguments, the same as variables, and four gradients
    let most = memory / (14 * T::DTYPE.size_in_bytes());
    let mut points = vec![];
    println!("| size | shape | forward ms | ns/element | gradients ms | ns/element |\n|---|---|---|---|---|---|");
    for (size, name) in ["B", "L", "D"].into_iter().enumerate() {
        for shape in shapes(size, most) {
            let sets = [Data::random(shape, T::DTYPE, args.seed, device)?];
            let contenders = vec![contender(Pass::Forward, &sets)?, contender(Pass::Gradients, &sets)?];
            let times = interleaved(&*clock(device)?, args.rounds as usize, contenders)?;
            let [forward, gradients] = [0, 1].map(|n: usize| times.get(n).map_or(f64::NAN, |t| t.median()));
            let ns = |seconds: f64| seconds * 1e9 / shape.iter().product::<usize>() as f64;
            let point = Point { size: name, shape, forward_ns: ns(forward), gradients_ns: ns(gradients) };
            println!(
                "| {name} | {shape:?} | {:.3} | {:.3} | {:.3} | {:.3} |",
                forward * 1e3,
                point.forward_ns,
                gradients * 1e3,
                point.gradients_ns
            );
            points.push(point);
        }
    }
    Ok(points)
}

pub fn write_json(path: &Path, points: &[Point]) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string_pretty(points)? + "\n")?)
}

/// Draws the cost of an element over each of the sizes.
pub fn plot(path: &Path, points: &[Point]) -> Result<()> {
    let area = SVGBackend::new(path, (1080, 380)).into_drawing_area();
    area.fill(&WHITE)?;
    let all = || points.iter().flat_map(|p| [p.forward_ns, p.gradients_ns]);
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0., f64::max));
    for (part, (n, name)) in area.split_evenly((1, 3)).iter().zip(["B", "L", "D"].into_iter().enumerate()) {
        let sweep: Vec<&Point> = points.iter().filter(|p| p.size == name).collect();
        let first = sweep.first().context("expected at least one size of each sweep")?;
        let largest = sweep.iter().map(|p| p.shape[n] as f64).fold(2., f64::max);
        let sizes = ["B", "L", "D"].iter().zip(first.shape);
        let shape: Vec<_> = sizes.map(|(s, n)| if *s == name { name.into() } else { n.to_string() }).collect();
        let mut chart = ChartBuilder::on(part)
            .caption(format!("ns for an element of [{}]", shape.join(", ")), ("sans-serif", 14))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(50)
            .build_cartesian_2d((1f64..largest).log_scale(), (least * 0.8..most * 1.2).log_scale())?;
        chart.configure_mesh().x_desc(name).x_labels(5).max_light_lines(0).draw()?;
        for (label, colour) in [("forward", BLUE), ("gradients", RED)] {
            let ns = |p: &Point| if label == "forward" { p.forward_ns } else { p.gradients_ns };
            let line = sweep.iter().map(|p| (p.shape[n] as f64, ns(p)));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)).point_size(3))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
    }
    area.present()?;
    Ok(())
}
