//! The process and its pod: settings and signals come in; a slot that serves, stands by, drains and ends goes out, and the rules that
//! send the pod's traffic to it.

pub mod gate;
pub mod life;
pub mod redirect;
pub mod settings;
pub mod slots;
pub mod standalone;
