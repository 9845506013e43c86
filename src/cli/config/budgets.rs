//! Budgets of memory that no source sets: each takes the part of its default that the host has memory for.
//!
//! Must not know how the memory of a host is found.

use std::thread::available_parallelism;

use super::Settings;
use super::kind::{Bytes, Kind};
use super::layers::{Shown, Source};
use crate::server::HostLimits;

/// A worker beyond [`WORKERS_MIN`] is started for each so many bytes: its stack, and the stream that it has in work.
const BYTES_PER_WORKER: u64 = 32 << 20;

/// As many workers as a server has at least by default.
const WORKERS_MIN: usize = 4;

/// Scales what no source sets. `shown` tells it.
pub(super) fn scale(settings: &mut Settings, shown: &mut [Shown], host: &HostLimits) {
    let Some(memory_bytes) = host.memory_bytes else {
        return;
    };
    let Settings {
        held_bytes_max,
        connection_held_bytes_max,
        buffer_bytes,
        sqlite_heap,
        retained_streams_max,
        workers,
        ..
    } = settings;
    let mut budgets = Budgets { shown, memory_bytes };
    for (name, budget) in [
        ("held_bytes_max", held_bytes_max),
        ("connection_held_bytes_max", connection_held_bytes_max),
        ("buffer_bytes", buffer_bytes),
        ("sqlite_heap", sqlite_heap),
    ] {
        budgets.set(name, budget, |budget| part_of(host, *budget));
    }
    budgets.set("retained_streams_max", retained_streams_max, |n| host.part_of(*n));
    let cores = available_parallelism().map_or(1, usize::from).max(WORKERS_MIN);
    budgets.set("workers", workers, |default| {
        let room = usize::try_from(memory_bytes / BYTES_PER_WORKER).unwrap_or(usize::MAX);
        if cores > room {
            Some(room.max(WORKERS_MIN))
        } else {
            *default
        }
    });
}

/// Whole MiB, where it is at least one.
fn part_of(host: &HostLimits, budget: Bytes) -> Bytes {
    const MIB: u64 = 1 << 20;
    let part = host.part_of(budget.in_memory()) as u64;
    if part == budget.0 || part < MIB {
        return Bytes(part);
    }
    Bytes(part / MIB * MIB)
}

/// What is told of the settings while they are scaled.
struct Budgets<'a> {
    shown: &'a mut [Shown],
    memory_bytes: u64,
}

impl Budgets<'_> {
    fn set<T: Kind>(&mut self, name: &str, value: &mut T, scaled: impl FnOnce(&T) -> T) {
        let by_default = |shown: &&mut Shown| shown.name == name && shown.source == Source::Default;
        let Some(shown) = self.shown.iter_mut().find(by_default) else {
            return;
        };
        let part = scaled(value);
        let told = part.show();
        if told != shown.value {
            *value = part;
            shown.value = told;
            shown.source = Source::Host {
                memory_bytes: self.memory_bytes,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::layers::Layers;
    use crate::cli::config::read;

    #[track_caller]
    fn check(mib: u64, held: u64, heap: u64, retained: usize) {
        let (settings, shown) = scaled(mib);
        assert_eq!(
            (
                settings.held_bytes_max.0 >> 20,
                settings.sqlite_heap.0 >> 20,
                settings.retained_streams_max
            ),
            (held, heap, retained)
        );
        let source = format!("default for {mib} MiB of memory");
        let told = shown.iter().filter(|shown| shown.source.to_string() == source).count();
        assert_eq!(told >= 5, mib < 2_048, "{shown:?}");
    }

    fn scaled(mib: u64) -> (Settings, Vec<Shown>) {
        let (mut settings, mut shown, _) = read(&Layers::default());
        let host = HostLimits {
            memory_bytes: Some(mib << 20),
            ..HostLimits::default()
        };
        scale(&mut settings, &mut shown, &host);
        (settings, shown)
    }

    #[test]
    fn budgets_shrink_below_two_gibibytes() {
        check(96, 12, 12, 192);
        check(128, 16, 16, 256);
        check(300, 37, 37, 600);
        check(2_047, 255, 255, 4_094);
        check(2_048, 256, 256, 4_096);
        check(1 << 20, 256, 256, 4_096);
    }

    #[test]
    fn workers_never_get_more_by_little_memory() {
        let cores = available_parallelism().map_or(1, usize::from);
        for mib in [0, 96, 1_024] {
            let workers = scaled(mib).0.workers.unwrap_or(cores.max(WORKERS_MIN));
            assert!(
                workers >= WORKERS_MIN && workers <= cores.max(WORKERS_MIN),
                "{mib}: {workers}"
            );
        }
    }
}
