//! The Unix socket: JSON, protocol version 1. Turns bytes into commands and answers into bytes, and decides nothing.

pub mod client;
pub mod server;
pub mod wire;
