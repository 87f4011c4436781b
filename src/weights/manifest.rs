//! The manifest of known weights files (`weights/manifest.json`): source, licence and SHA-256; and the demo network, which is built in.

use crate::bad_input;
use crate::sha256;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

const BUILT_IN: &str = include_str!("../../weights/manifest.json");
static DEMO: &[u8] = include_bytes!("../../weights/demo.safetensors");

/// The demo network: a SAM 2.1 of 128 x 128 trained on phantoms (`weights/demo/`), a safetensors file for
/// [`super::Checkpoint::from_bytes`]. Its configuration is in its metadata under `config`.
pub fn demo_network() -> &'static [u8] {
    DEMO
}

/// A known weights file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    /// File name as published.
    pub file: String,
    /// What it is.
    pub title: String,
    /// Where it comes from.
    pub source: String,
    /// Under which licence.
    pub licence: String,
    /// SHA-256 in hexadecimal; `None` where none has been recorded.
    pub sha256: Option<String>,
    /// What it may be used for.
    pub note: String,
}

/// A list of known weights files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The files.
    pub files: Vec<ManifestEntry>,
}

impl Manifest {
    /// The manifest this program was built with.
    ///
    /// # Errors
    /// None that a test does not catch: the text is part of the program.
    pub fn built_in() -> Result<Self> {
        serde_json::from_str(BUILT_IN).context("weights/manifest.json is damaged")
    }

    /// Reads a manifest of one's own, of the form of `weights/manifest.json`.
    ///
    /// # Errors
    /// A file that cannot be read or has another form.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => bad_input!("{shown}: cannot read the manifest: {error}; check the path"),
        };
        match serde_json::from_str(&text) {
            Ok(manifest) => Ok(manifest),
            Err(error) => bad_input!("{shown}: not a manifest ({error}); weights/manifest.json in the source shows the form"),
        }
    }
}

/// What verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The hash is the manifest's.
    Matches,
    /// The manifest knows a file of this name with another hash: damaged, or another version.
    Differs,
    /// The manifest knows a file of this name, but no hash is recorded for it.
    NoHashRecorded,
    /// Neither name nor hash is in the manifest.
    Unknown,
}

/// A file held against a manifest.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// The file.
    pub path: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// What was found.
    pub verdict: Verdict,
    /// The manifest's entry for it, if there is one.
    pub entry: Option<ManifestEntry>,
}

/// Holds a weights file against a manifest, by hash first and by name otherwise.
///
/// # Errors
/// A file that cannot be read. A hash that differs is a finding ([`Verdict::Differs`]), not an error.
pub fn verify(path: &Path, manifest: &Manifest) -> Result<Verification> {
    let sha256 = sha256::of_file(path)?;
    let same_hash = |e: &&ManifestEntry| e.sha256.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(&sha256));
    let same_name = |e: &&ManifestEntry| path.file_name().is_some_and(|name| name == e.file.as_str());
    let by_hash = manifest.files.iter().find(same_hash);
    let (verdict, entry) = match (by_hash, manifest.files.iter().find(same_name)) {
        (Some(entry), _) => (Verdict::Matches, Some(entry)),
        (None, Some(entry)) if entry.sha256.is_some() => (Verdict::Differs, Some(entry)),
        (None, Some(entry)) => (Verdict::NoHashRecorded, Some(entry)),
        (None, None) => (Verdict::Unknown, None),
    };
    Ok(Verification {
        path: path.display().to_string(),
        sha256,
        verdict,
        entry: entry.cloned(),
    })
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "file     {}", self.path)?;
        writeln!(f, "sha256   {}", self.sha256)?;
        if let Some(entry) = &self.entry {
            writeln!(f, "known    {}", entry.title)?;
            writeln!(f, "source   {}", entry.source)?;
            writeln!(f, "licence  {}", entry.licence)?;
            writeln!(f, "note     {}", entry.note)?;
        }
        match self.verdict {
            Verdict::Matches => write!(f, "verdict  the file is what the manifest says"),
            Verdict::Differs => {
                let expected = self.entry.as_ref().and_then(|e| e.sha256.as_deref()).unwrap_or_default();
                write!(
                    f,
                    "verdict  NOT the manifest's file (expected {expected}); download it again from its source"
                )
            }
            Verdict::NoHashRecorded => write!(f, "verdict  known by name only: no hash is recorded; compare with the publisher's"),
            Verdict::Unknown => write!(f, "verdict  not in the manifest; make sure that you know where it comes from"),
        }
    }
}
