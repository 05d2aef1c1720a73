//! What generated bodies are made of, at both ends.

use bytes::Bytes;

/// Byte `i` of every generated body is `i mod 251`: an offset shows at once.
pub(crate) fn pattern(from: u64, count: usize) -> Bytes {
    (0..count as u64).map(|i| ((from + i) % 251) as u8).collect()
}
