//! Carries bytes between a client and an engine until both are done.
//!
//! A relay that carries nothing holds no buffer and sets no timer: it costs two descriptors and no wake-up.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use async_io::{Async, Timer};
use futures::future::{Either, select};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// As much is moved at once: large enough that system calls do not matter.
const PIECE: usize = 64 * 1024;
/// An engine that sends no more and has not closed either is looked at so often. Nothing else tells: its end is
/// readable already.
const HALF_CLOSED_LOOK: Duration = Duration::from_secs(5);
/// How long a client that was refused may take to read why: it is told in one packet.
const LINGER: Duration = Duration::from_secs(2);
/// As much as a refused client may still send before it is cut off.
const MAX_DISCARDED: usize = 1024 * 1024;

/// Room for one piece of data, shared by all relays: it is empty whenever one of them waits.
pub(super) struct Scratch(RefCell<Box<[u8]>>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(RefCell::new(vec![0; PIECE].into()))
    }
}

/// Sends `first` to the engine, then whatever comes, in both directions. The end of one direction is passed on, and
/// the other goes on. A connection that breaks on one side is reset on the other, so that nobody takes a part for all.
///
/// Dropping the future closes both.
pub(super) async fn relay(client: &Async<TcpStream>, engine: &Async<UnixStream>, first: &[u8], scratch: &Scratch) {
    let up = std::pin::pin!(async {
        let mut writer = engine;
        if writer.write_all(first).await.is_err() {
            return Ended::Engine;
        }
        carry(client, engine, Ended::Client, Ended::Engine, scratch).await
    });
    let down = std::pin::pin!(carry(engine, client, Ended::Engine, Ended::Client, scratch));
    let ended = match select(up, down).await {
        // The client has said all; or the engine takes no more, but may have said something that is still to be read.
        Either::Left((Ended::Well | Ended::Engine, down)) => down.await,
        Either::Right((Ended::Well, up)) => until_closed(up, engine).await,
        Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
    };
    if ended == Ended::Engine {
        reset(client);
    }
}

/// How a direction, or a whole relay, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All was said, and passed on.
    Well,
    /// The client's connection broke.
    Client,
    /// The engine's connection broke.
    Engine,
}

/// Moves one direction to its end. `source` and `sink` say what it is called when reading or writing fails.
async fn carry<F, T>(from: &Async<F>, to: &Async<T>, source: Ended, sink: Ended, scratch: &Scratch) -> Ended
where
    F: AsFd + ShutDown,
    T: AsFd + ShutDown,
    for<'a> &'a F: Read,
    for<'a> &'a T: Write,
{
    loop {
        // Read and written in one go, so that the room can be shared; what the other side does not take is kept.
        let moved = from.read_with(|mut from| {
            let mut room = scratch.0.borrow_mut();
            let count = from.read(&mut room)?;
            if count == 0 {
                return Ok(Moved::End);
            }
            Ok(match to.get_ref().write(&room[..count]) {
                Ok(written) if written == count => Moved::All,
                Ok(written) => Moved::Part(room[written..count].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Moved::Part(room[..count].to_vec()),
                Err(_) => Moved::Broken,
            })
        });
        match moved.await {
            // One busy connection must not keep the thread from the others.
            Ok(Moved::All) => smol::future::yield_now().await,
            Ok(Moved::Part(rest)) => {
                let mut to = to;
                if to.write_all(&rest).await.is_err() {
                    return sink;
                }
            }
            Ok(Moved::Broken) => return sink,
            Ok(Moved::End) => {
                let _ = to.get_ref().shut_down_writing();
                return Ended::Well;
            }
            Err(_) => return source,
        }
    }
}

enum Moved {
    All,
    Part(Vec<u8>),
    Broken,
    End,
}

trait ShutDown {
    fn shut_down_writing(&self) -> io::Result<()>;
}

impl ShutDown for TcpStream {
    fn shut_down_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl ShutDown for UnixStream {
    fn shut_down_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// The engine has said all. The client may go on, but not when the engine has closed for good: an idle client would
/// otherwise never learn that nobody listens to it.
async fn until_closed(mut up: impl Future<Output = Ended> + Unpin, engine: &Async<UnixStream>) -> Ended {
    loop {
        if has_hung_up(engine) {
            return Ended::Well;
        }
        match select(up, Timer::after(HALF_CLOSED_LOOK)).await {
            // What the client's connection ends with does not matter any more.
            Either::Left(_) => return Ended::Well,
            Either::Right((_, going_on)) => up = going_on,
        }
    }
}

/// Whether the other end of a Unix socket is closed in both directions.
fn has_hung_up(socket: &Async<UnixStream>) -> bool {
    let mut sockets = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut sockets, Some(&at_once)), Ok(1)) && sockets[0].revents().contains(PollFlags::HUP)
}

/// Makes the close of this connection a reset.
fn reset(client: &Async<TcpStream>) {
    // Without it the client sees an ordinary end, which is the most that can be done then.
    let _ = rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO));
}

/// Ends a connection whose client was told why: a close with unread data would be a reset, and could overtake the
/// words.
pub(super) async fn close_gently(client: &Async<TcpStream>) {
    if client.get_ref().shutdown(Shutdown::Write).is_err() {
        return;
    }
    let discard = async {
        let mut client = client;
        let mut room = [0; 1024];
        let mut discarded = 0;
        while let Ok(count @ 1..) = client.read(&mut room).await {
            discarded += count;
            if discarded > MAX_DISCARDED {
                break;
            }
        }
    };
    select(std::pin::pin!(discard), Timer::after(LINGER)).await;
}
