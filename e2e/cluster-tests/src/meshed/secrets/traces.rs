//! The forms in which a private key may turn up in a text: as it is, in hexadecimal, in base64, in PEM, in PEM inside base64, as a list
//! of numbers.

use data_encoding::HEXLOWER;
use k8s_openapi::ByteString;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

/// Shorter pieces could occur by chance.
const SHORTEST: usize = 14;
/// Characters in a line of PEM, and the bytes that they stand for.
const LINE: usize = 64;
/// What precedes the private scalar of an EC key (RFC 5915: version 1, an octet string of 32 bytes).
const SCALAR: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];

/// What to look for: every piece betrays a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    bytes: Vec<Vec<u8>>,
    texts: Vec<String>,
}

impl Traces {
    /// Those of every private key, in PEM, that `text` holds; also of a key that stands in a string of JSON.
    #[must_use]
    pub fn of_keys_in(text: &str) -> Self {
        let mut traces = Self::default();
        // Inside JSON a line ends with a backslash and an n, and the first and the last are beside quotes.
        let lines = text.replace("\\n", "\n").replace('"', "\n");
        for key in PrivateKeyDer::pem_slice_iter(lines.as_bytes()).flatten() {
            traces.add(key.secret_der());
        }
        traces
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.bytes.len()
    }

    /// Adds those of another.
    pub fn extend(&mut self, other: Self) {
        self.bytes.extend(other.bytes.into_iter().filter(|b| !self.bytes.contains(b)).collect::<Vec<_>>());
        self.texts.extend(other.texts.into_iter().filter(|t| !self.texts.contains(t)).collect::<Vec<_>>());
    }

    /// Where in a text a key begins to show.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<usize> {
        let pem = text.match_indices("PRIVATE KEY-----").map(|(at, _)| at);
        let raw = self.bytes.iter().filter_map(|b| text.as_bytes().windows(b.len()).position(|w| w == b));
        // Lines may be broken anywhere, also inside a string of JSON.
        let joined: String = text.replace("\\n", "").replace("\\r", "").split_whitespace().collect();
        let lower = joined.to_ascii_lowercase();
        let texts = self.texts.iter().filter_map(|t| joined.find(t.as_str()).or_else(|| lower.find(t.as_str())));
        pem.chain(raw).chain(texts).min()
    }

    fn add(&mut self, der: &[u8]) {
        let at = der.windows(SCALAR.len()).position(|w| w == SCALAR).map(|at| at + SCALAR.len());
        // Keys of another kind: what is secret is not at the edges.
        let secret = at.map_or(der.len() / 4..der.len() * 3 / 4, |at| at..(at + 32).min(der.len()));
        let bytes = &der[secret.clone()];
        self.texts.push(HEXLOWER.encode(bytes));
        self.texts.push(bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(","));
        self.texts.push(bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"));
        let plain = inside_base64(bytes);
        self.texts.extend(plain.iter().map(|text| text.replace('+', "-").replace('/', "_")));
        // A PEM that was encoded once more, as `kubectl get secret -o yaml` shows it, holds its line ends too.
        for line in secret_lines(der, secret) {
            self.texts.extend(inside_base64(line.as_bytes()));
        }
        self.texts.extend(plain);
        self.bytes.push(bytes.to_vec());
    }
}

/// How bytes look in the middle of something longer in base64: by the place where they begin, in three ways. Characters that their
/// neighbours take part in are left out.
fn inside_base64(bytes: &[u8]) -> Vec<String> {
    let shifted = (0..3_usize).map(|shift| {
        let padded: Vec<u8> = std::iter::repeat_n(0, shift).chain(bytes.iter().copied()).collect();
        let whole = padded.len() / 3 * 3;
        let text = base64(&padded[..whole]);
        let neighbours = [0, 2, 3][shift];
        text.get(neighbours..).unwrap_or_default().to_owned()
    });
    shifted.filter(|text| text.len() >= SHORTEST).collect()
}

/// The parts of a PEM's lines that only the secret bytes are in.
fn secret_lines(der: &[u8], secret: std::ops::Range<usize>) -> Vec<String> {
    let text = base64(der);
    // Three bytes are four characters; those at the edges belong to neighbours too.
    let (from, to) = (secret.start.div_ceil(3) * 4, secret.end / 3 * 4);
    let lines = (0..text.len().div_ceil(LINE)).map(|n| from.max(n * LINE)..to.min((n + 1) * LINE));
    let parts = lines.filter(|range| range.len() >= SHORTEST).filter_map(|range| text.get(range));
    parts.map(ToOwned::to_owned).collect()
}

/// Base64, as Kubernetes writes bytes into JSON.
fn base64(bytes: &[u8]) -> String {
    let value = serde_json::to_value(ByteString(bytes.to_vec())).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use data_encoding::HEXUPPER;

    use super::*;

    fn planted(form: &str) -> String {
        format!("2026-11-21T12:00:00Z INFO before, x={form:?} and after\n{form}\nmore\n")
    }

    #[test]
    fn a_planted_key_is_found_in_every_form() {
        for _ in 0..20 {
            let key = KeyPair::generate().unwrap();
            let (pem, der) = (key.serialize_pem(), key.serialize_der());
            let traces = Traces::of_keys_in(&pem);
            assert_eq!(traces.keys(), 1);
            let at = der.windows(5).position(|w| w == SCALAR).unwrap() + 5;
            let scalar = &der[at..at + 32];
            let body = pem.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n");
            let json = serde_json::json!({ "key": pem }).to_string();
            let forms = [
                ("PEM", pem.clone()),
                ("PEM without its frame", body.clone()),
                ("that in one line", body.replace('\n', "")),
                ("JSON with PEM", json.clone()),
                ("base64 of PEM", base64(pem.as_bytes())),
                ("base64 of JSON with PEM", base64(json.as_bytes())),
                ("hex of DER", HEXLOWER.encode(&der)),
                ("capital hex of the scalar", HEXUPPER.encode(scalar)),
                ("hex with colons", scalar.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")),
                ("base64 of the scalar", base64(scalar)),
                ("base64url of the scalar", base64(scalar).replace('+', "-").replace('/', "_")),
                ("base64 of something around it", base64(&[b"abcd", scalar, b"efg"].concat())),
                ("a list of numbers", format!("{scalar:?}")),
            ];
            for (what, form) in forms {
                assert!(traces.find(&planted(&form)).is_some(), "{what}: {form}");
            }
        }
    }

    #[test]
    fn keys_in_json_are_known() {
        let (a, b) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let json = serde_json::json!({ "roots": [{ "key": a.serialize_pem() }, { "key": b.serialize_pem() }] });
        let traces = Traces::of_keys_in(&json.to_string());
        assert_eq!(traces.keys(), 2);
        for key in [a, b] {
            assert!(traces.find(&HEXLOWER.encode(&key.serialize_der())).is_some());
        }
    }

    #[test]
    fn what_is_public_is_not_found() {
        for _ in 0..20 {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::default().self_signed(&key).unwrap();
            let traces = Traces::of_keys_in(&key.serialize_pem());
            let public = [
                certificate.pem(),
                HEXLOWER.encode(certificate.der()),
                base64(certificate.pem().as_bytes()),
                HEXLOWER.encode(key.public_key_raw()),
                base64(key.public_key_raw()),
                "an ordinary line of a log: fingerprint ab:cd, phase Active".to_owned(),
            ];
            for text in public {
                assert_eq!(traces.find(&planted(&text)), None, "{text}");
            }
            let other = KeyPair::generate().unwrap();
            assert_eq!(traces.find(&HEXLOWER.encode(&other.serialize_der())), None);
        }
    }
}
