//! The listeners on one public address, and which of them the kernel gives new connections to.
//!
//! Listeners with SO_REUSEPORT, one address and one uid form a group in the kernel, an array: who begins to listen
//! is put at its end, and when one closes, the last takes its place. A classic BPF program on the group answers with
//! an index; when that is out of range, the kernel chooses by a hash of the addresses. The array cannot be read, so
//! [`Group`] keeps a copy of it. Source: `net/core/sock_reuseport.c` of Linux 6.18, and the tests here.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::event::SessionId;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

/// Connections that wait to be accepted. The kernel allows `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// One listener on a public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// The daemon's own.
    Gate,
    /// That of a session's engine.
    Engine(SessionId),
}

/// The kernel's array as it should be, and the member that new connections are meant for.
///
/// No I/O: [`super::Gate`] tells the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    order: Vec<Member>,
    target: Member,
}

impl Group {
    /// The gate has just begun to listen, after engines that are there in this order; it is the target.
    pub fn new(engines: impl IntoIterator<Item = SessionId>) -> Self {
        let order = engines.into_iter().map(Member::Engine).chain([Member::Gate]).collect();
        Self { order, target: Member::Gate }
    }

    /// An engine's listener was opened. The target stays. Nothing happens when it is a member already.
    pub fn join(&mut self, session: SessionId) {
        let member = Member::Engine(session);
        if !self.order.contains(&member) {
            self.order.push(member);
        }
    }

    /// An engine's listener was closed; if it was the target, the gate is now. Nothing happens without such a member.
    pub fn leave(&mut self, session: SessionId) {
        let member = Member::Engine(session);
        if let Some(index) = self.order.iter().position(|candidate| *candidate == member) {
            self.order.swap_remove(index);
        }
        if self.target == member {
            self.target = Member::Gate;
        }
    }

    /// New connections are meant for this member. False, and no change, when it is none.
    #[must_use]
    pub fn aim(&mut self, member: Member) -> bool {
        let known = self.order.contains(&member);
        if known {
            self.target = member;
        }
        known
    }

    /// The member that new connections are meant for.
    pub fn target(&self) -> Member {
        self.target
    }

    /// All members in the kernel's order.
    pub fn members(&self) -> &[Member] {
        &self.order
    }

    /// Where the target is in the kernel's array. Never `None`: who leaves is no target any more.
    pub fn index(&self) -> Option<u32> {
        let index = self.order.iter().position(|member| *member == self.target)?;
        u32::try_from(index).ok()
    }
}

/// Listens on a public address in a way that engines can listen there as well.
///
/// A wildcard address means IPv6's and serves IPv4, with either spelling: that is how Go, the engines' language,
/// listens, and the kernel puts only sockets of one family into a group. Where there is no IPv6, both use IPv4's.
pub(super) fn open(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip().is_unspecified() {
        let everywhere = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
        match open_exactly(everywhere) {
            Err(error) if address.is_ipv4() && no_ipv6(&error) => {}
            result => return result,
        }
    }
    open_exactly(address)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // Connections of an earlier owner of the port, which may have had only this option, must not keep it.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if address.is_ipv6() {
        // As in Go, whatever net.ipv6.bindv6only says; a socket with another setting is not let into the group.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// A listening socket that was handed over, if it is one that [`open`] made for this address.
pub(super) fn reopen(descriptor: OwnedFd, address: SocketAddr) -> io::Result<TcpListener> {
    let other = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("the listener is {what}"));
    if !sockopt::socket_acceptconn(&descriptor)? || !sockopt::socket_reuseport(&descriptor)? {
        return Err(other("none that engines could share"));
    }
    let listener = TcpListener::from(descriptor);
    let found = listener.local_addr()?;
    let same = found.ip() == address.ip() || (found.ip().is_unspecified() && address.ip().is_unspecified());
    if !same || found.port() != address.port() {
        return Err(other(&format!("on {found}, not on {address}")));
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends new connections of the group that `listener` is in to its member at `index`.
///
/// The program belongs to the group: it stays when `listener` is closed, and holds for whoever joins later.
pub(super) fn steer(listener: impl AsFd, index: u32) -> io::Result<()> {
    // The one instruction "return index" (`Documentation/networking/filter.rst`).
    let code = u16::try_from(libc::BPF_RET | libc::BPF_K).map_err(io::Error::other)?;
    let mut program = [libc::sock_filter { code, jt: 0, jf: 0, k: index }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    // rustix has no such option.
    // SAFETY: the descriptor is open for the call; the option reads `size` bytes, a `sock_fprog` whose one instruction
    // lives until the end of this function, and keeps neither pointer.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&program).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpStream};

    fn engine(number: i64) -> Member {
        Member::Engine(SessionId(number))
    }

    #[test]
    fn the_last_takes_the_place_of_one_that_leaves() {
        let mut group = Group::new([]);
        (1..=3).for_each(|number| group.join(SessionId(number)));
        group.join(SessionId(2));
        assert_eq!(group.members(), [Member::Gate, engine(1), engine(2), engine(3)]);
        assert!(group.aim(engine(3)));
        assert_eq!(group.index(), Some(3));
        group.leave(SessionId(1));
        assert_eq!(group.members(), [Member::Gate, engine(3), engine(2)]);
        assert_eq!(group.index(), Some(1), "the target moved");
        group.leave(SessionId(1));
        assert_eq!(group.members().len(), 3, "it was gone");
        assert!(!group.aim(engine(1)), "gone");
        assert_eq!(group.target(), engine(3));
        group.leave(SessionId(3));
        assert_eq!((group.target(), group.index()), (Member::Gate, Some(0)), "the gate takes over for a target");
    }

    #[test]
    fn a_gate_that_comes_to_an_engine_is_second() {
        let mut group = Group::new([SessionId(7)]);
        assert_eq!(group.members(), [engine(7), Member::Gate]);
        assert_eq!((group.target(), group.index()), (Member::Gate, Some(1)));
        assert!(group.aim(engine(7)));
        assert_eq!(group.index(), Some(0));
    }

    /// Who of the listeners gets a new connection.
    fn lands_on(address: SocketAddr, listeners: &HashMap<i64, TcpListener>) -> i64 {
        let _client = TcpStream::connect(address).unwrap();
        let hit = listeners.iter().filter(|(_, listener)| match listener.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        });
        let hit: Vec<_> = hit.map(|(number, _)| *number).collect();
        assert_eq!(hit.len(), 1);
        hit[0]
    }

    /// The kernel agrees with the copy of its array through a long row of joins, ends and changes of the target.
    #[test]
    fn the_kernel_does_what_the_group_says() {
        for host in ["127.0.0.1", "::1", "0.0.0.0"] {
            let address = SocketAddr::new(host.parse().unwrap(), 0);
            let Ok(gate) = open(address) else { continue };
            let port = gate.local_addr().unwrap().port();
            let address = SocketAddr::new(address.ip(), port);
            let target = if address.is_ipv4() { (Ipv4Addr::LOCALHOST, port).into() } else { address };
            const GATE: i64 = 0;
            let mut listeners = HashMap::from([(GATE, gate)]);
            let mut group = Group::new([]);
            // A small generator, so that a failure comes again.
            let mut state = 1_u32;
            let mut random = |below: usize| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) as usize % below
            };
            for step in 1..300 {
                match random(3) {
                    0 if listeners.len() < 6 => {
                        listeners.insert(step, open(address).unwrap());
                        group.join(SessionId(step));
                    }
                    1 => {
                        let engines: Vec<_> = listeners.keys().copied().filter(|key| *key != GATE).collect();
                        if !engines.is_empty() {
                            let mut engines = engines;
                            engines.sort_unstable();
                            let gone = engines[random(engines.len())];
                            listeners.remove(&gone);
                            group.leave(SessionId(gone));
                        }
                    }
                    _ => {
                        let member = group.members()[random(group.members().len())];
                        assert!(group.aim(member));
                    }
                }
                steer(&listeners[&GATE], group.index().unwrap()).unwrap();
                let expected = match group.target() {
                    Member::Gate => GATE,
                    Member::Engine(session) => session.0,
                };
                assert_eq!(lands_on(target, &listeners), expected, "step {step} on {host}: {group:?}");
            }
        }
    }

    #[test]
    fn an_index_out_of_range_reaches_somebody_and_survives_its_setter() {
        let first = open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = first.local_addr().unwrap();
        let listeners = HashMap::from([(1, open(address).unwrap())]);
        steer(&first, 1).unwrap();
        assert_eq!(lands_on(address, &listeners), 1);
        // What a daemon's death leaves: the engine at 0, the index at 1.
        drop(first);
        assert_eq!(lands_on(address, &listeners), 1);
        // And the next daemon's gate at 1, where the index still points, until it says otherwise.
        let listeners: HashMap<_, _> = listeners.into_iter().chain([(2, open(address).unwrap())]).collect();
        assert_eq!(lands_on(address, &listeners), 2);
        steer(&listeners[&2], 0).unwrap();
        assert_eq!(lands_on(address, &listeners), 1);
    }

    #[test]
    fn only_the_right_listener_is_taken_over() {
        let listener = open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let copy = || OwnedFd::from(listener.try_clone().unwrap());
        assert_eq!(reopen(copy(), address).unwrap().local_addr().unwrap(), address);
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), address.port());
        assert!(reopen(copy(), elsewhere).unwrap_err().to_string().contains(&address.to_string()));
        let closed_to_others = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = closed_to_others.local_addr().unwrap();
        reopen(closed_to_others.into(), address).unwrap_err();
    }
}
