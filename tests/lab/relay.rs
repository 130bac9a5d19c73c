//! The line between client and server: a TCP relay that becomes slow, dead, resetting or deaf on command.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use smol::Timer;
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::future::FutureExt as _;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::net::TcpStream;

use super::ports::{self, Port};
use super::thread::{self, Running, Spawner};

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything goes through.
    Pass,
    /// Every piece of data waits this long, in each direction.
    Delay(Duration),
    /// The port is closed: new connections are refused, open ones are reset.
    Refuse,
    /// New connections are accepted and reset at once, open ones are reset.
    Reset,
    /// Connections are accepted and whatever they carry is lost, in both directions; nothing is ever closed.
    /// Open ones go on after a change of mode, but what was swallowed stays lost.
    Swallow,
}

/// A relay on loopback. It ends, and all its connections with it, on drop.
pub struct Relay {
    port: Port,
    orders: Sender<(Mode, Sender<()>)>,
    counters: Arc<Counters>,
    _running: Running,
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicUsize,
    upstream_bytes: AtomicU64,
    downstream_bytes: AtomicU64,
}

impl Relay {
    /// Starts a relay to `target` in [`Mode::Pass`].
    pub fn start(target: SocketAddr) -> Self {
        let port = ports::take();
        let (orders, inbox) = unbounded();
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let address = port.addr();
        let listener = listen(address);
        let running = thread::run("relay", move |spawner| {
            let line = Rc::new(Line { target, counters: shared, mode: RefCell::new(Epoch::new(Mode::Pass)) });
            serve(spawner, line, address, listener, inbox)
        });
        Self { port, orders, counters, _running: running }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Changes the mode. It holds for new and open connections when this returns.
    pub fn set(&self, mode: Mode) {
        let (done, is_done) = bounded(1);
        self.orders.send_blocking((mode, done)).expect("the relay runs");
        is_done.recv_blocking().expect("the relay runs");
    }

    /// Connections accepted so far, in whatever mode.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.counters.open.load(Ordering::SeqCst)
    }

    /// Bytes that came from clients, swallowed ones included.
    pub fn upstream_bytes(&self) -> u64 {
        self.counters.upstream_bytes.load(Ordering::SeqCst)
    }

    /// Bytes that came from the target, swallowed ones included.
    pub fn downstream_bytes(&self) -> u64 {
        self.counters.downstream_bytes.load(Ordering::SeqCst)
    }
}

/// What the tasks of one relay share.
struct Line {
    target: SocketAddr,
    counters: Arc<Counters>,
    mode: RefCell<Epoch>,
}

/// A mode, and a channel that is closed when the next one begins.
struct Epoch {
    mode: Mode,
    ends: Sender<()>,
    ended: Receiver<()>,
}

impl Epoch {
    fn new(mode: Mode) -> Self {
        let (ends, ended) = bounded(1);
        Self { mode, ends, ended }
    }
}

impl Line {
    fn mode(&self) -> Mode {
        self.mode.borrow().mode
    }

    fn set(&self, mode: Mode) {
        self.mode.replace(Epoch::new(mode)).ends.close();
    }

    /// Waits while even the end of a connection is swallowed.
    async fn while_swallowing(&self) {
        while self.mode() == Mode::Swallow {
            self.next_mode().await;
        }
    }

    async fn next_mode(&self) {
        let ended = self.mode.borrow().ended.clone();
        let _ = ended.recv().await;
    }

    /// Waits until connections are to be cut.
    async fn until_cut(&self) {
        while !matches!(self.mode(), Mode::Refuse | Mode::Reset) {
            self.next_mode().await;
        }
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"))
}

/// Accepts connections and takes orders; the listener is closed while the mode is [`Mode::Refuse`].
async fn serve(
    spawner: Spawner,
    line: Rc<Line>,
    address: SocketAddr,
    listener: TcpListener,
    inbox: Receiver<(Mode, Sender<()>)>,
) {
    enum Input {
        Client(std::io::Result<(TcpStream, SocketAddr)>),
        Order(Mode, Sender<()>),
    }
    let mut listener = Some(smol::net::TcpListener::try_from(listener).unwrap());
    loop {
        let client = async {
            match &listener {
                Some(listener) => Input::Client(listener.accept().await),
                None => std::future::pending().await,
            }
        };
        let order = async {
            match inbox.recv().await {
                Ok((mode, done)) => Input::Order(mode, done),
                Err(_) => std::future::pending().await,
            }
        };
        match order.or(client).await {
            Input::Client(Ok((client, _))) => {
                line.counters.accepted.fetch_add(1, Ordering::SeqCst);
                let line = Rc::clone(&line);
                spawner.spawn(connection(line, client)).detach();
            }
            // Out of descriptors: the next round may have some.
            Input::Client(Err(_)) => drop(Timer::after(Duration::from_millis(10)).await),
            Input::Order(mode, done) => {
                if mode == Mode::Refuse {
                    listener = None;
                } else if listener.is_none() {
                    listener = Some(smol::net::TcpListener::try_from(listen(address)).unwrap());
                }
                line.set(mode);
                let _ = done.send(()).await;
            }
        }
    }
}

/// Carries one connection to its end.
async fn connection(line: Rc<Line>, client: TcpStream) {
    let _open = Open::new(&line.counters);
    let cut = async {
        line.until_cut().await;
        true
    };
    let work = async {
        carry(&line, &client).await;
        false
    };
    if cut.or(work).await {
        reset(&client);
    }
}

async fn carry(line: &Line, client: &TcpStream) {
    if line.mode() == Mode::Swallow {
        // Never connected to the target, so there is nothing it could turn into later.
        return pump(line, client.clone(), None, &line.counters.upstream_bytes).await;
    }
    if let Mode::Delay(time) = line.mode() {
        Timer::after(time).await;
    }
    let Ok(server) = TcpStream::connect(line.target).await else {
        return reset(client);
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (up, down) = (&line.counters.upstream_bytes, &line.counters.downstream_bytes);
    smol::future::zip(
        pump(line, client.clone(), Some(server.clone()), up),
        pump(line, server.clone(), Some(client.clone()), down),
    )
    .await;
}

/// Moves one direction as the mode says, until its end; an error on one side is a reset of the other.
async fn pump(line: &Line, mut from: TcpStream, mut to: Option<TcpStream>, bytes: &AtomicU64) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        let Some(to) = &mut to else {
            match read {
                Ok(count) if count > 0 => {
                    bytes.fetch_add(count as u64, Ordering::SeqCst);
                    continue;
                }
                _ => return,
            }
        };
        if !matches!(read, Ok(1..)) {
            line.while_swallowing().await;
        }
        match read {
            Ok(0) => {
                let _ = to.shutdown(std::net::Shutdown::Write);
                return;
            }
            Ok(count) => {
                bytes.fetch_add(count as u64, Ordering::SeqCst);
                match line.mode() {
                    Mode::Swallow => continue,
                    Mode::Delay(time) => drop(Timer::after(time).await),
                    Mode::Pass | Mode::Refuse | Mode::Reset => {}
                }
                if to.write_all(&buffer[..count]).await.is_err() {
                    return reset(&from);
                }
            }
            Err(_) => return reset(to),
        }
    }
}

/// Makes the close of this socket a reset, and closes both directions.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    let _ = stream.shutdown(std::net::Shutdown::Read);
}

/// Counts a connection as open while it lives.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
