//! The far end: a web server over HTTP and HTTPS with known, slow, endless and withheld answers; and a UDP echo.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_rustls::TlsAcceptor;
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::ports::{self, Port};
use super::thread::{self, Running, Spawner};
use super::tls::Authority;
use super::wait_until;

/// What `/page` answers.
pub const PAGE: &str = "this page came through the proxy\n";

/// The piece of data that `/drip` sends at a time, in bytes.
pub const DRIP_BYTES: usize = 1024;

/// The pause between two of them.
pub const DRIP_PAUSE: Duration = Duration::from_millis(20);

/// A web server on loopback.
///
/// | path | answer |
/// |---|---|
/// | `/generate_204` | 204 |
/// | `/page` | [`PAGE`] |
/// | `/bytes/N` | [`bytes`]`(N)` |
/// | `/slow/MS` | 204 after so many milliseconds |
/// | `/drip`, `/drip/N` | [`DRIP_BYTES`] every [`DRIP_PAUSE`], for ever or N times |
/// | `/withhold` | 204, but not before [`Origin::release`] |
/// | whatever [`Origin::answer`] was told | that |
/// | anything else | 404 |
pub struct Origin {
    http: Port,
    https: Port,
    shared: Arc<Shared>,
    _running: Running,
}

struct Shared {
    hits: Mutex<HashMap<String, usize>>,
    canned: Mutex<HashMap<String, Canned>>,
    gate: Mutex<Gate>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

/// Closed when `/withhold` may answer.
struct Gate {
    opens: Sender<()>,
    opened: Receiver<()>,
}

impl Gate {
    fn shut() -> Self {
        let (opens, opened) = bounded(1);
        Self { opens, opened }
    }
}

/// An answer of the test's own making.
#[derive(Debug, Clone)]
pub struct Canned {
    /// The status code.
    pub status: u16,
    /// Headers besides Content-Length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Canned {
    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into() }
    }
}

impl Origin {
    /// Starts it; HTTPS with the certificate of `authority`.
    pub fn start(authority: &Authority) -> Self {
        let (http, https) = (ports::take(), ports::take());
        let plain = TcpListener::bind(http.addr()).unwrap();
        let secret = TcpListener::bind(https.addr()).unwrap();
        let acceptor = TlsAcceptor::from(authority.server_config());
        let shared = Arc::new(Shared {
            hits: Mutex::default(),
            canned: Mutex::default(),
            gate: Mutex::new(Gate::shut()),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let state = Arc::clone(&shared);
        let running = thread::run("origin", async move |spawner| {
            spawner.spawn(accept(Rc::clone(&spawner), plain, None, Arc::clone(&state))).detach();
            spawner.spawn(accept(Rc::clone(&spawner), secret, Some(acceptor), state)).detach();
        });
        Self { http, https, shared, _running: running }
    }

    /// The HTTP address.
    pub fn http(&self) -> SocketAddr {
        self.http.addr()
    }

    /// The HTTPS address.
    pub fn https(&self) -> SocketAddr {
        self.https.addr()
    }

    /// An `http://` URL of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http())
    }

    /// An `https://` URL of a path that begins with `/`; the name in it is in the certificate.
    pub fn https_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.https.number())
    }

    /// Answers requests for `path` with `canned` from now on.
    pub fn answer(&self, path: &str, canned: Canned) {
        self.shared.canned.lock().unwrap().insert(path.to_owned(), canned);
    }

    /// Lets `/withhold` answer, those that wait and those to come.
    pub fn release(&self) {
        self.shared.gate.lock().unwrap().opens.close();
    }

    /// Lets `/withhold` withhold its answers again.
    pub fn withhold(&self) {
        *self.shared.gate.lock().unwrap() = Gate::shut();
    }

    /// Requests for this path so far, query excluded, answered or not.
    pub fn hits(&self, path: &str) -> usize {
        let hits = self.shared.hits.lock().unwrap();
        hits.get(path).copied().unwrap_or(0)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.shared.hits.lock().unwrap().values().sum()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Waits until `path` was requested `count` times in all.
    pub fn wait_for_hits(&self, path: &str, count: usize) {
        wait_until(&format!("{count} requests for {path}"), || self.hits(path) >= count);
    }
}

/// The body of `/bytes/N`: no two neighbouring kilobytes of it are equal, so that lost ones show.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(31) ^ (at >> 10)) as u8).collect()
}

async fn accept(spawner: Spawner, listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = smol::net::TcpListener::try_from(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: soon there may be some.
            let _ = Timer::after(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        let conversation = async move {
            let _open = Open::new(&shared);
            // A client may leave at any moment; its error is its own.
            let _ = match tls {
                None => converse(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => converse(stream, &shared).await,
                    Err(error) => Err(error),
                },
            };
        };
        spawner.spawn(conversation).detach();
    }
}

/// Answers requests until the client closes, or asks to.
async fn converse<S>(mut stream: S, shared: &Shared) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut received = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut received).await? {
        let path = request.path.split('?').next().unwrap_or_default();
        *shared.hits.lock().unwrap().entry(path.to_owned()).or_insert(0) += 1;
        let canned = shared.canned.lock().unwrap().get(path).cloned();
        let answer = match canned {
            Some(canned) => canned,
            None => match own_answer(&mut stream, path, shared).await? {
                Some(answer) => answer,
                None => break,
            },
        };
        let body_follows = request.method != "HEAD";
        stream.write_all(&serialize(&answer, request.close, body_follows)).await?;
        stream.flush().await?;
        if request.close {
            break;
        }
    }
    stream.close().await
}

/// The answer to one of the paths this server knows; `None` after one that went on to the connection's end.
async fn own_answer<S>(stream: &mut S, path: &str, shared: &Shared) -> std::io::Result<Option<Canned>>
where
    S: AsyncWrite + Unpin,
{
    let mut parts = path.trim_start_matches('/').split('/');
    let name = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|text| text.parse::<usize>().ok());
    let empty = |status| Canned { status, headers: Vec::new(), body: Vec::new() };
    let answer = match (name, number) {
        ("generate_204", None) => empty(204),
        ("page", None) => Canned::ok(PAGE),
        ("bytes", Some(count)) => Canned::ok(bytes(count)),
        ("slow", Some(ms)) => {
            let _ = Timer::after(Duration::from_millis(ms as u64)).await;
            empty(204)
        }
        ("withhold", None) => {
            let opened = shared.gate.lock().unwrap().opened.clone();
            let _ = opened.recv().await;
            empty(204)
        }
        ("drip", count) => {
            drip(stream, count).await?;
            return Ok(None);
        }
        _ => empty(404),
    };
    Ok(Some(answer))
}

async fn drip<S: AsyncWrite + Unpin>(stream: &mut S, count: Option<usize>) -> std::io::Result<()> {
    let length = count.map_or(String::new(), |count| format!("Content-Length: {}\r\n", count * DRIP_BYTES));
    let head = format!("HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..count.unwrap_or(usize::MAX) {
        stream.write_all(&[b'.'; DRIP_BYTES]).await?;
        stream.flush().await?;
        let _ = Timer::after(DRIP_PAUSE).await;
    }
    Ok(())
}

fn serialize(answer: &Canned, close: bool, body_follows: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    if close {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if body_follows {
        bytes.extend_from_slice(&answer.body);
    }
    bytes
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 | 302 => "Found",
        404 => "Not Found",
        _ => "Other",
    }
}

struct Request {
    method: String,
    path: String,
    close: bool,
}

/// Reads a request with its body; `None` when the client is done.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
) -> std::io::Result<Option<Request>> {
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            count => received.extend_from_slice(&chunk[..count]),
        }
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_ascii_lowercase()))
        .collect();
    let length = headers.get("content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    while received.len() < end + length {
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            count => received.extend_from_slice(&chunk[..count]),
        }
    }
    received.drain(..end + length);
    // An HTTP proxy may pass the absolute form on.
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned()),
        None => target,
    };
    let close = headers.get("connection").is_some_and(|value| value.contains("close"));
    Ok(Some(Request { method, path, close }))
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends every datagram back to where it came from.
pub struct UdpEcho {
    port: Port,
    _running: Running,
}

impl UdpEcho {
    /// Starts it.
    pub fn start() -> Self {
        let port = ports::take();
        let socket = UdpSocket::bind(port.addr()).unwrap();
        let running = thread::run("udp-echo", async move |_| {
            let socket = smol::net::UdpSocket::try_from(socket).unwrap();
            let mut buffer = vec![0; 65_536];
            loop {
                if let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                    let _ = socket.send_to(&buffer[..count], from).await;
                }
            }
        });
        Self { port, _running: running }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}
