//! Progress on standard error, and a plot of it.

use std::io::{stderr, IsTerminal};
use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;

/// The loss and the share of right tokens after each step.
pub struct Report {
    bar: Option<ProgressBar>,
    steps: usize,
    losses: Vec<f64>,
    accuracies: Vec<f64>,
}

impl Report {
    pub fn new(steps: usize) -> Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} [{elapsed} of {duration}] {msg}")?;
        // where nobody looks on there are lines instead of a bar
        let bar = stderr().is_terminal().then(|| ProgressBar::new(steps as u64).with_style(style));
        Ok(Self { bar, steps, losses: vec![], accuracies: vec![] })
    }

    pub fn step(&mut self, loss: f64, accuracy: f64) {
        self.losses.push(loss);
        self.accuracies.push(accuracy);
        let step = self.losses.len();
        let message = format!("loss {loss:.4} token-acc {accuracy:.3}");
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.inc(1);
            }
            None if step.is_multiple_of(self.steps.div_ceil(20)) || step == self.steps => {
                eprintln!("step {step}/{} {message}", self.steps)
            }
            None => (),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }

    /// Draws loss and accuracy over the steps.
    pub fn plot(&self, path: &Path) -> Result<()> {
        let root = SVGBackend::new(path, (800, 800)).into_drawing_area();
        root.fill(&WHITE)?;
        let highest = self.losses.iter().fold(0f64, |m, &loss| m.max(loss));
        let curves = [("loss", &self.losses, highest, &RED), ("token accuracy", &self.accuracies, 1., &BLUE)];
        for (area, (name, values, top, color)) in root.split_evenly((2, 1)).iter().zip(curves) {
            let mut chart = ChartBuilder::on(area)
                .caption(name, ("sans-serif", 20))
                .margin(15)
                .x_label_area_size(30)
                .y_label_area_size(50)
                .build_cartesian_2d(0..self.steps, 0f64..top * 1.05)?;
            chart.configure_mesh().x_desc("step").draw()?;
            let points = values.iter().enumerate().map(|(step, &value)| (step + 1, value));
            chart.draw_series(LineSeries::new(points, color))?;
        }
        Ok(root.present()?)
    }
}
