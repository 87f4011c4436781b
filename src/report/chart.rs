//! Curves over epochs as an SVG picture: one panel above the other, each with an axis of its own.

use crate::atomic_file;
use anyhow::Result;
use std::fmt::{Arguments, Write};
use std::path::Path;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 260.0;
/// Around a panel: left, right, top, bottom.
const MARGIN: [f64; 4] = [64.0, 150.0, 28.0, 34.0];
/// Told apart by those who see colours differently, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A named curve; what is no number is left out.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Shown beside it. XML's own characters are escaped.
    pub name: String,
    /// A value per epoch, from epoch 0 on.
    pub values: Vec<f64>,
}

/// Curves that share an axis.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Shown above it.
    pub title: String,
    /// At most as many as there are colours can be told apart.
    pub curves: Vec<Curve>,
}

/// Writes the panels to `path`, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, panels: &[Panel]) -> Result<()> {
    atomic_file::write_bytes(path, svg(panels).as_bytes())
}

/// The panels as one drawing, below each other.
pub fn svg(panels: &[Panel]) -> String {
    let height = PANEL * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        draw(&mut out, panel, PANEL * at as f64);
    }
    out + "</svg>\n"
}

/// Where a panel's values lie on the picture.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    low: f64,
    high: f64,
    epochs: usize,
}

impl Frame {
    fn of(panel: &Panel, top: f64) -> Self {
        let finite = panel
            .curves
            .iter()
            .flat_map(|curve| &curve.values)
            .copied()
            .filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = match high - low {
            range if range > 0.0 => (low, high),
            _ if low.is_finite() => (low - 0.5, low + 0.5),
            _ => (0.0, 1.0),
        };
        Self {
            left: MARGIN[0],
            right: WIDTH - MARGIN[1],
            top: top + MARGIN[2],
            bottom: top + PANEL - MARGIN[3],
            low,
            high,
            epochs: panel.curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0),
        }
    }

    fn x(&self, epoch: usize) -> f64 {
        self.left + (self.right - self.left) * epoch as f64 / self.epochs.saturating_sub(1).max(1) as f64
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)
    }
}

fn draw(out: &mut String, panel: &Panel, top: f64) {
    let frame = Frame::of(panel, top);
    let mut line = |text: Arguments<'_>| {
        let _ = writeln!(out, "{text}"); // into a String, which cannot fail
    };
    line(format_args!(
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        frame.left,
        frame.top - 10.0,
        escaped(&panel.title)
    ));
    for tick in ticks(frame.low, frame.high) {
        let y = frame.y(tick);
        line(format_args!(
            "<line x1=\"{}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            frame.left,
            frame.right,
            frame.left - 6.0,
            y + 4.0,
            (tick * 1e6).round() / 1e6
        ));
    }
    for epoch in ticks(0.0, frame.epochs.saturating_sub(1) as f64) {
        if epoch.fract() == 0.0 {
            let x = frame.x(epoch as usize);
            line(format_args!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{epoch}</text>",
                frame.bottom + 18.0
            ));
        }
    }
    for (at, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let (name, y) = (escaped(&curve.name), frame.top + 16.0 * at as f64 + 8.0);
        line(format_args!(
            "<text x=\"{}\" y=\"{y}\" fill=\"{colour}\">{name}</text>",
            frame.right + 10.0
        ));
        let finite = |part: &&[(usize, f64)]| part.first().is_some_and(|(_, value)| value.is_finite());
        let points: Vec<(usize, f64)> = curve.values.iter().copied().enumerate().collect();
        for part in points.chunk_by(|a, b| a.1.is_finite() == b.1.is_finite()).filter(finite) {
            let place = |&(epoch, value): &(usize, f64)| format!("{:.1},{:.1}", frame.x(epoch), frame.y(value));
            let points: Vec<String> = part.iter().map(place).collect();
            line(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-linecap=\"round\"/>",
                points.join(" ")
            ));
        }
    }
}

/// Some five round numbers from `low` to `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let range = high - low;
    if range <= 0.0 {
        return vec![low];
    }
    let unit = 10f64.powf((range / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit).into_iter().find(|step| range / step <= 6.0);
    let step = step.unwrap_or(10.0 * unit);
    let first = (low / step).ceil() as i64;
    (first..)
        .map(|n| n as f64 * step)
        .take_while(|tick| *tick <= high + 1e-9 * range)
        .collect()
}

/// Text without XML's own characters.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, values: &[f64]) -> Curve {
        Curve {
            name: name.into(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(
            ticks(-0.93, 0.14),
            [-0.8, -0.6, -0.4, -0.2, 0.0].map(|t: f64| (t * 5.0).round() * 0.2)
        );
        assert_eq!(ticks(3.0, 3.0), [3.0]);
    }

    #[test]
    fn a_curve_is_cut_where_it_has_no_number_and_names_are_escaped() {
        let panel = |curves| Panel {
            title: "loss <all>".into(),
            curves,
        };
        let picture = svg(&[panel(vec![curve("a&b", &[1.0, 0.5, f64::NAN, 0.25, 0.0])]), panel(vec![])]);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains("a&amp;b") && picture.contains("loss &lt;all&gt;"), "{picture}");
        // The first value is the highest, at the left; the last the lowest, at the right.
        assert!(
            picture.contains("points=\"64.0,28.0 ") && picture.contains(" 750.0,226.0\""),
            "{picture}"
        );
        assert!(svg(&[panel(vec![curve("flat", &[2.0, 2.0])])]).contains(",127.0 "));
    }
}
