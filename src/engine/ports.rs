//! Who listens on a port: `/proc/net`, inode by inode.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::Path;

/// State field of a listening TCP socket (`TCP_LISTEN`).
const TCP_LISTEN: &str = "0A";
/// State field of a bound, unconnected UDP socket (`TCP_CLOSE`).
const UDP_BOUND: &str = "07";
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
    let (files, state) = match kind {
        Kind::Tcp => (["/proc/self/net/tcp", "/proc/self/net/tcp6"], TCP_LISTEN),
        Kind::Udp => (["/proc/self/net/udp", "/proc/self/net/udp6"], UDP_BOUND),
    };
    let mut sockets: Vec<Socket> = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(|line| Socket::parse(line, state)).collect::<Vec<_>>())
        .filter(|socket| socket.port == port.get() && overlap(socket.host, host))
        .collect();
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

/// A port near `port` that nothing uses and that is not among `wanted`, to suggest in its place.
///
/// Looked up and not tried: a port that is bound for a moment, just to see, is a port that fails somebody else.
pub fn free_near(port: NonZeroU16, wanted: &[NonZeroU16]) -> Option<u16> {
    let mut used: HashSet<u16> = wanted.iter().map(|port| port.get()).collect();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let table = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        used.extend(table.lines().skip(1).filter_map(|line| {
            let (_, port) = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
            u16::from_str_radix(port, 16).ok()
        }));
    }
    let first = port.get().checked_add(1)?;
    (first..first.saturating_add(SEARCH).min(FIRST_EPHEMERAL)).find(|candidate| !used.contains(candidate))
}

struct Socket {
    host: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

impl Socket {
    /// A line of /proc/net/tcp and its kin (proc(5)): address in host byte order, hex.
    fn parse(line: &str, state: &str) -> Option<Self> {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        if *fields.get(3)? != state {
            return None;
        }
        let (host, port) = fields.get(1)?.split_once(':')?;
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
        Some(Self {
            host,
            port: u16::from_str_radix(port, 16).ok()?,
            uid: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
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
    use std::net::{TcpListener, UdpSocket};

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
    fn udp_is_looked_up_by_itself() {
        let socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        let port = NonZeroU16::new(socket.local_addr().unwrap().port()).unwrap();
        assert!(names_me(&owners(LOCALHOST, port, Kind::Udp)));
        assert!(!names_me(&owners(LOCALHOST, port, Kind::Tcp)));
    }

    #[test]
    fn a_suggested_port_is_neither_used_nor_wanted() {
        let low = NonZeroU16::new(20_000).unwrap();
        let first = free_near(low, &[]).unwrap();
        assert!(first > low.get());
        let next = free_near(low, &[NonZeroU16::new(first).unwrap()]).unwrap();
        assert!(next > first);
        let Ok(_socket) = UdpSocket::bind((LOCALHOST, next)) else { return };
        assert_ne!(free_near(low, &[NonZeroU16::new(first).unwrap()]), Some(next));
    }
}
