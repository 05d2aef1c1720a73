//! How two proxies talk: TLS 1.3 with client certificates to [`ports::MESH`](super::bootstrap::ports::MESH), HTTP/2 inside. The
//! destination of a connection stands in its SNI, so that no request carries it: `PORT.APP.bowline.internal`.

/// ALPN protocol of the wire contract between proxies.
pub const ALPN: &[u8] = b"bowline/1";
/// Last labels of the SNI.
pub const SNI_SUFFIX: &str = "bowline.internal";

/// What the application at the far end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum App {
    /// HTTP/1.1: every stream is one request; the inbound proxy speaks HTTP/1.1 to the application. WebSocket and other
    /// upgrades are extended CONNECT streams (RFC 8441) whose `:protocol` is the upgrade token.
    Http1,
    /// HTTP/2 with prior knowledge (gRPC too): every stream is one request.
    Http2,
    /// Opaque bytes: every stream is a CONNECT (RFC 9113, section 8.5) that carries one TCP connection; END_STREAM is FIN.
    Tcp,
}

impl App {
    /// The label in the SNI.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Tcp => "tcp",
        }
    }
}

/// The SNI for an application port.
#[must_use]
pub fn sni(port: u16, app: App) -> String {
    format!("{port}.{}.{SNI_SUFFIX}", app.label())
}

/// Reads an SNI back; `None` for anything that [`sni`] does not make.
#[must_use]
pub fn parse_sni(name: &str) -> Option<(u16, App)> {
    let (port, rest) = name.split_once('.')?;
    let app = match rest.strip_suffix(SNI_SUFFIX)? {
        "h1." => App::Http1,
        "h2." => App::Http2,
        "tcp." => App::Tcp,
        _ => return None,
    };
    let number: u16 = port.parse().ok()?;
    // One spelling only: no sign, no leading zero, never port 0.
    (number != 0 && number.to_string() == port).then_some((number, app))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sni_is_read_back_and_nothing_else_is() {
        for app in [App::Http1, App::Http2, App::Tcp] {
            assert_eq!(parse_sni(&sni(8080, app)), Some((8080, app)));
        }
        for bad in [
            "",
            "8080.h1",
            "0.h1.bowline.internal",
            "08.h1.bowline.internal",
            "+8.h1.bowline.internal",
            "8.h3.bowline.internal",
            "99999.h1.bowline.internal",
            "8.h1.x.bowline.internal",
        ] {
            assert_eq!(parse_sni(bad), None, "{bad}");
        }
    }
}
