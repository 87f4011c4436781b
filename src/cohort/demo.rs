//! The demo's cohort: phantoms of one organ in two groups, few of them labelled, others to test with, and the demo network beside them.

use crate::atomic_file;
use crate::cohort::phantoms::{self, Request};
use crate::messages::Progress;
use crate::report::montage::{Extras, montage};
use crate::stop::Stop;
use crate::volume::phantom::Sequence;
use crate::volume::{AxisMap, Volume};
use crate::weights::demo_network;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The organ: the demo network follows prompts of the liver well, of others only in part.
const LIVER: u8 = 1;
/// Phantoms of the cohort, labelled ones among them, and those to test with.
const CASES: usize = 12;
const LABELLED: usize = 3;
const TEST: usize = 4;

/// Where the demo's files lie.
pub struct Demo {
    /// The phantoms, in nnU-Net's layout.
    pub phantoms: PathBuf,
    /// Those to test with.
    pub test: PathBuf,
    /// Table of all cases' groups.
    pub groups: PathBuf,
    /// The demo network.
    pub weights: PathBuf,
    /// What comes of the run.
    pub result: PathBuf,
    /// The picture.
    pub picture: PathBuf,
    first_test_case: String,
}

impl Demo {
    /// Makes the phantoms and puts the demo network beside them.
    ///
    /// # Errors
    /// A folder that cannot be written to, a stop.
    pub fn prepare(out: &Path, stop: &Stop) -> Result<Self> {
        atomic_file::create_output(out)?;
        let make = |folder: &str, first: usize, cases: usize, labelled: usize| {
            let request = Request {
                cases,
                first,
                labelled,
                out: out.join(folder),
                seed: 0,
                sequence: Sequence::Ged4,
                size: None,
                organ: Some(LIVER),
            };
            phantoms::write(&request, stop, &Progress::new(folder))
        };
        let cohort = make("phantoms", 0, CASES, LABELLED)?;
        let test = make("test", CASES, TEST, 0)?;
        let group = |at: usize| if at.is_multiple_of(2) { "even" } else { "odd" };
        let lines = cohort.iter().chain(&test).enumerate();
        let lines: String = lines.map(|(at, name)| format!("{name},{}\n", group(at))).collect();
        let demo = Self {
            phantoms: out.join("phantoms"),
            test: out.join("test"),
            groups: out.join("groups.csv"),
            weights: out.join("demo.safetensors"),
            result: out.join("result"),
            picture: out.join("demo.png"),
            first_test_case: test.into_iter().next().unwrap_or_default(),
        };
        atomic_file::write_bytes(&demo.groups, lines.as_bytes())?;
        atomic_file::write_bytes(&demo.weights, demo_network())?;
        Ok(demo)
    }

    /// Draws the first test case: solid the outline that was found, dashed the truth.
    ///
    /// # Errors
    /// A label map that is not there.
    pub fn draw(&self, found: &Path) -> Result<()> {
        let (axes, case) = (AxisMap::default(), &self.first_test_case);
        let file = format!("{case}.nii.gz");
        let image = Volume::open(&self.test.join(format!("imagesTs/{case}_0000.nii.gz")))?;
        let found = Volume::open(&found.join(&file))?.labels_u8()?;
        let truth = Volume::open(&self.test.join("labelsTs").join(&file))?.labels_u8()?;
        let extras = Extras {
            reference: Some(&truth),
            flip: image.geometry().upright(&axes),
            ..Extras::default()
        };
        let mut read = |z: usize, out: &mut [f32]| image.slice_into(&axes, z, out);
        let (dims, spacing) = (axes.permute(image.dims()), axes.permute(image.geometry().spacing));
        atomic_file::write_bytes(&self.picture, &montage(&mut read, &found, dims, spacing, extras)?)
    }
}
