//! Energy of a GPU by NVML's counter: the whole board's, other processes' included. Absent where there is no NVML, on GPUs before Volta, and on slices (MIG) of a GPU.

use crate::device::open::{Choice, Opening, gpus};
use nvml_wrapper::Nvml;

/// A GPU's counter.
pub(super) struct Meter {
    nvml: Nvml,
    uuid: String,
}

impl Meter {
    /// The counter of the GPU that this opens, if it opens one that has it.
    pub fn of(opening: &Opening) -> Option<Self> {
        let number = match opening.choice {
            Choice::Cuda(number) => number,
            Choice::Auto => 0,
            _ => return None,
        };
        let gpu = gpus().ok()?.into_iter().find(|gpu| gpu.number == number)?;
        let meter = Self {
            nvml: Nvml::init().ok()?,
            uuid: nvml_uuid(&gpu.uuid)?,
        };
        meter.joules().is_some().then_some(meter)
    }

    /// Joules since the driver was loaded; NVML counts millijoules.
    pub fn joules(&self) -> Option<f64> {
        let device = self.nvml.device_by_uuid(&*self.uuid).ok()?;
        Some(device.total_energy_consumption().ok()? as f64 / 1000.0)
    }
}

/// 32 hexadecimal digits as NVML writes them: `GPU-8-4-4-4-12`.
fn nvml_uuid(digits: &str) -> Option<String> {
    let part = |from: usize, to: usize| digits.get(from..to);
    (digits.len() == 32).then_some(())?;
    Some(format!(
        "GPU-{}-{}-{}-{}-{}",
        part(0, 8)?,
        part(8, 12)?,
        part(12, 16)?,
        part(16, 20)?,
        part(20, 32)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_written_as_nvml_writes_them() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert_eq!(nvml_uuid(digits).unwrap(), "GPU-01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(nvml_uuid("0123"), None);
    }

    #[test]
    fn the_cpu_has_no_meter() {
        let opening = Opening {
            choice: Choice::Cpu,
            ..Opening::default()
        };
        assert!(Meter::of(&opening).is_none());
    }
}
