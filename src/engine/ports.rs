//! Who listens on a port, and whose connections are there: the kernel's sockets, and descriptors in /proc.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::path::Path;

use super::sockets::{self, Socket};

/// How far from a taken port a free one is looked for.
const SEARCH: u16 = 100;
/// The kernel gives ports from here to outgoing connections; a connect loop there can meet itself.
const FIRST_EPHEMERAL: u16 = 32768;

/// The kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process of this user.
    Process {
        /// Its pid.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A process of another user, or of this user in another namespace.
    User {
        /// Its uid.
        uid: u32,
    },
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "{name} (pid {pid})"),
            Self::User { uid } => write!(f, "a process of uid {uid}"),
        }
    }
}

/// The processes whose sockets would share `host:port`, or be hidden by it. Empty: it is free.
///
/// Reads /proc and blocks for some milliseconds on a machine with many processes.
pub fn owners(host: IpAddr, port: NonZeroU16, kind: Kind) -> Vec<Owner> {
    let address = SocketAddr::new(host, port.get());
    let mut sockets = match kind {
        Kind::Tcp => sockets::listening(port.get()),
        Kind::Udp => sockets::bound(port.get()),
    };
    sockets.retain(|socket| is_at(socket, address));
    if sockets.is_empty() {
        return Vec::new();
    }
    let mut owners = Vec::new();
    let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let mut found = HashSet::new();
    for (pid, held) in holders(&inodes) {
        found.extend(held);
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        owners.push(Owner::Process { pid, name });
    }
    sockets.retain(|socket| !found.contains(&socket.inode));
    for socket in sockets {
        let owner = Owner::User { uid: socket.uid };
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    owners
}

/// How many connections of a process have one of these addresses at its own end: what is left to drain of an engine
/// whose public inbounds were there. Half-closed ones count, because data may still flow the other way.
///
/// Asks the kernel for the sockets of these ports and looks through the process's descriptors, so it blocks: for less
/// than 1 ms as a rule, some with thousands of connections.
pub fn established(pid: u32, addresses: &[SocketAddr]) -> usize {
    held_by(pid, addresses, sockets::connections).len()
}

/// How many connections wait at a process's listeners on these addresses to be accepted. Blocks as [`established`].
pub fn queued(pid: u32, addresses: &[SocketAddr]) -> usize {
    held_by(pid, addresses, sockets::listening).iter().map(|listener| listener.waiting as usize).sum()
}

/// Whether a process listens at this address. Blocks as [`established`].
pub fn listens(pid: u32, address: SocketAddr) -> bool {
    !held_by(pid, &[address], sockets::listening).is_empty()
}

/// Whether a process has accepted the connection to this address whose other end is at port `peer`. Blocks as
/// [`established`].
pub fn accepted(pid: u32, address: SocketAddr, peer: u16) -> bool {
    held_by(pid, &[address], sockets::connections).iter().any(|socket| socket.peer == peer)
}

/// The sockets at some addresses, as `at_port` finds them, that a process holds.
fn held_by(pid: u32, addresses: &[SocketAddr], at_port: impl Fn(u16) -> Vec<Socket>) -> Vec<Socket> {
    let mut ports: Vec<_> = addresses.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut found: Vec<_> = ports.into_iter().flat_map(at_port).collect();
    found.retain(|socket| addresses.iter().any(|address| is_at(socket, *address)));
    if !found.is_empty() {
        let held: HashSet<u64> = sockets_of(pid).into_iter().collect();
        found.retain(|socket| held.contains(&socket.inode));
    }
    found
}

/// A free TCP port near `port`, to suggest in its place.
pub fn free_near(host: IpAddr, port: NonZeroU16) -> Option<u16> {
    let first = port.get().checked_add(1)?;
    (first..first.saturating_add(SEARCH).min(FIRST_EPHEMERAL))
        .find(|candidate| TcpListener::bind((host, *candidate)).is_ok())
}

/// Whether a socket's own end is at the address, or shares it.
fn is_at(socket: &Socket, address: SocketAddr) -> bool {
    socket.port == address.port() && overlap(socket.host, address.ip())
}

/// Whether two listeners on one port meet: the same address, or one of them listens everywhere. An IPv6 wildcard
/// is taken for one that serves IPv4 as well, which is Linux's default.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    a == b
        || a == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || b == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (a.is_unspecified() || b.is_unspecified()) && a.is_ipv4() == b.is_ipv4()
}

/// The user's processes that hold one of the sockets, each with those it holds.
fn holders(inodes: &HashSet<u64>) -> Vec<(u32, Vec<u64>)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            let held = sockets_of(pid).into_iter().filter(|inode| inodes.contains(inode)).collect::<Vec<_>>();
            (!held.is_empty()).then_some((pid, held))
        })
        .collect()
}

fn sockets_of(pid: u32) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| socket_inode(&entry.path())).collect()
}

fn socket_inode(descriptor: &Path) -> Option<u64> {
    let target = std::fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream, UdpSocket};

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn names_me(owners: &[Owner]) -> bool {
        owners.iter().any(|owner| matches!(owner, Owner::Process { pid, .. } if *pid == std::process::id()))
    }

    #[test]
    fn a_listener_is_found_with_pid_and_name_and_gone_when_closed() {
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        let found = owners(LOCALHOST, port, Kind::Tcp);
        assert!(names_me(&found), "{found:?}");
        assert!(owners("127.0.0.2".parse().unwrap(), port, Kind::Tcp).is_empty(), "another address");
        drop(listener);
        assert!(!names_me(&owners(LOCALHOST, port, Kind::Tcp)));
    }

    #[test]
    fn wildcards_of_both_families_overlap() {
        for wildcard in ["0.0.0.0", "::"] {
            let Ok(listener) = TcpListener::bind((wildcard, 0)) else { continue };
            let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
            assert!(names_me(&owners(LOCALHOST, port, Kind::Tcp)), "{wildcard}");
        }
    }

    #[test]
    fn connections_are_counted_for_their_process_and_address() {
        for host in ["127.0.0.1", "::"] {
            let Ok(listener) = TcpListener::bind((host, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            let addresses = [SocketAddr::new(host.parse().unwrap(), port)];
            let me = std::process::id();
            let count = || (queued(me, &addresses), established(me, &addresses));
            assert_eq!(count(), (0, 0));
            let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect((LOCALHOST, port)).unwrap()).collect();
            assert_eq!(count(), (3, 0));
            let taken: Vec<_> = (0..2).map(|_| listener.accept().unwrap()).collect();
            assert_eq!(count(), (1, 2));
            let peers: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap().port()).collect();
            let has = |peer| accepted(me, addresses[0], peer);
            assert_eq!(peers.iter().map(|peer| has(*peer)).collect::<Vec<_>>(), [true, true, false]);
            assert!(listens(me, addresses[0]) && !listens(1, addresses[0]) && !has(port));
            assert_eq!(established(1, &addresses), 0, "another process");
            clients.remove(0).shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(count(), (1, 2), "a half-closed one may still be answered");
            drop(taken);
            assert_eq!(count(), (1, 0));
        }
    }

    #[test]
    fn udp_is_looked_up_by_itself() {
        let socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        let port = NonZeroU16::new(socket.local_addr().unwrap().port()).unwrap();
        assert!(names_me(&owners(LOCALHOST, port, Kind::Udp)));
        assert!(!names_me(&owners(LOCALHOST, port, Kind::Tcp)));
    }
}
