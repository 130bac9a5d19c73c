//! The private proxy of an engine: is it there, and a connection through it.
//!
//! HTTP CONNECT on a Unix socket, because that is what every engine can do there: Xray's SOCKS inbound cannot listen
//! on one. Neither answer proves anything about the node: engines answer before they dial.

use std::io;
use std::path::Path;

use async_net::unix::UnixStream;
use base64::Engine as _;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};

/// More than an engine ever answers with.
const MAX_HEAD: usize = 1024;
/// Every user's: users only choose the outbound. What keeps others out is the directory that the socket is in.
pub(super) const PASSWORD: &str = "x";

/// One attempt to get an answer from the engine behind the private HTTP socket at `path`.
///
/// The request is one that engines answer with 400 (407 where they want a user) by themselves, so that nothing reaches
/// the node. Has no time limit.
/// Dropping the future only closes the connection. Whether a session is ready says [`super::ready`].
///
/// # Errors
/// `NotFound` or `ConnectionRefused` while the engine does not listen yet, `InvalidData` when another program answers.
pub async fn ready(path: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ready.invalid\r\n\r\n").await?;
    match head(&mut stream).await?.as_slice() {
        head if head.starts_with(b"HTTP/1.1 400 ") || head.starts_with(b"HTTP/1.1 407 ") => Ok(()),
        head => Err(unexpected(path, head)),
    }
}

/// A connection to `host:port` through the engine behind the private HTTP socket at `path`.
///
/// `host` is a name or an address (IPv6 without brackets); the node resolves names. `Ok` says that the engine took the
/// request, not that the node or the destination answered. No time limit; dropping the future closes the connection.
///
/// # Errors
/// Those of the socket, and `InvalidData` when the engine refuses or another program answers.
pub async fn connect(path: &Path, host: &str, port: u16) -> io::Result<UnixStream> {
    connect_as(path, None, host, port).await
}

/// As [`connect`], as the user whom [`super::batch_config`] gave an outbound.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as(path: &Path, user: Option<&str>, host: &str, port: u16) -> io::Result<UnixStream> {
    if host.is_empty() || host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is not a host")));
    }
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let user = user.map_or_else(String::new, |user| {
        let token = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{PASSWORD}"));
        format!("Proxy-Authorization: Basic {token}\r\n")
    });
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{user}\r\n").as_bytes()).await?;
    match head(&mut stream).await?.as_slice() {
        head if head.starts_with(b"HTTP/1.1 200 ") => Ok(stream),
        head => Err(unexpected(path, head)),
    }
}

/// Reads up to the empty line and not one byte further: what follows belongs to the caller.
async fn head(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(64);
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            break;
        }
        stream.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    Ok(head)
}

fn unexpected(path: &Path, head: &[u8]) -> io::Error {
    let line = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
    io::Error::new(io::ErrorKind::InvalidData, format!("the engine at {} answered {line:?}", path.display()))
}
