//! Ports that are left alone: from the Mesh and from a pod's annotations.

use std::collections::BTreeSet;

use bowline_proxy::contract::bootstrap::ports;

/// Most ports that a pod may exempt in one direction.
pub const MAX_SKIPPED: usize = 64;

/// A list of ports cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No number between 1 and 65535.
    #[error("{0:?} is no port: write numbers from 1 to 65535, separated by commas")]
    NoPort(String),
    /// One of the proxy's own.
    #[error("port {0} is the proxy's own: remove it from the list")]
    Ours(u16),
    /// More than [`MAX_SKIPPED`].
    #[error("{0} ports are listed: at most {MAX_SKIPPED} are possible")]
    TooMany(usize),
}

/// The union of the Mesh's list and the annotation's, ascending.
///
/// # Errors
/// When the annotation, or the union, cannot be used.
pub fn skipped(mesh: &[u16], annotation: Option<&str>) -> Result<Vec<u16>, PortError> {
    // What an invalid Mesh lists and cannot is told in its status, and is no fault of the pod's.
    let mut all: BTreeSet<u16> = mesh.iter().copied().filter(|p| *p != 0 && !ports::ALL.contains(p)).collect();
    for text in annotation.into_iter().flat_map(|a| a.split(',')).map(str::trim).filter(|t| !t.is_empty()) {
        all.insert(text.parse().map_err(|_| PortError::NoPort(text.chars().take(40).collect()))?);
    }
    if all.contains(&0) {
        return Err(PortError::NoPort("0".into()));
    }
    if let Some(ours) = all.iter().find(|p| ports::ALL.contains(p)) {
        return Err(PortError::Ours(*ours));
    }
    if all.len() > MAX_SKIPPED {
        return Err(PortError::TooMany(all.len()));
    }
    Ok(all.into_iter().collect())
}

/// As the gate reads it.
#[must_use]
pub fn joined(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_joined_and_checked() {
        assert_eq!(skipped(&[25, 22], Some(" 3306, 25,")), Ok(vec![22, 25, 3306]));
        assert_eq!(skipped(&[], None), Ok(vec![]));
        assert_eq!(skipped(&[0, 15008, 22], None), Ok(vec![22]));
        assert_eq!(joined(&[22, 25]), "22,25");
        for (annotation, bad) in [("0", "0"), ("a", "a"), ("70000", "70000"), ("1-5", "1-5"), ("-1", "-1")] {
            assert_eq!(skipped(&[], Some(annotation)), Err(PortError::NoPort(bad.into())));
        }
        assert_eq!(skipped(&[], Some("15008")), Err(PortError::Ours(15008)));
        let many: Vec<u16> = (1..=65).collect();
        assert_eq!(skipped(&many, None), Err(PortError::TooMany(65)));
    }
}
