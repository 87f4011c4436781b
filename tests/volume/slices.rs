//! Slices as the network gets them, whatever the file holds: what `slice_into` says they are, mapped and resized.

use super::made::Made;
use half::bf16;
use hpc_seg::device::Device;
use hpc_seg::ops::resize_u8::BicubicU8Plan;
use hpc_seg::stop::{Stop, is_stopped};
use hpc_seg::tffs::intensity::Window;
use hpc_seg::tffs::source::Image;
use hpc_seg::volume::{AxisMap, Datatype, Volume};
use std::path::Path;
use std::sync::Arc;

/// All slices of a file at `size`, some at a time, against the same one by one.
fn check(path: &Path, view: AxisMap, window: Option<Window>, size: usize, device: &Device) {
    let image = Image::new(Arc::new(Volume::open(path).unwrap()), view, window).unwrap();
    let [slices, h, w] = image.dims();
    let mut brought = image.slices((0..slices).rev().collect(), 2, (device, size), &Stop::new()).unwrap();
    let plan = BicubicU8Plan::new((h, w), (size, size)).unwrap();
    let mut next = slices;
    while next > 0 {
        let count = next.min(2);
        let got = brought.next(count).unwrap();
        assert_eq!(got.shape(), [count, size, size, 1]);
        for got in got.to_vec().unwrap().chunks_exact(size * size) {
            let round = |value: f32| {
                if device.cuda().is_some() {
                    bf16::from_f32(value).to_f32()
                } else {
                    value
                }
            };
            next -= 1;
            let mut slice = vec![0.0; h * w];
            image.volume.slice_into(&view, next, &mut slice).unwrap();
            image.intensity.apply(&mut slice);
            if (h, w) != (size, size) {
                let truncated: Vec<u8> = slice.iter().map(|&value| value as u8).collect();
                let mut resized = vec![0; size * size];
                plan.resize(&truncated, &mut vec![0; plan.scratch_len()], &mut resized).unwrap();
                slice = resized.into_iter().map(f32::from).collect();
            }
            slice.iter_mut().for_each(|value| *value = round(*value));
            assert_eq!(got, slice, "slice {next} as {view}, {window:?}");
        }
    }
    let error = brought.next(1).unwrap_err().to_string();
    assert_eq!(error, "0 slices are left where 1 are wanted");
}

#[test]
fn files_of_every_type_byte_order_and_scale_give_the_network_the_same_as_their_numbers() {
    check_all(&Device::cpu(1).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn files_of_every_type_byte_order_and_scale_give_the_emulated_device_the_same_as_their_numbers() {
    use hpc_seg::cuda::emulator::Schedule;
    let device = crate::support::emulated::device(Schedule::ALL[0]);
    check_all(&device);
    // Rows that are too long for the device's kernel.
    let folder = tempfile::tempdir().unwrap();
    let wide = Made {
        dim: vec![32769, 2, 1],
        values: (0..2 * 32769).map(|i| f64::from(i % 255)).collect(),
        ..Made::new(2, false, Datatype::U8)
    };
    check(&wide.save(folder.path(), "a.nii"), AxisMap::default(), None, 8, &device);
}

fn check_all(device: &Device) {
    let folder = tempfile::tempdir().unwrap();
    let turned = AxisMap::new([0, 2, 1], [true, false, true]).unwrap();
    for (datatype, big) in Datatype::ALL.into_iter().flat_map(|datatype| [(datatype, false), (datatype, true)]) {
        for scale in [(0.0, 0.0), (1.5, -20.25)] {
            let made = Made {
                scale,
                ..Made::new(1, big, datatype)
            };
            let path = made.save(folder.path(), "a.nii");
            let window = Window { level: 20.0, width: 31.0 };
            for (view, window) in [(AxisMap::default(), None), (AxisMap::default(), Some(window)), (turned, None)] {
                check(&path, view, window, 8, device);
            }
            // Planes of 4 x 4: of the network's size.
            check(
                &Made {
                    dim: vec![4, 4, 3],
                    values: made.values[12..].to_vec(),
                    ..made.clone()
                }
                .save(folder.path(), "b.nii"),
                AxisMap::default(),
                None,
                4,
                device,
            );
        }
    }
}

#[test]
fn a_stop_is_heard_between_slices() {
    let folder = tempfile::tempdir().unwrap();
    let path = Made::new(1, false, Datatype::I16).save(folder.path(), "a.nii");
    let image = Image::new(Arc::new(Volume::open(&path).unwrap()), AxisMap::default(), None).unwrap();
    let (stop, device) = (Stop::new(), Device::cpu(1).unwrap());
    stop.request(15);
    let error = image.slices(vec![0, 1], 2, (&device, 4), &stop).unwrap().next(2).unwrap_err();
    assert!(is_stopped(&error), "{error:#}");
}
