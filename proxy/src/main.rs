//! Bowline.
fn main() {}
