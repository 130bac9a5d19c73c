//! A page on loopback for the quick start: serves one file over HTTP, and fetches it through a SOCKS5 proxy.
//!
//! `page serve ADDRESS FILE` answers every GET with the file; `page fetch SOCKS_ADDRESS URL` prints a page.
//! It uses the standard library alone and is no part of xrat.

use std::io::{Error, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", address, file] => serve(address, file),
        ["fetch", proxy, url] => fetch(proxy, url),
        _ => {
            eprintln!("usage: page serve ADDRESS FILE | page fetch SOCKS_ADDRESS URL");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("page: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves the file until it is killed, each connection on a thread of its own.
fn serve(address: &str, file: &str) -> Result<()> {
    let body = std::fs::read(file)?;
    let listener = TcpListener::bind(address)?;
    for stream in listener.incoming().flatten() {
        let body = body.clone();
        std::thread::spawn(move || {
            // A client may leave at any moment: its loss.
            let _ = answer(stream, &body);
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, body: &[u8]) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    // Requests without bodies, one after the other until the client closes.
    loop {
        while let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            request.drain(..at + 4);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(&[head.as_bytes(), body].concat())?;
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Prints the body of a page, asked for through SOCKS5 (RFC 1928) by name.
fn fetch(proxy: &str, url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Error::other("only http:// URLs"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let port: u16 = port.parse().map_err(Error::other)?;
    let length = u8::try_from(host.len()).map_err(Error::other)?;

    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[5, 1, 0])?;
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting)?;
    let mut connect = vec![5, 1, 0, 3, length];
    connect.extend_from_slice(host.as_bytes());
    connect.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&connect)?;
    // The reply's address is IPv4 with both engines: ten bytes.
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    if greeting != [5, 0] || reply[1] != 0 {
        return Err(Error::other(format!("the proxy refused: code {}", reply[1])));
    }

    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: keep-alive\r\n\r\n")?;
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(body) = whole_body(&received) {
            return std::io::stdout().write_all(body);
        }
        match stream.read(&mut chunk)? {
            0 => return Err(Error::other("the connection closed before the page was there")),
            count => received.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The body of an answer with a Content-Length, once all of it is there.
fn whole_body(received: &[u8]) -> Option<&[u8]> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&received[..end]).ok()?;
    let length: usize = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())?;
    received.get(end..end + length)
}
