//! What was measured. In: numbers by name. Out: JSON files below `target/e2e/figures`, and a table of them.

pub mod figures;
pub mod table;
