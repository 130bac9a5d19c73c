//! The socket's client, for the command line and for tests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_io::Timer;
use async_net::unix::UnixStream;
use futures::future::{Either, select};
use futures::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::wire::{self, Answer};
use crate::command::Command;
use crate::event::Recorded;

/// Connecting is tried so often.
pub const MAX_ATTEMPTS: u32 = 3;
/// Between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// An answer is waited for so long; the longest command is bounded to less.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// No answer is longer.
const MAX_ANSWER: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens.
    #[error("daemon socket not reachable at {}", path.display())]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon is there and slow.
    #[error("no answer within {} s; the daemon goes on with it: see 'xrat status'", ANSWER_TIMEOUT.as_secs())]
    TimedOut,
    /// The connection broke.
    #[error("the daemon closed the connection without an answer ({0}); see its log")]
    Broken(io::Error),
    /// What came is not of the protocol.
    #[error("what listens at the socket does not speak the protocol: {0}")]
    Protocol(serde_json::Error),
}

/// Asks the daemon one thing. Dropping the future leaves the daemon to finish it.
///
/// # Errors
/// See [`ClientError`]. A command that failed is an [`Answer`] with `ok` false.
pub async fn call(socket: &Path, command: &Command) -> Result<Answer, ClientError> {
    let mut stream = dial(socket, MAX_ATTEMPTS).await?;
    let exchange = async {
        stream.write_all(&wire::request_line(command)).await?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut line = Vec::new();
        (&mut stream).take(MAX_ANSWER).read_to_end(&mut line).await?;
        Ok(line)
    };
    let line = match select(std::pin::pin!(exchange), Timer::after(ANSWER_TIMEOUT)).await {
        Either::Left((result, _)) => result.map_err(ClientError::Broken)?,
        Either::Right(_) => return Err(ClientError::TimedOut),
    };
    if line.is_empty() {
        return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&line).map_err(ClientError::Protocol)
}

/// Connects, `attempts` times.
///
/// # Errors
/// [`ClientError::NotReachable`].
pub async fn dial(socket: &Path, attempts: u32) -> Result<UnixStream, ClientError> {
    let mut left = attempts;
    loop {
        left = left.saturating_sub(1);
        // A backlog that is full answers EAGAIN; that counts as an attempt like any other.
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(source) if left == 0 => return Err(ClientError::NotReachable { path: socket.to_owned(), source }),
            Err(_) => Timer::after(ATTEMPT_PAUSE).await,
        };
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    reader: BufReader<UnixStream>,
    line: String,
}

/// Subscribes to the daemon's events. The first one is a snapshot.
///
/// # Errors
/// See [`ClientError`]; the daemon's own refusal is the `Ok(Err(..))`.
pub async fn subscribe(socket: &Path) -> Result<Result<Events, Answer>, ClientError> {
    let mut stream = dial(socket, MAX_ATTEMPTS).await?;
    let command = Command::EventSubscribe { instance_id: None, seq: None };
    stream.write_all(&wire::request_line(&command)).await.map_err(ClientError::Broken)?;
    let mut events = Events { reader: BufReader::new(stream), line: String::new() };
    let line = events.next_line().await?.ok_or_else(|| ClientError::Broken(io::ErrorKind::UnexpectedEof.into()))?;
    let answer: Answer = serde_json::from_str(line).map_err(ClientError::Protocol)?;
    Ok(if answer.ok { Ok(events) } else { Err(answer) })
}

impl Events {
    /// The next event as the daemon wrote it; none when the daemon has ended. Not safe to drop half-way.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next_line(&mut self) -> Result<Option<&str>, ClientError> {
        self.line.clear();
        let length = self.reader.read_line(&mut self.line).await.map_err(ClientError::Broken)?;
        Ok((length > 0).then(|| self.line.trim_end()))
    }

    /// The next event; none when the daemon has ended. Events this version does not know are skipped.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Recorded>, ClientError> {
        while let Some(line) = self.next_line().await? {
            if let Ok(event) = serde_json::from_str(line) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}
