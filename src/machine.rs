//! The machine a run happens on: what `info` prints and what records keep, because results are reproducible per kind of machine.

use serde::Serialize;
use std::fs;

/// The processor and the memory as this process may use them.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's own name, or the architecture where the system does not tell.
    pub cpu: String,
    /// The vector features that choose between code paths, among those the processor has.
    pub cpu_features: Vec<&'static str>,
    /// Threads this process may use (affinity mask and cgroup quota, not the machine's count).
    pub threads: usize,
    /// Memory of the machine or of the cgroup, whichever is less; `None` where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Memory that can be taken without swapping; `None` where the system does not tell.
    pub memory_available_bytes: Option<u64>,
}

impl Machine {
    /// Looks at the machine; never fails, unknown things stay unknown.
    pub fn detect() -> Self {
        let memory_information = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let at_most_limit = |bytes: u64| limit.map_or(bytes, |limit: u64| limit.min(bytes));
        Self {
            cpu: cpu_name(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cpu_features: cpu_features(),
            threads: std::thread::available_parallelism().map_or(1, |count| count.get()),
            memory_bytes: kibibytes_of(&memory_information, "MemTotal").map(at_most_limit),
            memory_available_bytes: kibibytes_of(&memory_information, "MemAvailable").map(at_most_limit),
        }
    }
}

/// Host and number of this process, as in `node7:4711`.
pub fn process() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "?" } else { host.trim() };
    format!("{host}:{}", std::process::id())
}

/// The most memory that this process held since its start or the last [`forget_peak_memory`]; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    kibibytes_of(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// Begins to look for the most memory anew; where the system does not allow it, the peak stays that since the start.
pub fn forget_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The vector features of this processor that matter to results and speed.
pub fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512bw", std::is_x86_feature_detected!("avx512bw")),
            ("avx512vl", std::is_x86_feature_detected!("avx512vl")),
        ];
        known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

fn cpu_name(cpu_information: &str) -> String {
    let named = cpu_information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    named.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

/// A line such as `MemTotal:       16384 kB`, in bytes.
fn kibibytes_of(memory_information: &str, key: &str) -> Option<u64> {
    let line = memory_information
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_tables_are_read_and_their_absence_is_no_error() {
        let table = "MemTotal:       16384 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(kibibytes_of(table, "MemTotal"), Some(16384 * 1024));
        assert_eq!(kibibytes_of(table, "MemAvailable"), Some(1024 * 1024));
        assert_eq!(kibibytes_of("", "MemTotal"), None);
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: Fast 9000\n"), "Fast 9000");
        assert_eq!(cpu_name(""), std::env::consts::ARCH);
        assert!(Machine::detect().threads >= 1);
    }

    #[test]
    fn the_peak_of_memory_can_be_taken_again() {
        let Some(before) = peak_memory_bytes() else { return };
        let filled = vec![1u8; 300 << 20];
        let with = peak_memory_bytes().unwrap();
        assert!(with >= before.max(300 << 20), "{before} {with} {}", filled[77]);
        assert!(process().ends_with(&format!(":{}", std::process::id())));
    }
}
