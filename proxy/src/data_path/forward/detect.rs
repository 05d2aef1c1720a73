//! Which protocol a client speaks, by its first bytes.

/// Bytes that are looked at: a longer first line is no reason to wait.
pub(crate) const ENOUGH: usize = 8 << 10;
/// What a client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is taken for one.
const LONGEST_METHOD: usize = 24;

/// Ports on which the server speaks first, or on which HTTP is never spoken: SMTP and submission, FTP, SSH, telnet, POP3, IMAP,
/// NNTP, IRC, MySQL, PostgreSQL, MSSQL, Redis, MongoDB, memcached, AMQP, Kafka, ZooKeeper, NATS, Galera.
const OPAQUE_PORTS: [u16; 28] = [
    21, 22, 23, 25, 110, 119, 143, 465, 587, 993, 995, 1433, 2181, 3306, 3307, 4222, 4444, 4567, 4568, 5432, 5671,
    5672, 6379, 6667, 9092, 11211, 27017, 33060,
];

/// What was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DetectedProtocol {
    Http1,
    Http2,
    Opaque,
}

/// Whether looking at the first bytes is pointless on this port.
pub(crate) fn is_opaque_port(port: u16) -> bool {
    OPAQUE_PORTS.binary_search(&port).is_ok()
}

/// The protocol of what came so far; `None`: more is needed.
pub(crate) fn detect(bytes: &[u8]) -> Option<DetectedProtocol> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(DetectedProtocol::Http2);
    }
    let method = bytes.iter().take(LONGEST_METHOD + 1).position(|b| *b == b' ');
    let Some(method) = method else {
        let could_be = bytes.len() <= LONGEST_METHOD && bytes.iter().all(|b| is_method_byte(*b));
        return if could_be { None } else { Some(DetectedProtocol::Opaque) };
    };
    let is_method = method > 0 && bytes[..method].iter().all(|b| is_method_byte(*b));
    // What follows a CONNECT is opaque, and so is the connection.
    if !is_method || &bytes[..method] == b"CONNECT" {
        return Some(DetectedProtocol::Opaque);
    }
    match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Some(if http { DetectedProtocol::Http1 } else { DetectedProtocol::Opaque })
        }
        // A target may be long, but not so long, and holds no control characters.
        None if bytes.iter().any(|b| b.is_ascii_control()) => Some(DetectedProtocol::Opaque),
        None if bytes.len() >= ENOUGH => Some(DetectedProtocol::Http1),
        None => None,
    }
}

/// Methods in use are upper case letters, some with a dash.
fn is_method_byte(b: u8) -> bool {
    b.is_ascii_uppercase() || b == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_beginnings() {
        use DetectedProtocol::{Http1, Http2, Opaque};
        for (bytes, expected) in [
            (&b""[..], None),
            (b"GET", None),
            (b"GET /a", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", Some(Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Http1)),
            (b"GET http://a/b HTTP/1.0\n", Some(Http1)),
            (PREFACE, Some(Http2)),
            (b"PRI * HT", None),
            (b"PRI * HTTP/1.1\r\n", Some(Http1)),
            (b"CONNECT a:443 HTTP/1.1\r\n", Some(Opaque)),
            (b"PING\r\n", Some(Opaque)),
            (b"GET key\r\n", Some(Opaque)),
            (b"\x16\x03\x01\x02\x00", Some(Opaque)),
            (b"SSH-2.0-OpenSSH_9", Some(Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Opaque)),
        ] {
            assert_eq!(detect(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        let mut long = b"GET /".to_vec();
        long.resize(ENOUGH, b'a');
        assert_eq!(detect(&long), Some(Http1));
    }

    #[test]
    fn ports_are_in_order() {
        assert!(OPAQUE_PORTS.is_sorted());
        assert!(is_opaque_port(3306) && !is_opaque_port(80));
    }

    proptest! {
        #[test]
        fn a_judgement_stands_whatever_follows(bytes in proptest::collection::vec(any::<u8>(), 0..64), more in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(protocol) = detect(&bytes) {
                let all = [bytes, more].concat();
                prop_assert_eq!(detect(&all), Some(protocol));
            }
        }

        #[test]
        fn whatever_is_long_enough_is_judged(bytes in proptest::collection::vec(any::<u8>(), ENOUGH..ENOUGH + 10)) {
            prop_assert!(detect(&bytes).is_some());
        }
    }
}
