//! Files that are cut off, damaged, or lie: each is refused with a text that names the file, the trouble and the remedy. None is a panic.

use std::path::Path;
use std::process::Command;

use hpc_seg::error::is_input_error;
use hpc_seg::volume::{AxisMap, Datatype, Volume};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::made::{Made, gzip, save};

fn made() -> Made {
    Made::new(1, false, Datatype::I16)
}

/// Opening `path` fails as the user's input, with a text that starts with the path and holds `parts`.
fn refused(path: &Path, parts: &[&str]) {
    let error = Volume::open(path)
        .err()
        .unwrap_or_else(|| panic!("{} was opened; wanted: {parts:?}", path.display()));
    let text = format!("{error:#}");
    assert!(is_input_error(&error), "not an input error: {text}");
    assert!(text.starts_with(&path.display().to_string()), "names no file: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn things_that_are_no_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    refused(&folder.path().join("none.nii"), &["no such file; check the path"]);
    refused(folder.path(), &["is a folder; give a .nii, .nii.gz or .hdr/.img file"]);
    refused(&save(folder.path(), "a.nii", b""), &["is empty (0 bytes); copy or export it again"]);
    refused(Path::new("/dev/null"), &["is no regular file"]);
    // A pipe that nobody writes to would be waited for.
    let pipe = folder.path().join("pipe.nii");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&pipe, &["is no regular file"]);
}

#[test]
fn other_formats_are_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let case = |name: &str, bytes: &[u8], parts: &[&str]| refused(&save(folder.path(), name, bytes), parts);
    case("a.nii", &[7; 400], &["not a NIfTI file", "give a .nii, .nii.gz or .hdr/.img file"]);
    case("a.nii", b"abc", &["only 3 bytes, too short for a NIfTI header"]);
    case("a.nii", b"NRRD0004\n", &["not a NIfTI file but NRRD; convert it"]);
    case("a.nii", &[&[0; 128][..], b"DICM", &[0; 400]].concat(), &["but DICOM", "dcm2niix"]);
    let mut analyze = made().file();
    analyze[344..348].fill(0);
    case("a.nii", &analyze, &["no NIfTI magic", "ANALYZE 7.5", "convert it to NIfTI first"]);
    case(
        "a.nii",
        &made().file()[..200],
        &["ends inside the header (200 of 348 bytes); copy or export it again"],
    );
    case(
        "a.nii.gz",
        &gzip(&made().file()[..200]),
        &["ends inside the header (200 of 348 bytes)"],
    );
}

#[test]
fn truncated_files_say_how_much_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = made().file();
    let whole = "the header claims 3 x 4 x 5 voxels of 2 bytes from byte 352, which is 472 bytes, but the file holds";
    let remedy = "it is cut off or its header damaged: copy or export it again";
    for length in [348, 352, 471] {
        let holds = format!("{whole} {length}; {remedy}");
        refused(&save(folder.path(), "a.nii", &file[..length]), &[&holds]);
        refused(&save(folder.path(), "a.nii.gz", &gzip(&file[..length])), &[&holds]);
    }
    let mut noisy = Made {
        dim: vec![100, 100, 10],
        ..made()
    };
    let mut random = ChaCha8Rng::seed_from_u64(3);
    noisy.values = (0..100_000).map(|_| f64::from(random.random::<i16>())).collect();
    let compressed = gzip(&noisy.file());
    for length in [30, compressed.len() / 2, compressed.len() - 1] {
        let path = save(folder.path(), "b.nii.gz", &compressed[..length]);
        refused(
            &path,
            &["the compressed data end early; the file is cut off: copy or download it again"],
        );
    }
    let mut damaged = compressed.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 40].fill(0xff);
    refused(
        &save(folder.path(), "c.nii.gz", &damaged),
        &["the compressed data are damaged", "copy or download the file again"],
    );
    let mut wrong_checksum = compressed.clone();
    let at = wrong_checksum.len() - 8;
    wrong_checksum[at] ^= 1;
    refused(
        &save(folder.path(), "d.nii.gz", &wrong_checksum),
        &["the compressed data are damaged"],
    );
}

#[test]
fn lying_sizes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let case = |made: &Made, parts: &[&str]| {
        refused(&made.save(folder.path(), "a.nii"), parts);
        refused(&save(folder.path(), "a.nii.gz", &gzip(&made.file())), parts);
    };
    for version in [1, 2] {
        let with = |dim: &[i64]| Made {
            dim: dim.to_vec(),
            ..Made::new(version, version == 2, Datatype::I16)
        };
        case(
            &with(&[3, 4, 6]),
            &["claims 3 x 4 x 6 voxels", "but the file holds", "copy or export it again"],
        );
        // An axis beyond space that was never set is none.
        for beyond in [0, -1] {
            let unset = with(&[3, 4, 5, beyond]).save(folder.path(), "a.nii");
            assert_eq!(Volume::open(&unset).unwrap().channels(), 1);
        }
        case(&with(&[3, 4, 0]), &["axis 3 has size 0; every axis needs at least one voxel"]);
        case(&with(&[3, -4, 5]), &["axis 2 has size -4; every axis needs at least one voxel"]);
        case(&with(&[]), &["the header claims 0 axes (dim[0]), possible are 1 to 7"]);
        case(&with(&[30_000, 30_000, 30_000]), &["but", "copy or export it again"]);
        case(&with(&[30_000; 5]), &["more than any file can hold; the header is damaged"]);
        case(&with(&[1, 1, 1, 30_000, 30_000, 30_000, 30_000]), &["copy or export it again"]);
    }
    let huge = Made {
        dim: vec![1 << 40, 1 << 40, 2],
        ..Made::new(2, false, Datatype::U8)
    };
    case(
        &huge,
        &["claims 1099511627776 x 1099511627776 x 2 voxels, more than any file can hold"],
    );
    let overflow = Made {
        dim: vec![1, 1, 1, i64::MAX, i64::MAX],
        ..Made::new(2, false, Datatype::U8)
    };
    case(&overflow, &["more channels than any file can hold"]);
}

#[test]
fn a_file_that_goes_on_beyond_its_header_is_refused_before_it_is_inflated() {
    let folder = tempfile::tempdir().unwrap();
    let mut bomb = made().file();
    bomb.resize(bomb.len() + 1000, 0);
    assert!(
        Volume::open(&save(folder.path(), "a.nii", &bomb)).is_ok(),
        "a little padding is no lie"
    );
    assert!(Volume::open(&save(folder.path(), "a.nii.gz", &gzip(&bomb))).is_ok());
    bomb.resize(bomb.len() + (2 << 20), 0);
    let text = "holds over 1048576 bytes more than the 3 x 4 x 5 voxels its header claims";
    refused(&save(folder.path(), "b.nii", &bomb), &[text, "export it again"]);
    refused(&save(folder.path(), "b.nii.gz", &gzip(&bomb)), &[text]);
    // A thousandfold claim in few compressed bytes is refused without inflating a byte of it.
    let claim = Made {
        dim: vec![2000, 2000, 1000],
        ..made()
    };
    refused(
        &save(folder.path(), "c.nii.gz", &gzip(&claim.file())),
        &["compressed bytes cannot hold them"],
    );
}

#[test]
fn offsets_types_spacings_and_scalings_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let case = |made: &Made, parts: &[&str]| refused(&made.save(folder.path(), "a.nii"), parts);
    for version in [1, 2] {
        let with = |offset: f64| Made {
            vox_offset: Some(offset),
            ..Made::new(version, false, Datatype::U8)
        };
        case(&with(1e6), &["from byte 1000000", "but the file holds"]);
        case(
            &with(-8.0),
            &["start at byte -8 (vox_offset), which is no place in a file; the header is damaged"],
        );
        case(&with(100.0), &["start at byte 100 (vox_offset), inside the header"]);
    }
    for offset in [f64::NAN, f64::INFINITY, 352.5] {
        case(
            &Made {
                vox_offset: Some(offset),
                ..made()
            },
            &["(vox_offset), which is no place in a file"],
        );
    }
    let mut pixdim = Made { sform: None, ..made() };
    pixdim.pixdim[2] = f64::NAN;
    case(
        &pixdim,
        &["the spacing of axis 2 is NaN (pixdim) and there is no sform to take it from; set pixdim"],
    );
    case(
        &Made {
            scale: (2.0, f64::NAN),
            ..made()
        },
        &["scales voxels by 2 and adds NaN (scl_inter); set scl_inter to 0"],
    );
    for (code, name) in [
        (128_u8, "128 (RGB colour)"),
        (32, "32 (complex, 64 bits)"),
        (1, "1 (binary (1 bit))"),
        (99, "99 (not a NIfTI type)"),
    ] {
        let mut bytes = made().file();
        bytes[70] = code;
        let path = save(folder.path(), "b.nii", &bytes);
        refused(
            &path,
            &[&format!(
                "voxel type {name} cannot be read; convert the file to an integer or float type"
            )],
        );
    }
}

#[test]
fn half_a_pair_names_the_other_half() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Made { pair: true, ..made() };
    refused(
        &save(folder.path(), "a.hdr", &pair.header()),
        &["its voxels should be in", "a.img (or .gz), which does not exist"],
    );
    refused(
        &save(folder.path(), "b.img", &pair.voxels()),
        &["its header should be in", "b.hdr (or .gz), which does not exist"],
    );
    refused(
        &save(folder.path(), "c.nii", &pair.header()),
        &["the header of a .hdr/.img pair, but it is not called .hdr"],
    );
    let header = save(folder.path(), "d.hdr", &pair.header());
    save(folder.path(), "d.img", &pair.voxels()[..100]);
    let text = format!("{:#}", Volume::open(&header).unwrap_err());
    assert!(
        text.contains("d.img: the header claims 3 x 4 x 5 voxels") && text.contains("but the file holds 100"),
        "{text}"
    );
}

#[test]
fn damaged_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut opened = 0;
    for round in 0..4000 {
        let version = 1 + (round / 2 % 2) as u8;
        let qform = (round % 3 == 0).then_some([0.1, -0.7, 0.2, 1.0, 2.0, 3.0]);
        let datatype = Datatype::ALL[round % 10];
        let made = Made {
            qform,
            sform: (round % 5 != 0).then_some(made().sform.unwrap()),
            ..Made::new(version, round % 2 == 0, datatype)
        };
        let mut bytes = made.file();
        for _ in 0..random.random_range(1..6) {
            let header = made.header_size();
            // Half of the damage goes where sizes, types, offsets and forms are, and often to values at the edge.
            let at = if random.random() {
                random.random_range(0..header)
            } else {
                random.random_range(0..bytes.len())
            };
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random.random()][random.random_range(0..6)];
        }
        if random.random_range(0..8) == 0 {
            bytes.truncate(random.random_range(0..bytes.len()));
        }
        let mut bytes = if round % 4 == 3 { gzip(&bytes) } else { bytes };
        if round % 16 == 3 && !bytes.is_empty() {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        let path = save(folder.path(), "a.nii", &bytes);
        match Volume::open(&path) {
            Err(e) => assert!(format!("{e:#}").contains("a.nii"), "round {round} names no file: {e:#}"),
            Ok(volume) => {
                opened += 1;
                let geometry = volume.geometry();
                assert!(
                    geometry.affine.iter().flatten().chain(&geometry.spacing).all(|v| v.is_finite()),
                    "round {round}: {geometry:?}"
                );
                let axes = AxisMap::to_match(geometry, geometry, &AxisMap::slice_axis(round % 3).unwrap());
                assert_eq!(volume.voxels_f32(&axes).unwrap().len(), geometry.dims.iter().product::<usize>());
                let _ = (
                    volume.labels(&axes),
                    volume.first_non_finite(),
                    volume.range(),
                    geometry.difference(geometry),
                );
            }
        }
    }
    assert!(
        (400..3600).contains(&opened),
        "{opened} of 4000 opened: the damage is too mild or too wild to tell anything"
    );
}
