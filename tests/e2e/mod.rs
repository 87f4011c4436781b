//! The program from the command line to its files: what goes in, what comes out, and what it says when something is wrong.

mod bad_labels;
mod bad_volumes;
mod bad_weights;
mod behaviour;
mod bench;
mod demo;
#[cfg(feature = "emu")]
mod emulated;
mod geometry;
mod gpu;
mod interrupted;
mod real_input;
mod report;
mod rounds;
mod run_status;
mod sameness;

use crate::cohort::files_below;
use hpc_seg::cohort::phantoms::{self, Request};
use hpc_seg::messages::Progress;
use hpc_seg::stop::Stop;
use hpc_seg::volume::phantom::Sequence;
use hpc_seg::volume::{AxisMap, Header, Volume, Voxels};
use hpc_seg::weights::demo_network;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Phantoms with one organ in nnU-Net's layout (`data`), and the demo network (`demo.safetensors`), in a temporary folder.
pub struct Phantoms {
    folder: tempfile::TempDir,
}

impl Phantoms {
    /// `cases` phantoms of `size` (z, y, x), the first `labelled` of them with labels.
    pub fn new(cases: usize, labelled: usize, size: [usize; 3]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (out, organ) = (folder.path().join("data"), Some(1));
        let request = Request {
            cases,
            labelled,
            first: 0,
            out,
            seed: 0,
            sequence: Sequence::Ged4,
            size: Some(size),
            organ,
        };
        phantoms::write(&request, &Stop::new(), &Progress::silent()).unwrap();
        fs::write(folder.path().join("demo.safetensors"), demo_network()).unwrap();
        Self { folder }
    }

    /// The small cohort most tests need: labelled 000; unlabelled 001 and 002.
    pub fn small() -> Self {
        Self::new(3, 1, [6, 64, 64])
    }

    /// A path in the temporary folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The image of an unlabelled phantom.
    pub fn query(&self, number: usize) -> PathBuf {
        self.at(&format!("data/imagesTs/phantom_{number:03}_0000.nii.gz"))
    }

    /// The image of a labelled phantom.
    pub fn image(&self, number: usize) -> PathBuf {
        self.at(&format!("data/imagesTr/phantom_{number:03}_0000.nii.gz"))
    }

    /// The labels of a labelled phantom.
    pub fn labels(&self, number: usize) -> PathBuf {
        self.at(&format!("data/labelsTr/phantom_{number:03}.nii.gz"))
    }

    /// `pseudo-label` into the folder `out`, not yet started; one insertion unless `more` says something else.
    pub fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
        command.stdin(Stdio::null()).arg("pseudo-label");
        let given = |option: &str| more.contains(&option);
        for (option, place) in [
            ("--labelled", "data"),
            ("--unlabelled", "data"),
            ("--weights", "demo.safetensors"),
            ("--out", out),
        ] {
            if !given(option) {
                command.arg(option).arg(self.at(place));
            }
        }
        if !given("--insertions") && !given("--insert-at") {
            command.args(["--insertions", "1"]);
        }
        command.args(more);
        command
    }

    /// The same, run.
    pub fn label(&self, out: &str, more: &[&str]) -> Answer {
        Answer::of(self.command(out, more).output().unwrap())
    }

    /// The record of a case.
    pub fn record(&self, out: &str, number: usize) -> Value {
        let path = self.at(&format!("{out}/cases/phantom_{number:03}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// The bytes of a case's mask.
    pub fn mask(&self, out: &str, number: usize) -> Vec<u8> {
        fs::read(self.at(&format!("{out}/phantom_{number:03}.nii.gz"))).unwrap()
    }

    /// All results that do not tell the time, by name.
    pub fn results(&self, out: &str) -> BTreeMap<String, Vec<u8>> {
        let tells_time = |file: &String| file.starts_with("timings/") || file == "journal.jsonl";
        let files = files_below(&self.at(out)).into_iter().filter(|file| !tells_time(file));
        files
            .map(|file| (file.clone(), fs::read(self.at(out).join(file)).unwrap()))
            .collect()
    }
}

/// What the program said and its exit code.
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Demands an exit code and pieces of the message.
    #[track_caller]
    pub fn expect(self, code: i32, pieces: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for piece in pieces {
            assert!(self.stderr.contains(piece), "{piece:?} is not said in: {}", self.stderr);
        }
        assert!(
            !self.stderr.contains("panic") && !self.stderr.contains("internal error"),
            "{}",
            self.stderr
        );
        self
    }
}

/// Changes the uncompressed bytes of a `.nii.gz` file.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    use std::io::{Read, Write};
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(&fs::read(path).unwrap()[..])
        .read_to_end(&mut bytes)
        .unwrap();
    change(&mut bytes);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    fs::write(path, encoder.finish().unwrap()).unwrap();
}

/// The uncompressed NIfTI-1 header of a file.
pub fn header_bytes(path: &Path) -> Vec<u8> {
    Volume::open(path).unwrap().header().bytes().to_vec()
}

/// Header and voxels (x fastest) of a volume.
pub fn read(path: &Path) -> (Header, Vec<f32>) {
    let volume = Volume::open(path).unwrap();
    (volume.header().clone(), volume.voxels_f32(&AxisMap::default()).unwrap())
}

/// Replaces the voxels of a volume, as f32.
pub fn change_voxels(path: &Path, change: impl FnOnce(&mut [f32])) {
    let (header, mut voxels) = read(path);
    change(&mut voxels);
    hpc_seg::volume::write(path, &header, Voxels::F32(&voxels), None, &[]).unwrap();
}

/// Keeps the slices `range` of a volume.
pub fn keep_slices(path: &Path, range: std::ops::Range<usize>) {
    let (header, voxels) = read(path);
    let [x, y, _] = header.dims();
    let part = &voxels[range.start * x * y..range.end * x * y];
    let header = Header::new([x, y, range.len()], &header.geometry().affine).unwrap();
    hpc_seg::volume::write(path, &header, Voxels::F32(part), None, &[]).unwrap();
}

/// Sets 16-bit numbers of a NIfTI-1 header.
pub fn set_i16(bytes: &mut [u8], at: usize, value: i16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Sets a 32-bit float of a NIfTI-1 header.
pub fn set_f32(bytes: &mut [u8], at: usize, value: f32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
