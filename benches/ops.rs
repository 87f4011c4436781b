//! Every op over its cases of network size: `cargo bench --bench ops [-- FILTER]`. Throughput is in flops; in bytes where an op has none.

mod support;

use anyhow::Result;
use criterion::{Criterion, Throughput};
use hpc_seg::device::Device;
use std::time::Duration;

fn main() -> Result<()> {
    let device = Device::cpu(0)?;
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for entry in support::entries(&device) {
        let mut group = criterion.benchmark_group(entry.op);
        group.throughput(match entry.cost.flops {
            flops if flops > 0.0 => Throughput::Elements(flops as u64),
            _ => Throughput::Bytes(entry.cost.bytes as u64),
        });
        group.bench_function(entry.case, |bencher| {
            let mut call = (entry.prepare)();
            // Timed on a thread of the pool, as the ops run in the program.
            bencher.iter_custom(|n| {
                device.install(|| {
                    let start = std::time::Instant::now();
                    (0..n).for_each(|_| call());
                    start.elapsed()
                })
            });
        });
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}
