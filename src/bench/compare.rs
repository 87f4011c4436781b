//! `bench diff A B`: what two measurements have in common, as ratios.

use super::ops;
use super::volume;
use crate::bad_input;
use anyhow::Result;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A measurement as `--json` writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Measurement {
    Ops(ops::Report),
    Volume(Box<volume::Report>),
}

impl Measurement {
    fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => bad_input!("{} cannot be read ({error}); check the path", path.display()),
        };
        match serde_json::from_str(&text) {
            Ok(found) => Ok(found),
            Err(error) => bad_input!(
                "{} is no measurement ({error}); take one with bench --ops or --volume and --json FILE",
                path.display()
            ),
        }
    }

    fn device(&self) -> &str {
        match self {
            Self::Ops(report) => &report.device,
            Self::Volume(report) => &report.device,
        }
    }

    /// Seconds by what took them.
    fn seconds(&self) -> BTreeMap<String, f64> {
        match self {
            Self::Ops(report) => report
                .ops
                .iter()
                .map(|row| (format!("{} {}", row.op, row.case), row.seconds))
                .collect(),
            Self::Volume(report) => {
                let stages = report
                    .stage_seconds
                    .iter()
                    .map(|(stage, seconds)| (format!("stage {stage}"), *seconds));
                let whole = [
                    ("open", report.open_seconds),
                    ("first volume", report.first_seconds),
                    ("volume p50", report.p50_seconds),
                    ("volume p95", report.p95_seconds),
                ];
                let first_kernel = report.first_kernel_seconds.map(|seconds| ("first kernel".to_owned(), seconds));
                stages
                    .chain(first_kernel)
                    .chain(whole.map(|(name, seconds)| (name.to_owned(), seconds)))
                    .collect()
            }
        }
    }
}

/// A table of what both measured: seconds of each, and how many times as fast B is.
///
/// # Errors
/// Files that cannot be read, are no measurements, or have nothing in common.
pub fn diff(a: &Path, b: &Path) -> Result<String> {
    let (first, second) = (Measurement::read(a)?, Measurement::read(b)?);
    let (left, right) = (first.seconds(), second.seconds());
    let mut text = format!(
        "A {} ({})\nB {} ({})\n\n",
        a.display(),
        first.device(),
        b.display(),
        second.device()
    );
    text += &format!("{:<48} {:>12} {:>12} {:>8}\n", "", "A s", "B s", "A / B");
    let common: Vec<_> = left.iter().filter_map(|(name, a)| Some((name, a, right.get(name)?))).collect();
    if common.is_empty() {
        bad_input!("{} and {} have nothing in common", a.display(), b.display());
    }
    for (name, a, b) in common {
        // Seconds of stages are kept to a millisecond.
        let ratio = if *a > 0.0 && *b > 0.0 {
            format!("{:.2}", a / b)
        } else {
            "-".into()
        };
        text += &format!("{name:<48} {a:>12.6} {b:>12.6} {ratio:>8}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ceilings::Ceilings;

    fn report(seconds: f64, case: &str) -> ops::Report {
        ops::Report {
            device: "cpu".into(),
            ceilings: Ceilings {
                teraflops: 1.0,
                gigabytes_per_second: 1.0,
            },
            ops: vec![ops::Row {
                op: "norm".into(),
                case: case.into(),
                seconds,
                teraflops: 0.0,
                gigabytes_per_second: 0.0,
                share_of_ceiling: 0.0,
                modelled_seconds: None,
            }],
            modelled_card: None,
        }
    }

    #[test]
    fn what_two_measurements_share_is_compared_and_what_they_do_not_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let json = |seconds, case| serde_json::to_string(&report(seconds, case)).unwrap();
        let (a, b) = (write("a", &json(3.0, "x.y")), write("b", &json(1.5, "x.y")));
        let text = diff(&a, &b).unwrap();
        assert!(text.contains("norm x.y") && text.trim_end().ends_with("2.00"), "{text}");
        let other = write("c", &json(1.0, "z.z"));
        assert!(diff(&a, &other).unwrap_err().to_string().contains("nothing in common"));
        let none = write("d", "{}");
        assert!(format!("{:#}", diff(&a, &none).unwrap_err()).contains("is no measurement"));
    }
}
