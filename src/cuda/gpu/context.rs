//! The driver as a whole: whether there is one, which GPUs it shows, and contexts on them, of which some have only a part of the multiprocessors.

use crate::cuda::driver::{LEAST_SHARED_BYTES, Limits};
use crate::cuda::failure::DeviceLost;
use crate::warning;
use anyhow::{Context as _, Result, bail, ensure};
use cudarc::driver::sys;
use std::ffi::{CStr, c_int};
use sys::CUdevice_attribute_enum as Attribute;

/// The oldest driver whose calls are used: CUDA 12.0.
const OLDEST_DRIVER: i32 = 12000;
/// The oldest driver that gives a context a part of the multiprocessors: CUDA 12.4.
const OLDEST_WITH_PARTS: i32 = 12040;

/// A driver call's answer as a result.
pub fn done(status: sys::CUresult, what: &str) -> Result<()> {
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        error if is_lost(error) => Err(DeviceLost {
            reason: format!("{what}: the CUDA driver says {error:?}"),
        }
        .into()),
        error => bail!("{what}: the CUDA driver says {error:?}"),
    }
}

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

/// Whether the context takes no more work after this error; CUDA Driver API, "Data types used by CUDA driver".
fn is_lost(error: sys::CUresult) -> bool {
    use sys::CUresult as E;
    matches!(
        error,
        E::CUDA_ERROR_ILLEGAL_ADDRESS
            | E::CUDA_ERROR_LAUNCH_TIMEOUT
            | E::CUDA_ERROR_LAUNCH_FAILED
            | E::CUDA_ERROR_ASSERT
            | E::CUDA_ERROR_HARDWARE_STACK_ERROR
            | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | E::CUDA_ERROR_MISALIGNED_ADDRESS
            | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | E::CUDA_ERROR_INVALID_PC
            | E::CUDA_ERROR_ECC_UNCORRECTABLE
            | E::CUDA_ERROR_CONTAINED
            | E::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | E::CUDA_ERROR_DEVICE_UNAVAILABLE
            | E::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | E::CUDA_ERROR_UNKNOWN
    )
}

/// Whether this machine has a CUDA driver; if not, why not and what to do.
///
/// # Errors
/// That there is none, that it is too old, or that it does not start.
pub fn check_driver() -> Result<()> {
    driver_version().map(drop)
}

/// The version of the driver, which has been started.
fn driver_version() -> Result<i32> {
    ensure!(
        is_driver_installed(),
        "this machine has no CUDA driver (libcuda.so.1); install NVIDIA's driver, or use --device cpu"
    );
    let mut version = 0;
    // SAFETY: a plain call with a place for its answer; the library is there.
    done(unsafe { sys::cuDriverGetVersion(&raw mut version) }, "asking for the version")?;
    check_version(version)?;
    // SAFETY: no arguments.
    let status = unsafe { sys::cuInit(0) };
    ensure!(status != sys::CUresult::CUDA_ERROR_NO_DEVICE, "{NO_GPU}");
    ensure!(
        status == sys::CUresult::CUDA_SUCCESS,
        "the CUDA driver does not start ({status:?}); see nvidia-smi, or use --device cpu"
    );
    Ok(version)
}

const NO_GPU: &str = "the CUDA driver shows this program no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES (a GPU in MIG mode shows nothing until an \
    instance of it is made and named there), or use --device cpu";

fn spoken(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn check_version(version: i32) -> Result<()> {
    ensure!(
        version >= OLDEST_DRIVER,
        "the CUDA driver is too old: it knows CUDA {}, at least {} is needed; update NVIDIA's driver, or use --device cpu",
        spoken(version),
        spoken(OLDEST_DRIVER)
    );
    Ok(())
}

/// What a GPU is, without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// The N of `cuda:N`.
    pub number: u32,
    /// Such as `NVIDIA A100 80GB PCIe MIG 1g.10gb`.
    pub name: String,
    /// Its identity, which stays when numbers change, as 32 hexadecimal digits.
    pub uuid: String,
    /// Such as `sm_80`.
    pub architecture: String,
    /// All its memory, in bytes.
    pub memory: usize,
    /// Whether it can read any memory of the host by itself, so that a copy from there may be read after the call.
    pub reads_host_memory: bool,
    /// Whether its memory is the host's.
    pub has_hosts_memory: bool,
    /// Of a launch.
    pub limits: Limits,
}

/// Whether there is a driver's library at all.
pub fn is_driver_installed() -> bool {
    // SAFETY: it only tries to load the library.
    unsafe { sys::is_culib_present() }
}

/// The GPUs this process sees, by number, without those that do not answer.
///
/// # Errors
/// No driver, what it says, and what the first GPU says if none answers.
pub fn devices() -> Result<Vec<GpuInfo>> {
    check_driver()?;
    let mut count = 0;
    // SAFETY: a place for the answer.
    done(unsafe { sys::cuDeviceGetCount(&raw mut count) }, "counting GPUs")?;
    answering((0..u32::try_from(count)?).map(|number| info(number, device(number)?)))
}

/// Those that answer; the others are told of, unless none does.
fn answering(asked: impl Iterator<Item = Result<GpuInfo>>) -> Result<Vec<GpuInfo>> {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for (number, answer) in asked.enumerate() {
        match answer {
            Ok(info) => found.push(info),
            Err(error) => failed.push(error.context(format!("GPU {number} does not answer; see nvidia-smi"))),
        }
    }
    match failed.into_iter().next() {
        Some(first) if found.is_empty() => Err(first),
        first => {
            first.iter().for_each(|error| warning!("{error:#}; the others are used"));
            Ok(found)
        }
    }
}

/// The GPU of this number.
fn device(number: u32) -> Result<sys::CUdevice> {
    let (mut count, mut device) = (0, 0);
    // SAFETY: places for the answers; the device is one of those counted.
    unsafe {
        done(sys::cuDeviceGetCount(&raw mut count), "counting GPUs")?;
        let number = chosen(number, count)?;
        done(sys::cuDeviceGet(&raw mut device, number), "opening the GPU")?;
    }
    Ok(device)
}

/// The number as the driver takes it, if there are so many GPUs.
fn chosen(number: u32, count: c_int) -> Result<c_int> {
    ensure!(count > 0, "{NO_GPU}");
    let fitting = c_int::try_from(number).ok().filter(|number| *number < count);
    fitting.with_context(|| {
        format!("there is no GPU {number}: this machine shows {count}, counted from 0; use --device cuda:N with another N")
    })
}

fn info(number: u32, device: sys::CUdevice) -> Result<GpuInfo> {
    let mut name = [0_u8; 256];
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    let mut memory = 0;
    // SAFETY: places for the answers, of the lengths told; the device is one the driver gave.
    unsafe {
        done(sys::cuDeviceGetName(name.as_mut_ptr().cast(), 255, device), "asking for the name")?;
        done(sys::cuDeviceGetUuid_v2(&raw mut uuid, device), "asking for the identity")?;
        done(sys::cuDeviceTotalMem_v2(&raw mut memory, device), "asking for the memory")?;
    }
    let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let reads_host_memory = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS)? != 0;
    Ok(GpuInfo {
        number,
        reads_host_memory,
        has_hosts_memory: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        name: CStr::from_bytes_until_nul(&name)
            .map(CStr::to_string_lossy)
            .unwrap_or_default()
            .into_owned(),
        uuid: uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect(),
        architecture: format!("sm_{major}{minor}"),
        memory,
        limits: Limits {
            threads: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            shared_bytes: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            multiprocessors: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        },
    })
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute_enum) -> Result<u32> {
    let mut value = 0;
    // SAFETY: a place for the answer; the device is one the driver gave.
    let status = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) };
    done(status, "asking for an attribute")?;
    Ok(u32::try_from(value)?)
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

fn check_architecture(info: &GpuInfo) -> Result<()> {
    let is_new_enough = info
        .architecture
        .strip_prefix("sm_")
        .and_then(|digits| digits.parse::<u32>().ok())
        .is_some_and(|number| number >= 80);
    ensure!(
        is_new_enough,
        "GPU {} ({}) is {}; the kernels need sm_80 (A100) or newer; use another GPU, or --device cpu",
        info.number,
        info.name,
        info.architecture
    );
    ensure!(
        info.limits.shared_bytes >= LEAST_SHARED_BYTES,
        "GPU {} ({}, {}) gives a block {} KiB of shared memory, and the kernels need {}; use another GPU, or --device cpu",
        info.number,
        info.name,
        info.architecture,
        info.limits.shared_bytes >> 10,
        LEAST_SHARED_BYTES >> 10
    );
    Ok(())
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

    #[test]
    fn an_old_driver_is_refused_with_both_versions() {
        let message = check_version(11080).unwrap_err().to_string();
        assert!(
            message.contains("knows CUDA 11.8, at least 12.0") && message.contains("--device cpu"),
            "{message}"
        );
        assert!(check_version(12000).is_ok());
    }

    #[test]
    fn a_number_beyond_the_gpus_is_refused_with_their_count() {
        assert_eq!(chosen(1, 2).unwrap(), 1);
        let message = chosen(2, 2).unwrap_err().to_string();
        assert!(
            message.contains("no GPU 2: this machine shows 2") && message.contains("cuda:N"),
            "{message}"
        );
        assert!(chosen(u32::MAX, 2).is_err());
        let message = chosen(0, 0).unwrap_err().to_string();
        assert!(message.contains("CUDA_VISIBLE_DEVICES") && message.contains("MIG"), "{message}");
    }

    #[test]
    fn a_limit_of_multiprocessors_is_refused_by_old_drivers_and_beyond_the_gpu() {
        assert!(check_part(12040, 14, 132).is_ok());
        let message = check_part(12030, 14, 132).unwrap_err().to_string();
        assert!(message.contains("at least 12.4, this one knows CUDA 12.3"), "{message}");
        assert!(check_part(13000, 0, 132).is_err());
        assert!(check_part(13000, 133, 132).unwrap_err().to_string().contains("from 1 to 132"));
    }

    #[test]
    fn gpus_that_do_not_answer_do_not_hide_the_others() {
        let gpu = |number: u32| GpuInfo { number, ..a_t4() };
        let of = |answers: [bool; 2]| {
            let answers = answers.into_iter().zip(0..);
            answering(answers.map(|(answers, number)| if answers { Ok(gpu(number)) } else { bail!("fell off the bus") }))
        };
        assert_eq!(of([true, true]).unwrap().len(), 2);
        assert_eq!(of([false, true]).unwrap(), [gpu(1)]);
        let error = format!("{:#}", of([false, false]).unwrap_err());
        assert!(
            error.contains("GPU 0 does not answer") && error.contains("fell off the bus"),
            "{error}"
        );
    }

    fn a_t4() -> GpuInfo {
        GpuInfo {
            number: 1,
            name: "Tesla T4".into(),
            uuid: String::new(),
            architecture: "sm_75".into(),
            memory: 16 << 30,
            reads_host_memory: false,
            has_hosts_memory: false,
            limits: Limits {
                threads: 1024,
                shared_bytes: 64 << 10,
                multiprocessors: 40,
            },
        }
    }

    #[test]
    fn a_gpu_that_the_kernels_do_not_fit_is_refused_by_name() {
        let mut info = a_t4();
        let message = check_architecture(&info).unwrap_err().to_string();
        assert!(message.contains("GPU 1 (Tesla T4) is sm_75"), "{message}");
        for (newer, shared_kib) in [("sm_80", 163), ("sm_89", 99), ("sm_90", 227), ("sm_120", 99)] {
            (info.architecture, info.limits.shared_bytes) = (newer.into(), shared_kib << 10);
            assert!(check_architecture(&info).is_ok());
        }
        info.limits.shared_bytes = 64 << 10;
        let message = check_architecture(&info).unwrap_err().to_string();
        assert!(message.contains("64 KiB") && message.contains("--device cpu"), "{message}");
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

    #[test]
    fn errors_that_end_a_context_are_told_from_those_that_do_not() {
        let lost = |error| done(error, "launching").unwrap_err().downcast_ref::<DeviceLost>().is_some();
        assert!(lost(sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS) && lost(sys::CUresult::CUDA_ERROR_LAUNCH_FAILED));
        assert!(!lost(sys::CUresult::CUDA_ERROR_INVALID_VALUE) && !lost(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    }
}
