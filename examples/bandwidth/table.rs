//! Times of several contenders side by side, as a table, as JSON and as bars.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use serde::Serialize;

/// A piece of work, and how long each contender takes for it.
#[derive(Debug, Serialize)]
pub struct Row {
    pub work: String,
    /// Medians in milliseconds; `None` where a contender cannot do it.
    pub ms: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
pub struct Table {
    pub title: String,
    pub contenders: Vec<&'static str>,
    pub rows: Vec<Row>,
}

const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(120, 120, 120),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(255, 127, 14),
];

impl Table {
    pub fn new(title: String, contenders: Vec<&'static str>) -> Self {
        Self { title, contenders, rows: vec![] }
    }

    pub fn print_heading(&self) {
        println!("{}; ms, and in brackets the share of the first column's time that this is", self.title);
        println!("| work | {} |", self.contenders.join(" | "));
        println!("|---|{}", "---|".repeat(self.contenders.len()));
    }

    /// Adds a row and prints it.
    pub fn push(&mut self, work: String, ms: Vec<Option<f64>>) {
        let first = ms.first().copied().flatten();
        let cell = |(n, ms): (usize, &Option<f64>)| match (ms, first) {
            (Some(ms), Some(first)) if n > 0 => format!("{ms:.3} ({:.2})", ms / first),
            (Some(ms), _) => format!("{ms:.3}"),
            (None, _) => "-".into(),
        };
        println!("| {work} | {} |", ms.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | "));
        self.rows.push(Row { work, ms });
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Draws a bar for each contender in each row, on a logarithmic axis.
    pub fn plot(&self, path: &Path) -> Result<()> {
        let all = || self.rows.iter().flat_map(|row| row.ms.iter().flatten().copied());
        let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0., f64::max));
        let bars = self.contenders.len() as f64;
        let height = 110 + self.rows.len() as u32 * (14 * self.contenders.len() as u32 + 10);
        let area = SVGBackend::new(path, (900, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}, ms", self.title), ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(290)
            .build_cartesian_2d((least / 2.0..most * 2.).log_scale(), self.rows.len() as f64..0f64)?;
        let label = |y: &f64| self.rows.get(*y as usize).map(|row| row.work.clone()).unwrap_or_default();
        chart
            .configure_mesh()
            .disable_y_mesh()
            .max_light_lines(1)
            .y_labels(self.rows.len() + 1)
            .y_label_formatter(&label)
            .y_label_offset(12)
            .draw()?;
        for (n, (name, colour)) in self.contenders.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let bar = |(row, ms): (usize, f64)| {
                let top = row as f64 + 0.1 + 0.8 * n as f64 / bars;
                Rectangle::new([(least / 2., top), (ms, top + 0.8 / bars)], colour.filled())
            };
            let times = self.rows.iter().enumerate().filter_map(|(row, r)| Some((row, (*r.ms.get(n)?)?)));
            chart
                .draw_series(times.map(bar))?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    }
}
