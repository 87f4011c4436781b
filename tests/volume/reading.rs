//! Every type, byte order and version; compression; scaling; labels.

use std::path::Path;

use hpc_seg::volume::{AxisMap, Datatype, ReadOptions, Version, Volume};
use nifti::{NiftiObject, NiftiVolume, RandomAccessNiftiVolume, ReaderOptions};

use super::made::{Made, gzip, save};

fn voxels(path: &Path) -> Vec<f32> {
    Volume::open(path).unwrap().voxels_f32(&AxisMap::default()).unwrap()
}

/// Values that a type alone of its size and sign can hold, ends of the range included (64-bit ones as far as f64 is exact).
fn telling_values(datatype: Datatype) -> Vec<f64> {
    let (low, high) = match datatype {
        Datatype::U8 => (0.0, 255.0),
        Datatype::I8 => (-128.0, 127.0),
        Datatype::I16 => (-32768.0, 32767.0),
        Datatype::U16 => (0.0, 65535.0),
        Datatype::I32 => (-2_147_483_648.0, 2_147_483_647.0),
        Datatype::U32 => (0.0, 4_294_967_295.0),
        Datatype::I64 => (-9_007_199_254_740_992.0, 1_234_567_890_123.0),
        Datatype::U64 => (0.0, 9_007_199_254_740_992.0),
        Datatype::F32 => (-f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE)),
        Datatype::F64 => (-1.5e-30, 0.1),
    };
    (0..60)
        .map(|i| {
            if i == 7 {
                low
            } else if i == 31 {
                high
            } else {
                f64::from(i)
            }
        })
        .collect()
}

#[test]
fn every_type_byte_order_and_version_reads_back_as_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    for datatype in Datatype::ALL {
        for version in [1, 2] {
            for big in [false, true] {
                let made = Made {
                    values: telling_values(datatype),
                    ..Made::new(version, big, datatype)
                };
                let what = format!("{datatype:?} version {version} big-endian {big}");
                let expected: Vec<f32> = made.values.iter().map(|&v| v as f32).collect();
                let path = made.save(folder.path(), "a.nii");
                let volume = Volume::open(&path).unwrap();
                assert_eq!(
                    (volume.dims(), volume.channels(), volume.header().datatype()),
                    ([3, 4, 5], 1, datatype),
                    "{what}"
                );
                assert_eq!(
                    volume.header().version(),
                    if version == 1 { Version::One } else { Version::Two },
                    "{what}"
                );
                assert_eq!(volume.resident_bytes(), 0, "{what}: an uncompressed file is mapped");
                assert_eq!(volume.voxels_f32(&AxisMap::default()).unwrap(), expected, "{what}");
                assert_eq!(
                    voxels(&save(folder.path(), "a.nii.gz", &gzip(&made.file()))),
                    expected,
                    "{what}, compressed"
                );
            }
        }
    }
}

#[test]
fn stored_slices_are_the_files_numbers_in_the_order_of_the_view() {
    let folder = tempfile::tempdir().unwrap();
    let views = [AxisMap::default(), AxisMap::new([0, 2, 1], [true, false, true]).unwrap()];
    for (datatype, big) in Datatype::ALL.into_iter().flat_map(|datatype| [(datatype, false), (datatype, true)]) {
        let made = Made {
            values: telling_values(datatype),
            scale: (2.0, -1.0),
            ..Made::new(1, big, datatype)
        };
        // The same file in the other byte order tells what is stored, number by number.
        let little = Made {
            big: false,
            ..made.clone()
        }
        .voxels();
        let volume = Volume::open(&made.save(folder.path(), "a.nii")).unwrap();
        for view in views {
            let numbers: Vec<&[u8]> = little.chunks_exact(datatype.width()).collect();
            let want = view.to_view(&numbers, volume.dims()).unwrap();
            let slices = 0..view.permute(volume.dims())[0];
            let got: Vec<u8> = slices.clone().flat_map(|z| volume.stored_slice(&view, z).unwrap()).collect();
            assert_eq!(got, want.concat(), "{datatype:?}, big-endian {big}, {view}");
            assert!(volume.stored_slice(&view, slices.end).is_err());
        }
    }
}

#[test]
fn the_nifti_crate_reads_the_same_voxels_from_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    for datatype in Datatype::ALL {
        for big in [false, true] {
            let made = Made {
                values: telling_values(datatype),
                ..Made::new(1, big, datatype)
            };
            let path = made.save(folder.path(), "a.nii");
            let ours = Volume::open(&path).unwrap();
            let object = ReaderOptions::new().read_file(&path).unwrap();
            assert_eq!(object.volume().dim(), [3, 4, 5]);
            let mut slice = vec![0.0_f32; 12];
            for z in 0..5_u16 {
                ours.slice_into(&AxisMap::default(), usize::from(z), &mut slice).unwrap();
                for (i, &value) in slice.iter().enumerate() {
                    let theirs = object.volume().get_f64(&[i as u16 % 3, i as u16 / 3, z]).unwrap() as f32;
                    assert_eq!(value, theirs, "{datatype:?} big-endian {big}, voxel {i} of slice {z}");
                }
            }
            assert_eq!(object.header().srow_x.map(f64::from), ours.geometry().affine[0]);
        }
    }
}

#[test]
fn all_members_of_a_gzip_file_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::new(1, false, Datatype::I16);
    let file = made.file();
    let expected: Vec<f32> = (0..60).map(|i| i as f32).collect();
    for pieces in [2, 7, file.len()] {
        let members: Vec<u8> = file.chunks(file.len().div_ceil(pieces)).flat_map(gzip).collect();
        assert_eq!(voxels(&save(folder.path(), "a.nii.gz", &members)), expected, "{pieces} members");
    }
    // A compressed file is known by its bytes, whatever its name.
    assert_eq!(voxels(&save(folder.path(), "a.nii", &gzip(&file))), expected);
}

#[test]
fn slope_and_intercept_are_applied_and_none_are_when_the_slope_is_zero_or_nan() {
    let folder = tempfile::tempdir().unwrap();
    for (scale, expected) in [
        ((2.5, -10.0), 7.5),
        ((1.0, 0.25), 7.25),
        ((0.0, 100.0), 7.0),
        ((f64::NAN, 100.0), 7.0),
        ((1.0, 0.0), 7.0),
    ] {
        for version in [1, 2] {
            let made = Made {
                scale,
                ..Made::new(version, true, Datatype::U8)
            };
            assert_eq!(
                voxels(&made.save(folder.path(), "a.nii"))[7],
                expected,
                "{scale:?} version {version}"
            );
        }
    }
}

#[test]
fn both_halves_of_a_pair_open_the_same_volume_plain_or_compressed() {
    let folder = tempfile::tempdir().unwrap();
    for version in [1, 2] {
        let made = Made {
            pair: true,
            ..Made::new(version, version == 2, Datatype::U16)
        };
        let expected: Vec<f32> = (0..60).map(|i| i as f32).collect();
        for (header_name, image_name) in [
            ("a.hdr", "a.img"),
            ("b.hdr", "b.img.gz"),
            ("c.hdr.gz", "c.img.gz"),
            ("d.v1.HDR", "d.v1.IMG"),
        ] {
            let bytes = |name: &str, bytes: Vec<u8>| if name.ends_with("gz") { gzip(&bytes) } else { bytes };
            let header = save(folder.path(), header_name, &bytes(header_name, made.header()));
            let image = save(folder.path(), image_name, &bytes(image_name, made.voxels()));
            assert_eq!(voxels(&header), expected, "{header_name}");
            if header_name != "d.v1.HDR" {
                assert_eq!(voxels(&image), expected, "{image_name}");
            }
        }
    }
}

#[test]
fn trailing_axes_of_one_are_no_channels_and_channels_are_selected() {
    let folder = tempfile::tempdir().unwrap();
    for dim in [vec![3, 4, 5, 1], vec![3, 4, 5, 1, 1, 1, 1]] {
        let made = Made {
            dim,
            ..Made::new(1, false, Datatype::U8)
        };
        let volume = Volume::open(&made.save(folder.path(), "a.nii")).unwrap();
        assert_eq!((volume.dims(), volume.channels()), ([3, 4, 5], 1));
    }
    for dim in [vec![3, 4, 1, 5], vec![3, 4, 1, 1, 5]] {
        let made = Made {
            dim,
            ..Made::new(2, true, Datatype::I32)
        };
        for path in [
            made.save(folder.path(), "b.nii"),
            save(folder.path(), "b.nii.gz", &gzip(&made.file())),
        ] {
            for channel in 0..5 {
                let volume = Volume::open_channel(&path, channel).unwrap();
                assert_eq!((volume.dims(), volume.channels()), ([3, 4, 1], 5));
                let expected: Vec<f32> = (0..12).map(|i| (12 * channel + i) as f32).collect();
                assert_eq!(volume.voxels_f32(&AxisMap::default()).unwrap(), expected, "channel {channel}");
            }
            let error = Volume::open_channel(&path, 5).unwrap_err().to_string();
            assert!(error.contains("there is no channel 5; the file has 5, counted from 0"), "{error}");
        }
    }
    let flat = Made {
        dim: vec![12, 5],
        ..Made::new(1, false, Datatype::U8)
    };
    assert_eq!(Volume::open(&flat.save(folder.path(), "c.nii")).unwrap().dims(), [12, 5, 1]);
}

#[test]
fn float_label_maps_are_labels_when_their_values_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = Made {
        scale: (0.5, 0.0),
        ..Made::new(1, false, Datatype::F64)
    };
    made.values = (0..60).map(|i| f64::from(2 * (i % 3)) + 1e-5).collect();
    let labels = Volume::open(&made.save(folder.path(), "a.nii"))
        .unwrap()
        .labels(&AxisMap::default())
        .unwrap();
    assert_eq!(labels, (0..60).map(|i| i % 3).collect::<Vec<u16>>());
    for (wrong, shown) in [
        (0.5, "0.5"),
        (-1.0, "-1"),
        (65536.0, "65536"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
    ] {
        let mut made = Made::new(1, false, Datatype::F64);
        made.values[17] = wrong;
        let path = made.save(folder.path(), "b.nii");
        let error = Volume::open(&path).unwrap().labels(&AxisMap::default()).unwrap_err();
        assert!(hpc_seg::error::is_input_error(&error));
        let text = error.to_string();
        let place = format!("b.nii: voxel [2, 1, 1] (x, y, z from 0) has the value {shown}, which is no label");
        assert!(text.contains(&place) && text.contains("is this an image?"), "{text}");
    }
}

#[test]
fn the_first_voxel_that_is_not_finite_is_found_and_left_out_of_the_range() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = Made::new(1, false, Datatype::F32);
    let clean = Volume::open(&made.save(folder.path(), "a.nii")).unwrap();
    assert_eq!(
        (clean.first_non_finite().unwrap(), clean.range().unwrap()),
        (None, Some((0.0, 59.0)))
    );
    made.values[29] = f64::NEG_INFINITY;
    made.values[59] = f64::NAN;
    let volume = Volume::open(&made.save(folder.path(), "b.nii")).unwrap();
    assert_eq!(volume.first_non_finite().unwrap(), Some(([2, 1, 2], f32::NEG_INFINITY)));
    assert_eq!(volume.range().unwrap(), Some((0.0, 58.0)));
}

#[test]
fn mapped_read_and_spilled_volumes_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::new(1, true, Datatype::I16);
    let (plain, compressed) = (
        made.save(folder.path(), "a.nii"),
        save(folder.path(), "a.nii.gz", &gzip(&made.file())),
    );
    let expected: Vec<f32> = (0..60).map(|i| i as f32).collect();
    for (path, limit, map_files, resident) in [
        (&plain, 1 << 20, true, 0),
        (&plain, 1 << 20, false, 120),
        (&compressed, 120, true, 120),
        (&compressed, 119, true, 0),
    ] {
        let options = ReadOptions {
            inflate_limit: limit,
            map_files,
            temporary_folder: folder.path().to_path_buf(),
        };
        let volume = Volume::open_with(path, 0, &options).unwrap();
        assert_eq!(volume.voxels_f32(&AxisMap::default()).unwrap(), expected);
        assert_eq!(volume.resident_bytes(), resident, "{} with limit {limit}", path.display());
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        2,
        "no temporary file may be seen"
    );
}

#[test]
fn the_digest_is_that_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = Made::new(1, false, Datatype::U8).save(folder.path(), "a.nii");
    let output = std::process::Command::new("sha256sum").arg(&path).output();
    let Ok(output) = output else {
        println!("skipped: sha256sum is not installed");
        return;
    };
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        Some(Volume::open(&path).unwrap().sha256().unwrap().as_str()),
        expected.split(' ').next()
    );
}
