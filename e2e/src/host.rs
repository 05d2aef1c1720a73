//! This machine. In: the environment and what is installed. Out: paths, locks, missing packages installed, programs run and their progress told.

pub mod cargo;
pub mod env;
pub mod lock;
pub mod prereq;
pub mod progress;
pub mod shell;
