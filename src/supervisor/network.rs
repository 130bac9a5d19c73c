//! Whether the machine has a way to the node, and whether it slept.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::time::{ClockId, clock_gettime};

/// Changes of addresses and routes of both families (`linux/rtnetlink.h`: RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE,
/// RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// A change of network comes as a dozen messages; the last one counts.
const SETTLE: Duration = Duration::from_millis(300);
/// Sleep that is shorter than this is a scheduling delay.
const SLEPT: Duration = Duration::from_secs(2);
/// Addresses of documentation (RFC 5737, RFC 3849): nobody's, and only a default route leads there.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The kernel's messages about addresses and routes.
pub(super) struct Watch {
    socket: Option<Async<OwnedFd>>,
    /// Something changed, and has settled then.
    settled_at: Cell<Option<Instant>>,
}

impl Watch {
    /// Without netlink (a sandbox) nothing is ever told, and the health checks are what is left.
    pub(super) fn new() -> Self {
        let socket = open().inspect_err(|error| tracing::warn!("network changes are not seen: {error}")).ok();
        Self { socket, settled_at: Cell::new(None) }
    }

    /// Waits until something changed and has settled. Safe to drop: what was seen is told by the next call.
    pub(super) async fn changed(&self) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        let mut buffer = [0_u8; 4096];
        let settled_at = match self.settled_at.get() {
            Some(at) => at,
            None => {
                // An error means that messages were lost, which is a change as well.
                let _ = socket.read_with(|socket| Ok(recv(socket, &mut buffer[..], RecvFlags::empty())?)).await;
                Instant::now() + SETTLE
            }
        };
        self.settled_at.set(Some(settled_at));
        Timer::at(settled_at).await;
        self.settled_at.set(None);
        while matches!(recv(socket, &mut buffer[..], RecvFlags::DONTWAIT), Ok((1.., _))) {}
    }
}

fn open() -> io::Result<Async<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Async::new_nonblocking(socket)
}

/// Whether there is a route to `host`; for a name, whether there is one to anywhere. Sends nothing.
pub(super) fn online(host: &str) -> bool {
    match host.parse() {
        Ok(address) => routed(address),
        Err(_) => ANYWHERE.into_iter().any(routed),
    }
}

fn routed(address: IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Connecting a UDP socket only looks the route up.
    UdpSocket::bind(any).and_then(|socket| socket.connect((address, 9))).is_ok()
}

/// CLOCK_BOOTTIME: goes on while the machine sleeps, and nobody sets it.
pub(super) fn boot_time() -> Duration {
    since(ClockId::Boottime)
}

fn since(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Notices that CLOCK_BOOTTIME ran ahead of CLOCK_MONOTONIC.
pub(super) struct Sleep(Duration);

impl Sleep {
    pub(super) fn new() -> Self {
        Self(Self::asleep())
    }

    /// Whether the machine slept since the last call.
    pub(super) fn noticed(&mut self) -> bool {
        let asleep = Self::asleep();
        let before = std::mem::replace(&mut self.0, asleep);
        asleep.saturating_sub(before) >= SLEPT
    }

    fn asleep() -> Duration {
        // Read in this order the difference is never negative.
        let monotonic = since(ClockId::Monotonic);
        boot_time().saturating_sub(monotonic)
    }
}
