//! What the host gives, and how much of a server fits into it: before it starts, not when it is full.
//!
//! Fitting is pure; around it the reading of `/proc` and of the control group, on Linux. Elsewhere nothing is known, and nothing is
//! checked. Must not know what a connection is, but for what it takes.

use std::fmt;
use std::path::{Path, PathBuf};

use super::memory::MemoryBound;

/// Threads beside the workers and those of connections: listener, closer, timekeeper, and some that an application may want.
const OTHER_THREADS: u64 = 16;

/// Descriptors beside those of connections and engines.
const OTHER_DESCRIPTORS: u64 = 16;

/// A connection has a reader and a writer.
const THREADS_PER_CONNECTION: u64 = 2;

/// A thread has a stack with a guard page, and an arena of the allocator's in two pieces.
const MAPS_PER_THREAD: u64 = 4;

/// With less room than for so many connections, a server that is asked for more does not start.
const CONNECTIONS_MIN: usize = 16;

/// What a host still has to give. `None` is not known, and counts as enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostLimits {
    /// Bytes of memory, of the machine or of the control group, whichever has less.
    pub memory_bytes: Option<u64>,
    /// Descriptors that the process may still open (`RLIMIT_NOFILE`).
    pub descriptors: Option<u64>,
    /// Threads that may still be started (`pids.max` of the control group, `RLIMIT_NPROC`, of which other processes of the user are not
    /// counted).
    pub threads: Option<u64>,
    /// Memory maps that the process may still have (`vm.max_map_count`).
    pub maps: Option<u64>,
}

/// How many connections and streams a server has room for on its host: see [`ServerHandle::capacity`](super::ServerHandle::capacity).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// Connections at once.
    pub connections_max: usize,
    /// Streams that wait or run at once.
    pub streams_max: usize,
    /// Why there are fewer than were asked for, a sentence each; empty where there are not.
    pub reasons: Vec<String>,
}

/// What a server is to have room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) connections_max: usize,
    pub(super) streams_max: usize,
    pub(super) n_workers: usize,
    pub(super) memory: MemoryBound,
}

impl Wish {
    /// As much of it as fits. Of the memory a fifth is left alone, of threads and maps a tenth, and of descriptors a quarter, which is
    /// the engines'.
    ///
    /// # Errors
    /// Where so little fits that it is none; says of what there is too little, and what can be done.
    pub(super) fn fit(self, host: &HostLimits) -> Result<Capacity, String> {
        let Self {
            connections_max,
            streams_max,
            n_workers,
            memory,
        } = self;
        let HostLimits {
            memory_bytes,
            descriptors,
            threads,
            maps,
        } = *host;
        let mut capacity = Capacity {
            connections_max,
            streams_max,
            reasons: Vec::new(),
        };
        let fixed_threads = OTHER_THREADS.saturating_add(n_workers as u64);
        if let Some(n) = descriptors {
            let room = n.saturating_sub(OTHER_DESCRIPTORS) / 4 * 3;
            capacity.lower_connections(
                room,
                format_args!("the process may open {n} more descriptors (ulimit -n)"),
            )?;
        }
        if let Some(n) = threads {
            let room = (n / 10 * 9).saturating_sub(fixed_threads) / THREADS_PER_CONNECTION;
            capacity.lower_connections(
                room,
                format_args!("{n} more threads may be started (pids.max, ulimit -u)"),
            )?;
        }
        if let Some(n) = maps {
            let room = (n / 10 * 9).saturating_sub(fixed_threads * MAPS_PER_THREAD)
                / (THREADS_PER_CONNECTION * MAPS_PER_THREAD);
            capacity.lower_connections(
                room,
                format_args!("there may be {n} more memory maps (vm.max_map_count)"),
            )?;
        }
        if let Some(n) = memory_bytes {
            capacity.fit_memory(n, &memory, n_workers)?;
        }
        Ok(capacity)
    }
}

impl Capacity {
    fn lower_connections(&mut self, room: u64, why: fmt::Arguments<'_>) -> Result<(), String> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let asked = self.connections_max;
        if room >= asked {
            return Ok(());
        }
        if room < CONNECTIONS_MIN {
            return Err(format!("{why}: that is too few for {asked} connections"));
        }
        self.connections_max = room;
        self.reasons
            .push(format!("at most {room} connections, not {asked}: {why}"));
        Ok(())
    }

    fn fit_memory(&mut self, memory_bytes: u64, bound: &MemoryBound, n_workers: usize) -> Result<(), String> {
        const MIB: usize = 1024 * 1024;
        let room = usize::try_from(memory_bytes / 5 * 4).unwrap_or(usize::MAX);
        let (connections, streams) = (self.connections_max, self.streams_max);
        if bound.bytes(connections, streams) <= room {
            return Ok(());
        }
        let (connections_min, streams_min) = (connections.min(CONNECTIONS_MIN), streams.min(n_workers));
        let least = bound.bytes(connections_min, streams_min);
        if least > room {
            return Err(format!(
                "{connections_min} connections and {streams_min} streams take up to {} MiB, and four fifths of the memory are {} MiB: \
                 lower held_bytes_max",
                least.div_ceil(MIB),
                room / MIB
            ));
        }
        // What is beyond the least is shared out as it was asked for.
        let (free, asked) = (room - least, bound.bytes(connections, streams) - least);
        let part = |n: usize, least: usize| {
            let part = (n - least) as u128 * free as u128 / asked as u128;
            least + usize::try_from(part).unwrap_or(0)
        };
        self.streams_max = part(streams, streams_min);
        self.connections_max = part(connections, connections_min);
        self.reasons.push(format!(
            "at most {} connections and {} streams, not {connections} and {streams}: four fifths of the memory are {} MiB",
            self.connections_max,
            self.streams_max,
            room / MIB
        ));
        Ok(())
    }
}

impl HostLimits {
    /// What is known of this host. Reads a few small files; what cannot be read is not known.
    #[must_use]
    pub fn of_this_host() -> Self {
        if !cfg!(target_os = "linux") {
            return Self::default();
        }
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let entries = |path: &str| std::fs::read_dir(path).ok().map(|entries| entries.count() as u64);
        let limits = read("/proc/self/limits").unwrap_or_default();
        let status = read("/proc/self/status").unwrap_or_default();
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        let descriptors = soft_limit(&limits, "Max open files");
        // The limit on a user's processes does not bind root.
        let is_root = field(&status, "Uid:").is_some_and(|uid| uid == 0);
        let processes = soft_limit(&limits, "Max processes").filter(|_| !is_root);
        let n_threads = field(&status, "Threads:").unwrap_or(1);
        let threads = [
            processes.map(|max| max.saturating_sub(n_threads)),
            least_in_groups(&groups, "pids", "pids.max", Some("pids.current")),
        ];
        let total = read("/proc/meminfo")
            .and_then(|text| field(&text, "MemTotal:"))
            .map(|kib| kib.saturating_mul(1024));
        let memory = [
            total,
            least_in_groups(&groups, "", "memory.max", None),
            least_in_groups(&groups, "memory", "memory.limit_in_bytes", None),
        ];
        let maps_max = read("/proc/sys/vm/max_map_count").and_then(|text| text.trim().parse().ok());
        let n_maps = read("/proc/self/maps").map_or(0, |text| text.lines().count() as u64);
        Self {
            memory_bytes: memory.into_iter().flatten().min(),
            descriptors: descriptors.map(|max| max.saturating_sub(entries("/proc/self/fd").unwrap_or(0))),
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

/// The folders that may have limits for this process, the innermost first: its control group of that controller, of version 1 or 2, and
/// those around it.
fn group_folders(groups: &str, controller: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let mount = if controllers.is_empty() {
            PathBuf::from("/sys/fs/cgroup")
        } else if controllers.split(',').any(|name| name == controller) {
            Path::new("/sys/fs/cgroup").join(controller)
        } else {
            continue;
        };
        let path = Path::new(path.trim_start_matches('/'));
        folders.extend(path.ancestors().map(|path| mount.join(path)));
    }
    folders
}

/// The least that any of the process's control groups leaves: the limit less what is used up already.
fn least_in_groups(groups: &str, controller: &str, limit: &str, used: Option<&str>) -> Option<u64> {
    let number = |path: PathBuf| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let left = |folder: PathBuf| {
        let max = number(folder.join(limit))?;
        let used = used.and_then(|used| number(folder.join(used))).unwrap_or(0);
        Some(max.saturating_sub(used))
    };
    group_folders(groups, controller).into_iter().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    const MIB: usize = 1024 * 1024;

    const WISH: Wish = Wish {
        connections_max: 1_024,
        streams_max: 1_000,
        n_workers: 4,
        memory: MemoryBound {
            fixed: 300 * MIB,
            per_stream: MIB,
            per_connection: MIB / 8,
        },
    };

    #[track_caller]
    fn check(host: HostLimits, connections_max: usize, streams_max: usize, reason: &str) {
        let capacity = WISH.fit(&host).unwrap();
        assert_eq!(
            (capacity.connections_max, capacity.streams_max),
            (connections_max, streams_max),
            "{capacity:?}"
        );
        assert!(capacity.reasons.concat().contains(reason), "{capacity:?}");
        assert_eq!(capacity.reasons.is_empty(), reason.is_empty(), "{capacity:?}");
    }

    #[track_caller]
    fn check_refused(host: HostLimits, reason: &str) {
        let text = WISH.fit(&host).expect_err("too little");
        assert!(text.contains(reason), "{text}");
    }

    #[test]
    fn what_is_not_known_is_enough_and_so_is_plenty() {
        check(HostLimits::default(), 1_024, 1_000, "");
        let plenty = HostLimits {
            memory_bytes: Some(u64::MAX),
            descriptors: Some(u64::MAX),
            threads: Some(u64::MAX),
            maps: Some(u64::MAX),
        };
        check(plenty, 1_024, 1_000, "");
    }

    #[test]
    fn connections_are_lowered_to_what_fits_and_too_few_are_none() {
        let host = HostLimits::default();
        let descriptors = |n| HostLimits {
            descriptors: Some(n),
            ..host
        };
        check(descriptors(1_016), 750, 1_000, "ulimit -n");
        check(descriptors(16 + 24), 18, 1_000, "ulimit -n");
        check_refused(descriptors(30), "too few for 1024 connections");
        check_refused(descriptors(0), "ulimit -n");
        let threads = |n| HostLimits {
            threads: Some(n),
            ..host
        };
        check(threads(1_000), 440, 1_000, "pids.max");
        check_refused(threads(40), "pids.max");
        let maps = |n| HostLimits { maps: Some(n), ..host };
        check(maps(65_530), 1_024, 1_000, "");
        check(maps(4_000), 440, 1_000, "vm.max_map_count");
        check_refused(maps(100), "vm.max_map_count");
    }

    #[test]
    fn memory_is_shared_out_and_what_is_held_in_any_case_must_fit() {
        let memory = |mib: u64| HostLimits {
            memory_bytes: Some(mib * MIB as u64),
            ..HostLimits::default()
        };
        // 300 + 1,000 + 128 MiB are four fifths of 1,785.
        check(memory(1_786), 1_024, 1_000, "");
        // Half of what is beyond the least, which is 306.
        check(memory(1_080), 517, 499, "four fifths of the memory are 864 MiB");
        check(memory(400), 28, 16, "320 MiB");
        check_refused(memory(382), "lower held_bytes_max");
        for mib in 383..1_790 {
            let capacity = WISH.fit(&memory(mib)).unwrap();
            let bytes = WISH.memory.bytes(capacity.connections_max, capacity.streams_max);
            assert!(bytes <= (mib as usize * MIB) / 5 * 4, "{mib}: {capacity:?}");
            assert!(
                capacity.connections_max >= 16 && capacity.streams_max >= 4,
                "{capacity:?}"
            );
        }
    }

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
        let groups = "9:name=systemd:/\n8:pids:/a\n4:cpu,memory:/box/one\n0::/slice/unit\n";
        let folders = |controller| -> Vec<String> {
            let folders = group_folders(groups, controller);
            folders
                .iter()
                .map(|folder| folder.to_string_lossy().into_owned())
                .collect()
        };
        let second = ["/sys/fs/cgroup/slice/unit", "/sys/fs/cgroup/slice", "/sys/fs/cgroup/"];
        assert_eq!(
            folders("memory"),
            [
                &[
                    "/sys/fs/cgroup/memory/box/one",
                    "/sys/fs/cgroup/memory/box",
                    "/sys/fs/cgroup/memory/"
                ],
                &second[..]
            ]
            .concat()
        );
        assert_eq!(folders(""), second);
        assert_eq!(folders("pids")[0], "/sys/fs/cgroup/pids/a");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_host_is_known() {
        let host = HostLimits::of_this_host();
        assert!(host.memory_bytes.unwrap() > 0 && host.maps.unwrap() > 0, "{host:?}");
    }
}
