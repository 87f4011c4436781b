//! The same conformance tests on a GPU, where there is one. A kernel that fails takes its process along: `benches/gpu.sh correctness` runs each test in its own.

use super::conformance::Bench;
use super::suites::SUITES;
use super::{ptx, transfers};
use crate::support::gpu::present;
use hpc_seg::cuda::cache::KernelCache;
use hpc_seg::cuda::gpu::Gpu;

/// Runs `check` on the first GPU, if there is one.
pub fn on_the_gpu(check: impl FnOnce(&Bench)) {
    if present() {
        let folder = tempfile::tempdir().unwrap();
        check(&Bench::over(Gpu::open(0, KernelCache::new(folder.path())).unwrap()));
    }
}

macro_rules! suites {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let (_, check, _) = SUITES.iter().find(|(name, ..)| *name == stringify!($name)).unwrap();
            on_the_gpu(|bench| check(bench).unwrap());
        })*

        /// Every suite is run on the GPU.
        const _: () = assert!(SUITES.len() == [$(stringify!($name)),*].len());
    };
}

suites! {
    norm linear max_pool attention memory_attention conv depthwise upscale mask_product rope nearest_add copy_rows add_rows memory_mask prompt_mask ensemble take fill_holes components
    normalise mma_rate
}

#[test]
fn copies_and_graphs() {
    on_the_gpu(|bench| {
        transfers::check(bench).unwrap();
        transfers::check_graph(bench).unwrap();
    });
}

#[test]
fn wrappers_of_ptx() {
    on_the_gpu(|bench| {
        ptx::record(bench);
        ptx::check(bench).unwrap();
    });
}
