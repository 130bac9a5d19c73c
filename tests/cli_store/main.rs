//! The commands that work on the store, run as people run them: the real program, a root directory of its own each.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod frame;
mod imports;
mod root;
mod server;
mod subscriptions;
