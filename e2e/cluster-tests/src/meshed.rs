//! A mesh to test in. In: a test's context. Out: one `Mesh` that tests share, applications in it, callers that run inside them, and what can
//! be seen of them from outside.

pub mod admissions;
pub mod app;
pub mod authority;
pub mod caller;
pub mod capture;
pub mod cert_manager;
pub mod chain;
pub mod dice;
pub mod disturbance;
pub mod expired;
pub mod fleet;
pub mod forgery;
pub mod frozen;
pub mod handshake;
pub mod mesh;
pub mod new_events;
pub mod offline_root;
pub mod operator;
pub mod process;
pub mod proxies;
pub mod rotation;
pub mod secrets;
pub mod shared;
pub mod short_lived;
pub mod timeline;
pub mod under_load;

pub use self::app::App;
pub use self::caller::{Caller, Load};
pub use self::mesh::{apply, await_reason, condition, conditions, delete, ensure, ready, set_mode};
pub use self::proxies::{no_restarts, restarts, scrape, scrape_one};
pub use self::shared::{MESH, SOON, TRUST_DOMAIN, spiffe};
