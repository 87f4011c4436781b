//! Copies beside the kernels, and recorded launches: what is asked in the right order gives the right bytes in every schedule, what is not is noticed in one.

use super::conformance::{Bench, guarded, values};
use anyhow::Result;
use hpc_seg::cuda::launch::Work;
use hpc_seg::cuda::max_pool::MaxPool;
use hpc_seg::cuda::transfer::PinnedBuffer;

const POOL: MaxPool = MaxPool {
    items: 1,
    height: 2,
    width: 2,
    channels: 8,
    from: 0,
    taken: 8,
};

fn pinned(bench: &Bench, values: &[f32]) -> PinnedBuffer {
    let bits: Vec<u8> = values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
    let mut pinned = bench.runtime.driver().pinned(bits.len()).unwrap();
    pinned.copy_from_slice(&bits);
    pinned
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let pairs = bytes.chunks_exact(2);
    pairs.map(|pair| half::bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
}

/// The largest of four pixels of eight channels.
fn pooled(x: &[f32]) -> Vec<f32> {
    (0..8)
        .map(|channel| (0..4).map(|pixel| x[pixel * 8 + channel]).fold(f32::MIN, f32::max))
        .collect()
}

/// Uploads, pools, downloads; leaves out the wait named by `mistake`.
fn round_trip(bench: &Bench, x: &[f32], mistake: &str) -> Result<Vec<f32>> {
    let buffer = bench.bf16(&[-100.0; 32]);
    let y = bench.output(8);
    let mut upload = buffer.upload(pinned(bench, x), 64)?;
    if mistake != "no join" {
        upload.join()?;
    }
    POOL.launch(&bench.runtime, &buffer, &y)?;
    let download = y.download(bench.runtime.driver().pinned(16)?, 16)?;
    if mistake == "overwritten early" {
        y.copy_in(&[0; 16])?;
    }
    let answer = floats(&download.wait()?);
    assert_eq!(&upload.wait()?[..], &pinned(bench, x)[..], "the host's buffer comes back as it was");
    if mistake.is_empty() {
        assert_eq!(guarded(&y)?, answer);
    }
    Ok(answer)
}

pub fn check(bench: &Bench) -> Result<()> {
    let x = values(5, 32);
    anyhow::ensure!(round_trip(bench, &x, "")? == pooled(&x), "a transfer changed the bytes");
    Ok(())
}

/// Runs two pools as a graph, on other contents each time.
pub fn check_graph(bench: &Bench) -> Result<()> {
    let (x, y, z) = (bench.bf16(&[0.0; 32]), bench.output(8), bench.output(8));
    let driver = bench.runtime.driver();
    let record = || {
        POOL.launch(&bench.runtime, &x, &y)?;
        driver.copy_within(z.pointer(), y.pointer(), 16)
    };
    let graph = bench.runtime.capture(record)?;
    anyhow::ensure!(guarded(&y)?.iter().all(|value| value.is_nan()), "recording ran the kernel");
    for seed in 6..9 {
        let content = values(seed, 32);
        x.copy_in(&pinned(bench, &content))?;
        bench.runtime.replay(&graph, "pool", Work::default())?;
        anyhow::ensure!(guarded(&z)? == pooled(&content), "the graph gave other values");
    }
    let refused = bench
        .runtime
        .capture(|| driver.allocate(256).map(drop))
        .err()
        .expect("it is refused");
    anyhow::ensure!(
        format!("{refused:#}").contains("an allocation cannot be part of a graph"),
        "{refused:#}"
    );
    bench.runtime.replay(&graph, "pool", Work::default())
}

#[cfg(feature = "emu")]
#[test]
fn transfers_bring_the_bytes_when_they_are_waited_for() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn a_forgotten_join_or_an_early_overwrite_gives_other_bytes_in_some_schedule() {
    let x = values(5, 32);
    for mistake in ["no join", "overwritten early"] {
        let outcomes: Vec<bool> = Bench::all()
            .map(|bench| round_trip(&bench, &x, mistake).is_ok_and(|answer| answer == pooled(&x)))
            .collect();
        assert!(outcomes.contains(&false), "{mistake}: {outcomes:?}");
    }
}

#[cfg(feature = "emu")]
#[test]
fn an_unwaited_transfer_ends_when_it_is_dropped() {
    for bench in Bench::all() {
        let buffer = bench.bf16(&[0.0; 4]);
        drop(buffer.upload(pinned(&bench, &[1.0, 2.0, 3.0, 4.0]), 8).unwrap());
        assert_eq!(floats(&buffer.to_vec().unwrap()), [1.0, 2.0, 3.0, 4.0]);
    }
}

#[cfg(feature = "emu")]
#[test]
fn transfers_beyond_a_buffer_are_refused() {
    let bench = Bench::all().next().unwrap();
    let buffer = bench.bf16(&[0.0; 4]);
    let message = |result: Result<hpc_seg::cuda::transfer::Transfer>| result.err().unwrap().to_string();
    let host = || bench.runtime.driver().pinned(16).unwrap();
    assert!(message(buffer.upload(host(), 9)).contains("9 bytes do not fit into a device buffer of 8"));
    assert!(message(buffer.download(host(), 9)).contains("device buffer of 8"));
    let wide = bench.bf16(&[0.0; 16]);
    assert!(message(wide.upload(host(), 17)).contains("17 bytes in a pinned buffer of 16"));
    assert!(message(wide.download(host(), 17)).contains("pinned buffer of 16"));
}

#[cfg(feature = "emu")]
#[test]
fn a_graph_runs_its_launches_again_on_what_the_buffers_hold_then() {
    Bench::all().for_each(|bench| check_graph(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn a_failed_capture_leaves_a_driver_that_launches() {
    let bench = Bench::all().next().unwrap();
    let (x, y) = (bench.bf16(&values(1, 32)), bench.output(8));
    let error = bench.runtime.capture(|| anyhow::bail!("in the middle")).err().unwrap();
    assert!(format!("{error:#}").contains("in the middle"), "{error:#}");
    POOL.launch(&bench.runtime, &x, &y).unwrap();
    assert_eq!(guarded(&y).unwrap(), pooled(&values(1, 32)));
}

#[test]
fn the_null_driver_counts_transfers_and_replayed_launches() {
    use hpc_seg::cuda::{card::Card, null::NullDriver};
    use std::sync::Arc;
    let null = Arc::new(NullDriver::new(Card::named("a100-1g.10gb").unwrap()));
    let bench = Bench {
        runtime: hpc_seg::cuda::launch::Runtime::new(null.clone()),
        arena: hpc_seg::cuda::arena::Arena::new(null.clone(), 1 << 20).unwrap(),
    };
    let (x, y) = (bench.arena.buffer(64).unwrap(), bench.arena.buffer(16).unwrap());
    x.upload(null_pinned(&bench, 64), 64).unwrap().wait().unwrap();
    let graph = bench.runtime.capture(|| POOL.launch(&bench.runtime, &x, &y)).unwrap();
    assert_eq!((graph.steps(), null.counts().launches.len()), (Some(1), 0));
    for _ in 0..3 {
        bench.runtime.replay(&graph, "pool", Work::default()).unwrap();
    }
    let answer = y.download(null_pinned(&bench, 16), 16).unwrap().wait().unwrap();
    assert_eq!(&answer[..], [0; 16]);
    let counts = null.counts();
    assert_eq!((counts.bytes_in, counts.bytes_out, counts.launches["max_pool_8"]), (64, 16, 3));
    let memory = bench.runtime.driver().memory().unwrap();
    assert_eq!((memory.own, memory.free + memory.own), (1 << 20, memory.total));
}

fn null_pinned(bench: &Bench, bytes: usize) -> PinnedBuffer {
    let mut pinned = bench.runtime.driver().pinned(bytes).unwrap();
    pinned.fill(7);
    pinned
}
