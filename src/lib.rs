//! xrat keeps one proxy session alive for one Linux user.
//!
//! The rooms, from the doors down; a room uses only rooms below it:
//!
//! | room | what it does |
//! |---|---|
//! | [`cli`] | the commands that people type |
//! | [`daemon`], [`log`], [`systemd`] | the daemon's process |
//! | [`ipc`] | the Unix socket: JSON, protocol version 1 |
//! | [`bus`] | the session D-Bus: `org.xrat.Daemon1` |
//! | [`system_proxy`] | the desktop's proxy settings point at the session, and get their own values back |
//! | [`updates`] | subscriptions are updated when they are due |
//! | [`import`] | links from anywhere into the store |
//! | [`supervisor`] | the one owner of the session: decides and carries out |
//! | [`gate`] | the public addresses: who gets new connections, and what happens while there is no engine |
//! | [`probe`] | whether a node carries traffic, and how fast |
//! | [`engine`] | the engines: capabilities, configuration files, API, processes |
//! | [`link`] | share links and the bodies of subscriptions |
//! | [`store`] | SQLite |
//! | [`command`], [`event`] | what can be asked of the daemon, and what it tells |
//! | [`config`] | the stored proxy node |
//! | [`settings`], [`paths`] | `config.toml`, and where things live |
//! | [`net`] | one HTTP exchange over any stream |

pub mod bus;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod event;
pub mod gate;
pub mod import;
pub mod ipc;
pub mod link;
pub mod log;
pub mod net;
pub mod paths;
pub mod probe;
pub mod settings;
pub mod store;
pub mod supervisor;
pub mod system_proxy;
pub mod systemd;
pub mod updates;
