//! The TCP and UDP sockets of this network namespace, with their owners' inodes.
//!
//! TCP's come from the kernel's `sock_diag` (sock_diag(7)), which gives those of one port in some states only: the
//! table in /proc has every connection of the last minute, and reading it takes 100 ms and more after a busy one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// State of a connection (`TCP_ESTABLISHED`).
const ESTABLISHED: u8 = 1;
/// State of a listening TCP socket (`TCP_LISTEN`).
pub(super) const LISTEN: u8 = 0x0a;
/// State of a bound, unconnected UDP socket (`TCP_CLOSE`).
const UDP_BOUND: u8 = 0x07;
/// `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`: a process may still have it.
const CLOSING: [u8; 5] = [4, 5, 8, 9, 11];

/// One socket.
pub(super) struct Socket {
    pub(super) host: IpAddr,
    pub(super) port: u16,
    /// The port of the other end.
    pub(super) peer: u16,
    pub(super) state: u8,
    /// Of a listener: connections that wait to be accepted.
    pub(super) waiting: u32,
    pub(super) uid: u32,
    pub(super) inode: u64,
}

/// Listening TCP sockets on a port of any address.
pub(super) fn listening(port: u16) -> Vec<Socket> {
    tcp(port, &[LISTEN])
}

/// TCP connections whose own end is at a port of any address; those that only the kernel still has are left out.
pub(super) fn connections(port: u16) -> Vec<Socket> {
    tcp(port, &[&[ESTABLISHED], &CLOSING[..]].concat())
}

/// UDP sockets that are bound to a port of any address.
pub(super) fn bound(port: u16) -> Vec<Socket> {
    let mut found = table("/proc/self/net/udp");
    found.extend(table("/proc/self/net/udp6"));
    found.retain(|socket| socket.port == port && socket.state == UDP_BOUND);
    found
}

fn tcp(port: u16, states: &[u8]) -> Vec<Socket> {
    let families = [(libc::AF_INET, "/proc/self/net/tcp"), (libc::AF_INET6, "/proc/self/net/tcp6")];
    let mut found = Vec::new();
    for (family, file) in families {
        // A kernel may lack sock_diag; the table is always there.
        found.extend(diagnose(family, port, states).unwrap_or_else(|_| table(file)));
    }
    found.retain(|socket| socket.port == port && states.contains(&socket.state));
    found
}

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`: the types of the last message.
const ENDS: [u16; 2] = [2, 3];
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// Asks the kernel for the TCP sockets of a family with this port at their own end (`linux/inet_diag.h`).
fn diagnose(family: i32, port: u16, states: &[u8]) -> io::Result<Vec<Socket>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    let states = states.iter().fold(0_u32, |mask, state| mask | 1 << state);
    let length = u32::try_from(HEADER + REQUEST).map_err(io::Error::other)?;
    let family = u8::try_from(family).map_err(io::Error::other)?;
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(length.to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    // Sequence number and port id: one question on a socket of its own needs neither.
    request.extend([0; 8]);
    request.extend([family, u8::try_from(libc::IPPROTO_TCP).map_err(io::Error::other)?, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.extend(port.to_be_bytes());
    request.resize(HEADER + REQUEST, 0);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;

    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (count, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut messages = &buffer[..count];
        while let Some((header, _)) = messages.split_at_checked(HEADER) {
            let length = u32_at(header, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            let kind = u16_at(header, 4).unwrap_or(ENDS[0]);
            let body = messages.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
            if ENDS.contains(&kind) {
                // An error has its number in front, the end of the answer a 0.
                let code = u32_at(body, 0).unwrap_or(0).cast_signed();
                return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(found) };
            }
            found.extend(parse_answer(body));
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn parse_answer(body: &[u8]) -> Option<Socket> {
    let body: &[u8; ANSWER] = body.get(..ANSWER)?.try_into().ok()?;
    let host = match i32::from(body[0]) {
        libc::AF_INET => Ipv4Addr::from(*body[8..].first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(*body[8..].first_chunk::<16>()?).into(),
    };
    Some(Socket {
        host,
        port: u16::from_be_bytes(*body[4..].first_chunk()?),
        peer: u16::from_be_bytes(*body[6..].first_chunk()?),
        state: body[1],
        waiting: u32_at(body, 56)?,
        uid: u32_at(body, 64)?,
        inode: u32_at(body, 68)?.into(),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn table(file: &str) -> Vec<Socket> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().skip(1).filter_map(parse_line).collect()
}

/// A line of /proc/net/tcp and its kin (proc(5)): address in host byte order, hex.
fn parse_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (host, port) = fields.nth(1)?.split_once(':')?;
    let (_, peer) = fields.next()?.split_once(':')?;
    let state = fields.next()?;
    let (_, waiting) = fields.next()?.split_once(':')?;
    let words: Vec<u32> = (0..host.len() / 8)
        .map(|i| u32::from_str_radix(host.get(i * 8..i * 8 + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let host = match words.as_slice() {
        [word] => Ipv4Addr::from(word.to_ne_bytes()).into(),
        [_, _, _, _] => {
            let mut bytes = [0; 16];
            for (slot, word) in bytes.chunks_exact_mut(4).zip(&words) {
                slot.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(Socket {
        host,
        port: u16::from_str_radix(port, 16).ok()?,
        peer: u16::from_str_radix(peer, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        waiting: u32::from_str_radix(waiting, 16).ok()?,
        uid: fields.nth(2)?.parse().ok()?,
        inode: fields.nth(1)?.parse().ok()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Both sources say the same of sockets that do not change.
    #[test]
    fn the_kernels_answer_is_what_the_table_says() {
        for host in ["127.0.0.1", "::1", "::"] {
            let Ok(listener) = TcpListener::bind((host, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            let to = if host == "::" { "127.0.0.1" } else { host };
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect((to, port)).unwrap()).collect();
            let _accepted = listener.accept().unwrap();
            let file = if host == "127.0.0.1" { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
            let family = if host == "127.0.0.1" { libc::AF_INET } else { libc::AF_INET6 };
            let facts = |socket: &Socket| {
                let Socket { host, port, peer, state, waiting, uid, inode } = *socket;
                (port, state, peer, host, (state == LISTEN).then_some(waiting), uid, inode)
            };
            let mut told: Vec<_> = diagnose(family, port, &[ESTABLISHED, LISTEN]).unwrap().iter().map(facts).collect();
            let mut read: Vec<_> = table(file).iter().filter(|socket| socket.port == port).map(facts).collect();
            told.sort_unstable();
            read.sort_unstable();
            // A table that changes while it is read may show a socket twice.
            read.dedup();
            assert_eq!(told, read, "{host}");
            // The listener and the near ends; two that wait have no inode yet.
            assert_eq!(told.len(), 1 + clients.len(), "{told:?}");
            assert!(told.iter().any(|fact| fact.4 == Some(2)), "{told:?}");
        }
    }
}
