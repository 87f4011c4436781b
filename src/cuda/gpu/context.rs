//! Contexts on GPUs, of which some have only a part of the multiprocessors.

use super::library::{GpuInfo, check_architecture, device, done, driver_version, info, spoken};
use anyhow::{Result, bail, ensure};
use cudarc::driver::sys;

/// The oldest driver that gives a context a part of the multiprocessors: CUDA 12.4.
const OLDEST_WITH_PARTS: i32 = 12040;

/// The answer of making a context: nothing was lost by one that could not be made.
fn opened(status: sys::CUresult, number: u32) -> Result<()> {
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => bail!(
            "GPU {number} has no memory left for a context: other programs have it (nvidia-smi shows which); give each hpc-seg that shares a GPU its --memory, or use another GPU"
        ),
        sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => bail!(
            "GPU {number} is taken by another program that has it alone (nvidia-smi shows which, and the compute mode); wait for it, or use another GPU"
        ),
        error => bail!("making a context on GPU {number}: the CUDA driver says {error:?}; see nvidia-smi, or use --device cpu"),
    }
}

/// A context of our own on a GPU: when a kernel has failed in it, it is given up and another is made, and no other user of the GPU notices.
pub struct Context {
    handle: sys::CUcontext,
    green: sys::CUgreenCtx,
    /// The GPU, with the multiprocessors that this context has of it.
    pub info: GpuInfo,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Context {}

impl Context {
    /// On the GPU of this number, with about so many of its multiprocessors, or all.
    ///
    /// # Errors
    /// No driver, no such GPU, one that the kernels do not fit, a driver that gives no parts, and what the driver says.
    pub fn open(number: u32, multiprocessors: Option<u32>) -> Result<Self> {
        let version = driver_version()?;
        let device = device(number)?;
        let info = info(number, device)?;
        check_architecture(&info)?;
        let mut context = Self {
            handle: std::ptr::null_mut(),
            green: std::ptr::null_mut(),
            info,
        };
        match multiprocessors {
            None => {
                // SAFETY: a place for the answer.
                let status = unsafe { sys::cuCtxCreate_v2(&raw mut context.handle, 0, device) };
                opened(status, number)?;
            }
            Some(wanted) => {
                check_part(version, wanted, context.info.limits.multiprocessors)?;
                context.info.limits.multiprocessors = context.make_green(device, wanted)?;
            }
        }
        Ok(context)
    }

    /// Makes this a context of `wanted` multiprocessors, or the next larger number that the GPU can set apart, which is returned.
    fn make_green(&mut self, device: sys::CUdevice, wanted: u32) -> Result<u32> {
        // SAFETY: the structures are plain numbers, for which zeros are values; places for the answers.
        unsafe {
            let (mut all, mut part, mut rest) = (
                std::mem::zeroed::<sys::CUdevResource>(),
                std::mem::zeroed::<sys::CUdevResource>(),
                std::mem::zeroed::<sys::CUdevResource>(),
            );
            let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
            done(
                sys::cuDeviceGetDevResource(device, &raw mut all, kind),
                "asking for the multiprocessors",
            )?;
            // 1: CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING, without which Hopper gives eights only.
            let (mut groups, ignore_coscheduling) = (1, 1);
            let status = sys::cuDevSmResourceSplitByCount(
                &raw mut part,
                &raw mut groups,
                &raw const all,
                &raw mut rest,
                ignore_coscheduling,
                wanted,
            );
            done(status, "setting multiprocessors apart")?;
            let mut description = std::ptr::null_mut();
            done(
                sys::cuDevResourceGenerateDesc(&raw mut description, &raw mut part, 1),
                "describing multiprocessors",
            )?;
            // 1: CU_GREEN_CTX_DEFAULT_STREAM, which must be given.
            done(
                sys::cuGreenCtxCreate(&raw mut self.green, description, device, 1),
                "making a green context",
            )?;
            done(sys::cuCtxFromGreenCtx(&raw mut self.handle, self.green), "using a green context")?;
            Ok(part.__bindgen_anon_1.sm.smCount)
        }
    }

    /// Makes calls of this thread mean this context.
    pub fn make_current(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        done(unsafe { sys::cuCtxSetCurrent(self.handle) }, "choosing the GPU")
    }

    /// Free and total bytes of the GPU.
    pub fn free_and_total(&self) -> Result<(usize, usize)> {
        self.make_current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places for the answers.
        done(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) }, "asking for memory")?;
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made once by this value and not used again; failures leave nothing to be done.
        unsafe {
            if !self.green.is_null() {
                let _ = sys::cuGreenCtxDestroy(self.green);
            } else if !self.handle.is_null() {
                let _ = sys::cuCtxDestroy_v2(self.handle);
            }
        }
    }
}

fn check_part(version: i32, wanted: u32, all: u32) -> Result<()> {
    ensure!(
        version >= OLDEST_WITH_PARTS,
        "--sm-limit needs a CUDA driver of at least {}, this one knows CUDA {}; update NVIDIA's driver, or leave the option out",
        spoken(OLDEST_WITH_PARTS),
        spoken(version)
    );
    ensure!(
        (1..=all).contains(&wanted),
        "--sm-limit {wanted}: this GPU has {all} multiprocessors; give a number from 1 to {all}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::failure::DeviceLost;

    #[test]
    fn a_limit_of_multiprocessors_is_refused_by_old_drivers_and_beyond_the_gpu() {
        assert!(check_part(12040, 14, 132).is_ok());
        let message = check_part(12030, 14, 132).unwrap_err().to_string();
        assert!(message.contains("at least 12.4, this one knows CUDA 12.3"), "{message}");
        assert!(check_part(13000, 0, 132).is_err());
        assert!(check_part(13000, 133, 132).unwrap_err().to_string().contains("from 1 to 132"));
    }

    #[test]
    fn a_context_that_cannot_be_made_has_a_remedy_and_loses_nothing() {
        for (status, remedy) in [
            (
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
                "give each hpc-seg that shares a GPU its --memory",
            ),
            (sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE, "wait for it"),
            (sys::CUresult::CUDA_ERROR_UNKNOWN, "see nvidia-smi"),
        ] {
            let error = opened(status, 3).unwrap_err();
            assert!(error.downcast_ref::<DeviceLost>().is_none());
            assert!(error.to_string().contains("GPU 3") && error.to_string().contains(remedy), "{error}");
        }
        assert!(opened(sys::CUresult::CUDA_SUCCESS, 0).is_ok());
    }
}
