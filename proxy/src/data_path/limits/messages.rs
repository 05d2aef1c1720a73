//! How large a message may be, how long its head may take, and how many streams a connection may have.

use std::time::Duration;

/// Largest head of a request or response, bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Most headers of a request or response.
pub(crate) const MAX_HEADERS: usize = 256;
/// Streams that a peer may have open on one HTTP/2 connection.
pub(crate) const MAX_STREAMS: u32 = 1024;
/// Largest HTTP/2 frame that is taken.
pub(crate) const MAX_FRAME: u32 = 64 << 10;
/// How long a client may take to send a head, from its first byte.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(30);
