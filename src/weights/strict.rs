//! Strict loading: a network asks for its tensors by dotted name, and at the end everything that did not fit is said at once.

use super::checkpoint::Checkpoint;
use super::dtype::{element_count, shape_text};
use crate::bad_input;
use anyhow::Result;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::rc::Rc;

/// Entries listed per kind of problem; the rest is counted.
const SHOWN: usize = 12;
/// No tensor of a network is larger (elements); a request beyond it is a mistake in the configuration, not a reason to allocate.
const MOST_ELEMENTS: usize = 1 << 32;

#[derive(Default)]
struct Record {
    asked: BTreeSet<String>,
    ignored: BTreeSet<String>,
    missing: BTreeSet<String>,
    misshapen: Vec<String>,
    not_finite: Vec<String>,
    unreadable: Vec<String>,
}

/// Takes tensors out of a [`Checkpoint`] under a dotted prefix. Loaders made by [`StrictLoader::path`] share one record, and
/// [`StrictLoader::finish`] judges all of it: call it once, when the network has asked for everything, and use no value before.
pub struct StrictLoader<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
    record: Rc<RefCell<Record>>,
}

impl<'a> StrictLoader<'a> {
    /// A loader at the root of the names.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            prefix: String::new(),
            record: Rc::default(),
        }
    }

    /// The loader one or more segments further down: `path("image_encoder.trunk")`.
    pub fn path(&self, segments: &str) -> Self {
        Self {
            checkpoint: self.checkpoint,
            prefix: self.full(segments),
            record: Rc::clone(&self.record),
        }
    }

    /// The dotted name this loader stands at; empty at the root.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The values of a tensor that must have this shape, in C order. Where it is missing, mis-shaped, not finite or unreadable, that is
    /// recorded for [`StrictLoader::finish`] and as many zeros are returned (none for an impossible shape), so that loading goes on and all
    /// problems are found in one go.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let full = self.full(name);
        let Some(count) = element_count(shape).filter(|n| *n <= MOST_ELEMENTS) else {
            self.asked(&full)
                .misshapen
                .push(format!("{full}: no tensor can have the expected shape {}", shape_text(shape)));
            return Vec::new();
        };
        let Some(found) = self.checkpoint.shape(&full) else {
            self.asked(&full).missing.insert(full.clone());
            return vec![0.0; count];
        };
        if found != shape {
            let line = format!("{full}: expected {}, found {}", shape_text(shape), shape_text(found));
            self.asked(&full).misshapen.push(line);
            return vec![0.0; count];
        }
        match self.checkpoint.f32(&full) {
            Err(error) => self.asked(&full).unreadable.push(format!("{error:#}")),
            Ok(values) if values.len() != count => {
                self.asked(&full)
                    .unreadable
                    .push(format!("{full}: {} values read, {count} expected", values.len()));
            }
            Ok(values) => {
                let bad = values.iter().position(|v| !v.is_finite());
                let mut record = self.asked(&full);
                let Some(index) = bad else { return values };
                record.not_finite.push(format!("{full}: element {index} is {}", values[index]));
            }
        }
        vec![0.0; count]
    }

    /// The stored shape of a tensor, from which the network's dimensions are taken. Asks for nothing: nothing is recorded.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.checkpoint.shape(&self.full(name)).map(<[usize]>::to_vec)
    }

    /// Says that this tensor, or everything below this name, is known and not needed.
    pub fn ignore(&self, name: &str) {
        let full = self.full(name);
        self.record.borrow_mut().ignored.insert(full);
    }

    /// The end: fails unless every tensor asked for was there, of its shape and finite, and every tensor of the file was asked for or
    /// ignored, whichever loader of the family this is called on.
    ///
    /// # Errors
    /// All that did not fit: names, the nearest existing names, shapes expected and found; at most a dozen per kind, with the count.
    pub fn finish(self) -> Result<()> {
        let record = self.record.borrow();
        let unused = self.unused(&record);
        let mut text = String::new();
        list(&mut text, "unreadable", &record.unreadable);
        let missing: Vec<String> = record.missing.iter().map(String::clone).collect();
        list_with(&mut text, "missing", &missing, |name| self.with_hint(name, &unused));
        list(&mut text, "wrongly shaped", &record.misshapen);
        list(&mut text, "not finite", &record.not_finite);
        list(&mut text, "unused (not part of this network)", &unused);
        if text.is_empty() {
            return Ok(());
        }
        let file = self.checkpoint.path().display();
        bad_input!(
            "{file}: the weights do not fit the network{text}\nGive the checkpoint that belongs to this network (of SAM 2: or its settings, with --config); \
             `hpc-seg weights inspect {file}` lists what the file holds."
        )
    }

    fn unused(&self, record: &Record) -> Vec<String> {
        let ignored = |name: &str| {
            // A name is ignored by itself or through any of the dotted names above it.
            let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|end| record.ignored.contains(&name[..end]))
        };
        self.checkpoint
            .names()
            .filter(|name| !record.asked.contains(*name) && !ignored(name))
            .map(str::to_owned)
            .collect()
    }

    /// A missing name with what may be meant: the object stored there, or the nearest unused names, or else the nearest of all.
    fn with_hint(&self, name: &str, unused: &[String]) -> String {
        if let Some(kind) = self.checkpoint.object(name) {
            return format!("{name} (the file has a Python object there, {kind}, which is never executed)");
        }
        let mut nearest = super::nearest_names(name, unused.iter().map(String::as_str));
        if nearest.is_empty() {
            nearest = super::nearest_names(name, self.checkpoint.names());
        }
        if nearest.is_empty() {
            name.to_owned()
        } else {
            format!("{name} (nearest: {})", nearest.join(", "))
        }
    }

    fn asked(&self, full: &str) -> std::cell::RefMut<'_, Record> {
        let mut record = self.record.borrow_mut();
        record.asked.insert(full.to_owned());
        record
    }

    fn full(&self, name: &str) -> String {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}.{name}", self.prefix),
        }
    }
}

fn list(text: &mut String, title: &str, lines: &[String]) {
    list_with(text, title, lines, String::clone);
}

/// Adds "title (count):" and the first lines. `show` makes a line, for the shown ones only.
fn list_with(text: &mut String, title: &str, lines: &[String], show: impl Fn(&String) -> String) {
    if lines.is_empty() {
        return;
    }
    // Writing into a String cannot fail.
    let _ = write!(text, "\n  {title} ({}):", lines.len());
    for line in lines.iter().take(SHOWN) {
        let _ = write!(text, "\n    {}", show(line));
    }
    if lines.len() > SHOWN {
        let _ = write!(text, "\n    ... and {} more", lines.len() - SHOWN);
    }
}
