//! What the host gives: read of `/proc` and of the control groups, on Linux. Elsewhere nothing is known, and nothing is checked.

use std::path::{Path, PathBuf};

/// What the defaults are made for: with all connections and streams that they allow, a server stays within four fifths of it.
const MEMORY_BYTES_OF_DEFAULTS: u64 = 2 << 30;

/// What a host still has to give. `None` is not known, and counts as enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostLimits {
    /// Bytes of memory: of the machine, of a control group around the process (`memory.max`, `memory.high`, `memory.limit_in_bytes`), or half
    /// of `RLIMIT_AS` or `RLIMIT_DATA`, whichever is least.
    pub memory_bytes: Option<u64>,
    /// Descriptors that the process may still open (`RLIMIT_NOFILE`).
    pub descriptors: Option<u64>,
    /// Threads that may still be started (`pids.max` of the control group, `RLIMIT_NPROC`, of which other processes of the user are not
    /// counted).
    pub threads: Option<u64>,
    /// Memory maps that the process may still have (`vm.max_map_count`).
    pub maps: Option<u64>,
}

impl HostLimits {
    /// What is known of this host. Reads a few small files; what cannot be read is not known.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::of_root(Path::new("/"))
    }

    /// As much of a budget as this host has memory for: all of it from 2 GiB on, below that in proportion. The defaults of
    /// [`StreamingConfig`](crate::StreamingConfig), with SQLite's [heap](crate::engine::sqlite::limit_heap), are made for 2 GiB.
    /// `rowstream serve` takes this part of each budget that was not set; a server that is part of an application shares the memory with it, so the
    /// application decides.
    ///
    /// ```
    /// let mut host = rowstream::server::HostLimits::default();
    /// host.memory_bytes = Some(128 << 20);
    /// let mut streaming = rowstream::StreamingConfig::default();
    /// streaming.held_bytes_max = host.part_of(streaming.held_bytes_max);
    /// assert_eq!(streaming.held_bytes_max, 16 << 20);
    /// ```
    #[must_use]
    pub fn part_of(&self, budget: usize) -> usize {
        let memory = self
            .memory_bytes
            .unwrap_or(MEMORY_BYTES_OF_DEFAULTS)
            .min(MEMORY_BYTES_OF_DEFAULTS);
        let part = budget as u128 * u128::from(memory) / u128::from(MEMORY_BYTES_OF_DEFAULTS);
        usize::try_from(part).unwrap_or(budget)
    }

    /// What is known of the host whose `/proc` and `/sys` are below this folder.
    fn of_root(root: &Path) -> Self {
        if !cfg!(target_os = "linux") {
            return Self::default();
        }
        let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        let entries = |path: &str| {
            std::fs::read_dir(root.join(path))
                .ok()
                .map(|entries| entries.count() as u64)
        };
        let limits = read("proc/self/limits").unwrap_or_default();
        let status = read("proc/self/status").unwrap_or_default();
        let groups = Groups {
            root,
            text: read("proc/self/cgroup").unwrap_or_default(),
        };
        let descriptors = soft_limit(&limits, "Max open files");
        // The limit on a user's processes does not bind root.
        let is_root = field(&status, "Uid:").is_some_and(|uid| uid == 0);
        let processes = soft_limit(&limits, "Max processes").filter(|_| !is_root);
        let n_threads = field(&status, "Threads:").unwrap_or(1);
        let threads = [
            processes.map(|max| max.saturating_sub(n_threads)),
            groups.least("pids", "pids.max", Some("pids.current")),
        ];
        let total = read("proc/meminfo")
            .and_then(|text| field(&text, "MemTotal:"))
            .map(|kib| kib.saturating_mul(1024));
        // Of these limits stacks take their whole size, and much else that is never touched: half of them counts as memory.
        let half_of = |name: &str| soft_limit(&limits, name).map(|bytes| bytes / 2);
        let memory = [
            total,
            groups.least("", "memory.max", None),
            // Beyond this a group is slowed down until it stands still.
            groups.least("", "memory.high", None),
            groups.least("memory", "memory.limit_in_bytes", None),
            half_of("Max address space"),
            half_of("Max data size"),
        ];
        let maps_max = read("proc/sys/vm/max_map_count").and_then(|text| text.trim().parse().ok());
        let n_maps = read("proc/self/maps").map_or(0, |text| text.lines().count() as u64);
        Self {
            memory_bytes: memory.into_iter().flatten().min(),
            descriptors: descriptors.map(|max| max.saturating_sub(entries("proc/self/fd").unwrap_or(0))),
            threads: threads.into_iter().flatten().min(),
            maps: maps_max.map(|max: u64| max.saturating_sub(n_maps)),
        }
    }
}

/// The soft limit of that name in `/proc/self/limits`; `None` where there is none.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The first number behind that name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The control groups of this process, as `/proc/self/cgroup` has them.
struct Groups<'a> {
    root: &'a Path,
    text: String,
}

impl Groups<'_> {
    /// The folders that may have limits for this process, the innermost first: its group of that controller, of version 1 or 2, and those
    /// around it.
    fn folders(&self, controller: &str) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for line in self.text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let mounts = if controllers.is_empty() {
                vec!["sys/fs/cgroup".to_owned(), "sys/fs/cgroup/unified".to_owned()]
            } else if controllers.split(',').any(|name| name == controller) {
                vec![format!("sys/fs/cgroup/{controller}")]
            } else {
                continue;
            };
            let path = Path::new(path.trim_start_matches('/'));
            for mount in mounts {
                folders.extend(path.ancestors().map(|path| self.root.join(&mount).join(path)));
            }
        }
        folders
    }

    /// The least that any of the process's control groups leaves: the limit less what is used up already.
    fn least(&self, controller: &str, limit: &str, used: Option<&str>) -> Option<u64> {
        let number = |path: PathBuf| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
        let left = |folder: PathBuf| {
            let max = number(folder.join(limit))?;
            let used = used.and_then(|used| number(folder.join(used))).unwrap_or(0);
            Some(max.saturating_sub(used))
        };
        self.folders(controller).into_iter().filter_map(left).min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[test]
    fn limits_are_read_as_the_system_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95764                95764                processes \n\
                      Max open files            1024                 1048576              files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1_024));
        assert_eq!(soft_limit(limits, "Max address space"), None);
        assert_eq!(
            field("Name:\tx\nUid:\t1000\t1000\t1000\t1000\nThreads:\t7\n", "Threads:"),
            Some(7)
        );
        assert_eq!(field("MemTotal:       24683520 kB\n", "MemTotal:"), Some(24_683_520));
    }

    #[test]
    fn groups_are_looked_for_where_systems_have_them() {
        let groups = Groups {
            root: Path::new("/"),
            text: "9:name=systemd:/\n8:pids:/a\n4:cpu,memory:/box/one\n0::/slice/unit\n".to_owned(),
        };
        let folders = |controller| -> Vec<String> {
            let folders = groups.folders(controller);
            folders
                .iter()
                .map(|folder| folder.to_string_lossy().trim_end_matches('/').to_owned())
                .collect()
        };
        let second = [
            "/sys/fs/cgroup/slice/unit",
            "/sys/fs/cgroup/slice",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified/slice/unit",
            "/sys/fs/cgroup/unified/slice",
            "/sys/fs/cgroup/unified",
        ];
        let first = [
            "/sys/fs/cgroup/memory/box/one",
            "/sys/fs/cgroup/memory/box",
            "/sys/fs/cgroup/memory",
        ];
        assert_eq!(folders("memory"), [&first[..], &second[..]].concat());
        assert_eq!(folders(""), second);
        assert_eq!(folders("pids")[0], "/sys/fs/cgroup/pids/a");
    }

    const MIB: u64 = 1024 * 1024;

    /// A host of 1 GiB with these files besides.
    #[track_caller]
    fn check_memory(files: &[(&str, &str)], mib: u64) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("proc/meminfo", "MemTotal:       1048576 kB\n")].iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = HostLimits::of_root(root.path());
        assert_eq!(host.memory_bytes, Some(mib * MIB), "{files:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_the_least_of_all_limits_around_the_process() {
        let second = ("proc/self/cgroup", "0::/slice/unit\n");
        let first = ("proc/self/cgroup", "7:memory:/box/one\n");
        check_memory(&[], 1_024);
        check_memory(&[second, ("sys/fs/cgroup/slice/unit/memory.max", "max\n")], 1_024);
        check_memory(&[second, ("sys/fs/cgroup/slice/unit/memory.max", "134217728\n")], 128);
        check_memory(&[second, ("sys/fs/cgroup/slice/memory.high", "268435456\n")], 256);
        check_memory(
            &[second, ("sys/fs/cgroup/unified/slice/memory.max", "134217728\n")],
            128,
        );
        check_memory(
            &[
                second,
                ("sys/fs/cgroup/slice/unit/memory.max", "268435456\n"),
                ("sys/fs/cgroup/memory.max", "134217728\n"),
            ],
            128,
        );
        check_memory(
            &[first, ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "314572800\n")],
            300,
        );
        check_memory(
            &[
                first,
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
            1_024,
        );
        let limits = |name: &str| format!("{name}             268435456            unlimited            bytes     \n");
        check_memory(&[("proc/self/limits", &limits("Max address space"))], 128);
        check_memory(&[("proc/self/limits", &limits("Max data size    "))], 128);
    }

    #[test]
    fn a_budget_shrinks_with_the_memory_and_never_grows_with_it() {
        let part_of = |memory_bytes: Option<u64>, budget: usize| {
            HostLimits {
                memory_bytes,
                ..HostLimits::default()
            }
            .part_of(budget)
        };
        assert_eq!(part_of(None, 4_096), 4_096);
        assert_eq!(part_of(Some(u64::MAX), usize::MAX), usize::MAX);
        assert_eq!(part_of(Some(2_048 * MIB), 4_096), 4_096);
        assert_eq!(part_of(Some(1_024 * MIB), 4_096), 2_048);
        assert_eq!(part_of(Some(96 * MIB), 256 << 20), 12 << 20);
        assert_eq!(part_of(Some(0), 4_096), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_host_is_known() {
        let host = HostLimits::of_this_host();
        assert!(host.memory_bytes.unwrap() > 0 && host.maps.unwrap() > 0, "{host:?}");
    }
}
