//! Every op over its cases of network size: `cargo bench --bench ops [-- FILTER]`. Throughput is in flops; in bytes where an op has none.

use anyhow::{Context, Result};
use criterion::{Criterion, Throughput};
use hpc_seg::bench::entries::entries;
use hpc_seg::device::Device;
use std::time::Duration;

fn main() -> Result<()> {
    let device = Device::cpu(0)?;
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for entry in entries(&device) {
        let mut group = criterion.benchmark_group(entry.op);
        group.throughput(match entry.cost.flops {
            flops if flops > 0.0 => Throughput::Elements(flops as u64),
            _ => Throughput::Bytes(entry.cost.bytes as u64),
        });
        let mut result = Ok(());
        let mut call = None; // prepared only if the filter takes the case
        group.bench_function(entry.case, |bencher| {
            // Timed on a thread of the pool, as the ops run in the program.
            bencher.iter_custom(|n| {
                let timed = match &mut call {
                    Some(call) => Ok(call),
                    none => (entry.prepare)().map(|call| none.insert(call)),
                }
                .and_then(|call| {
                    device.install(|| {
                        let start = std::time::Instant::now();
                        (0..n).try_for_each(|_| call())?;
                        Ok(start.elapsed())
                    })
                });
                timed.unwrap_or_else(|error| {
                    result = Err(error);
                    Duration::from_nanos(1)
                })
            });
        });
        group.finish();
        result.with_context(|| format!("{} at {}", entry.op, entry.case))?;
    }
    criterion.final_summary();
    Ok(())
}
