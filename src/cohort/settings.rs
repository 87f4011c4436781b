//! The settings that decide a pseudo-label's content: recorded with every case, and hashed to tell whether a finished case is still valid.
//!
//! Threads, devices, lanes per step and paths are not among them, because results do not depend on them.

use crate::{bad_input, sha256};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The axis of the file along which slices are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceAxis {
    /// The file's first voxel axis, which varies fastest.
    X,
    /// The file's second voxel axis.
    Y,
    /// The file's third voxel axis.
    Z,
}

/// An intensity window: everything outside `level` +- `width` / 2 is clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The middle, in the volume's units (HU for CT).
    pub level: f64,
    /// The whole width, in the same units; positive.
    pub width: f64,
}

/// What decides a pseudo-label's content, besides volumes and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Insertion places per labelled volume (R of Algorithm 2).
    pub insertions: usize,
    /// Insertion places given by hand, which replace the drawn ones.
    pub insert_at: Option<Vec<usize>>,
    /// Seed of the insertion places.
    pub seed: u64,
    /// Intensity window; none: percentiles of the positive voxels.
    pub window: Option<Window>,
    /// Channel of an nnU-Net image.
    pub channel: usize,
    /// The axis of the slices.
    pub slice_axis: SliceAxis,
    /// A voxel is foreground where its class's mean probability exceeds this.
    pub threshold: f64,
    /// Whether only the largest component of each class is kept.
    pub largest_component: bool,
    /// Holes in a mask up to this area (pixels of the network's own mask) are filled; 0: none.
    pub fill_holes: usize,
    /// Whether labelled volumes are permuted to the query's orientation.
    pub reorient: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insertions: 5,
            insert_at: None,
            seed: 0,
            window: None,
            channel: 0,
            slice_axis: SliceAxis::Z,
            threshold: 0.5,
            largest_component: true,
            fill_holes: 8,
            reorient: true,
        }
    }
}

impl Settings {
    /// Checks what one setting alone can get wrong; the messages name the options of the command line.
    ///
    /// # Errors
    /// At the first setting that makes no sense.
    pub fn check(&self) -> Result<()> {
        if self.insertions == 0 {
            bad_input!("--insertions 0: at least one insertion place per labelled volume is needed");
        }
        if let Some(places) = &self.insert_at {
            let repeated = places.iter().enumerate().find(|(index, place)| places[..*index].contains(place));
            if let Some((_, place)) = repeated {
                bad_input!("--insert-at names the place {place} twice; places must differ");
            }
        }
        if let Some(Window { level, width }) = self.window
            && !(level.is_finite() && width.is_finite() && width > 0.0)
        {
            bad_input!("--window {level},{width}: level and width must be finite numbers and the width positive, as in --window 40,400");
        }
        if !(self.threshold > 0.0 && self.threshold < 1.0) {
            bad_input!(
                "--threshold {}: it is compared with probabilities and must lie between 0 and 1",
                self.threshold
            );
        }
        if self.channel > 9999 {
            bad_input!("--channel {}: nnU-Net numbers channels with four digits", self.channel);
        }
        Ok(())
    }
}

/// SHA-256 of the canonical JSON of `value`: keys sorted at every level, no spaces.
///
/// # Errors
/// When the value has no JSON form.
pub fn hash_of(value: &impl Serialize) -> Result<String> {
    let mut text = String::new();
    write_canonical(&serde_json::to_value(value)?, &mut text);
    Ok(sha256::of_bytes(&[text.as_bytes()]))
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                *text += &format!("{comma}{}:", Value::from(key.as_str()));
                write_canonical(&map[key], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                *text += if index == 0 { "" } else { "," };
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => *text += &scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_does_not_depend_on_the_order_of_keys_but_on_every_value() {
        let (a, b) = (
            json!({"a": [1, {"x": 1, "y": 2}], "b": null}),
            json!({"b": null, "a": [1, {"y": 2, "x": 1}]}),
        );
        assert_eq!(hash_of(&a).unwrap(), hash_of(&b).unwrap());
        assert_ne!(
            hash_of(&a).unwrap(),
            hash_of(&json!({"a": [{"x": 1, "y": 2}, 1], "b": null})).unwrap()
        );
        let mut text = String::new();
        write_canonical(&b, &mut text);
        assert_eq!(text, r#"{"a":[1,{"x":1,"y":2}],"b":null}"#);
    }

    #[test]
    fn senseless_settings_are_refused_by_the_name_of_their_option() {
        let settings = Settings::default;
        assert!(settings().check().is_ok());
        let window = |level, width| Some(Window { level, width });
        for (bad, option) in [
            (
                Settings {
                    insertions: 0,
                    ..settings()
                },
                "--insertions",
            ),
            (
                Settings {
                    insert_at: Some(vec![1, 2, 1]),
                    ..settings()
                },
                "--insert-at",
            ),
            (
                Settings {
                    window: window(40.0, 0.0),
                    ..settings()
                },
                "--window",
            ),
            (
                Settings {
                    window: window(f64::NAN, 400.0),
                    ..settings()
                },
                "--window",
            ),
            (
                Settings {
                    threshold: 1.0,
                    ..settings()
                },
                "--threshold",
            ),
            (
                Settings {
                    threshold: f64::NAN,
                    ..settings()
                },
                "--threshold",
            ),
            (
                Settings {
                    channel: 10_000,
                    ..settings()
                },
                "--channel",
            ),
        ] {
            let error = bad.check().unwrap_err();
            assert!(
                error.to_string().starts_with(option) && crate::error::is_input_error(&error),
                "{error}"
            );
        }
    }
}
