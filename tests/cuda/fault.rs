//! A kernel that fails on a GPU, where there is one. It stands apart from the other tests there because compute-sanitizer, which those are run under, reports the fault.

use super::gpu::on_the_gpu;
use hpc_seg::cuda::cache::KernelCache;
use hpc_seg::cuda::driver::{Arguments, Shape};
use hpc_seg::cuda::gpu::Gpu;
use hpc_seg::cuda::launch::Work;
use hpc_seg::device::DeviceLost;

/// Passes in a process of its own only.
#[test]
fn a_kernel_that_fails_makes_the_device_lost_for_the_process() {
    on_the_gpu(|bench| {
        let shape = Shape {
            blocks: [1, 1, 1],
            threads: 32,
            shared_bytes: 0,
        };
        // Reads and writes at address zero.
        let arguments = Arguments::new().optional(None).optional(None).int(1);
        let launched = bench.runtime.launch("ptx_probe", shape, arguments, "nothing", Work::default());
        let error = launched.and_then(|()| bench.runtime.driver().synchronise()).unwrap_err();
        assert!(error.downcast_ref::<DeviceLost>().is_some(), "{error:#}");
        let folder = tempfile::tempdir().unwrap();
        let again = Gpu::open(0, KernelCache::new(folder.path())).err().unwrap();
        assert!(again.downcast_ref::<DeviceLost>().is_some(), "{again:#}");
    });
}
