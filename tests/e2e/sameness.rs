//! What must not change a byte: threads, lanes, the way a cohort is cut into runs, the orientation of labelled volumes.

use super::{Phantoms, read};
use hpc_seg::volume::{Header, Voxels, write};
use std::path::Path;

#[test]
fn threads_and_lanes_do_not_change_a_byte() {
    let phantoms = Phantoms::new(2, 1, [6, 40, 48]);
    let label = |out: &str, more: &[&str]| {
        phantoms
            .label(out, &[&["--insertions", "4", "--save-probabilities"], more].concat())
            .expect(0, &[]);
        phantoms.results(out)
    };
    let first = label("threads1", &["--threads", "1"]);
    assert_eq!(first.len(), 5);
    for (out, more) in [
        ("threads2", &["--threads", "2"][..]),
        ("threads5", &["--threads", "5"]),
        ("lanes1", &["--lanes", "1"]),
        ("lanes3", &["--lanes", "3", "--threads", "2"]),
    ] {
        for (file, bytes) in label(out, more) {
            assert!(first[&file] == bytes, "{out}: {file}");
        }
    }
}

#[test]
fn a_cohort_in_two_runs_is_the_cohort_in_one() {
    let phantoms = Phantoms::new(4, 2, [6, 40, 48]);
    let more = ["--insertions", "2", "--save-probabilities"];
    phantoms.label("one", &more).expect(0, &["2 done"]);
    for case in ["phantom_003", "phantom_002"] {
        phantoms
            .label("two", &[&more[..], &["--case", case]].concat())
            .expect(0, &["1 done"]);
    }
    assert!(phantoms.results("one") == phantoms.results("two"));
}

#[test]
fn devices_that_share_a_cohort_make_the_same_of_it() {
    let phantoms = Phantoms::new(4, 1, [6, 40, 48]);
    let more = ["--insertions", "2", "--save-probabilities"];
    phantoms.label("one", &more).expect(0, &["3 done"]);
    phantoms
        .label("two", &[&more[..], &["--devices", "cpu,cpu", "--threads", "2"]].concat())
        .expect(0, &["3 done"]);
    assert!(phantoms.results("one") == phantoms.results("two"));
    phantoms
        .label("none", &["--devices", "0,0"])
        .expect(2, &["--devices 0,0: a GPU is named twice"]);
}

/// Stores a volume with x mirrored and y and z exchanged, at the same place in the patient.
fn turn(path: &Path) {
    let (header, voxels) = read(path);
    let [nx, ny, nz] = header.dims();
    let at = |i: usize| voxels[(i / nx % nz) * nx * ny + (i / (nx * nz)) * nx + nx - 1 - i % nx];
    let turned: Vec<f32> = (0..voxels.len()).map(at).collect();
    let affine = header.geometry().affine.map(|[x, y, z, t]| [-x, z, y, t + x * (nx - 1) as f64]);
    let header = Header::new([nx, nz, ny], &affine).unwrap();
    write(path, &header, Voxels::F32(&turned), None, &[]).unwrap();
}

#[test]
fn a_turned_labelled_volume_gives_the_same_bytes_and_is_said() {
    let phantoms = Phantoms::new(2, 1, [6, 40, 48]);
    let more = ["--insertions", "2", "--save-probabilities"];
    let answer = phantoms.label("straight", &more).expect(0, &[]);
    assert!(!answer.stderr.contains("permuted"), "{}", answer.stderr);
    for path in [phantoms.image(0), phantoms.labels(0)] {
        turn(&path);
    }
    phantoms.label("turned", &more).expect(
        0,
        &[
            "phantom_000 was permuted to the orientation of phantom_001 (",
            "--no-reorient switches that off",
        ],
    );
    let (straight, turned) = (phantoms.results("straight"), phantoms.results("turned"));
    for file in [
        "phantom_001.nii.gz",
        "uncertainty/phantom_001.nii.gz",
        "probability/phantom_001.nii.gz",
    ] {
        assert!(straight[file] == turned[file], "{file}");
    }
    let reoriented = &phantoms.record("turned", 1)["supports"][0]["reoriented"];
    assert!(reoriented.as_str().unwrap().contains(" to "), "{reoriented}");
    let answer = phantoms.label("as_it_is", &[&more[..], &["--no-reorient"]].concat()).expect(0, &[]);
    assert!(!answer.stderr.contains("permuted"), "{}", answer.stderr);
    assert!(phantoms.record("as_it_is", 1)["supports"][0]["reoriented"].is_null());
    assert!(straight["probability/phantom_001.nii.gz"] != phantoms.results("as_it_is")["probability/phantom_001.nii.gz"]);
}
