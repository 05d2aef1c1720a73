//! What a Service's port speaks: its `appProtocol`, else the prefix of its name, else nobody says and the proxy detects it.

use bowline_proxy::contract::proto::Protocol;

/// Protocol of a port.
#[must_use]
pub fn declared(app_protocol: Option<&str>, name: &str) -> Protocol {
    if let Some(protocol) = app_protocol.filter(|p| !p.is_empty()) {
        return of_app_protocol(protocol);
    }
    // `http`, or `http-metrics`; but not `httpx`.
    of_word(name.split('-').next().unwrap_or_default())
}

/// Kubernetes' and IANA's names; others are detected.
fn of_app_protocol(protocol: &str) -> Protocol {
    let protocol = protocol.to_ascii_lowercase();
    match protocol.as_str() {
        "kubernetes.io/h2c" => Protocol::Http2,
        "kubernetes.io/ws" => Protocol::Http1,
        "kubernetes.io/wss" => Protocol::Tcp,
        other => of_word(other),
    }
}

fn of_word(word: &str) -> Protocol {
    match word {
        "http" | "http1" | "ws" => Protocol::Http1,
        "http2" | "h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        // Encrypted by the application: opaque to the proxy. Server-first protocols, where detection would have to wait.
        "tcp" | "tls" | "https" | "wss" | "grpcs" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo"
        | "mongodb" | "amqp" | "amqps" | "kafka" | "smtp" | "smtps" | "ftp" | "imap" | "pop3" | "ldap" | "ldaps"
        | "ssh" | "nats" | "memcached" | "cassandra" | "zookeeper" => Protocol::Tcp,
        _ => Protocol::Detect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_app_protocol_rules_and_names_help() {
        for (app, name, expected) in [
            (None, "", Protocol::Detect),
            (None, "http", Protocol::Http1),
            (None, "http-metrics", Protocol::Http1),
            (None, "httpx", Protocol::Detect),
            (None, "grpc-api", Protocol::Grpc),
            (None, "https", Protocol::Tcp),
            (None, "redis", Protocol::Tcp),
            (None, "web", Protocol::Detect),
            (Some("grpc"), "http", Protocol::Grpc),
            (Some("kubernetes.io/h2c"), "", Protocol::Http2),
            (Some("kubernetes.io/ws"), "", Protocol::Http1),
            (Some("HTTP"), "", Protocol::Http1),
            (Some("tls"), "http", Protocol::Tcp),
            (Some("example.com/own"), "http", Protocol::Detect),
            (Some(""), "http", Protocol::Http1),
        ] {
            assert_eq!(declared(app, name), expected, "{app:?} {name:?}");
        }
    }
}
