//! The gate: the daemon's own listener on each public address, beside the engine's.
//!
//! Engines and gate share the address with SO_REUSEPORT, and the gate decides which of them new connections reach
//! ([`Gate::steer_to`]). While an engine serves, the gate gets next to none. When there is no engine it gets all, and
//! holds or refuses them politely ([`Behind`]): no program ever sees "connection refused" while a gate is there, and
//! none falls back to going direct.
//!
//! What lands on the gate while an engine is there (a stray of a hand-over, a connection that was held) is relayed to
//! the engine's private socket. The gate knows CONNECT only: no UDP, no BIND, no SOCKS4.
//!
//! # Hand-over from engine A to B
//!
//! With `gates` for all public addresses, B ready and proven, `inbounds` those of [`PublicInbound`]:
//! 1. for each inbound `Api::add_inbound` on B, then [`Gate::joined`]`(b)`. One that fails: `Api::remove_inbound` of
//!    all on B, [`Gate::left`]`(b)`, end B. One whose outcome is unknown (a timeout): end B, its listeners end with it.
//! 2. [`Gate::set_behind`] B's private socket, [`Gate::steer_to`] B. From here B serves all that is new.
//! 3. [`settle`] with A's pid: what is queued at A has to be accepted, because closing a listener resets what waits.
//! 4. `Api::remove_inbound` on A, then [`Gate::left`]`(a)`, which tells the kernel the new index of B.
//! 5. A drains: until [`crate::engine::ports::established`] of it and [`Gate::relays_to`] its private socket are 0.

mod connection;
mod group;
mod handover;
mod http;
mod relay;
mod socks;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_io::{Async, Timer};
use futures::future::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{pin_mut, select};

use crate::config::Secret;
use crate::engine::api::PublicInbound;
use crate::engine::ports;
use crate::event::SessionId;

pub use group::{Group, Member};
pub use handover::{Handover, Record};

/// How long a connection waits for an engine before it is refused. Longer than an engine takes to start, shorter
/// than programs wait for an answer.
pub const HOLD: Duration = Duration::from_secs(5);
/// Connections that one gate serves at once, descriptors permitting; further ones wait in the kernel's queue. At 500
/// new ones a second so many are held within [`HOLD`], and as many again.
pub const MAX_CONNECTIONS: usize = 4096;

/// Descriptors that are left to the rest of the daemon: a gate that takes all would keep it from starting an engine.
const RESERVED_DESCRIPTORS: u64 = 256;
/// A gate takes so many connections however few descriptors there are.
const FEWEST_CONNECTIONS: usize = 16;
/// After accept() failed: without a pause the loop would spin until there is a descriptor again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a listener on loopback had in its queue is accepted by then, unless the machine is very busy.
const SETTLE: Duration = Duration::from_millis(20);
/// From elsewhere: a client whose answer to the first packet is lost repeats it after a second.
const SETTLE_REMOTE: Duration = Duration::from_millis(1200);
/// Longer is not waited for an engine that does not accept what is queued: it hangs.
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// Between two looks at the queue.
const SETTLE_LOOK: Duration = Duration::from_millis(5);

/// How long an engine that is adopted may take to accept a connection.
pub const PROBE: Duration = Duration::from_secs(1);
/// Between two looks whether it did.
const PROBE_LOOK: Duration = Duration::from_millis(2);

/// User name and password that clients must give.
type Credentials = (String, Secret);

/// What is done with connections that land on the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// They are relayed to the engine whose private HTTP socket this is. While it does not answer they are held.
    Engine(PathBuf),
    /// They are held until this changes, each for at most [`HOLD`], and then refused.
    Hold,
    /// They are refused: SOCKS "general failure", HTTP 503 with this line of text.
    Refuse(String),
}

/// What a gate did and does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections it has now, in whatever stage.
    pub open: usize,
    /// Of these, connections that wait for an engine.
    pub held: usize,
    /// Of these, connections that it relays.
    pub relaying: usize,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections so far that were given to an engine.
    pub relayed: u64,
    /// Requests so far that were refused for want of an engine.
    pub refused: u64,
}

/// The daemon's listener on one public address. For one thread; dropping it closes the listener.
pub struct Gate {
    inbound: PublicInbound,
    listener: Async<TcpListener>,
    group: RefCell<Group>,
    epoch: RefCell<Epoch>,
    counts: Counters,
    relays: RefCell<BTreeMap<PathBuf, usize>>,
    scratch: relay::Scratch,
    room: usize,
}

/// A [`Behind`], and a channel that is closed when the next one begins.
struct Epoch {
    behind: Behind,
    ends: Sender<()>,
    ended: Receiver<()>,
}

#[derive(Default)]
struct Counters {
    open: Cell<usize>,
    held: Cell<usize>,
    accepted: Cell<u64>,
    relayed: Cell<u64>,
    refused: Cell<u64>,
}

/// Why a connection goes no further.
enum Refusal {
    /// The client was told, or is not worth it.
    Told,
    /// The connection broke.
    Broken,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

impl Epoch {
    fn new(behind: Behind) -> Self {
        let (ends, ended) = async_channel::bounded(1);
        Self { behind, ends, ended }
    }
}

impl Gate {
    /// Listens on the address of `inbound`, which says as well what is spoken there and the credentials. Nobody else is
    /// there yet, and the gate gets all connections.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there who does not share, or another user. Not when a program of this user
    /// does share: look that up before ([`ports::owners`]).
    pub fn bind(inbound: PublicInbound, behind: Behind) -> io::Result<Self> {
        let listener = group::open(inbound.address())?;
        Self::with(inbound, listener, Group::new([]), behind)
    }

    /// Listens on an address that engines (session, pid) have already, those of a daemon that died: one, or two when it
    /// died in the middle of a hand-over. Those that do not listen there are passed over. `serving` gets new
    /// connections when this returns, or the gate if it is not among them.
    ///
    /// The order of two cannot be known, so it is tried out: a connection for each tells where it arrives. Meanwhile
    /// each of them gets connections. Takes some milliseconds, at most [`PROBE`] for each engine. Dropping the future
    /// closes the gate, and leaves the choice of the engine to the kernel.
    ///
    /// # Errors
    /// As [`Gate::bind`]; `TimedOut` when an engine does not accept connections, or one joined or left meanwhile.
    pub async fn adopt(
        inbound: PublicInbound,
        engines: &[(SessionId, u32)],
        serving: SessionId,
        behind: Behind,
    ) -> io::Result<Self> {
        let address = inbound.address();
        let looked_at = engines.to_vec();
        let there = smol::unblock(move || {
            looked_at.into_iter().filter(|(_, pid)| ports::listens(*pid, address)).collect::<Vec<_>>()
        });
        let there = there.await;
        let listener = Async::new_nonblocking(group::open(address)?)?;
        let mut order = Vec::new();
        if let [(session, _)] = there.as_slice() {
            order.push(*session);
        } else {
            for index in 0..there.len() {
                group::steer(&listener, u32::try_from(index).map_err(io::Error::other)?)?;
                let pid = probe(address, there.iter().map(|(_, pid)| *pid).collect()).await?;
                order.extend(there.iter().filter(|(_, candidate)| *candidate == pid).map(|(session, _)| *session));
            }
            if there.iter().any(|(session, _)| !order.contains(session)) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("the engines on {address} came or went")));
            }
        }
        let mut group = Group::new(order);
        // When it is no member, the gate stays the target.
        let _ = group.aim(Member::Engine(serving));
        Self::with(inbound, listener.into_inner()?, group, behind)
    }

    /// Goes on with a listener that a restart in place handed over ([`Gate::hand_over`]), and with all that waits in it.
    ///
    /// # Errors
    /// `InvalidInput` when it is no such listener on the address of `inbound`: bind a new one then.
    pub fn inherit(handover: Handover, inbound: PublicInbound, behind: Behind) -> io::Result<Self> {
        let listener = group::reopen(handover.listener, inbound.address())?;
        Self::with(inbound, listener, Group::new([]), behind)
    }

    fn with(inbound: PublicInbound, listener: TcpListener, group: Group, behind: Behind) -> io::Result<Self> {
        let gate = Self {
            inbound,
            listener: Async::new_nonblocking(listener)?,
            group: RefCell::new(group),
            epoch: RefCell::new(Epoch::new(behind)),
            counts: Counters::default(),
            relays: RefCell::default(),
            scratch: relay::Scratch::new(),
            room: room(),
        };
        gate.steer()?;
        Ok(gate)
    }

    /// A copy of the listening socket (close-on-exec), to go on with after a restart in place. None with an engine beside
    /// the gate: it serves meanwhile, and may come or go before anybody looks again.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn hand_over(&self) -> io::Result<Option<Handover>> {
        if *self.group.borrow().members() != [Member::Gate] {
            return Ok(None);
        }
        Ok(Some(Handover { listener: self.listener.as_fd().try_clone_to_owned()?, address: self.address() }))
    }

    /// The address it was told to listen on.
    pub fn address(&self) -> SocketAddr {
        self.inbound.address()
    }

    /// The inbound that an engine must be given to share the address.
    pub fn inbound(&self) -> &PublicInbound {
        &self.inbound
    }

    /// Who listens on the address, in which order, and who is meant to serve.
    pub fn group(&self) -> Group {
        self.group.borrow().clone()
    }

    /// Changes what is done with connections that land on the gate. Held ones wake at once; those that are relayed
    /// already stay with their engine.
    pub fn set_behind(&self, behind: Behind) {
        self.epoch.replace(Epoch::new(behind)).ends.close();
    }

    /// An engine's listener on the address was opened (`AddInbound` succeeded). New connections go where they went.
    pub fn joined(&self, session: SessionId) {
        self.group.borrow_mut().join(session);
    }

    /// An engine's listener was closed: `RemoveInbound` succeeded, or its process has ended. If it was the one that
    /// new connections were steered to, they reach the gate from now on. Nothing happens when it was no member.
    ///
    /// # Errors
    /// When the kernel refuses the index; some connections then land on the gate that should not.
    pub fn left(&self, session: SessionId) -> io::Result<()> {
        self.group.borrow_mut().leave(session);
        self.steer()
    }

    /// Gives new connections to this member. Connections that wait to be accepted elsewhere stay there: see [`settle`].
    ///
    /// # Errors
    /// `InvalidInput` when it is no member, else what the kernel says; nothing changes then.
    pub fn steer_to(&self, member: Member) -> io::Result<()> {
        if !self.group.borrow_mut().aim(member) {
            let message = format!("{member:?} does not listen on {}", self.address());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.steer()
    }

    fn steer(&self) -> io::Result<()> {
        let index = self.group.borrow().index();
        let index =
            index.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the group has lost its target"))?;
        group::steer(&self.listener, index)
    }

    /// Accepts and serves connections for ever. Call it once. Dropping the future closes every connection.
    pub async fn serve(&self) {
        let mut connections = FuturesUnordered::new();
        let mut not_before = None;
        loop {
            let accept = self.accept(connections.len(), not_before).fuse();
            pin_mut!(accept);
            select! {
                accepted = accept => match accepted {
                    Ok(client) => {
                        not_before = None;
                        self.counts.accepted.set(self.counts.accepted.get() + 1);
                        let open = Counted::new(&self.counts.open);
                        connections.push(async move {
                            let _open = open;
                            connection::serve(self, client).await;
                        });
                    }
                    Err(error) => {
                        tracing::warn!("{}: cannot accept a connection: {error}", self.address());
                        not_before = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                },
                () = connections.select_next_some() => {}
            }
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(&self, open: usize, not_before: Option<Instant>) -> io::Result<Async<TcpStream>> {
        if open >= self.room {
            // The end of a connection makes the caller ask again.
            std::future::pending::<()>().await;
        }
        if let Some(time) = not_before {
            Timer::at(time).await;
        }
        self.listener.accept().await.map(|(client, _)| client)
    }

    /// Connections it holds or relays, or whose request it waits for.
    pub fn open(&self) -> usize {
        self.counts.open.get()
    }

    /// Connections that it relays to the engine whose private HTTP socket this is: they end with that engine, and
    /// nobody sees them on the public address.
    pub fn relays_to(&self, socket: &Path) -> usize {
        self.relays.borrow().get(socket).copied().unwrap_or(0)
    }

    /// What it did and does.
    pub fn counts(&self) -> Counts {
        Counts {
            open: self.counts.open.get(),
            held: self.counts.held.get(),
            relaying: self.relays.borrow().values().sum(),
            accepted: self.counts.accepted.get(),
            relayed: self.counts.relayed.get(),
            refused: self.counts.refused.get(),
        }
    }

    /// What to do now, and a channel that is closed when that changes.
    fn behind(&self) -> (Behind, Receiver<()>) {
        let epoch = self.epoch.borrow();
        (epoch.behind.clone(), epoch.ended.clone())
    }

    fn count_held(&self) -> Counted<'_> {
        Counted::new(&self.counts.held)
    }

    fn count_relay(&self, socket: &Path) -> Relayed<'_> {
        self.counts.relayed.set(self.counts.relayed.get() + 1);
        *self.relays.borrow_mut().entry(socket.to_owned()).or_default() += 1;
        Relayed { gate: self, socket: socket.to_owned() }
    }
}

/// Counts while it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(counter: &'a Cell<usize>) -> Self {
        counter.set(counter.get() + 1);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection that is relayed to an engine.
struct Relayed<'a> {
    gate: &'a Gate,
    socket: PathBuf,
}

impl Drop for Relayed<'_> {
    fn drop(&mut self) {
        let mut relays = self.gate.relays.borrow_mut();
        if let Some(count) = relays.get_mut(&self.socket) {
            *count -= 1;
            if *count == 0 {
                relays.remove(&self.socket);
            }
        }
    }
}

/// Waits until an engine that gets no new connections has accepted those that were on their way: 20 ms, from elsewhere
/// than this machine 1.2 s, and until its queue is empty, at most 2 s. Safe to drop.
pub async fn settle(pid: u32, addresses: &[SocketAddr]) {
    let local = addresses.iter().all(|address| address.ip().is_loopback());
    let started = Instant::now();
    Timer::after(if local { SETTLE } else { SETTLE_REMOTE }).await;
    let addresses = addresses.to_vec();
    loop {
        let addresses = addresses.clone();
        if smol::unblock(move || ports::queued(pid, &addresses)).await == 0 || started.elapsed() > SETTLE_AT_MOST {
            return;
        }
        Timer::after(SETTLE_LOOK).await;
    }
}

/// Connects to an address, and tells which of these processes accepts it.
async fn probe(address: SocketAddr, pids: Vec<u32>) -> io::Result<u32> {
    let mut target = address;
    match target.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => target.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => target.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let started = Instant::now();
    let connection = Async::<TcpStream>::connect(target).await?;
    let port = connection.get_ref().local_addr()?.port();
    while started.elapsed() < PROBE {
        let pids = pids.clone();
        let found = smol::unblock(move || pids.into_iter().find(|pid| ports::accepted(*pid, address, port))).await;
        if let Some(pid) = found {
            return Ok(pid);
        }
        Timer::after(PROBE_LOOK).await;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no engine accepts connections to {address}")))
}

/// Connections that a gate may have: two descriptors each, on two public addresses.
fn room() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let Some(limit) = limit else { return MAX_CONNECTIONS };
    let room = limit.saturating_sub(RESERVED_DESCRIPTORS) / 4;
    usize::try_from(room).unwrap_or(MAX_CONNECTIONS).clamp(FEWEST_CONNECTIONS, MAX_CONNECTIONS)
}

/// Compares in a time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests;
