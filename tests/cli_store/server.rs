//! A small HTTP server on loopback that answers as good and bad providers do, and a SOCKS proxy in front of it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a path answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// 200 with this body.
    Body(Vec<u8>),
    /// 200 with this body and `Content-Encoding: gzip`.
    Gzip(Vec<u8>),
    /// A status without a body, with headers.
    Head(&'static str, String),
    /// 200 and bytes until the client goes away.
    Endless,
}

/// Answers until the process ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (table, log) = (Arc::clone(&answers), Arc::clone(&asked));
        let address = serve(move |stream| {
            let _ = answer(stream, &table, &log);
        });
        Self { address, answers, asked }
    }

    /// How often a path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    pub(crate) fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub(crate) fn body(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.set(path, Answer::Body(body.into()));
    }

    /// The address of a path, with a token in it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}?token={}", self.address, crate::root::SECRET)
    }
}

fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            std::thread::spawn(move || handle(stream));
        }
    });
    address
}

fn answer(
    mut stream: TcpStream,
    answers: &Mutex<HashMap<String, Answer>>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    asked.lock().unwrap().push(path.to_owned());
    let answer = answers.lock().unwrap().get(path).cloned();
    let sized = |stream: &mut TcpStream, headers: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)
    };
    match answer {
        None => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        Some(Answer::Body(body)) => sized(&mut stream, "", &body),
        Some(Answer::Gzip(body)) => sized(&mut stream, "Content-Encoding: gzip\r\n", &body),
        Some(Answer::Head(status, headers)) => {
            write!(stream, "HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: 0\r\n\r\n")
        }
        Some(Answer::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'\n'; 65536])?;
            }
        }
    }
}

/// A SOCKS5 proxy that wants `user` and `password` and takes every host for `target`.
pub(crate) fn socks(target: SocketAddr, user: &'static str, password: &'static str) -> SocketAddr {
    serve(move |stream| {
        let _ = relay(stream, target, user, password);
    })
}

fn relay(mut stream: TcpStream, target: SocketAddr, user: &str, password: &str) -> std::io::Result<()> {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting)?;
    if greeting != [5, 1, 2] {
        return stream.write_all(&[5, 0xff]);
    }
    stream.write_all(&[5, 2])?;
    let mut expected = vec![1, u8::try_from(user.len()).unwrap()];
    expected.extend_from_slice(user.as_bytes());
    expected.push(u8::try_from(password.len()).unwrap());
    expected.extend_from_slice(password.as_bytes());
    let mut given = vec![0; expected.len()];
    stream.read_exact(&mut given)?;
    if given != expected {
        return stream.write_all(&[1, 1]);
    }
    stream.write_all(&[1, 0])?;
    // A host by name: the proxy is the one that resolves.
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    assert_eq!(&head[..4], &[5, 1, 0, 3]);
    let mut rest = vec![0; usize::from(head[4]) + 2];
    stream.read_exact(&mut rest)?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut upstream = TcpStream::connect(target)?;
    let (mut reader, mut writer) = (stream.try_clone()?, upstream.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut reader, &mut writer));
    std::io::copy(&mut upstream, &mut stream)?;
    stream.shutdown(std::net::Shutdown::Both)
}
