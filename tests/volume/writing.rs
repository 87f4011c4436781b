//! Writing: geometry bit for bit, the rest as the file holds it; whole files or none; the same bytes whatever the threads.

use std::io::Read;
use std::path::Path;

use hpc_seg::error::is_input_error;
use hpc_seg::volume::{AxisMap, Datatype, Header, Volume, Voxels, write};
use nifti::{NiftiObject, RandomAccessNiftiVolume, ReaderOptions};

use super::made::{Made, save};

/// All fields of a header as (place, width, how many) in bytes, by version: nifti1.h and nifti2.h.
const FIELDS_1: [(usize, usize, usize); 11] = [
    (0, 4, 1),
    (32, 4, 1),
    (36, 2, 1),
    (40, 2, 8),
    (56, 4, 3),
    (68, 2, 4),
    (76, 4, 11),
    (120, 2, 1),
    (124, 4, 6),
    (252, 2, 2),
    (256, 4, 18),
];
const FIELDS_2: [(usize, usize, usize); 6] = [(0, 4, 1), (12, 2, 2), (16, 8, 28), (344, 4, 2), (352, 8, 18), (496, 4, 3)];

fn little_endian(made: &Made) -> Vec<u8> {
    let mut bytes = made.header();
    if made.big {
        for &(at, width, count) in if made.version == 1 { &FIELDS_1[..] } else { &FIELDS_2[..] } {
            bytes[at..at + width * count].chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
    }
    bytes
}

fn mask() -> Vec<u8> {
    (0..60).map(|i| u8::from(i % 7 == 0)).collect()
}

fn written(folder: &Path, name: &str, like: &Header, voxels: Voxels<'_>, classes: Option<usize>, labels: &[(u16, String)]) -> Vec<u8> {
    let path = folder.join(name);
    write(&path, like, voxels, classes, labels).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn everything_geometric_is_copied_bit_for_bit_and_the_rest_says_what_the_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    for version in [1, 2] {
        for big in [false, true] {
            let mut made = Made::new(version, big, Datatype::F64);
            made.dim = vec![3, 4, 5, 1];
            made.scale = (2.0, 3.0);
            made.qform = Some([0.1, 1.0 / 3.0, f64::from(0.7_f32), -1.0 / 7.0, 1e-8, 1e30]);
            made.pixdim[5] = f64::NAN; // a bit pattern nobody may tidy up
            let source = Volume::open(&made.save(folder.path(), "a.nii")).unwrap();
            let file = written(folder.path(), "b.nii", source.header(), Voxels::U8(&mask()), None, &[]);
            let header_size = made.header_size();
            assert_eq!(file.len(), header_size + 4 + 60);
            assert_eq!(&file[header_size..], [&[0; 4][..], &mask()].concat());
            let mut expected = little_endian(&made);
            let mut set = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
            if version == 1 {
                set(40, &[3, 0]); // dim[0]
                set(48, &[1, 0, 1, 0, 1, 0, 1, 0]); // dim[4..]
                set(56, &[0; 14]); // intent_p, intent_code
                set(70, &[2, 0, 8, 0]); // datatype, bitpix
                set(112, &1_f32.to_le_bytes());
                set(116, &[0; 4]);
                set(124, &[0; 8]);
                set(148, &[&b"hpc-seg"[..], &[0; 73]].concat());
                set(328, &[0; 16]);
            } else {
                set(12, &[2, 0, 8, 0]);
                set(16, &3_i64.to_le_bytes());
                for i in 4..8 {
                    set(16 + 8 * i, &1_i64.to_le_bytes());
                }
                set(80, &[0; 24]);
                set(176, &1_f64.to_le_bytes());
                set(184, &[0; 24]);
                set(240, &[&b"hpc-seg"[..], &[0; 73]].concat());
                set(504, &[0; 4]);
                set(508, &[0; 16]);
            }
            assert_eq!(&file[..header_size], expected, "version {version} big-endian {big}");
            let back = Volume::open(&folder.path().join("b.nii")).unwrap();
            assert_eq!(back.geometry(), source.geometry());
            assert_eq!(back.header().scale(), None);
        }
    }
}

#[test]
fn every_kind_of_voxels_reads_back_plain_and_compressed_here_and_in_the_nifti_crate() {
    let folder = tempfile::tempdir().unwrap();
    let source = Volume::open(&Made::new(1, true, Datatype::U8).save(folder.path(), "a.nii")).unwrap();
    let n = |i: usize| i * 4 + 3;
    let u8s: Vec<u8> = (0..60).map(|i| n(i) as u8).collect();
    let u16s: Vec<u16> = (0..60).map(|i| n(i) as u16 + 65_000).collect();
    let i16s: Vec<i16> = (0..60).map(|i| n(i) as i16 - 32_000).collect();
    let i32s: Vec<i32> = (0..60).map(|i| n(i) as i32 - 2_000_000).collect();
    let f32s: Vec<f32> = (0..60).map(|i| n(i) as f32 / 7.0).collect();
    for voxels in [
        Voxels::U8(&u8s),
        Voxels::U16(&u16s),
        Voxels::I16(&i16s),
        Voxels::I32(&i32s),
        Voxels::F32(&f32s),
    ] {
        let in_memory = Volume::in_memory("here", source.header(), voxels)
            .unwrap()
            .voxels_f32(&AxisMap::default())
            .unwrap();
        for name in ["b.nii", "b.nii.gz"] {
            let file = written(folder.path(), name, source.header(), voxels, None, &[]);
            assert_eq!(file.starts_with(&[0x1f, 0x8b]), name.ends_with("gz"));
            let back = Volume::open(&folder.path().join(name)).unwrap();
            assert_eq!(back.header().datatype(), voxels.datatype());
            let values = back.voxels_f32(&AxisMap::default()).unwrap();
            assert_eq!(values, in_memory);
            let theirs = ReaderOptions::new().read_file(folder.path().join(name)).unwrap();
            for (i, &value) in values.iter().enumerate() {
                let place = [i as u16 % 3, i as u16 / 3 % 4, i as u16 / 12];
                assert_eq!(theirs.volume().get_f64(&place).unwrap() as f32, value, "{voxels:?} {name}");
            }
        }
    }
    let expected: Vec<f32> = f32s;
    assert_eq!(
        Volume::open(&folder.path().join("b.nii.gz"))
            .unwrap()
            .voxels_f32(&AxisMap::default())
            .unwrap(),
        expected
    );
}

#[test]
fn classes_are_a_fourth_axis_with_a_spacing_that_itk_accepts() {
    let folder = tempfile::tempdir().unwrap();
    for (version, step) in [(1, 2.5), (1, 0.0), (2, 0.0), (2, 4.0)] {
        let mut made = Made::new(version, false, Datatype::U8);
        made.pixdim[4] = step;
        let source = Volume::open(&made.save(folder.path(), "a.nii")).unwrap();
        let maps: Vec<f32> = (0..180).map(|i| i as f32 / 180.0).collect();
        let file = written(folder.path(), "b.nii", source.header(), Voxels::F32(&maps), Some(3), &[]);
        let pixdim = if version == 1 {
            f64::from(f32::from_le_bytes(file[92..96].try_into().unwrap()))
        } else {
            f64::from_le_bytes(file[136..144].try_into().unwrap())
        };
        assert_eq!(pixdim, if step == 0.0 { 1.0 } else { step });
        for channel in 0..3 {
            let class = Volume::open_channel(&folder.path().join("b.nii"), channel).unwrap();
            assert_eq!((class.dims(), class.channels()), ([3, 4, 5], 3));
            assert_eq!(
                class.voxels_f32(&AxisMap::default()).unwrap(),
                maps[60 * channel..60 * (channel + 1)]
            );
        }
    }
}

#[test]
fn label_names_are_kept_in_an_extension_that_readers_skip() {
    let folder = tempfile::tempdir().unwrap();
    let source = Volume::open(&Made::new(1, false, Datatype::U8).save(folder.path(), "a.nii")).unwrap();
    let labels = [(1, "liver".to_string()), (300, "a ]]> b & <c>\u{0}".to_string())];
    let file = written(folder.path(), "b.nii", source.header(), Voxels::U8(&mask()), None, &labels);
    assert_eq!(&file[348..352], [1, 0, 0, 0]);
    let size = i32::from_le_bytes(file[352..356].try_into().unwrap()) as usize;
    assert_eq!(
        file[356..360],
        [0; 4],
        "the first extension is the one TotalSegmentator's readers take"
    );
    assert_eq!((size % 16, file.len()), (0, 352 + 2 * size + 60));
    assert_eq!(f32::from_le_bytes(file[108..112].try_into().unwrap()), (352 + 2 * size) as f32);
    assert_eq!(
        file[352 + size..352 + size + 8],
        [&file[352..356], &[30, 0, 0, 0]].concat(),
        "the second is Caret's"
    );
    assert_eq!(file[352 + size + 8..352 + 2 * size], file[360..352 + size]);
    let xml = std::str::from_utf8(&file[360..352 + size]).unwrap();
    assert!(
        xml.contains("<Label Key=\"1\" ") && xml.contains("<![CDATA[liver]]></Label>"),
        "{xml}"
    );
    assert!(
        xml.contains("<Label Key=\"300\" ") && xml.contains("<![CDATA[a ]]]]><![CDATA[> b & <c> ]]></Label>"),
        "{xml}"
    );
    assert_eq!(
        Volume::open(&folder.path().join("b.nii"))
            .unwrap()
            .labels(&AxisMap::default())
            .unwrap()[7],
        1
    );
    assert!(ReaderOptions::new().read_file(folder.path().join("b.nii")).is_ok());
    let endless = [(1, "x".repeat(5 << 20))];
    let error = write(&folder.path().join("c.nii"), source.header(), Voxels::U8(&mask()), None, &endless)
        .unwrap_err()
        .to_string();
    assert!(error.contains("at most 8 MiB fit; shorten them"), "{error}");
}

#[test]
fn a_compressed_file_is_one_member_of_the_same_bytes_whatever_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let dims = [301, 257, 31]; // some ten blocks and a tail
    let like = Header::new(dims, &[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]).unwrap();
    let voxels: Vec<u8> = (0..dims.iter().product::<usize>()).map(|i| ((i / 97) ^ (i / 1013)) as u8).collect();
    let mut first: Option<Vec<u8>> = None;
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let file = pool.install(|| written(folder.path(), "a.nii.gz", &like, Voxels::U8(&voxels), None, &[]));
        assert_eq!(&file[4..8], [0; 4], "the modification time is 0");
        let mut single = flate2::bufread::GzDecoder::new(&file[..]);
        let mut bytes = Vec::new();
        single.read_to_end(&mut bytes).unwrap();
        assert!(bytes[352..] == voxels && single.into_inner().is_empty(), "{threads} threads");
        assert!(
            first.get_or_insert_with(|| file.clone()) == &file,
            "{threads} threads wrote other bytes"
        );
    }
}

#[test]
fn what_cannot_be_written_is_said_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let source = Volume::open(&Made::new(1, false, Datatype::U8).save(folder.path(), "a.nii")).unwrap();
    std::fs::create_dir(folder.path().join("taken.nii")).unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let before = entries();
    let refused = |path: &Path, parts: &[&str]| {
        let error = write(path, source.header(), Voxels::U8(&mask()), None, &[]).unwrap_err();
        let text = format!("{error:#}");
        assert!(is_input_error(&error) && text.starts_with(&path.display().to_string()), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    };
    refused(
        &folder.path().join("missing/b.nii"),
        &["cannot be written", "missing is no folder; create it or choose another place"],
    );
    refused(&folder.path().join("a.nii/b.nii"), &["a.nii is no folder"]);
    refused(&folder.path().join("taken.nii"), &["a folder has that name"]);
    refused(
        &folder.path().join("b.mha"),
        &["a volume is written as .nii or .nii.gz; give the file one of these endings"],
    );
    refused(
        Path::new("/proc/b.nii"),
        &["/proc takes no files", "check its permissions or choose another place"],
    );
    let short = write(&folder.path().join("b.nii"), source.header(), Voxels::U8(&[1; 59]), None, &[])
        .unwrap_err()
        .to_string();
    assert!(short.contains("59 voxels are not 3 x 4 x 5 times 1 classes"), "{short}");
    let many = vec![0_u8; 60 * 40_000];
    let classes = write(&folder.path().join("b.nii"), source.header(), Voxels::U8(&many), Some(40_000), &[])
        .unwrap_err()
        .to_string();
    assert!(classes.contains("a file cannot hold 40000 classes: give 1 to 32767"), "{classes}");
    assert_eq!(entries(), before, "something was left behind");
}

#[test]
fn a_failed_write_leaves_the_old_file_alone_and_a_good_one_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), "a.txt", b"old");
    let failed = hpc_seg::atomic_file::write_with(&path, |out| {
        std::io::Write::write_all(out, &[b'x'; 100_000])?;
        anyhow::bail!("stopped half-way")
    });
    assert!(format!("{:#}", failed.unwrap_err()).contains("a.txt: could not be written"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    hpc_seg::atomic_file::write_bytes(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(
            mode(&path),
            mode(&save(folder.path(), "b.txt", b"plain")),
            "as readable as any new file"
        );
    }
}

#[test]
fn the_golden_volumes_survive_reading_and_writing() {
    let shared = std::env::var_os("HPC_SEG_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), Into::into);
    let source = shared.join("data/ct-lesion/CT_Lesion_000002_03_01_035-047_image.nii.gz");
    if !source.is_file() {
        println!("skipped: {} is not there", source.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ct = Volume::open(&source).unwrap();
    assert_eq!(ct.dims(), [512, 512, 13]);
    let voxels = ct.labels(&AxisMap::default()).unwrap();
    let path = folder.path().join("b.nii.gz");
    write(&path, ct.header(), Voxels::U16(&voxels), None, &[]).unwrap();
    let back = Volume::open(&path).unwrap();
    assert_eq!(back.geometry(), ct.geometry());
    assert_eq!(back.labels(&AxisMap::default()).unwrap(), voxels);
    let theirs = ReaderOptions::new().read_file(&source).unwrap();
    for i in (0..voxels.len()).step_by(1009) {
        let place = [i % 512, i / 512 % 512, i / (512 * 512)].map(|v| v as u16);
        assert_eq!(theirs.volume().get_f64(&place).unwrap(), f64::from(voxels[i]));
    }
}
