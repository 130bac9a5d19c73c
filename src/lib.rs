//! xrat keeps one proxy session alive for one Linux user.
//!
//! The rooms, from the doors down; a room uses only rooms below it:
//!
//! | room | what it does |
//! |---|---|
//! | [`link`] | share links and the bodies of subscriptions |
//! | [`config`] | the stored proxy node |

pub mod config;
pub mod link;
