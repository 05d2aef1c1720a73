//! Durations as users write them: Go's `h`, `m` and `s` (`24h`, `1h30m`), whole numbers only.

use std::time::Duration;

/// Longest text, in bytes.
pub const MAX_BYTES: usize = 16;

/// A text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write hours, minutes and seconds such as 24h, 90m or 1h30m")]
pub struct DurationError(pub String);

/// Reads a duration.
///
/// # Errors
/// When it is no sequence of numbers of up to 6 digits, each with a unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.chars().take(2 * MAX_BYTES).collect());
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err(error());
    }
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        // At most 16 digits, which fit.
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        let unit = match rest.as_bytes().get(digits) {
            Some(b'h') => 3600,
            Some(b'm') => 60,
            Some(b's') => 1,
            _ => return Err(error()),
        };
        if digits > MAX_DIGITS {
            return Err(error());
        }
        seconds += number * unit;
        rest = &rest[digits + 1..];
    }
    Ok(Duration::from_secs(seconds))
}

/// Keeps every sum far from any overflow, here and in the API server's CEL.
const MAX_DIGITS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hours_minutes_and_seconds() {
        for (text, seconds) in [("24h", 86_400), ("1h30m", 5400), ("0s", 0), ("90m", 5400), ("999999h", 3_599_996_400)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "24", "h", "1d", "-1h", "1.5h", "1h ", "1000000h", "1h2", "١h", "1h1h1h1h1h1h1h1h1h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(h in 0_u64..1_000_000, m in 0_u64..1000, s in 0_u64..100) {
            let text = format!("{h}h{m}m{s}s");
            prop_assert_eq!(parse(&text), Ok(Duration::from_secs(h * 3600 + m * 60 + s)));
        }

        #[test]
        fn any_text_is_judged_without_panic(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
