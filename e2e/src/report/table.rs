//! Prints what the tests measured, as a table.

use anyhow::Result;
use serde_json::Value;

use crate::host::env::Env;
use crate::report::figures::Figures;

/// Columns of their own; whatever else a test measured goes into the last one.
const COLUMNS: [&str; 8] =
    ["result", "seconds", "sent", "failed", "fresh_connections", "streams_held", "streams_lost", "container_restarts"];

/// Prints the figures of all tests that left some.
///
/// # Errors
/// When a file of figures cannot be read.
pub fn print(env: &Env) -> Result<()> {
    let all = Figures::read_all(env)?;
    if all.is_empty() {
        println!("no figures yet: `cargo e2e test` leaves them in {}", env.found.join("figures").display());
        return Ok(());
    }
    print!("{}", table(&all));
    Ok(())
}

fn table(all: &[(String, Figures)]) -> String {
    let mut rows = vec![["test"].into_iter().chain(COLUMNS).chain(["other"]).map(str::to_owned).collect::<Vec<_>>()];
    for (name, figures) in all {
        let mut row = vec![name.clone()];
        row.extend(COLUMNS.map(|key| figures.get(key).map_or_else(|| "-".into(), text)));
        let others =
            figures.iter().filter(|(key, _)| !COLUMNS.contains(key)).map(|(key, v)| format!("{key}={}", text(v)));
        row.push(others.collect::<Vec<_>>().join(" "));
        rows.push(row);
    }
    let columns = rows.first().map_or(0, Vec::len);
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_figures_into_columns() {
        let figures = Figures::new().with("sent", 10).with("result", "passed").with("p99_ms", 1.5);
        let table = table(&[("traffic".into(), figures)]);
        let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["traffic", "passed", "-", "10", "-", "-", "-", "-", "-", "p99_ms=1.5"]);
        assert_eq!(lines[0].len(), 10);
    }
}
