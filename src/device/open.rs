//! Opening the device that `--device` asks for.

use super::{Cuda, Device};
use crate::cuda::arena::Arena;
use crate::cuda::cache::KernelCache;
pub use crate::cuda::card::Card;
use crate::cuda::driver::{Driver, Memory};
#[cfg(feature = "emu")]
use crate::cuda::emulator::{Emulator, Schedule};
pub use crate::cuda::gpu::GpuInfo;
use crate::cuda::gpu::{Gpu, devices, is_driver_installed};
use crate::cuda::launch::Runtime;
use crate::{bad_input, note, warning};
use anyhow::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Architectures on which a GPU has passed the tests (`benches/gpu.sh correctness`): `auto` takes no other.
const CONFIRMED: [&str; 1] = ["sm_90"];
/// Device memory that compiled kernels take, at most.
const MODULES: usize = 64 << 20;
/// Memory of the emulated device, unless told otherwise.
#[cfg(feature = "emu")]
const EMULATED: usize = 1 << 30;

/// A device as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU that answers, if one of its kind has passed the tests, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(u32),
    /// The emulator of the tests.
    #[cfg(feature = "emu")]
    Emulator,
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            #[cfg(feature = "emu")]
            ("emulator", _) => Ok(Self::Emulator),
            (_, Some(number)) => Ok(Self::Cuda(number)),
            _ => bad_input!("--device {text}: the devices are auto, cpu and cuda[:N]"),
        }
    }
}

/// The devices of `--devices`: numbers of GPUs, or what [`Choice`] takes.
///
/// # Errors
/// A device that there is not, or a GPU twice.
pub fn choices(names: &[String]) -> Result<Vec<Choice>> {
    let choice = |name: &String| match name.parse() {
        Ok(number) => Ok(Choice::Cuda(number)),
        Err(_) => name.parse(),
    };
    let choices = names.iter().map(choice).collect::<Result<Vec<Choice>>>()?;
    for (at, choice) in choices.iter().enumerate() {
        if matches!(choice, Choice::Cuda(_)) && choices[..at].contains(choice) {
            bad_input!("--devices {}: a GPU is named twice", names.join(","));
        }
    }
    Ok(choices)
}

/// The GPUs this process sees.
///
/// # Errors
/// No driver or no GPU, with what to do.
pub fn gpus() -> Result<Vec<GpuInfo>> {
    devices()
}

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Which.
    pub choice: Choice,
    /// Threads of the CPU; 0 means as many as the process may use.
    pub threads: usize,
    /// Bytes of device memory that the process may use, context and kernels included; none means all that is free, half of it where it is the host's memory.
    pub memory: Option<usize>,
    /// Where compiled kernels are kept; none means the user's cache folder.
    pub kernel_cache: Option<PathBuf>,
    /// Multiprocessors to work with, to imitate a smaller GPU; none means all.
    pub multiprocessors: Option<u32>,
    /// Makes the device in the place of all this, for who brings a driver of their own.
    pub maker: Option<Maker>,
}

/// Makes a device, as often as it is lost.
#[derive(Clone)]
pub struct Maker(Arc<dyn Fn() -> Result<Device> + Send + Sync>);

impl Maker {
    /// From a function.
    pub fn new(make: impl Fn() -> Result<Device> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// Makes it.
    ///
    /// # Errors
    /// Those of the function.
    pub fn make(&self) -> Result<Device> {
        (self.0)()
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maker")
    }
}

impl Opening {
    /// Opens it.
    ///
    /// # Errors
    /// A GPU that is not there or cannot be used, with the remedy; a budget that leaves no room.
    pub fn open(&self) -> Result<Device> {
        if let Some(maker) = &self.maker {
            return maker.make();
        }
        match self.choice {
            Choice::Cpu => self.cpu(),
            Choice::Cuda(number) => self.gpu(number),
            #[cfg(feature = "emu")]
            Choice::Emulator => {
                let driver: Arc<dyn Driver> = Arc::new(Emulator::new(Schedule::ALL[0])?);
                let arena = Arena::separate(driver.clone(), self.memory.unwrap_or(EMULATED));
                let runtime = Runtime::new(driver);
                Device::on_cuda(Cuda { runtime, arena }, self.threads)
            }
            Choice::Auto => self.automatic(),
        }
    }

    fn cpu(&self) -> Result<Device> {
        if self.memory.is_some() {
            warning!("--memory is for a GPU: it bounds nothing of what the CPU works with");
        }
        Device::cpu(self.threads)
    }

    fn automatic(&self) -> Result<Device> {
        let first = match gpus().map(|all| all.into_iter().next()) {
            Ok(Some(first)) => first,
            Ok(None) => return self.cpu(),
            Err(error) => {
                if is_driver_installed() {
                    note!("working on the CPU: {error:#}");
                }
                return self.cpu();
            }
        };
        if !CONFIRMED.contains(&first.architecture.as_str()) {
            note!(
                "working on the CPU: there is a {}, but no GPU of {} has passed the tests yet; --device cuda uses it all the same",
                first.name,
                first.architecture
            );
            return self.cpu();
        }
        self.gpu(first.number).or_else(|error| {
            warning!("working on the CPU, because the GPU cannot be used: {error:#}");
            self.cpu()
        })
    }

    fn gpu(&self, number: u32) -> Result<Device> {
        let folder = self.kernel_cache.clone().unwrap_or_else(KernelCache::default_folder);
        let gpu = Gpu::open_part(number, KernelCache::new(&folder), self.multiprocessors)?;
        let info = gpu.info().clone();
        note!("working on {} ({} multiprocessors)", info.name, info.limits.multiprocessors);
        self.on(Arc::new(gpu))
    }

    /// A device over a driver, whose arena has what the budget leaves beside context and kernels.
    ///
    /// # Errors
    /// A budget that leaves no room; memory that is not there.
    pub fn on(&self, driver: Arc<dyn Driver>) -> Result<Device> {
        let memory = driver.memory()?;
        let asked = self.memory.unwrap_or(memory.own + to_be_taken(&memory));
        let arena = arena_bytes(asked, memory.own, memory.free)?;
        let arena = Arena::new(driver.clone(), arena)?;
        let runtime = Runtime::new(driver);
        Device::on_cuda(Cuda { runtime, arena }, self.threads)
    }
}

/// What is taken of a device without being told how much: all that is free, but where it is the host's memory half of that, for volumes and for everybody else.
fn to_be_taken(memory: &Memory) -> usize {
    if memory.is_hosts { memory.free / 2 } else { memory.free }
}

/// Bytes for the arena: the budget less what the process has already and what kernels will take, and no more than is free.
fn arena_bytes(budget: usize, own: usize, free: usize) -> Result<usize> {
    let left = budget.saturating_sub(own + MODULES).min(free.saturating_sub(MODULES));
    let mib = |bytes: usize| bytes >> 20;
    if free <= MODULES {
        bad_input!(
            "of the device's memory {} MiB are free, too few to work in: other programs have the rest (nvidia-smi shows which); wait for them, use another GPU, or --device cpu",
            mib(free)
        );
    }
    if left == 0 {
        bad_input!(
            "--memory {} MiB: the device's context ({} MiB) and kernels ({} MiB) leave nothing of it ({} MiB are free); raise it, or use --device cpu",
            mib(budget),
            mib(own),
            mib(MODULES),
            mib(free)
        );
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart() {
        let choice = |text: &str| text.parse::<Choice>();
        assert_eq!(choice("auto").unwrap(), Choice::Auto);
        assert_eq!(choice("cpu").unwrap(), Choice::Cpu);
        assert_eq!(choice("cuda").unwrap(), Choice::Cuda(0));
        assert_eq!(choice("cuda:3").unwrap(), Choice::Cuda(3));
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(choice(wrong).unwrap_err().to_string().contains("auto, cpu and cuda[:N]"), "{wrong}");
        }
    }

    #[test]
    fn several_devices_are_numbers_and_none_of_them_twice() {
        let parse = |text: &str| choices(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("0,cuda:2").unwrap(), [Choice::Cuda(0), Choice::Cuda(2)]);
        assert!(parse("1,cuda:1").unwrap_err().to_string().contains("named twice"));
        assert!(parse("0,").unwrap_err().to_string().contains("auto, cpu and cuda[:N]"));
    }

    #[test]
    fn of_the_hosts_own_memory_half_of_what_is_free_is_taken() {
        let memory = |is_hosts| Memory {
            total: 128,
            free: 100,
            own: 8,
            is_hosts,
        };
        assert_eq!([false, true].map(|is_hosts| to_be_taken(&memory(is_hosts))), [100, 50]);
    }

    #[test]
    fn the_arena_has_what_context_and_kernels_leave() {
        let mib = 1 << 20;
        assert_eq!(arena_bytes(1000 * mib, 300 * mib, 5000 * mib).unwrap(), 636 * mib);
        assert_eq!(arena_bytes(1000 * mib, 300 * mib, 500 * mib).unwrap(), 436 * mib);
        let complaint = arena_bytes(60_000 * mib, 300 * mib, 20 * mib).unwrap_err().to_string();
        assert!(
            complaint.contains("20 MiB are free") && !complaint.contains("--memory"),
            "{complaint}"
        );
        let complaint = arena_bytes(300 * mib, 300 * mib, 500 * mib).unwrap_err().to_string();
        assert!(
            complaint.contains("--memory 300 MiB") && complaint.contains("raise it"),
            "{complaint}"
        );
    }
}
