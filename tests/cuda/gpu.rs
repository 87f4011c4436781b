//! The same conformance tests on a GPU, where there is one.

use super::conformance::Bench;
use super::{linear, max_pool, norm};
use hpc_seg::cuda::cache::KernelCache;
use hpc_seg::cuda::gpu::{Gpu, check_driver};

#[test]
fn kernels_conform_to_their_cpu_ops_on_the_gpu() {
    if let Err(error) = check_driver() {
        let required = std::env::var("HPC_SEG_REQUIRE_CUDA").is_ok_and(|value| value == "1");
        assert!(!required, "HPC_SEG_REQUIRE_CUDA=1, but {error:#}");
        println!("skipped: {error:#}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::over(Gpu::open(0, KernelCache::new(folder.path())).unwrap());
    norm::check(&bench).unwrap();
    linear::check(&bench).unwrap();
    linear::check_tiles_agree(&bench).unwrap();
    max_pool::check(&bench).unwrap();
}
