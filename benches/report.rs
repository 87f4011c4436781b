//! Every op at network size as a Markdown table on stdout, beside the machine's GEMM rate measured in the same run: `cargo bench --bench report [-- THREADS]`.

#![allow(clippy::print_stdout)] // its product

use anyhow::Result;
use hpc_seg::bench::entries::{entries, noise};
use hpc_seg::bench::median;
use hpc_seg::cpu::simd;
use hpc_seg::device::Device;

/// Side of the square product that stands for the machine's rate.
const SIDE: usize = 2048;

fn main() -> Result<()> {
    let threads = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(0);
    let device = Device::cpu(threads)?;
    let before = gemm_rate(&device);
    println!(
        "{} threads, level {}; the `gemm` crate multiplies {SIDE} x {SIDE} at {before:.1} GFLOP/s.\n",
        device.threads(),
        simd::level().name()
    );
    println!("| op | case | ms | GFLOP/s | GB/s | of GEMM |\n|---|---|---:|---:|---:|---:|");
    for entry in entries(&device) {
        let mut call = (entry.prepare)()?;
        let seconds = device.install(|| {
            let once = median(&device, 1, &mut call)?;
            median(&device, ((0.3 / once) as usize).clamp(3, 101), &mut call)
        })?;
        let (flops, bytes) = (entry.cost.flops / seconds / 1e9, entry.cost.bytes / seconds / 1e9);
        let share = 100.0 * flops / before;
        println!(
            "| {} | {} | {:.3} | {flops:.1} | {bytes:.1} | {share:.0} % |",
            entry.op,
            entry.case,
            seconds * 1e3
        );
    }
    println!(
        "\nThe same product after the table: {:.1} GFLOP/s. The more the two differ, the less the shares mean.",
        gemm_rate(&device)
    );
    Ok(())
}

/// Best of several products of the `gemm` crate on as many threads, in GFLOP/s.
fn gemm_rate(device: &Device) -> f64 {
    let (a, b, mut c) = (noise(SIDE * SIDE, 1), noise(SIDE * SIDE, 2), vec![0f32; SIDE * SIDE]);
    let parallelism = match device.threads() {
        1 => gemm::Parallelism::None,
        n => gemm::Parallelism::Rayon(n),
    };
    let side = SIDE as isize;
    let best = device.install(|| {
        let mut best = f64::MAX;
        for _ in 0..6 {
            let start = std::time::Instant::now();
            // SAFETY: three SIDE x SIDE matrices in row order, of which `c` is borrowed mutably.
            unsafe {
                gemm::gemm(
                    SIDE,
                    SIDE,
                    SIDE,
                    c.as_mut_ptr(),
                    1,
                    side,
                    false,
                    a.as_ptr(),
                    1,
                    side,
                    b.as_ptr(),
                    1,
                    side,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    });
    2.0 * (SIDE as f64).powi(3) / best / 1e9
}
