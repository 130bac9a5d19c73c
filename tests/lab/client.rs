//! What programs behind the proxy do: HTTP over SOCKS5 or an HTTP proxy, held connections, and UDP.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::PATIENCE;
use super::tls::Authority;

/// A proxy to go through, by its public address.
#[derive(Debug, Clone)]
pub enum Proxy {
    /// SOCKS5, with user name and password if it wants them.
    Socks(SocketAddr, Option<(String, String)>),
    /// HTTP: `http://` URLs in absolute form, `https://` ones by CONNECT.
    Http(SocketAddr, Option<(String, String)>),
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// GETs an `http://` URL through a SOCKS5 proxy, on a connection of its own.
///
/// # Errors
/// Whatever happened to the connection; [`ErrorKind::TimedOut`] or `WouldBlock` after [`PATIENCE`] without a byte.
pub fn http_get_via_socks(proxy: SocketAddr, url: &str) -> Result<Response> {
    get(&Proxy::Socks(proxy, None), url, None)
}

/// GETs an `http://` URL through an HTTP proxy, on a connection of its own.
///
/// # Errors
/// As [`http_get_via_socks`].
pub fn http_get_via_http(proxy: SocketAddr, url: &str) -> Result<Response> {
    get(&Proxy::Http(proxy, None), url, None)
}

/// GETs a URL through a proxy; `https://` needs the authority to trust.
///
/// # Errors
/// As [`http_get_via_socks`].
pub fn get(proxy: &Proxy, url: &str, trust: Option<&Authority>) -> Result<Response> {
    // Not "Connection: close": a V2Ray 4.34 client drops what it has not yet passed on when an Xray server closes a
    // websocket (about one short answer in five).
    Kept::open(proxy, url, trust)?.get(&path_of(url))
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection through a proxy that stays open for one request after the other.
pub struct Kept {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    received: Vec<u8>,
    authority: String,
    /// What comes before the path in a request: a scheme and host when an HTTP proxy wants the absolute form.
    prefix: String,
    proxy_authorization: String,
}

impl Kept {
    /// Connects through `proxy` to the server of `url`; nothing is requested yet.
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn open(proxy: &Proxy, url: &str, trust: Option<&Authority>) -> Result<Self> {
        let (secure, authority) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(Error::new(ErrorKind::InvalidInput, format!("not a URL: {url}"))),
        };
        let authority = authority.split('/').next().unwrap_or_default().to_owned();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(Error::other)?),
            None => (authority.as_str(), if secure { 443 } else { 80 }),
        };
        let mut prefix = String::new();
        let mut proxy_authorization = String::new();
        let socket = match proxy {
            Proxy::Socks(addr, user) => socks_connect(*addr, user.as_ref(), host, port)?,
            Proxy::Http(addr, user) => {
                if let Some((name, password)) = user {
                    use base64::Engine as _;
                    let token = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
                    proxy_authorization = format!("Proxy-Authorization: Basic {token}\r\n");
                }
                if secure {
                    http_connect(*addr, &proxy_authorization, host, port)?
                } else {
                    prefix = format!("http://{authority}");
                    dial(*addr)?
                }
            }
        };
        let stream: Box<dyn Stream> = if secure {
            let trust = trust.expect("an https URL needs an authority to trust");
            Box::new(trust.connect(host, socket.try_clone()?)?)
        } else {
            Box::new(socket.try_clone()?)
        };
        Ok(Self { stream, socket, received: Vec::new(), authority, prefix, proxy_authorization })
    }

    /// Requests a path and reads the whole answer; the connection stays open.
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.request(path, "keep-alive")?;
        self.response()
    }

    /// As [`Kept::get`], for the last time.
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn get_and_close(&mut self, path: &str) -> Result<Response> {
        self.request(path, "close")?;
        self.response()
    }

    /// Sends a request and does not wait for the answer.
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn request(&mut self, path: &str, connection: &str) -> Result<()> {
        let request = format!(
            "GET {}{path} HTTP/1.1\r\nHost: {}\r\n{}Connection: {connection}\r\n\r\n",
            self.prefix, self.authority, self.proxy_authorization
        );
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()
    }

    /// Reads an answer that was requested.
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn response(&mut self) -> Result<Response> {
        let (status, headers) = self.head()?;
        let named = |name: &str| headers.iter().find(|(header, _)| header == name);
        let body = if status == 204 {
            Vec::new()
        } else if named("transfer-encoding").is_some_and(|(_, value)| value == "chunked") {
            self.chunked()?
        } else if let Some((_, length)) = named("content-length") {
            self.exactly(length.parse().map_err(Error::other)?)?
        } else {
            self.rest()?
        };
        Ok(Response { status, headers, body })
    }

    /// Reads an answer up to the end of its headers; more comes by [`Kept::exactly`].
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let head = self.until(b"\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("not HTTP: {head:?}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok((status, headers))
    }

    /// Reads so many bytes of a body.
    ///
    /// # Errors
    /// As [`http_get_via_socks`].
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.received.len() < count {
            self.more()?;
        }
        Ok(self.received.drain(..count).collect())
    }

    /// How long a read waits for a byte; [`PATIENCE`] at first.
    pub fn set_timeout(&self, timeout: Duration) {
        self.socket.set_read_timeout(Some(timeout)).unwrap();
    }

    /// The local port of the connection to the proxy.
    pub fn local_port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    fn chunked(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(Error::other)?;
            body.extend(self.exactly(size)?);
            self.exactly(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn rest(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.received));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn until(&mut self, mark: &[u8]) -> Result<String> {
        loop {
            let found = self.received.windows(mark.len()).position(|part| part == mark);
            if let Some(at) = found {
                let part: Vec<u8> = self.received.drain(..at + mark.len()).collect();
                return Ok(String::from_utf8_lossy(&part).into_owned());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(Error::new(
                ErrorKind::UnexpectedEof,
                format!("closed after {:?}", String::from_utf8_lossy(&self.received)),
            )),
            count => {
                self.received.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }
}

/// Connects to a host through SOCKS5, the name resolved at the far end.
///
/// # Errors
/// [`ErrorKind::ConnectionRefused`] with the reply code when the proxy says no, else what happened to the connection.
pub fn socks_connect(proxy: SocketAddr, user: Option<&(String, String)>, host: &str, port: u16) -> Result<TcpStream> {
    let mut stream = dial(proxy)?;
    socks_greet(&mut stream, user)?;
    socks_request(&mut stream, 1, host, port)?;
    Ok(stream)
}

/// Sends one datagram through the SOCKS5 proxy's UDP relay and gives the one that comes back.
///
/// # Errors
/// As [`socks_connect`]; a timeout when nothing comes back in [`PATIENCE`].
pub fn udp_exchange_via_socks(
    proxy: SocketAddr,
    user: Option<&(String, String)>,
    target: SocketAddr,
    payload: &[u8],
) -> Result<Vec<u8>> {
    // The association lives as long as this connection.
    let mut control = dial(proxy)?;
    socks_greet(&mut control, user)?;
    let mut relay = socks_request(&mut control, 3, "0.0.0.0", 0)?;
    if relay.ip().is_unspecified() {
        relay.set_ip(proxy.ip());
    }
    let socket = UdpSocket::bind(SocketAddr::new(proxy.ip(), 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut datagram = vec![0, 0, 0];
    datagram.extend(socks_address(&target.ip().to_string(), target.port()));
    let header = datagram.len();
    datagram.extend_from_slice(payload);
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut buffer = vec![0; 65_536];
    loop {
        // UDP may lose the first one while the engine opens its way: programs repeat it, and so does this.
        socket.send_to(&datagram, relay)?;
        match socket.recv(&mut buffer) {
            Ok(count) if count >= header => return Ok(buffer[header..count].to_vec()),
            Ok(_) => return Err(Error::new(ErrorKind::InvalidData, "a short datagram")),
            Err(error) if std::time::Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
}

fn dial(addr: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn http_connect(proxy: SocketAddr, authorization: &str, host: &str, port: u16) -> Result<TcpStream> {
    let mut stream = dial(proxy)?;
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes())?;
    // One byte at a time: what follows the head belongs to the tunnel.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.split(' ').nth(1) == Some("200") { Ok(stream) } else { Err(Error::new(ErrorKind::ConnectionRefused, head)) }
}

/// RFC 1928 section 3, and RFC 1929 when there is a user.
fn socks_greet(stream: &mut TcpStream, user: Option<&(String, String)>) -> Result<()> {
    let method = if user.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    if answer != [5, method] {
        let message = format!("method {method} refused: {answer:?}");
        return Err(Error::new(ErrorKind::ConnectionRefused, message));
    }
    if let Some((name, password)) = user {
        let mut login = vec![1, u8::try_from(name.len()).map_err(Error::other)?];
        login.extend(name.as_bytes());
        login.push(u8::try_from(password.len()).map_err(Error::other)?);
        login.extend(password.as_bytes());
        stream.write_all(&login)?;
        stream.read_exact(&mut answer)?;
        if answer[1] != 0 {
            return Err(Error::new(ErrorKind::PermissionDenied, "login refused"));
        }
    }
    Ok(())
}

/// RFC 1928 sections 4 to 6; gives the bound address.
fn socks_request(stream: &mut TcpStream, command: u8, host: &str, port: u16) -> Result<SocketAddr> {
    let mut request = vec![5, command, 0];
    request.extend(socks_address(host, port));
    stream.write_all(&request)?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply)?;
    if reply[1] != 0 {
        let message = format!("SOCKS reply {}", reply[1]);
        return Err(Error::new(ErrorKind::ConnectionRefused, message));
    }
    let ip: IpAddr = match reply[3] {
        1 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets)?;
            octets.into()
        }
        4 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets)?;
            octets.into()
        }
        kind => {
            let message = format!("SOCKS address type {kind}");
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
    };
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    Ok(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

fn socks_address(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = match host.parse() {
        Ok(IpAddr::V4(ip)) => [&[1][..], &ip.octets()].concat(),
        Ok(IpAddr::V6(ip)) => [&[4][..], &ip.octets()].concat(),
        Err(_) => {
            let length = u8::try_from(host.len()).expect("a host name has 255 bytes at most");
            [&[3, length][..], host.as_bytes()].concat()
        }
    };
    bytes.extend(port.to_be_bytes());
    bytes
}

fn path_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned())
}
