//! Distances between two liver-sized bodies in a volume of 200 x 512 x 512 voxels: `cargo bench --bench metrics [-- FILTER]`. Throughput is in voxels of
//! the box around both.

use anyhow::{Context, Result};
use criterion::{Criterion, Throughput};
use hpc_seg::device::Device;
use hpc_seg::metrics::distance::Grid;
use hpc_seg::metrics::measures::{Maps, Preset, of_class};
use hpc_seg::metrics::overlap::Overlaps;
use std::hint::black_box;
use std::time::Duration;

const GRID: Grid = Grid {
    shape: [200, 512, 512],
    spacing: [2.5, 0.8, 0.8],
};

/// An ellipsoid around `centre` in mm, with a bumpy surface.
fn body(centre: [f64; 3]) -> Vec<u16> {
    let [depth, rows, columns] = GRID.shape;
    let mut voxels = Vec::with_capacity(GRID.len());
    for z in 0..depth {
        for y in 0..rows {
            for x in 0..columns {
                let at = [0, 1, 2].map(|axis| [z, y, x][axis] as f64 * GRID.spacing[axis] - centre[axis]);
                let bump = 4.0 * ((at[1] / 9.0).sin() + (at[2] / 7.0).cos() + (at[0] / 11.0).sin());
                let radius = (at[0] / 80.0).powi(2) + (at[1] / 75.0).powi(2) + (at[2] / 105.0).powi(2);
                voxels.push(u16::from(radius.sqrt() * 85.0 + bump < 85.0));
            }
        }
    }
    voxels
}

fn main() -> Result<()> {
    let device = Device::cpu(0)?;
    let (prediction, reference) = (body([250.0, 200.0, 180.0]), body([253.0, 202.0, 185.0]));
    let mut criterion = Criterion::default()
        .sample_size(10)
        .measurement_time(Duration::from_secs(10))
        .configure_from_args();
    let count = || Overlaps::count(&prediction, &reference, GRID.shape, None);
    let overlaps = count()?;
    let extent = overlaps.extent(1).context("the bodies are not in the volume")?;
    let maps = Maps {
        prediction: &prediction,
        reference: &reference,
        grid: GRID,
        ignored: None,
    };
    let mut group = criterion.benchmark_group("metrics");
    group.throughput(Throughput::Elements(
        extent.iter().map(|[first, last]| (last + 1 - first) as u64).product(),
    ));
    group.bench_function("overlap", |bencher| bencher.iter(|| device.install(|| black_box(count()))));
    for preset in [Preset::MedPy, Preset::SurfaceDistance, Preset::SimpleItk, Preset::Full] {
        let measures = preset.measures(&[3.0]);
        group.bench_function(preset.name(), |bencher| {
            bencher.iter(|| device.install(|| black_box(of_class(&measures, maps, &overlaps, 1))));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
