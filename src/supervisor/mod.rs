//! The one owner of the session: a `select!` loop that feeds [`machine`] and carries out what it decides.
//!
//! No arm of the loop waits for I/O. What takes time (a transition, an exchange, the engine's counters) is a future of
//! its own whose end is one more input, so that every request is answered at any moment.

mod alarm;
mod context;
mod disconnect;
mod drain;
mod events;
mod handle;
mod health;
mod kept;
pub mod machine;
mod network;
mod public;
mod reconcile;
mod rotation;
mod start;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use async_channel::Receiver;
use async_io::Timer;
use async_signal::{Signal, Signals};
use chrono::Utc;
use futures::channel::oneshot;
use futures::future::{FutureExt, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{pin_mut, select};
use smol::LocalExecutor;
use uuid::Uuid;

use self::alarm::Alarm;
use self::context::{Context, Write, write_all};
pub use self::events::{Hub, KEPT, MAX_BEHIND, Subscription};
use self::handle::Call;
pub use self::handle::Handle;
use self::machine::{Beginning, CallId, Effect, Input, Machine, Now};
use self::start::GiveUp;
use crate::command::{Command, DaemonInfo, Failure, Outcome, PROTOCOL_VERSION};
use crate::event::{BusPresence, Event, Reason, SessionId, State, Status};
use crate::gate::{Behind, Handover};
use crate::paths::Paths;
use crate::settings::Settings;
use crate::store::{Shared, Store, StoreError};

/// Requests that wait for the loop; it takes microseconds for each.
const MAX_CALLS: usize = 256;
/// Database changes that wait for the disk.
const MAX_WRITES: usize = 256;
/// Between two rounds of housekeeping: log sizes, the socket file.
const HOUSEKEEPING: Duration = Duration::from_secs(15);

/// How the daemon ended.
#[derive(Debug)]
pub enum End {
    /// As asked.
    Exit,
    /// To be executed again, with session and engine left as they are, and the public listeners that nobody else has.
    Restart(Vec<Handover>),
}

/// What woke the loop.
#[expect(clippy::large_enum_variant, reason = "one at a time is alive, for microseconds")]
enum Wake {
    Call(Call),
    Task(Option<Input>),
    Signal(Option<Signal>),
    Network,
    Alarm,
    Housekeeping,
}

/// Why a supervisor does not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// /proc or signals.
    #[error("cannot begin: {0}")]
    Io(#[from] std::io::Error),
}

/// The daemon's heart, before and while it runs.
pub struct Supervisor {
    context: Rc<Context>,
    machine: Machine,
    hub: Hub,
    signals: Signals,
    network: network::Watch,
    sleep: network::Sleep,
    alarm: Alarm,
    calls: Receiver<Call>,
    writes: Receiver<Write>,
    tasks: FuturesUnordered<LocalBoxFuture<'static, Option<Input>>>,
    pending: HashMap<CallId, oneshot::Sender<Result<Outcome, Failure>>>,
    next_call: u64,
    cancel_start: Option<oneshot::Sender<()>>,
    cancel_test: Option<oneshot::Sender<()>>,
    /// Replaced engines, the oldest first, each with the way to end its drain.
    drains: VecDeque<(SessionId, oneshot::Sender<()>)>,
    housekeeping: Vec<Box<dyn Fn()>>,
    /// Between two rounds of it.
    housekeeping_every: Duration,
    end: Option<End>,
}

impl Supervisor {
    /// Opens the store, looks at what an earlier daemon left, and takes over what is alive. `handed` are the listeners that
    /// a restart in place handed over.
    ///
    /// # Errors
    /// See [`BeginError`].
    pub async fn begin(paths: Paths, settings: Settings, handed: Vec<Handover>) -> Result<(Self, Handle), BeginError> {
        let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup])?;
        let boot_id = crate::engine::process::boot_id()?;
        let database = paths.database();
        let store = Shared::new(smol::unblock(move || Store::open(&database)).await?);
        let (writes_in, writes) = async_channel::bounded(MAX_WRITES);
        let (calls_in, calls) = async_channel::bounded(MAX_CALLS);
        let info = DaemonInfo {
            protocol_version: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: Uuid::new_v4(),
            pid: std::process::id(),
            started_at: Utc::now(),
        };
        let context = Rc::new(Context {
            info: info.clone(),
            paths,
            store,
            settings: RefCell::new(Rc::new(settings)),
            boot_id: boot_id.clone(),
            machine_id: crate::engine::process::machine_id(),
            engines: RefCell::default(),
            gates: RefCell::default(),
            handed: RefCell::new(handed),
            executor: LocalExecutor::new(),
            writes: writes_in,
        });

        let left = reconcile::reconcile(&context).await?;
        let kept = kept::read(&context).await?;
        let wanted = kept.wanted.filter(|_| left.adopted.is_none());
        let (state, reason) = match &left.adopted {
            Some(_) => (State::Connected, Reason::Adopted),
            None => (State::Disconnected, Reason::None),
        };
        let beginning = Beginning {
            rules: context.rules(),
            status: Status {
                state,
                reason,
                since: info.started_at,
                session: left.adopted,
                last_failure: kept.last_failure,
                bus: BusPresence::default(),
            },
            facts: kept.rotation,
            boot_id,
            last_decision_id: kept.last_decision_id,
            seed: random(),
            info: info.clone(),
        };
        let mut supervisor = Self {
            machine: Machine::new(beginning, now()),
            hub: Hub::new(info.instance_id),
            signals,
            network: network::Watch::new(),
            sleep: network::Sleep::new(),
            alarm: Alarm::new()?,
            calls,
            writes,
            tasks: FuturesUnordered::new(),
            pending: HashMap::new(),
            next_call: 0,
            cancel_start: None,
            cancel_test: None,
            drains: VecDeque::new(),
            housekeeping: Vec::new(),
            housekeeping_every: HOUSEKEEPING,
            end: None,
            context,
        };
        for session_id in left.draining {
            let limit = Duration::from_secs(supervisor.context.settings().runtime.drain_secs);
            supervisor.drain(session_id, limit, Reason::Adopted, None);
        }
        let effects = supervisor.machine.begin(wanted, now());
        supervisor.carry_out(effects);
        // Those of addresses that nothing is to listen on any more.
        supervisor.context.handed.borrow_mut().clear();
        Ok((supervisor, Handle { calls: calls_in }))
    }

    /// This daemon's instance.
    pub fn instance_id(&self) -> Uuid {
        self.context.info.instance_id
    }

    /// Keeps house at least this often: whoever watches the loop may be less patient than 15 seconds.
    pub fn keep_house_within(&mut self, limit: Duration) {
        self.housekeeping_every = self.housekeeping_every.min(limit);
    }

    /// Adds something to be done every 15 seconds, or more often. It must not block.
    pub fn every_housekeeping(&mut self, work: impl Fn() + 'static) {
        self.housekeeping.push(Box::new(work));
    }

    /// Runs until the daemon is to end. All changes of the database are made when this returns.
    pub async fn run(mut self) -> End {
        let context = Rc::clone(&self.context);
        let writer = write_all(Rc::clone(&context), self.writes.clone()).fuse();
        let gates = context.executor.run(std::future::pending::<()>()).fuse();
        let housekeeping = StreamExt::fuse(Timer::interval(self.housekeeping_every));
        let calls = self.calls.clone().fuse();
        pin_mut!(writer, gates, housekeeping, calls);
        let end = loop {
            if let Some(end) = self.end.take() {
                break end;
            }
            self.alarm.set(self.machine.deadline());
            let wake = {
                let (network, alarm) = (self.network.changed().fuse(), self.alarm.rings().fuse());
                pin_mut!(network, alarm);
                select! {
                    call = calls.select_next_some() => Wake::Call(call),
                    input = self.tasks.select_next_some() => Wake::Task(input),
                    signal = self.signals.next().fuse() => Wake::Signal(signal.and_then(Result::ok)),
                    () = network => Wake::Network,
                    () = alarm => Wake::Alarm,
                    _ = housekeeping.select_next_some() => Wake::Housekeeping,
                    // They end only when this loop does.
                    () = writer => continue,
                    () = gates => continue,
                }
            };
            if self.sleep.noticed() {
                tracing::info!("the machine slept");
                self.feed(Input::Resumed);
            }
            let input = match wake {
                Wake::Call(call) => self.take_call(call),
                Wake::Task(input) => input,
                Wake::Signal(Some(Signal::Hup)) => self.context.reload(),
                Wake::Signal(signal) => signal.map(|_| Input::Terminate),
                Wake::Network => Some(self.look_at_network()),
                Wake::Alarm => Some(Input::Tick),
                Wake::Housekeeping => {
                    health::trim_logs(&self.context);
                    self.housekeeping.iter().for_each(|work| work());
                    None
                }
            };
            if let Some(input) = input {
                self.feed(input);
            }
        };
        if matches!(end, End::Exit) {
            self.end_drains().await;
            self.context.write(Store::set_clean);
        }
        self.context.writes.close();
        writer.await;
        end
    }

    fn feed(&mut self, input: Input) {
        // A failure is judged by what the network is now, not by what it was when it last changed.
        if matches!(input, Input::ExchangeEnded(_, Err(_))) {
            let network = self.look_at_network();
            let effects = self.machine.step(network, now());
            self.carry_out(effects);
        }
        let effects = self.machine.step(input, now());
        self.carry_out(effects);
    }

    fn look_at_network(&self) -> Input {
        let session = self.machine.status().session.as_ref();
        Input::Network { online: network::online(session.map_or("", |session| &session.address)) }
    }

    /// Replaced engines do not outlive the daemon's end.
    async fn end_drains(&mut self) {
        // The senders say so by being dropped; their ends are the last tasks that matter.
        self.drains.clear();
        let all = std::mem::take(&mut self.tasks);
        let engines = || !self.context.engines.borrow().is_empty();
        let mut all = std::pin::pin!(all.take_while(|_| futures::future::ready(engines())));
        while engines() && all.next().await.is_some() {}
    }

    fn take_call(&mut self, call: Call) -> Option<Input> {
        match call {
            Call::Command(command, reply) => {
                if let Command::DaemonRestart {} = command
                    && let Err(error) = Settings::load(&self.context.paths.settings())
                {
                    // The daemon that would be executed would end at once with such settings.
                    let _ = reply.send(Err(Failure::BadRequest(format!("the daemon goes on as it was: {error}"))));
                    return None;
                }
                self.next_call += 1;
                let id = CallId(self.next_call);
                tracing::debug!(call = id.0, "{}", command.name());
                self.pending.insert(id, reply);
                Some(Input::Command(id, command))
            }
            Call::Subscribe(since, reply) => {
                let subscription = self.hub.subscribe(since, self.machine.status().clone(), Utc::now());
                // A client that is gone already needs none.
                let _ = reply.send(subscription);
                None
            }
            Call::OnBus(presence) => Some(Input::OnBus(presence)),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.carry_out_one(effect);
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        let context = Rc::clone(&self.context);
        match effect {
            Effect::Answer(call, result) => self.answer(call, result),
            Effect::AnswerHistory(call, limit) => {
                if let Some(reply) = self.pending.remove(&call) {
                    let read = async move {
                        let decisions = context.store.run(move |store| store.decisions(limit)).await;
                        let result = decisions.map(Outcome::History);
                        let _ = reply.send(result.map_err(|error| Failure::Internal(error.to_string())));
                        None
                    };
                    self.tasks.push(read.boxed_local());
                }
            }
            Effect::Emit(event) => self.emit(event),
            Effect::Start { config_id, reason, prove, within } => {
                let (cancel, cancelled) = oneshot::channel();
                self.cancel_start = Some(cancel);
                self.task(
                    start::start(context, config_id, reason, prove, GiveUp::new(cancelled, within)).map(Input::Started),
                );
            }
            Effect::CancelStart => cancel(&mut self.cancel_start),
            Effect::GoPublic { session_id, old } => {
                self.task(public::go_public(context, session_id, old).map(Input::WentPublic));
            }
            Effect::Watch(session_id) => self.watch(session_id),
            Effect::Drain(session_id, limit, reason, fault) => self.drain(session_id, limit, reason, fault),
            Effect::Stop(session_id, reason) => {
                let stopped = disconnect::stop(context, session_id, reason);
                self.task(stopped.map(move |()| Input::StopEnded(session_id)));
            }
            // A sender says so by being dropped.
            Effect::EndDrains => self.drains.clear(),
            Effect::Discard(session_id, reason, detail) => {
                // Its listeners are gone already if it is dead, and then the gate must know before it is steered.
                if context.engine(session_id).is_some_and(|running| running.process.has_ended()) {
                    context.left(session_id);
                }
                let discarded = disconnect::discard(context, session_id, reason, detail);
                self.tasks.push(discarded.map(|()| None).boxed_local());
            }
            Effect::Hold => context.without_engine(&Behind::Hold),
            Effect::Refuse(why) => context.without_engine(&Behind::Refuse(why)),
            Effect::ClosePublic => context.gates.borrow_mut().clear(),
            Effect::Exchange(session_id) => {
                let exchange = health::exchange(context, session_id);
                self.task(exchange.map(move |result| Input::ExchangeEnded(session_id, result)));
            }
            Effect::ReadTraffic(call, session_id) => {
                let traffic = health::traffic(context, session_id);
                self.task(traffic.map(move |traffic| Input::TrafficRead(call, session_id, traffic)));
            }
            Effect::CheckPorts(session_id) => {
                let lost = health::port_lost(context, session_id);
                let input = lost.map(move |lost| lost.map(|detail| Input::PortLost(session_id, detail)));
                self.tasks.push(input.boxed_local());
            }
            Effect::ReadCandidates => {
                self.task(rotation::candidates(context).map(|rows| Input::CandidatesRead(rows, random())));
            }
            Effect::ReadChoice => self.task(rotation::choice(context).map(Input::ChoiceRead)),
            Effect::TestCandidates(ids, budget) => {
                let (cancel, cancelled) = oneshot::channel();
                self.cancel_test = Some(cancel);
                let spare = self.machine.session_works();
                self.task(rotation::test(context, ids, budget, spare, cancelled).map(Input::CandidatesTested));
            }
            Effect::CancelTest => cancel(&mut self.cancel_test),
            Effect::SaveDecision(decision) => {
                tracing::info!(trigger = decision.trigger.as_str(), "rotation: {}", decision.reason);
                context.write(move |store| store.add_decision(&decision));
            }
            Effect::SaveRotation(facts) => context.write(move |store| store.set_rotation(&facts)),
            Effect::ReadConfig(config_id) => {
                let read = async move { context.store.run(move |store| store.config(config_id)).await };
                self.task(
                    read.map(move |row| Input::ConfigRead(config_id, row.ok().flatten().map(|row| row.config.name))),
                );
            }
            Effect::ForgetWanted => context.write(|store| store.set_wanted(None)),
            Effect::Restart => self.end = Some(End::Restart(context.hand_over())),
            Effect::Exit => self.end = Some(End::Exit),
        }
    }

    fn answer(&mut self, call: CallId, result: Result<Outcome, Failure>) {
        if let Some(reply) = self.pending.remove(&call) {
            // A client that went away cancels nothing and needs no answer.
            let _ = reply.send(result);
        }
    }

    /// Lets a replaced engine finish; of too many the oldest ends at once.
    fn drain(&mut self, session_id: SessionId, limit: Duration, reason: Reason, fault: Option<String>) {
        let (cut, cut_now) = oneshot::channel();
        self.drains.retain(|(_, cut)| !cut.is_canceled());
        self.drains.push_back((session_id, cut));
        while self.drains.len() > drain::MAX_DRAINS {
            self.drains.pop_front();
        }
        let (hub, context) = (self.hub.clone(), Rc::clone(&self.context));
        let drained = async move {
            let cut_connections = drain::drain(context, session_id, limit, reason, fault, cut_now).await;
            hub.emit(Event::Drained { session_id, cut_connections }, Utc::now());
            None
        };
        self.tasks.push(drained.boxed_local());
    }

    fn emit(&mut self, event: Event) {
        if let Event::StateChanged { new, old, reason, .. } = &event {
            tracing::info!("{old} -> {new} ({reason})");
        }
        self.hub.emit(event, Utc::now());
    }

    fn task(&mut self, future: impl Future<Output = Input> + 'static) {
        self.tasks.push(future.map(Some).boxed_local());
    }

    /// Makes the end of a session's engine an input.
    fn watch(&self, session_id: SessionId) {
        let context = Rc::clone(&self.context);
        let watch = async move {
            // Held here as well: the engine may be taken out of the context while this waits.
            let running = context.engine(session_id)?;
            let exit = running.process.exited().await;
            let mut detail = format!("the engine {exit}");
            if !matches!(exit, crate::engine::process::Exit::Signal(_))
                && let Some(config) = &running.config
                && let Some(line) = context.last_line(session_id, config)
            {
                detail.push_str(&format!("; its last words: {line}"));
            }
            Some(Input::EngineExited(session_id, detail))
        };
        self.tasks.push(watch.boxed_local());
    }
}

fn cancel(sender: &mut Option<oneshot::Sender<()>>) {
    if let Some(sender) = sender.take() {
        // What has just ended hears nothing; its end is an input already.
        let _ = sender.send(());
    }
}

fn now() -> Now {
    Now { wall: Utc::now(), boot: network::boot_time() }
}

/// A random number that is nobody's secret.
fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}
