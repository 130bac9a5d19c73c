//! The gate by itself: what is held, refused and relayed. That engines stand beside it: `tests/gate.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::num::NonZeroU16;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::engine::api::InboundKind;

const PATIENCE: Duration = Duration::from_secs(10);

/// A gate that is served on a thread of its own, and a directory for private sockets.
struct Served {
    address: SocketAddr,
    orders: Sender<Order>,
    dir: PathBuf,
    thread: Option<thread::JoinHandle<()>>,
}

type Order = Box<dyn FnOnce(&Gate) + Send>;

impl Served {
    fn start(kind: InboundKind, auth: Option<Credentials>, behind: Behind) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("xrat-gate-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (orders, inbox) = async_channel::unbounded::<Order>();
        let (told, address) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let gate = bind(kind, auth, behind);
            told.send(gate.listener.get_ref().local_addr().unwrap()).unwrap();
            smol::block_on(async {
                let orders = async {
                    while let Ok(order) = inbox.recv().await {
                        order(&gate);
                    }
                };
                pin_mut!(orders);
                let serve = gate.serve();
                pin_mut!(serve);
                futures::future::select(orders, serve).await;
            });
        });
        Self { address: address.recv().unwrap(), orders, dir, thread: Some(thread) }
    }

    /// Does something to the gate and waits for the result.
    fn tell<T: Send + 'static>(&self, order: impl FnOnce(&Gate) -> T + Send + 'static) -> T {
        let (told, result) = std::sync::mpsc::channel();
        self.orders.send_blocking(Box::new(move |gate| told.send(order(gate)).unwrap())).unwrap();
        result.recv_timeout(PATIENCE).unwrap()
    }

    fn wait_for(&self, what: &str, condition: impl Fn(Counts) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self.tell(Gate::counts)) {
            assert!(Instant::now() < end, "{what}: {:?}", self.tell(Gate::counts));
            thread::yield_now();
        }
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A private socket to be the engine behind.
    fn private(&self, name: &str) -> (PathBuf, UnixListener) {
        let path = self.dir.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        (path, listener)
    }

    /// A client and the engine's end of its connection, the request's head read.
    fn relayed(&self) -> (TcpStream, UnixStream) {
        let (path, listener) = self.private("engine");
        self.tell(move |gate| gate.set_behind(Behind::Engine(path)));
        let mut client = self.dial();
        client.write_all(HEAD).unwrap();
        let mut engine = accept(&listener);
        assert_eq!(read(&mut engine, HEAD.len()), HEAD);
        (client, engine)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.orders.close();
        let ended = self.thread.take().unwrap().join();
        let _ = std::fs::remove_dir_all(&self.dir);
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

const HEAD: &[u8] = b"CONNECT far:1 HTTP/1.1\r\nHost: far:1\r\n\r\n";
const SOCKS: InboundKind = InboundKind::Socks { udp: false };

fn bind(kind: InboundKind, auth: Option<Credentials>, behind: Behind) -> Gate {
    let end = Instant::now() + PATIENCE;
    loop {
        // Ask the kernel for a port, then take that one: an inbound has a port of its own.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (tag, host, port) = ("public".into(), IpAddr::V4(Ipv4Addr::LOCALHOST), NonZeroU16::new(free).unwrap());
        match Gate::bind(PublicInbound { tag, kind, host, port, auth: auth.clone() }, behind.clone()) {
            Ok(gate) => return gate,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

/// The next connection to a private socket, with a bound on every wait.
fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && Instant::now() < end, "{error}"),
        }
        thread::yield_now();
    }
}

fn read(stream: &mut impl std::io::Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn rest(stream: &mut impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let gate = Served::start(InboundKind::Http, None, Behind::Hold);
    let (mut client, mut engine) = gate.relayed();
    client.write_all(b"all I say").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut engine), b"all I say");
    let long: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    let copy = long.clone();
    let writer = thread::spawn(move || engine.write_all(&copy).unwrap());
    assert_eq!(rest(&mut client), long);
    writer.join().unwrap();

    std::fs::remove_file(gate.dir.join("engine")).unwrap();
    let (mut client, mut engine) = gate.relayed();
    engine.write_all(b"first").unwrap();
    engine.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), b"first");
    client.write_all(b"and after").unwrap();
    assert_eq!(read(&mut engine, 9), b"and after");
    drop(client);
    assert_eq!(rest(&mut engine), b"");
    gate.wait_for("all is over", |counts| counts.open == 0 && counts.relaying == 0);
}

#[test]
fn an_engine_that_closes_ends_the_relay_of_an_idle_client() {
    let gate = Served::start(InboundKind::Http, None, Behind::Hold);
    let (mut client, engine) = gate.relayed();
    drop(engine);
    assert_eq!(rest(&mut client), b"");
    gate.wait_for("the gate has let go", |counts| counts.open == 0);
}

#[test]
fn a_connection_that_breaks_is_reset_on_the_other_side() {
    let gate = Served::start(InboundKind::Http, None, Behind::Hold);
    let (mut client, engine) = gate.relayed();
    client.write_all(b"never read").unwrap();
    // Closed with unread data: that is a reset.
    while rustix::io::ioctl_fionread(&engine).unwrap() < 10 {
        thread::yield_now();
    }
    drop(engine);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    std::fs::remove_file(gate.dir.join("engine")).unwrap();
    let (client, mut engine) = gate.relayed();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(rest(&mut engine), b"", "the engine learns that its client is gone");
    gate.wait_for("all is over", |counts| counts.open == 0);
}

#[test]
fn an_idle_relay_does_nothing() {
    let gate = bind(InboundKind::Http, None, Behind::Hold);
    let dir = std::env::temp_dir().join(format!("xrat-gate-idle-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("engine");
    let listener = UnixListener::bind(&path).unwrap();
    gate.set_behind(Behind::Engine(path));
    let mut client = TcpStream::connect(gate.address()).unwrap();
    client.write_all(HEAD).unwrap();
    let polls = Cell::new(0);
    smol::block_on(async {
        let serve = gate.serve();
        pin_mut!(serve);
        let counting = poll_fn(|context| {
            polls.set(polls.get() + 1);
            serve.as_mut().poll(context)
        });
        pin_mut!(counting);
        let engine = smol::unblock(move || accept(&listener));
        let (_engine, counting) = match futures::future::select(engine, counting).await {
            futures::future::Either::Left(both) => both,
            futures::future::Either::Right(_) => unreachable!("it serves for ever"),
        };
        // The relay has begun; nothing is to happen now, so there is nothing but time to wait for.
        let look = async |duration| Timer::after(duration).await;
        let first = std::pin::pin!(look(Duration::from_millis(50)));
        let futures::future::Either::Left((_, counting)) = futures::future::select(first, counting).await else {
            unreachable!("it serves for ever")
        };
        let before = polls.get();
        futures::future::select(std::pin::pin!(look(Duration::from_millis(500))), counting).await;
        // The timer of the test may wake it once.
        assert!(polls.get() <= before + 1, "{} wake-ups", polls.get() - before);
    });
    assert_eq!(gate.counts().relaying, 0, "dropping the future closed it");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn held_connections_wake_when_there_is_an_engine() {
    let gate = Served::start(InboundKind::Http, None, Behind::Hold);
    let mut clients: Vec<_> = (0..20).map(|_| gate.dial()).collect();
    for client in &mut clients {
        client.write_all(HEAD).unwrap();
    }
    gate.wait_for("all are held", |counts| counts.held == 20);
    let (path, listener) = gate.private("engine");
    let socket = path.clone();
    gate.tell(move |gate| gate.set_behind(Behind::Engine(path)));
    let engines: Vec<_> = clients.iter().map(|_| accept(&listener)).collect();
    for mut engine in engines {
        assert_eq!(read(&mut engine, HEAD.len()), HEAD);
        engine.write_all(b"served").unwrap();
    }
    for client in &mut clients {
        assert_eq!(rest(client), b"served");
    }
    drop(clients);
    gate.wait_for("nothing is left", |counts| counts == Counts { accepted: 20, relayed: 20, ..Counts::default() });
    assert_eq!(gate.tell(move |gate| gate.relays_to(&socket)), 0);
}

#[test]
fn an_engine_that_is_gone_is_waited_for_as_well() {
    let gate = Served::start(SOCKS, None, Behind::Hold);
    // Nobody listens there: the engine has just died, and the daemon does not know it yet.
    let gone = gate.dir.join("gone");
    gate.tell(move |gate| gate.set_behind(Behind::Engine(gone)));
    let mut client = gate.dial();
    client.write_all(b"\x05\x01\x00\x05\x01\x00\x03\x03far\x00\x50").unwrap();
    assert_eq!(read(&mut client, 2), [5, 0]);
    let (path, listener) = gate.private("next");
    gate.tell(move |gate| gate.set_behind(Behind::Engine(path)));
    let mut engine = accept(&listener);
    let asked = b"CONNECT far:80 HTTP/1.1\r\nHost: far:80\r\n\r\n";
    assert_eq!(read(&mut engine, asked.len()), asked);
    engine.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap();
    assert_eq!(read(&mut client, 15), b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello");
}

#[test]
fn clients_that_leave_are_not_held() {
    for kind in [InboundKind::Http, SOCKS] {
        let gate = Served::start(kind, None, Behind::Hold);
        let silent = gate.dial();
        let mut asking = gate.dial();
        let request: &[u8] =
            if kind == InboundKind::Http { HEAD } else { b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50" };
        asking.write_all(request).unwrap();
        gate.wait_for("one is held", |counts| counts.held == 1 && counts.open == 2);
        let started = Instant::now();
        drop((silent, asking));
        gate.wait_for("both are gone", |counts| counts.held == 0 && counts.open == 0);
        assert!(started.elapsed() < HOLD / 2);
    }
}

#[test]
fn what_is_refused_is_told_why() {
    let gate = Served::start(InboundKind::Http, None, Behind::Hold);
    let mut client = gate.dial();
    client.write_all(HEAD).unwrap();
    gate.wait_for("it is held", |counts| counts.held == 1);
    gate.tell(|gate| gate.set_behind(Behind::Refuse("no node\r\nanswers".into())));
    // More that nobody reads must not turn the answer into a reset.
    client.write_all(&[b'x'; 10_000]).unwrap();
    let answer = String::from_utf8(rest(&mut client)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nno node  answers\n"), "{answer}");

    let gate = Served::start(SOCKS, None, Behind::Refuse(String::new()));
    let mut client = gate.dial();
    client.write_all(b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50 and already more").unwrap();
    assert_eq!(rest(&mut client), b"\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00");
    drop(client);
    gate.wait_for("it is over", |counts| counts.open == 0 && counts.refused == 1);
}

#[test]
fn a_connection_is_held_no_longer_than_said() {
    let gate = Served::start(SOCKS, None, Behind::Hold);
    let mut client = gate.dial();
    let started = Instant::now();
    client.write_all(b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50").unwrap();
    assert_eq!(rest(&mut client)[..4], [5, 0, 5, 1]);
    assert!(started.elapsed() >= HOLD);
}

#[test]
fn the_password_is_asked_for() {
    let auth = ("user".to_owned(), Secret::new("pass"));
    let gate = Served::start(InboundKind::Http, Some(auth), Behind::Hold);
    let mut client = gate.dial();
    client.write_all(HEAD).unwrap();
    let answer = String::from_utf8(rest(&mut client)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 407 ") && answer.contains("\r\nProxy-Authenticate: Basic "), "{answer}");
    let mut client = gate.dial();
    client.write_all(b"GET http://far/ HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n").unwrap();
    gate.wait_for("it is let in", |counts| counts.held == 1);

    let mut long = gate.dial();
    // The gate may stop reading before all of it is written.
    let _ = long.write_all(&vec![b'x'; 70 * 1024]);
    let mut status = [0; 12];
    long.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 431");
}

#[test]
fn a_gate_is_handed_over_with_what_waits_for_it() {
    let gate = bind(SOCKS, None, Behind::Hold);
    gate.joined(SessionId(1));
    assert!(gate.hand_over().unwrap().is_none(), "an engine serves meanwhile");
    gate.left(SessionId(1)).unwrap();
    let (inbound, handover) = (gate.inbound().clone(), gate.hand_over().unwrap().unwrap());
    let elsewhere = bind(SOCKS, None, Behind::Hold);
    let _waiting = TcpStream::connect(gate.address()).unwrap();
    drop(gate);
    let other = elsewhere.hand_over().unwrap().unwrap();
    assert!(Gate::inherit(other, inbound.clone(), Behind::Hold).is_err(), "on another address");
    let gate = Gate::inherit(handover, inbound, Behind::Hold).unwrap();
    smol::block_on(async {
        let serve = gate.serve();
        pin_mut!(serve);
        let accepted = async {
            while gate.counts().accepted == 0 {
                smol::future::yield_now().await;
            }
        };
        pin_mut!(accepted);
        futures::future::select(accepted, serve).await;
    });
    assert_eq!(gate.counts().accepted, 1);
}

#[test]
fn a_queue_is_waited_for_until_it_is_empty() {
    let listener = group::open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    let addresses = [address];
    let started = Instant::now();
    smol::block_on(async {
        let settled = std::pin::pin!(settle(std::process::id(), &addresses));
        let longer = Timer::after(SETTLE * 10);
        let futures::future::Either::Right((_, settled)) = futures::future::select(settled, longer).await else {
            panic!("a connection still waits")
        };
        let _accepted = listener.accept().unwrap();
        settled.await;
    });
    assert!(started.elapsed() < SETTLE_AT_MOST, "it was seen to be empty");
}
