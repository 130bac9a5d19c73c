//! One HTTP exchange over any stream: URLs, SOCKS, TLS, HTTP/1.1, and fetching with redirects.
//!
//! The lowest room that does I/O; it knows nothing of engines or configs.

pub mod fetch;
pub mod http;
pub mod socks;
pub mod tls;
pub mod url;
