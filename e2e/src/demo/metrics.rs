//! Scrapes and reads metrics in Prometheus' text format.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, with suffix (`…_total`, `…_bucket`).
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// In the order of the page.
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Reads a page.
    ///
    /// # Errors
    /// Quotes the first line that is not a sample.
    pub fn parse(page: &str) -> Result<Self> {
        let lines = page.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")));
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// The samples called `name` that have all of `labels`.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        let matches =
            move |s: &&Sample| labels.iter().all(|(key, value)| s.labels.get(*key).is_some_and(|v| v == value));
        self.samples.iter().filter(move |s| s.name == name).filter(matches)
    }

    /// Their sum; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|s| s.value).sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after;
        }
    }
    // A timestamp or an exemplar may follow the value.
    let value = rest.split_whitespace().next()?;
    Some(Sample { name: name.into(), labels, value: value.parse().ok()? })
}

/// The text up to the closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_samples() {
        let page =
            "# HELP a b\na_total{x=\"1\",y=\"q\\\"}\"} 3 # {trace=\"7\"} 1\na_total{x=\"2\"} 4.5\nb 1e3\n# EOF\n";
        let metrics = Metrics::parse(page).unwrap();
        assert_eq!(metrics.sum("a_total", &[]), 7.5);
        assert_eq!(metrics.sum("a_total", &[("x", "2")]), 4.5);
        assert_eq!(metrics.samples[0].labels["y"], "q\"}");
        assert_eq!(metrics.sum("b", &[]), 1000.0);
        assert!(Metrics::parse("nonsense").is_err());
    }
}
