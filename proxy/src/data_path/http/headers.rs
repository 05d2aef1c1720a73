//! Headers that belong to one connection and go no further (RFC 9110, section 7.6.1; RFC 9113, section 8.2.2).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
    header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE},
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Between two proxies: the request came as HTTP/1.0 and is to leave as such.
pub(crate) const HTTP10: HeaderName = HeaderName::from_static("bowline-http10");
/// Between two proxies: the method of an upgrade other than GET.
pub(crate) const UPGRADE_METHOD: HeaderName = HeaderName::from_static("bowline-upgrade-method");
/// Between two proxies: the application switched protocols.
pub(crate) const UPGRADED: HeaderName = HeaderName::from_static("bowline-upgraded");

/// Takes out what belongs to the connection that a message came by.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // Most messages have none of these; a look-up costs less than a removal.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            if name != TE {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        let trailers = headers.get(TE).and_then(|te| te.to_str().ok()).is_some_and(|te| {
            te.split(',').any(|t| t.trim().split(';').next().is_some_and(|t| t.eq_ignore_ascii_case("trailers")))
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Whether a message of HTTP/1 has a transfer coding that the codec does not undo. The header belongs to the connection, and without it
/// nobody could (RFC 9112, section 6.1).
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    let fine =
        |coding: &[u8]| [&b"chunked"[..], b"identity"].iter().any(|f| coding.trim_ascii().eq_ignore_ascii_case(f));
    codings.next().is_some_and(|first| !fine(first)) || codings.next().is_some()
}

/// Takes out what only proxies say to each other: nobody else is to be believed.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    if headers.keys().any(is_own) {
        let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
}

fn is_own(name: &HeaderName) -> bool {
    name.as_str().starts_with("bowline-")
}

/// The protocol that a request of HTTP/1.1 wants to switch to (RFC 9110, section 7.8).
pub(crate) fn wanted_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let token = headers.get(UPGRADE)?;
    let says = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade")));
    // Upgrading to HTTP/2 on the way would change what the proxies understand of the connection; it may be ignored.
    let h2c = headers.get_all(UPGRADE).iter().any(is_h2c);
    (says && !h2c && request.version() == Version::HTTP_11 && *request.method() != Method::CONNECT)
        .then(|| token.clone())
}

/// Whether HTTP/2 is among the protocols that are named.
pub(crate) fn is_h2c(token: &HeaderValue) -> bool {
    token.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn what_belongs_to_the_connection_goes() {
        let mut h = map(&[
            ("host", "a"),
            ("connection", "Keep-Alive, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, Trailers;q=1"),
            ("cookie", "c"),
        ]);
        strip(&mut h);
        assert_eq!(h, map(&[("host", "a"), ("te", "trailers"), ("cookie", "c")]));
        let mut h = map(&[("te", "gzip")]);
        strip(&mut h);
        assert!(h.is_empty());
    }

    #[test]
    fn chunks_alone_are_undone() {
        for (values, coded) in [
            (&[][..], false),
            (&["chunked"], false),
            (&[" Chunked "], false),
            (&["identity"], false),
            (&["gzip"], true),
            (&["gzip, chunked"], true),
            (&["gzip", "chunked"], true),
            (&["chunked", "chunked"], true),
            (&["chunked;q=1"], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(is_coded(&headers), coded, "{values:?}");
        }
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let ask = |connection: &str, upgrade: &str| {
            let r = Request::builder().header("connection", connection).header("upgrade", upgrade).body(()).unwrap();
            wanted_upgrade(&r).is_some()
        };
        assert!(ask("keep-alive, Upgrade", "websocket"));
        assert!(!ask("keep-alive", "websocket"));
        assert!(!ask("upgrade", "h2c"));
        assert!(!ask("upgrade", "websocket, H2C"));
    }

    #[test]
    fn what_only_proxies_say_goes() {
        let mut h = map(&[("bowline-reason", "x"), ("host", "a"), ("bowline-upgraded", "1"), ("bowlines", "b")]);
        strip_own(&mut h);
        assert_eq!(h, map(&[("host", "a"), ("bowlines", "b")]));
    }
}
