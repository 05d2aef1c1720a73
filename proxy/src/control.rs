//! Configuration from the control plane. The control stream ([`stream`]) brings encoded resources in; each is validated and becomes part of
//! the table that connections read ([`state`]): that step is `stream/update.rs`.

pub mod state;
pub mod stream;
