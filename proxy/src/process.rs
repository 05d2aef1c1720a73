//! The process and its pod. Settings and signals come in; a slot that serves, stands by, drains and ends goes out, and the rules that
//! send the pod's traffic to it.
//!
//! [`lifecycle`] builds every part and ends it in order; [`slots`] decides which of the two slots serves; [`gate`] holds the application
//! back until one does, then has [`redirect`] write the rules.

pub mod gate;
pub mod lifecycle;
pub mod redirect;
pub mod settings;
pub mod slots;
pub mod standalone;
