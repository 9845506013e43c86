//! How much of a server fits into its host: before it starts, not when it is full.
//!
//! Pure. Must not know what a connection is, but for what it takes.

use std::fmt;

use super::host::HostLimits;
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

const MIB: usize = 1024 * 1024;

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

/// Of what a host has too little for any server.
#[derive(Debug)]
pub(super) enum Shortage {
    Memory(MemoryShortage),
    /// Says of what, and what can be done.
    Other(String),
}

/// How little memory a host has for what is asked of the server: not even the least number of connections and streams fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryShortage {
    /// The least number of connections that a server starts with.
    pub connections: usize,
    /// The least number of streams.
    pub streams: usize,
    /// What these take at most, with all that the server takes in any case, in bytes: see [`MemoryBound`].
    pub least_bytes: usize,
    /// What a server may take of the host's memory: four fifths of it, in bytes.
    pub room_bytes: usize,
}

impl fmt::Display for MemoryShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            streams,
            least_bytes,
            room_bytes,
        } = self;
        write!(
            f,
            "{connections} connections and {streams} streams take up to {} MiB, and four fifths of the memory are {} MiB",
            least_bytes.div_ceil(MIB),
            room_bytes / MIB
        )
    }
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
    /// Where not even the least fits.
    pub(super) fn fit(self, host: &HostLimits) -> Result<Capacity, Shortage> {
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
    fn lower_connections(&mut self, room: u64, why: fmt::Arguments<'_>) -> Result<(), Shortage> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let asked = self.connections_max;
        if room >= asked {
            return Ok(());
        }
        if room < CONNECTIONS_MIN {
            return Err(Shortage::Other(format!(
                "{why}: that is too few for {asked} connections"
            )));
        }
        self.connections_max = room;
        self.reasons
            .push(format!("at most {room} connections, not {asked}: {why}"));
        Ok(())
    }

    fn fit_memory(&mut self, memory_bytes: u64, bound: &MemoryBound, n_workers: usize) -> Result<(), Shortage> {
        let room = usize::try_from(memory_bytes / 5 * 4).unwrap_or(usize::MAX);
        let (connections, streams) = (self.connections_max, self.streams_max);
        if bound.bytes(connections, streams) <= room {
            return Ok(());
        }
        let (connections_min, streams_min) = (connections.min(CONNECTIONS_MIN), streams.min(n_workers));
        let least = bound.bytes(connections_min, streams_min);
        if least > room {
            return Err(Shortage::Memory(MemoryShortage {
                connections: connections_min,
                streams: streams_min,
                least_bytes: least,
                room_bytes: room,
            }));
        }
        // Of what is beyond the least each may have half, and what the other leaves.
        let free = room - least;
        let more_connections = Share::new(connections - connections_min, bound.per_connection);
        let more_streams = Share::new(streams - streams_min, bound.per_stream);
        let for_streams = more_streams
            .bytes()
            .min((free / 2).max(free.saturating_sub(more_connections.bytes())));
        self.streams_max = streams_min + more_streams.fitting(for_streams);
        self.connections_max = connections_min + more_connections.fitting(free - for_streams);
        self.reasons.push(format!(
            "at most {} connections and {} streams, not {connections} and {streams}: four fifths of the memory are {} MiB",
            self.connections_max,
            self.streams_max,
            room / MIB
        ));
        Ok(())
    }
}

/// So many, and what each of them takes.
struct Share {
    n_asked: usize,
    bytes_each: usize,
}

impl Share {
    fn new(n_asked: usize, bytes_each: usize) -> Self {
        Self { n_asked, bytes_each }
    }

    fn bytes(&self) -> usize {
        self.n_asked.saturating_mul(self.bytes_each)
    }

    fn fitting(&self, bytes: usize) -> usize {
        self.n_asked.min(bytes / self.bytes_each.max(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

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
        let text = match WISH.fit(&host).expect_err("too little") {
            Shortage::Memory(shortage) => shortage.to_string(),
            Shortage::Other(text) => text,
        };
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
        // Of 558 MiB beyond the least, which is 306, connections leave more than half.
        check(memory(1_080), 1_024, 436, "four fifths of the memory are 864 MiB");
        check(memory(400), 72, 11, "320 MiB");
        check_refused(memory(382), "four fifths of the memory are 305 MiB");
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
}
