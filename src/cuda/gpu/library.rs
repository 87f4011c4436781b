//! The driver's library: whether there is one, what its answers mean, and which GPUs it shows.

use crate::cuda::driver::{LEAST_SHARED_BYTES, Limits};
use crate::cuda::failure::DeviceLost;
use crate::warning;
use anyhow::{Context as _, Result, bail, ensure};
use cudarc::driver::sys;
use std::ffi::{CStr, c_int};
use sys::CUdevice_attribute_enum as Attribute;

/// The oldest driver whose calls are used: CUDA 12.0.
const OLDEST_DRIVER: i32 = 12000;

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
pub fn driver_version() -> Result<i32> {
    ensure!(
        is_driver_installed(),
        "this machine has no CUDA driver (libcuda.so.1); install NVIDIA's driver, or use --device cpu"
    );
    let mut version = 0;
    // SAFETY: a plain call with a place for its answer; the library is there.
    started(unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    check_version(version)?;
    // SAFETY: no arguments.
    started(unsafe { sys::cuInit(0) })?;
    Ok(version)
}

/// The answer of a driver's first calls.
fn started(status: sys::CUresult) -> Result<()> {
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        sys::CUresult::CUDA_ERROR_NO_DEVICE => bail!("{NO_GPU}"),
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => bail!(
            "the libcuda.so.1 that was found is a CUDA toolkit's stub, with which programs are built and not run; take its folder (stubs) from LD_LIBRARY_PATH, so that the driver's is found, or use --device cpu"
        ),
        error => bail!("the CUDA driver does not start ({error:?}); see nvidia-smi, or use --device cpu"),
    }
}

const NO_GPU: &str = "the CUDA driver shows this program no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES (a GPU in MIG mode shows nothing until an \
    instance of it is made and named there), or use --device cpu";

pub fn spoken(version: i32) -> String {
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
pub fn device(number: u32) -> Result<sys::CUdevice> {
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

pub fn info(number: u32, device: sys::CUdevice) -> Result<GpuInfo> {
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

/// Whether the kernels fit it.
///
/// # Errors
/// That they do not, and why.
pub fn check_architecture(info: &GpuInfo) -> Result<()> {
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
    fn a_driver_that_does_not_start_is_told_with_its_remedy() {
        for (status, remedy) in [
            (sys::CUresult::CUDA_ERROR_STUB_LIBRARY, "LD_LIBRARY_PATH"),
            (sys::CUresult::CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
            (sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "SYSTEM_DRIVER_MISMATCH"),
        ] {
            let message = started(status).unwrap_err().to_string();
            assert!(message.contains(remedy) && message.contains("--device cpu"), "{message}");
        }
        assert!(started(sys::CUresult::CUDA_SUCCESS).is_ok());
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

    #[test]
    fn errors_that_end_a_context_are_told_from_those_that_do_not() {
        let lost = |error| done(error, "launching").unwrap_err().downcast_ref::<DeviceLost>().is_some();
        assert!(lost(sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS) && lost(sys::CUresult::CUDA_ERROR_LAUNCH_FAILED));
        assert!(!lost(sys::CUresult::CUDA_ERROR_INVALID_VALUE) && !lost(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY));
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
}
