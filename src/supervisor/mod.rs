//! The one owner of the session: a `select!` loop that feeds [`machine`] and carries out what it decides.
//!
//! No arm of the loop waits for I/O. What takes time (a transition, an exchange, the engine's counters) is a future of
//! its own whose end is one more input, so that every request is answered at any moment.

mod connect;
mod context;
mod disconnect;
mod events;
mod health;
pub mod machine;
mod reconcile;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use async_signal::{Signal, Signals};
use chrono::Utc;
use futures::channel::oneshot;
use futures::future::{FutureExt, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{pin_mut, select};
use uuid::Uuid;

use self::context::{Context, Write};
pub use self::events::{Hub, KEPT, MAX_BEHIND, Subscription};
use self::machine::{CallId, Effect, Input, Machine, Rules};
use crate::command::{Command, DaemonInfo, Failure, Outcome, PROTOCOL_VERSION};
use crate::config::ConfigId;
use crate::event::{Reason, SessionId, State, Status};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As asked.
    Exit,
    /// To be executed again, with session and engine left as they are.
    Restart,
}

/// What transports hold: a way to ask the supervisor. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    calls: Sender<Call>,
}

enum Call {
    Command(Command, oneshot::Sender<Result<Outcome, Failure>>),
    Subscribe(Option<(Uuid, u64)>, oneshot::Sender<Subscription>),
}

/// What woke the loop.
#[expect(clippy::large_enum_variant, reason = "one at a time is alive, for microseconds")]
enum Wake {
    Call(Call),
    Task(Option<Input>),
    Signal(Option<Signal>),
    Housekeeping,
}

impl Handle {
    /// Asks, and waits for the answer. Dropping the future cancels nothing: the command runs to its end.
    ///
    /// # Errors
    /// Those of the command; [`Failure::Internal`] when the daemon ends first.
    pub async fn call(&self, command: Command) -> Result<Outcome, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Call::Command(command, reply)).await?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Subscribes to events, after `since` (an instance and the last event seen) or from now on.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the daemon is ending.
    pub async fn subscribe(&self, since: Option<(Uuid, u64)>) -> Result<Subscription, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Call::Subscribe(since, reply)).await?;
        answer.await.map_err(|_| gone())
    }

    async fn send(&self, call: Call) -> Result<(), Failure> {
        self.calls.send(call).await.map_err(|_| gone())
    }
}

fn gone() -> Failure {
    Failure::Internal("the daemon ended before it could answer".into())
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
    calls: Receiver<Call>,
    writes: Receiver<Write>,
    tasks: FuturesUnordered<LocalBoxFuture<'static, Option<Input>>>,
    pending: HashMap<CallId, oneshot::Sender<Result<Outcome, Failure>>>,
    next_call: u64,
    cancel: Option<oneshot::Sender<()>>,
    housekeeping: Vec<Box<dyn Fn()>>,
    end: Option<End>,
}

impl Supervisor {
    /// Opens the store, looks at what an earlier daemon left, and takes over what is alive.
    ///
    /// # Errors
    /// See [`BeginError`].
    pub async fn begin(paths: Paths, settings: Settings) -> Result<(Self, Handle), BeginError> {
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
            boot_id,
            machine_id: crate::engine::process::machine_id(),
            engines: RefCell::default(),
            writes: writes_in,
        });

        let adopted = reconcile::reconcile(&context).await?;
        let (last_failure, wanted) = begin_store(&context).await?;
        let wanted = wanted.filter(|_| adopted.is_none());
        let (state, reason) = match &adopted {
            Some(_) => (State::Connected, Reason::Adopted),
            None => (State::Disconnected, Reason::None),
        };
        let status = Status { state, reason, since: info.started_at, session: adopted, last_failure };
        let hub = Hub::new(info.instance_id);
        let mut supervisor = Self {
            machine: Machine::new(info, rules(&context.settings()), status),
            hub,
            signals,
            calls,
            writes,
            tasks: FuturesUnordered::new(),
            pending: HashMap::new(),
            next_call: 0,
            cancel: None,
            housekeeping: Vec::new(),
            end: None,
            context,
        };
        let effects = supervisor.machine.begin(wanted, Utc::now());
        supervisor.carry_out(effects);
        Ok((supervisor, Handle { calls: calls_in }))
    }

    /// This daemon's instance.
    pub fn instance_id(&self) -> Uuid {
        self.context.info.instance_id
    }

    /// Adds something to be done every 15 seconds. It must not block.
    pub fn every_housekeeping(&mut self, work: impl Fn() + 'static) {
        self.housekeeping.push(Box::new(work));
    }

    /// Runs until the daemon is to end. All changes of the database are made when this returns.
    pub async fn run(mut self) -> End {
        let writer = write_all(self.context.clone(), self.writes.clone()).fuse();
        let housekeeping = StreamExt::fuse(Timer::interval(HOUSEKEEPING));
        let calls = self.calls.clone().fuse();
        pin_mut!(writer, housekeeping, calls);
        let end = loop {
            if let Some(end) = self.end {
                break end;
            }
            let wake = select! {
                call = calls.select_next_some() => Wake::Call(call),
                input = self.tasks.select_next_some() => Wake::Task(input),
                signal = self.signals.next().fuse() => Wake::Signal(signal.and_then(Result::ok)),
                _ = housekeeping.select_next_some() => Wake::Housekeeping,
                // It ends only when the queue is closed, below.
                () = writer => continue,
            };
            let input = match wake {
                Wake::Call(call) => self.take_call(call),
                Wake::Task(input) => input,
                Wake::Signal(Some(Signal::Hup)) => self.reload(),
                Wake::Signal(signal) => signal.map(|_| Input::Terminate),
                Wake::Housekeeping => {
                    health::trim_logs(&self.context);
                    self.housekeeping.iter().for_each(|work| work());
                    None
                }
            };
            if let Some(input) = input {
                let effects = self.machine.step(input, Utc::now());
                self.carry_out(effects);
            }
        };
        if end == End::Exit {
            self.context.write(Store::set_clean);
        }
        self.context.writes.close();
        writer.await;
        end
    }

    fn take_call(&mut self, call: Call) -> Option<Input> {
        match call {
            Call::Command(command, reply) => {
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
        }
    }

    /// SIGHUP: settings that cannot be used leave the old ones in force.
    fn reload(&mut self) -> Option<Input> {
        match Settings::load(&self.context.paths.settings()) {
            Ok((settings, warnings)) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let rules = rules(&settings);
                *self.context.settings.borrow_mut() = Rc::new(settings);
                tracing::info!("settings read again; ports apply at the next session");
                Some(Input::SettingsRead(rules))
            }
            Err(error) => {
                tracing::error!("the settings stay as they were: {error}");
                None
            }
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
            Effect::Answer(call, result) => {
                if let Some(reply) = self.pending.remove(&call) {
                    // A client that went away cancels nothing and needs no answer.
                    let _ = reply.send(result);
                }
            }
            Effect::Emit(event) => self.emit(event),
            Effect::Connect(config_id, reason) => {
                let (cancel, cancelled) = oneshot::channel();
                self.cancel = Some(cancel);
                self.task(connect::connect(context, config_id, reason, cancelled).map(Input::ConnectEnded));
            }
            Effect::CancelConnect => {
                if let Some(cancel) = self.cancel.take() {
                    // The connect that has just ended hears nothing; its end is an input already.
                    let _ = cancel.send(());
                }
            }
            Effect::Stop(session_id, reason) => {
                let stopped = disconnect::stop(context, session_id, reason);
                self.task(stopped.map(move |()| Input::StopEnded(session_id)));
            }
            Effect::Watch(session_id) => self.watch(session_id),
            Effect::Discard(session_id, reason, detail) => disconnect::discard(&context, session_id, reason, detail),
            Effect::Exchange(session_id, after) => {
                let exchange = health::exchange(context, session_id, after);
                self.task(exchange.map(move |result| Input::ExchangeEnded(session_id, result)));
            }
            Effect::ReadTraffic(call, session_id) => {
                let traffic = health::traffic(context, session_id);
                self.task(traffic.map(move |traffic| Input::TrafficRead(call, session_id, traffic)));
            }
            Effect::ReadConfig(config_id) => {
                let read = async move { context.store.run(move |store| store.config(config_id)).await };
                self.task(
                    read.map(move |row| Input::ConfigRead(config_id, row.ok().flatten().map(|row| row.config.name))),
                );
            }
            Effect::ForgetWanted => context.write(|store| store.set_wanted(None)),
            Effect::Restart => self.end = Some(End::Restart),
            Effect::Exit => self.end = Some(End::Exit),
        }
    }

    fn emit(&mut self, event: crate::event::Event) {
        if let crate::event::Event::StateChanged { new, old, reason, .. } = &event {
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

fn rules(settings: &Settings) -> Rules {
    let health = &settings.runtime.health;
    Rules { failure_threshold: health.failure_threshold, interval: Duration::from_secs(health.interval_secs) }
}

/// Makes queued changes one after the other until the queue is closed and empty.
async fn write_all(context: Rc<Context>, writes: Receiver<Write>) {
    while let Ok(change) = writes.recv().await {
        if let Err(error) = context.store.run(change).await {
            tracing::error!("a change of the database is lost: {error}");
        }
    }
}

/// What the database says of before: the last fault, and the config that is to be connected now.
///
/// After a crash within one boot that is what was wanted; after a reboot only if the settings say so; after an end
/// that the user asked for, nothing.
async fn begin_store(
    context: &Context,
) -> Result<(Option<crate::event::LastFailure>, Option<(ConfigId, Reason)>), StoreError> {
    let boot_id = context.boot_id.clone();
    let autoconnect = context.settings().runtime.autoconnect;
    context
        .store
        .run(move |store| {
            let before = store.begin_daemon(&boot_id)?;
            let wanted = store.wanted()?.and_then(|config_id| {
                let same_boot = before.boot_id.as_deref() == Some(boot_id.as_str());
                match (same_boot, before.clean) {
                    (true, false) => Some((config_id, Reason::EngineExited)),
                    (true, true) => None,
                    (false, _) => autoconnect.then_some((config_id, Reason::Autoconnect)),
                }
            });
            Ok((store.last_failure()?, wanted))
        })
        .await
}
