//! The gate beside real engines: hand-overs under load, an engine's death, a daemon's death, adoption.
//!
//! The gates run here, in the test's process, as they do in the daemon; load comes from threads.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use lab::client::{self, Proxy};
use lab::load::{CALLERS, Downloads, Ended, Load};
use lab::process::Guard;
use lab::scratch::Scratch;
use lab::server::run_engine;
use lab::{Kind, Lab, PATIENCE, ports, rounds};
use rustix::process::Signal;
use smol::{LocalExecutor, Task, Timer};
use xrat::engine::api::{Api, InboundKind, PublicInbound};
use xrat::engine::ports::established;
use xrat::engine::{Engine, SessionFiles, ready, session_config};
use xrat::event::SessionId;
use xrat::gate::{Behind, Gate, Member, settle};

/// Long downloads, half and half as well.
const DOWNLOADS: usize = 8;

/// A session's engine, with its sockets in a directory of its own.
struct Running {
    id: SessionId,
    api: Api,
    files: SessionFiles,
    guard: Guard,
    _dirs: [Scratch; 2],
}

impl Running {
    fn pid(&self) -> u32 {
        self.guard.pid()
    }

    fn behind(&self) -> Behind {
        Behind::Engine(self.files.http.clone())
    }

    /// Killed, and seen to be dead.
    async fn kill(self) -> SessionId {
        let Self { id, mut guard, .. } = self;
        guard.signal(Signal::KILL);
        smol::unblock(move || guard.wait()).await;
        id
    }
}

/// Everything on one thread but the load: engines, gates, and what the supervisor would do.
struct Stage {
    lab: Lab,
    program: PathBuf,
    kind: Kind,
    _ports: [ports::Port; 2],
    inbounds: [PublicInbound; 2],
    executor: Rc<LocalExecutor<'static>>,
}

/// A gate for each public address, served until it is dropped.
struct Gates {
    gates: [Rc<Gate>; 2],
    _tasks: [Task<()>; 2],
}

impl Stage {
    fn run(kind: Kind, test: impl AsyncFnOnce(&Self)) {
        Self::run_on(kind, [127, 0, 0, 1].into(), test);
    }

    fn run_on(kind: Kind, host: IpAddr, test: impl AsyncFnOnce(&Self)) {
        let Some(program) = lab::engine(kind.name()) else { return };
        let Some(lab) = Lab::start(kind) else { return };
        let ports = [ports::take(), ports::take()];
        let inbound = |tag: &str, kind, port: &ports::Port| PublicInbound {
            tag: tag.into(),
            kind,
            host,
            port: NonZeroU16::new(port.number()).unwrap(),
            auth: None,
        };
        let inbounds = [
            inbound("socks", InboundKind::Socks { udp: true }, &ports[0]),
            inbound("http", InboundKind::Http, &ports[1]),
        ];
        let executor = Rc::new(LocalExecutor::new());
        let stage = Self { lab, program, kind, _ports: ports, inbounds, executor: Rc::clone(&executor) };
        smol::block_on(executor.run(test(&stage)));
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.inbounds.iter().map(PublicInbound::address).collect()
    }

    /// The public ports as programs of this machine would use them.
    fn proxies(&self) -> [Proxy; 2] {
        let at = |inbound: &PublicInbound| SocketAddr::from(([127, 0, 0, 1], inbound.port.get()));
        [Proxy::Socks(at(&self.inbounds[0]), None), Proxy::Http(at(&self.inbounds[1]), None)]
    }

    /// Load with so many downloads.
    fn load(&self, downloads: usize) -> Load {
        Load::start(&self.lab.origin, &self.proxies(), Downloads::Endless(downloads))
    }

    /// Starts an engine and waits until it is ready; it has no public inbound.
    async fn engine(&self, id: i64) -> Running {
        let engine = identify(&self.program);
        let dir = Scratch::new();
        let socket = |name: &str| dir.path().join(name);
        let files = SessionFiles {
            socks: engine.private_socks().then(|| socket("socks")),
            http: socket("http"),
            api: socket("api"),
        };
        let config = xrat::link::parse(&self.lab.server.link("vless-tcp-none").link).unwrap();
        let config = session_config(&engine, &config, &files).unwrap();
        let (guard, config_dir) = run_engine(self.kind, &self.program, &config, &self.lab.authority);
        let end = Instant::now() + PATIENCE;
        while let Err(error) = ready(&engine, &files).await {
            assert!(Instant::now() < end, "{error}");
            Timer::after(Duration::from_millis(2)).await;
        }
        let api = Api::new(&engine, files.api.clone());
        Running { id: SessionId(id), api, files, guard, _dirs: [dir, config_dir] }
    }

    fn serve(&self, gates: [Gate; 2]) -> Gates {
        let gates = gates.map(Rc::new);
        let tasks = gates.each_ref().map(|gate| {
            let gate = Rc::clone(gate);
            self.executor.spawn(async move { gate.serve().await })
        });
        Gates { gates, _tasks: tasks }
    }

    fn bind(&self) -> Gates {
        self.serve(self.inbounds.each_ref().map(|inbound| Gate::bind(inbound.clone(), Behind::Hold).unwrap()))
    }

    /// What the next daemon does with the engines it finds.
    async fn adopt(&self, engines: &[&Running], serving: &Running) -> Gates {
        let found: Vec<_> = engines.iter().map(|engine| (engine.id, engine.pid())).collect();
        let mut gates = Vec::new();
        for inbound in &self.inbounds {
            gates.push(Gate::adopt(inbound.clone(), &found, serving.id, serving.behind()).await.unwrap());
        }
        self.serve(gates.try_into().map_err(|_| "two inbounds").unwrap())
    }
}

impl Gates {
    /// Lets an engine serve the public addresses: steps 1 and 2 of a hand-over, and all of a connect.
    async fn enter(&self, engine: &Running) {
        for gate in &self.gates {
            engine.api.add_inbound(gate.inbound()).await.unwrap();
            gate.joined(engine.id);
        }
        for gate in &self.gates {
            gate.set_behind(engine.behind());
            gate.steer_to(Member::Engine(engine.id)).unwrap();
        }
    }

    /// Takes an engine off the public addresses: steps 3 and 4.
    async fn leave(&self, engine: &Running) {
        let addresses: Vec<_> = self.gates.iter().map(|gate| gate.address()).collect();
        settle(engine.pid(), &addresses).await;
        for gate in &self.gates {
            engine.api.remove_inbound(&gate.inbound().tag).await.unwrap();
            gate.left(engine.id).unwrap();
        }
    }

    fn set_behind(&self, behind: &Behind) {
        self.gates.iter().for_each(|gate| gate.set_behind(behind.clone()));
    }

    fn sum(&self, count: impl Fn(&Gate) -> u64) -> u64 {
        self.gates.iter().map(|gate| count(gate)).sum()
    }

    async fn until_held(&self, count: usize) {
        until("they are held", || self.gates.iter().map(|gate| gate.counts().held).sum::<usize>() == count).await;
    }
}

fn identify(program: &Path) -> Engine {
    lab::nodes::version(program).expect("an engine has a version")
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        Timer::after(Duration::from_millis(1)).await;
    }
}

/// Waits for some more exchanges.
async fn more(load: &Load) {
    until("the load goes on", load.goes_on()).await;
}

/// Ends the load while the gates go on serving the last of it.
async fn finish(load: Load) -> Ended {
    smol::unblock(move || load.finish()).await
}

fn hand_overs_lose_nothing(kind: Kind) {
    Stage::run(kind, async |stage| {
        let gates = stage.bind();
        let (mut serving, mut next) = (stage.engine(1).await, stage.engine(2).await);
        gates.enter(&serving).await;
        let load = stage.load(DOWNLOADS);
        more(&load).await;
        let count = rounds(20, 200);
        for _ in 0..count {
            gates.enter(&next).await;
            gates.leave(&serving).await;
            std::mem::swap(&mut serving, &mut next);
            more(&load).await;
        }
        // What began before the first is still there, at the engine that has no public inbound now.
        let addresses = stage.addresses();
        let kept = [&serving, &next].map(|engine| established(engine.pid(), &addresses));
        let strays = gates.sum(|gate| gate.counts().accepted);
        let Ended { done, rate, failed } = finish(load).await;
        println!(
            "{}: {count} hand-overs, {done} connections ({rate:.0}/s), {strays} relayed by the gate, {} failed",
            kind.name(),
            failed.len()
        );
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(rate >= 300.0, "only {rate:.0} connections a second");
        assert!(kept.iter().sum::<usize>() >= DOWNLOADS, "{kept:?}");
        assert_eq!(gates.sum(|gate| gate.counts().refused), 0);
        until("the engine is drained", || established(next.pid(), &addresses) == 0).await;
    });
}

#[test]
fn v2ray_is_handed_over_without_loss() {
    hand_overs_lose_nothing(Kind::V2ray);
}

#[test]
fn xray_is_handed_over_without_loss() {
    hand_overs_lose_nothing(Kind::Xray);
}

fn an_engine_dies(kind: Kind) {
    Stage::run(kind, async |stage| {
        let gates = stage.bind();
        let first = stage.engine(1).await;
        gates.enter(&first).await;

        // Under load: nothing that begins after the death is known is lost. What was open, and what queues at a
        // listener that is not closed yet, is cut: nothing can save it.
        let load = stage.load(0);
        more(&load).await;
        let dead = first.kill().await;
        gates.set_behind(&Behind::Hold);
        gates.gates.iter().for_each(|gate| gate.left(dead).unwrap());
        let known = Instant::now();
        gates.until_held(CALLERS).await;
        let second = stage.engine(2).await;
        gates.enter(&second).await;
        let served = load.done();
        until("held connections are served", || load.done() > served).await;
        let down = known.elapsed();
        more(&load).await;
        let Ended { done, rate, failed } = finish(load).await;
        let (late, cut): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(began, _)| *began >= known);
        println!(
            "{}: killed under load, {done} connections ({rate:.0}/s), {} cut, served again after {} ms, {} failed",
            kind.name(),
            cut.len(),
            down.as_millis(),
            late.len()
        );
        assert!(late.is_empty(), "{late:#?}");

        // While there is no engine at all every connection is held, and then served.
        let dead = second.kill().await;
        gates.set_behind(&Behind::Hold);
        gates.gates.iter().for_each(|gate| gate.left(dead).unwrap());
        let url = stage.lab.origin.url("/page");
        let clients: Vec<_> = (0..40)
            .map(|number| {
                let (proxy, url) = (stage.proxies()[number % 2].clone(), url.clone());
                std::thread::spawn(move || client::get(&proxy, &url, None).map(|answer| answer.status))
            })
            .collect();
        gates.until_held(40).await;
        let third = stage.engine(3).await;
        gates.enter(&third).await;
        for client in clients {
            let status = smol::unblock(move || client.join().unwrap()).await;
            assert_eq!(status.unwrap(), 200);
        }

        // With nothing to hope for they are told so.
        let dead = third.kill().await;
        gates.set_behind(&Behind::Refuse("no node answers".into()));
        gates.gates.iter().for_each(|gate| gate.left(dead).unwrap());
        let [socks, http] = stage.proxies();
        let ask = |proxy: Proxy| {
            let url = url.clone();
            smol::unblock(move || client::get(&proxy, &url, None))
        };
        let error = ask(socks).await.unwrap_err();
        assert!(error.to_string().contains("SOCKS reply 1"), "{error}");
        let answer = ask(http).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "no node answers\n"));
    });
}

#[test]
fn a_death_of_v2ray_is_bridged() {
    an_engine_dies(Kind::V2ray);
}

#[test]
fn a_death_of_xray_is_bridged() {
    an_engine_dies(Kind::Xray);
}

fn a_daemon_dies(kind: Kind) {
    Stage::run(kind, async |stage| {
        let gates = stage.bind();
        let mut serving = stage.engine(1).await;
        gates.enter(&serving).await;
        let load = stage.load(2);
        more(&load).await;
        let mut next = stage.engine(2).await;
        let (mut strays, mut found) = (0, Vec::new());
        let mut first = Some(gates);
        for _ in 0..rounds(4, 40) {
            // A daemon that bound its gates before the engine came, or found one engine, dies in the middle of a
            // hand-over: both have public inbounds. As by a kill its listeners are closed, without a word.
            let gates = match first.take() {
                Some(gates) => gates,
                None => stage.adopt(&[&serving, &next], &serving).await,
            };
            more(&load).await;
            gates.enter(&next).await;
            more(&load).await;
            strays += gates.sum(|gate| gate.counts().accepted);
            drop(gates);
            more(&load).await;
            // The one after it finds two and finishes.
            let gates = stage.adopt(&[&serving, &next], &next).await;
            found.push(gates.gates[0].group().members().to_vec());
            let before = gates.sum(|gate| gate.counts().accepted);
            more(&load).await;
            gates.leave(&serving).await;
            more(&load).await;
            strays += gates.sum(|gate| gate.counts().accepted) - before;
            // Steering is right: the gate itself gets nothing now.
            let quiet = gates.sum(|gate| gate.counts().accepted);
            more(&load).await;
            assert_eq!(gates.sum(|gate| gate.counts().accepted), quiet, "{:?}", gates.gates[0].group());
            drop(gates);
            more(&load).await;
            std::mem::swap(&mut serving, &mut next);
        }
        assert_eq!(found[0][..2], [2, 1].map(|id| Member::Engine(SessionId(id))), "the last took the gate's place");
        assert_eq!(found[1][..2], [2, 1].map(|id| Member::Engine(SessionId(id))), "the gate was last itself");
        let Ended { done, rate, failed } = finish(load).await;
        println!(
            "{}: daemons died, {done} connections ({rate:.0}/s), {strays} strays, {} failed",
            kind.name(),
            failed.len()
        );
        assert!(failed.is_empty(), "{failed:#?}");
    });
}

#[test]
fn v2ray_survives_its_daemons() {
    a_daemon_dies(Kind::V2ray);
}

#[test]
fn xray_survives_its_daemons() {
    a_daemon_dies(Kind::Xray);
}

/// Engines listen on IPv6 for either wildcard; a gate that did not would be in no group with them.
fn a_wildcard_address_is_shared(kind: Kind) {
    for host in ["0.0.0.0", "::"] {
        Stage::run_on(kind, host.parse().unwrap(), async |stage| {
            let gates = stage.bind();
            let engine = stage.engine(1).await;
            gates.enter(&engine).await;
            let url = stage.lab.origin.url("/page");
            let get = || {
                let (url, proxies) = (url.clone(), stage.proxies());
                smol::unblock(move || proxies.map(|proxy| client::get(&proxy, &url, None).unwrap().status))
            };
            for _ in 0..20 {
                assert_eq!(get().await, [200, 200]);
            }
            assert_eq!(gates.sum(|gate| gate.counts().accepted), 0, "{host}: all reached the engine");
            gates.gates.iter().for_each(|gate| gate.steer_to(Member::Gate).unwrap());
            for _ in 0..20 {
                assert_eq!(get().await, [200, 200]);
            }
            assert_eq!(gates.sum(|gate| gate.counts().accepted), 40, "{host}: all reached the gate");
        });
    }
}

#[test]
fn v2ray_shares_a_wildcard_address() {
    a_wildcard_address_is_shared(Kind::V2ray);
}

#[test]
fn xray_shares_a_wildcard_address() {
    a_wildcard_address_is_shared(Kind::Xray);
}
