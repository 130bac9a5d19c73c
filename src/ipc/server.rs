//! The socket's server: one request a connection, or one stream of events.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use async_io::{Async, Timer};
use async_net::unix::{UnixListener, UnixStream};
use futures::channel::oneshot;
use futures::future::{Either, FutureExt, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use serde_json::{Value, json};
use smol::LocalExecutor;

use super::wire::{self, Answer, Framing, MAX_REQUEST, Progress};
use crate::command::{Command, Failure};
use crate::supervisor::{Handle, Subscription};

/// A request must be there within this; people type slower than that into `nc`, and may.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are served at once, without event streams.
const MAX_CONNECTIONS: usize = 128;
/// Event streams at once.
const MAX_STREAMS: usize = 64;
/// After the answer what a client still sends is discarded for so long and so much, so that it reads the answer
/// instead of a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;
/// How long a client may take to read its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After running out of descriptors accept() fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections the kernel may hold back for us.
const BACKLOG: i32 = 256;
/// So much is read at once.
const PIECE: usize = 8 << 10;

/// The listening socket, and who is connected to it.
pub struct Server {
    path: PathBuf,
    listener: RefCell<UnixListener>,
    /// Says that `listener` is another one now.
    mended: (async_channel::Sender<()>, async_channel::Receiver<()>),
    handle: Handle,
    connections: Rc<Connections>,
}

#[derive(Default)]
struct Connections {
    /// Those whose request is not complete. Ids count up: the first one is the oldest.
    unfinished: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
    /// Those that have their answer and have not closed yet.
    answered: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
    next: Cell<u64>,
    open: Cell<usize>,
    streams: Cell<usize>,
}

impl Server {
    /// Listens at `path` (0600), in place of what a dead daemon left there. Call it only while holding the root's lock.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path, handle: Handle) -> io::Result<Self> {
        Self::listen(path, bind(path)?, handle)
    }

    /// Goes on listening on a socket that was handed over by a restart.
    ///
    /// # Errors
    /// When the descriptor is no listening Unix socket.
    pub fn inherit(path: &Path, listener: OwnedFd, handle: Handle) -> io::Result<Self> {
        Self::listen(path, StdListener::from(listener), handle)
    }

    fn listen(path: &Path, listener: StdListener, handle: Handle) -> io::Result<Self> {
        let listener = RefCell::new(Async::new(listener)?.into());
        Ok(Self {
            path: path.to_owned(),
            listener,
            mended: async_channel::bounded(1),
            handle,
            connections: Rc::default(),
        })
    }

    /// A copy of the listening socket, to hand over.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn listener(&self) -> io::Result<OwnedFd> {
        self.listener.borrow().as_fd().try_clone_to_owned()
    }

    /// Accepts connections for ever, each served by a task on `executor`. Dropping the future closes none of them.
    pub async fn serve(&self, executor: &LocalExecutor<'_>) {
        loop {
            // A clone shares the socket; the borrow must not be held while waiting, see `mend`.
            let listener = self.listener.borrow().clone();
            let accept = std::pin::pin!(listener.accept());
            let Either::Left((accepted, _)) = select(accept, std::pin::pin!(self.mended.1.recv())).await else {
                continue;
            };
            match accepted {
                Ok((stream, _)) => {
                    self.admit(stream, executor);
                    // As long as more of them wait, accept() never pauses by itself: those admitted must have their
                    // turn, and those displaced must close, before descriptors run out.
                    smol::future::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream, executor: &LocalExecutor<'_>) {
        if let Err(problem) = check_peer(&stream) {
            tracing::warn!("a connection is refused: {problem}");
            return;
        }
        let connections = Rc::clone(&self.connections);
        if connections.open.get() >= MAX_CONNECTIONS {
            // Who has its answer makes room first, then whoever has been silent longest.
            let answered = connections.answered.borrow_mut().pop_first();
            let oldest = answered.or_else(|| connections.unfinished.borrow_mut().pop_first());
            if let Some((_, displace)) = oldest {
                let _ = displace.send(());
            }
        }
        let id = connections.next.get();
        connections.next.set(id + 1);
        let (displace, displaced) = oneshot::channel();
        connections.unfinished.borrow_mut().insert(id, displace);
        connections.open.set(connections.open.get() + 1);
        let connection = Connection { id, connections, handle: self.handle.clone() };
        executor.spawn(connection.serve(stream, displaced)).detach();
    }

    /// Makes the socket file again if somebody deleted it; connections that are open stay.
    pub fn mend(&self) {
        let there = std::fs::symlink_metadata(&self.path).is_ok_and(|data| data.mode() & 0o170_000 == 0o140_000);
        if there {
            return;
        }
        match bind(&self.path).and_then(Async::new) {
            Ok(listener) => {
                tracing::warn!("the socket {} was gone and is made again", self.path.display());
                *self.listener.borrow_mut() = listener.into();
                // A full channel says it already.
                let _ = self.mended.0.try_send(());
            }
            Err(error) => tracing::error!("the socket {} is gone: {error}", self.path.display()),
        }
    }

    /// Waits until every answer is written, at most `timeout`. Event streams are not waited for.
    pub async fn drain(&self, timeout: Duration) {
        let idle = async {
            while self.connections.open.get() > 0 {
                Timer::after(Duration::from_millis(1)).await;
            }
        };
        select(std::pin::pin!(idle), Timer::after(timeout)).await;
    }
}

fn bind(path: &Path) -> io::Result<StdListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // std listens with a backlog of 128; listen() may be called again with another.
    let listener = StdListener::bind(path)?;
    rustix::net::listen(&listener, BACKLOG)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Only the daemon's own user and root may speak to it.
fn check_peer(stream: &UnixStream) -> Result<(), String> {
    let peer = rustix::net::sockopt::socket_peercred(stream.as_fd()).map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid();
    if peer.uid == own || peer.uid.is_root() { Ok(()) } else { Err(format!("it comes from uid {}", peer.uid.as_raw())) }
}

struct Connection {
    id: u64,
    connections: Rc<Connections>,
    handle: Handle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.finished();
        self.connections.answered.borrow_mut().remove(&self.id);
        self.connections.open.set(self.connections.open.get() - 1);
    }
}

impl Connection {
    fn finished(&self) {
        self.connections.unfinished.borrow_mut().remove(&self.id);
    }

    async fn serve(self, mut stream: UnixStream, displaced: oneshot::Receiver<()>) {
        // A panic here is a fault of this request alone.
        let answer = AssertUnwindSafe(self.answer(&mut stream, displaced)).catch_unwind().await;
        let reply = answer.unwrap_or_else(|_| {
            tracing::error!("a request panicked");
            Reply::Line(Answer::failure(&Failure::Internal("the daemon failed to handle this request".into())))
        });
        match reply {
            Reply::Line(answer) => {
                let (displace, displaced) = oneshot::channel();
                self.connections.answered.borrow_mut().insert(self.id, displace);
                if write(&mut stream, &answer.to_line()).await {
                    linger(stream, displaced).await;
                }
            }
            Reply::Farewell(answer) => {
                if write(&mut stream, &answer.to_line()).await {
                    // What came already; nothing is waited for.
                    let _ = linger(stream, oneshot::channel().1).now_or_never();
                }
            }
            Reply::Stream(subscription) => {
                let streams = StreamCount::new(&self.connections);
                // A stream counts as a stream, no longer as a request.
                drop(self);
                follow(stream, *subscription).await;
                drop(streams);
            }
            Reply::None => {}
        }
    }

    async fn answer(&self, stream: &mut UnixStream, displaced: oneshot::Receiver<()>) -> Reply {
        let request = {
            let reading = std::pin::pin!(read_request(stream));
            let late = std::pin::pin!(async {
                match select(displaced, Timer::after(REQUEST_TIMEOUT)).await {
                    Either::Left(_) => Refusal::Displaced,
                    Either::Right(_) => Refusal::Because(format!(
                        "too late: a request must arrive within {} s",
                        REQUEST_TIMEOUT.as_secs()
                    )),
                }
            });
            match select(reading, late).await {
                Either::Left((request, _)) => request,
                Either::Right((refusal, _)) => Err(refusal),
            }
        };
        self.finished();
        let command = match request {
            Ok(bytes) => wire::parse_request(&bytes),
            Err(Refusal::Because(problem)) => Err(Failure::BadRequest(problem)),
            Err(Refusal::Displaced) => {
                let message = "too many connections, and this one was silent longest".to_owned();
                return Reply::Farewell(Answer::failure(&Failure::BadRequest(message)));
            }
            Err(Refusal::Nobody) => return Reply::None,
        };
        match command {
            Ok(Command::EventSubscribe { instance_id, seq }) => {
                if self.connections.streams.get() >= MAX_STREAMS {
                    let message = format!("{MAX_STREAMS} event streams are open already");
                    return Reply::Line(Answer::failure(&Failure::conflict(message)));
                }
                match self.handle.subscribe(instance_id.zip(seq)).await {
                    Ok(subscription) => Reply::Stream(Box::new(subscription)),
                    Err(failure) => Reply::Line(Answer::failure(&failure)),
                }
            }
            Ok(command) => Reply::Line(Answer::new(self.handle.call(command).await)),
            Err(failure) => Reply::Line(Answer::failure(&failure)),
        }
    }
}

enum Reply {
    Line(Answer),
    /// An answer to a client that must make room at once.
    Farewell(Answer),
    Stream(Box<Subscription>),
    /// The client came and went without a word.
    None,
}

/// Why there is no request.
enum Refusal {
    /// It is wrong.
    Because(String),
    /// Others need the place.
    Displaced,
    /// The client is gone, or came and went without a word.
    Nobody,
}

struct StreamCount(Rc<Connections>);

impl StreamCount {
    fn new(connections: &Rc<Connections>) -> Self {
        connections.streams.set(connections.streams.get() + 1);
        Self(Rc::clone(connections))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// Reads until the request's object closes.
async fn read_request(stream: &mut UnixStream) -> Result<Vec<u8>, Refusal> {
    let because = |problem: &str| Refusal::Because(problem.to_owned());
    let (mut request, mut framing, mut piece) = (Vec::new(), Framing::default(), [0; PIECE]);
    loop {
        let length = stream.read(&mut piece).await.map_err(|_| Refusal::Nobody)?;
        if length == 0 {
            let cut = || because("the request ended before its JSON object closed");
            return Err(if framing.started() { cut() } else { Refusal::Nobody });
        }
        let piece = &piece[..length];
        match framing.feed(piece) {
            Progress::NotAnObject => return Err(because("the request is not a JSON object")),
            Progress::Done(end) if request.len() + end <= MAX_REQUEST => {
                request.extend_from_slice(&piece[..end]);
                return Ok(request);
            }
            Progress::More if request.len() + length <= MAX_REQUEST => request.extend_from_slice(piece),
            Progress::Done(_) | Progress::More => {
                return Err(Refusal::Because(format!("the request is larger than {} KiB", MAX_REQUEST >> 10)));
            }
        }
    }
}

/// Writes the answer, and says whether the client took it: one that is gone or does not read has had its chance.
async fn write(stream: &mut UnixStream, line: &[u8]) -> bool {
    let writing = async {
        stream.write_all(line).await?;
        stream.flush().await
    };
    let writing = std::pin::pin!(writing);
    matches!(select(writing, Timer::after(WRITE_TIMEOUT)).await, Either::Left((Ok(()), _)))
}

/// Lets go of a client that has its answer: closed while it still sends, it would read a reset instead. A message on
/// `displaced` (not its drop) ends that at once.
async fn linger(mut stream: UnixStream, displaced: oneshot::Receiver<()>) {
    if stream.shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    let discard = async {
        let (mut left, mut piece) = (LINGER_BYTES, [0; PIECE]);
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
    };
    let until = async {
        match select(displaced, Timer::after(LINGER)).await {
            Either::Left((Ok(()), _)) | Either::Right(_) => {}
            Either::Left((Err(_), late)) => drop(late.await),
        }
    };
    select(std::pin::pin!(discard), std::pin::pin!(until)).await;
}

/// Writes events until the client goes away. A client that does not read is skipped over by the history, not waited for.
async fn follow(stream: UnixStream, mut subscription: Subscription) {
    let first = Answer::success(json!({ "instance_id": subscription.instance_id() }));
    let mut writer = stream.clone();
    let writing = async {
        writer.write_all(&first.to_line()).await?;
        while let Some(event) = subscription.next().await {
            let mut line = serde_json::to_vec(&event).unwrap_or_else(|_| Value::Null.to_string().into_bytes());
            line.push(b'\n');
            writer.write_all(&line).await?;
        }
        Ok::<_, io::Error>(())
    };
    let mut reader = stream;
    // The client has nothing more to say; the end of its side is how an idle stream learns that it is gone.
    let gone = async {
        let mut piece = [0; 256];
        let mut left = LINGER_BYTES;
        loop {
            match reader.read(&mut piece).await {
                // A half-close is welcome: the client may go on reading. Only a full close makes writing fail.
                Ok(0) => return hung_up(&reader).await,
                Ok(length) => left = left.saturating_sub(length),
                Err(_) => return,
            }
            if left == 0 {
                return;
            }
        }
    };
    select(std::pin::pin!(writing), std::pin::pin!(gone)).await;
}

/// Waits until the client has closed both directions.
async fn hung_up(stream: &UnixStream) {
    const LOOK: Duration = Duration::from_secs(5);
    loop {
        let mut fds = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::empty())];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if matches!(rustix::event::poll(&mut fds, Some(&none)), Ok(1..)) {
            return;
        }
        Timer::after(LOOK).await;
    }
}
