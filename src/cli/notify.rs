//! Tells the daemon, if one runs, that the store was changed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::json;

use crate::command::{Command, PROTOCOL_VERSION};
use crate::paths::Paths;

/// A daemon that takes longer is busy with something that ends in reading the store anyway.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends `ConfigsChanged` and waits for the answer, so that the next command finds the daemon up to date.
///
/// Blocks for [`PATIENCE`] at most at each of three steps. Silent: without a daemon there is nobody to tell.
pub(super) fn configs_changed(paths: &Paths) {
    let _ = tell(paths);
}

fn tell(paths: &Paths) -> std::io::Result<()> {
    // Without blocking: a full backlog would hold a blocking connect for ever.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(paths.socket())?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = json!({ "protocol_version": PROTOCOL_VERSION, "request": Command::ConfigsChanged {} });
    writeln!(stream, "{request}")?;
    BufReader::new(stream).read_line(&mut String::new())?;
    Ok(())
}
