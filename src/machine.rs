//! The machine a run happens on: what `info` prints and what records keep, because results are reproducible per kind of machine.

use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

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
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = cgroup_limits(Path::new("/sys/fs/cgroup"), &own);
        let at_most = |bytes: u64, left: fn(&(u64, u64)) -> u64| limits.iter().map(left).fold(bytes, u64::min);
        Self {
            cpu: cpu_name(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cpu_features: cpu_features(),
            threads: std::thread::available_parallelism().map_or(1, |count| count.get()),
            memory_bytes: kibibytes_of(&memory_information, "MemTotal").map(|bytes| at_most(bytes, |(limit, _)| *limit)),
            memory_available_bytes: kibibytes_of(&memory_information, "MemAvailable")
                .map(|bytes| at_most(bytes, |(limit, used)| limit.saturating_sub(*used))),
        }
    }
}

/// Limits and use of memory, in bytes, of this process's control groups and of those above them, which a scheduler may have limited instead: `own` is /proc/self/cgroup. What
/// is kept of files, which the kernel can drop, is not counted as used. Linux: Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst.
fn cgroup_limits(root: &Path, own: &str) -> Vec<(u64, u64)> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut limits = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, [limit, used, prefix]) = match controllers {
            "" => (root.to_owned(), ["memory.max", "memory.current", ""]),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"])
            }
            _ => continue,
        };
        // Within a container the path may be that of the host: what is not there is passed over, up to the root.
        let group = root.join(path.trim_start_matches('/'));
        for folder in group.ancestors().take_while(|folder| folder.starts_with(&root)) {
            let Some(limit) = number(folder.join(limit)) else { continue };
            let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let of_files = |line: &str| {
                let (key, bytes) = line.strip_prefix(prefix)?.split_once(' ')?;
                ["inactive_file", "active_file"]
                    .contains(&key)
                    .then(|| bytes.trim().parse::<u64>().ok())
                    .flatten()
            };
            let used = number(folder.join(used)).unwrap_or(0);
            let files = statistics.lines().filter_map(of_files).sum::<u64>();
            limits.push((limit, used.saturating_sub(files)));
        }
    }
    limits
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
    fn limits_of_groups_above_count_in_both_versions_of_cgroups() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let gib = |count: u64| count << 30;
        // As SLURM lays them: the job is limited, the step within it is not.
        write("slurm/job_7/step_0/memory.max", "max\n");
        write("slurm/job_7/memory.max", &gib(8).to_string());
        write("slurm/job_7/memory.current", &gib(3).to_string());
        write(
            "slurm/job_7/memory.stat",
            &format!("anon 5\ninactive_file {}\nactive_file 0\n", gib(1)),
        );
        let found = cgroup_limits(folder.path(), "0::/slurm/job_7/step_0\n");
        assert_eq!(found, [(gib(8), gib(2))]);
        write("memory/job_8/memory.limit_in_bytes", &gib(4).to_string());
        write("memory/job_8/memory.usage_in_bytes", &gib(2).to_string());
        write(
            "memory/job_8/memory.stat",
            &format!("active_file 9\ntotal_active_file {}\n", gib(1)),
        );
        let own = "5:cpu,cpuacct:/job_8\n4:memory:/job_8/step_1\n";
        assert_eq!(cgroup_limits(folder.path(), own), [(gib(4), gib(1))]);
        // In a container's own namespace.
        write("memory.max", &gib(2).to_string());
        assert_eq!(cgroup_limits(folder.path(), "0::/\n"), [(gib(2), 0)]);
        assert_eq!(cgroup_limits(folder.path(), "0::/../outside\n"), [(gib(2), 0)]);
        assert!(cgroup_limits(folder.path(), "nonsense").is_empty());
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
