//! Memory for batches, used again and again: a scan allocates for its first batches only.

use crate::protocol::Compressor;
use crate::sync::Mutex;

/// Bytes kept for reuse, in all; what is given back beyond that is freed.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, Default)]
struct Kept {
    /// Last in, first out: the buffer used last is the one still in the processor's cache.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A stack of empty buffers, shared by workers and writers. Never blocks beyond a push or a pop.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Kept>);

impl Buffers {
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut kept = self.0.lock();
        let buffer = kept.buffers.pop().unwrap_or_default();
        kept.bytes -= buffer.capacity();
        buffer
    }

    pub(crate) fn put(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock();
        if buffer.capacity() > 0 && kept.bytes + buffer.capacity() <= KEPT_BYTES_MAX {
            kept.bytes += buffer.capacity();
            kept.buffers.push(buffer);
        }
    }
}

/// Compressors that no worker is using: there are as many as workers have compressed at once.
#[derive(Debug)]
pub(crate) struct Compressors {
    level: u8,
    idle: Mutex<Vec<Compressor>>,
}

impl Compressors {
    pub(crate) fn new(level: u8) -> Self {
        Self {
            level,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Lends one, without a lock while it works.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Compressor) -> T) -> T {
        let idle = self.idle.lock().pop();
        let mut compressor = idle.unwrap_or_else(|| Compressor::new(self.level));
        let result = work(&mut compressor);
        self.idle.lock().push(compressor);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Buffers::default();
        for _ in 0..6 {
            buffers.put(Vec::with_capacity(1024 * 1024));
        }
        assert_eq!(buffers.0.lock().buffers.len(), 4);
        for _ in 0..6 {
            assert!(buffers.take().is_empty());
        }
        assert_eq!(buffers.0.lock().bytes, 0);
    }
}
