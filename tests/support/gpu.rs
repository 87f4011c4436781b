//! The GPU that tests run on, where there is one.

use hpc_seg::cuda::gpu::check_driver;
use hpc_seg::device::Device;
use hpc_seg::device::open::{Choice, Opening};

/// Whether there is a driver. If not it is said, or fails if `HPC_SEG_REQUIRE_CUDA` is 1.
pub fn present() -> bool {
    let Err(error) = check_driver() else { return true };
    let required = std::env::var("HPC_SEG_REQUIRE_CUDA").is_ok_and(|value| value == "1");
    assert!(!required, "HPC_SEG_REQUIRE_CUDA=1, but {error:#}");
    println!("skipped: {error:#}");
    false
}

/// Runs `check` on the first GPU as the program opens it, if there is one.
pub fn on_the_gpu(check: impl FnOnce(&Device)) {
    if !present() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let opening = Opening {
        choice: Choice::Cuda(0),
        memory: Some(8 << 30),
        kernel_cache: Some(folder.path().into()),
        ..Opening::default()
    };
    check(&opening.open().unwrap());
}
