//! xrat keeps one proxy session alive for one Linux user.
//!
//! The rooms, from the doors down; a room uses only rooms below it:
//!
//! | room | what it does |
//! |---|---|
//! | [`engine`] | what Xray and V2Ray can do, their configuration files and their API |
//! | [`config`] | the stored proxy node |

pub mod config;
pub mod engine;
