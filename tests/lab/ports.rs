//! Ports that belong to one test alone, below the range that outgoing connections take theirs from.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// First port the lab takes.
const FIRST: u32 = 20_000;
/// How many ports there are to choose from; the last stays below 32768, where ephemeral ports begin.
const COUNT: u32 = 12_000;

/// A port on loopback, free for TCP and UDP when it was taken. It returns to the others on drop.
///
/// The claim is an abstract Unix socket named after the port: it is seen by every process and user in this
/// network namespace, which is just as far as the port itself goes, and no crash can leave it behind.
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The address on 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

/// Takes a free port.
pub fn take() -> Port {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes start far apart from each other, so that they seldom try the same ones.
    let start = std::process::id().wrapping_mul(211);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = u16::try_from(FIRST + start.wrapping_add(step) % COUNT).expect("below 32768");
        let name = UnixAddr::from_abstract_name(format!("xrat-lab-port-{number}")).unwrap();
        let Ok(claim) = UnixListener::bind_addr(&name) else {
            continue;
        };
        if is_free(number) {
            return Port { number, _claim: claim };
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}

/// Whether nobody listens on `number`, on any address.
///
/// Looked up and not tried: a socket bound just to see lives on in every child that another test is starting at that
/// moment, until the child executes its program.
pub fn is_free(number: u16) -> bool {
    ["tcp", "tcp6", "udp", "udp6"].iter().all(|table| {
        let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        text.lines().skip(1).all(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let port = fields.next().and_then(|local| local.rsplit_once(':')).map(|(_, port)| port);
            // 0A is TCP_LISTEN; whatever UDP has is bound.
            let listens = table.starts_with("udp") || fields.nth(1) == Some("0A");
            !listens || port.and_then(|port| u16::from_str_radix(port, 16).ok()) != Some(number)
        })
    })
}
