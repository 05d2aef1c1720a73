//! The modules of a crate form floors: a room (a module with all that lies below it in the tree of files) imports only from rooms below
//! its own, and no two rooms import from each other, at any depth. Directories of sources come in, what breaks this goes out, with the
//! lines that do.
//!
//! A crate's root says its floors in its documentation, in one paragraph, from the ground up; rooms on one floor are parted by commas
//! and do not import from each other. This crate's own stand below; any other module may say the same of its children. What counts as an import is every path in code outside tests, `use` or not; a
//! `mod` line is none. A parent that re-exports from its child, which imports from its parent, is a circle like any other.
//!
//! Floors, from the ground up: `imports` < `tree` < `check`.

mod check;
mod imports;
mod tree;

pub use check::{Fault, check};
pub use tree::{Module, ReadError, read_crate};
