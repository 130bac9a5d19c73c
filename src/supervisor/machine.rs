//! Every rule of what happens next: `(state, input, now) -> effects`. No clock, no I/O, no randomness.
//!
//! The loop in the parent module feeds it and carries its effects out, in their order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::command::{Command, DaemonInfo, Failure, Outcome};
use crate::config::ConfigId;
use crate::event::{Event, Health, LastFailure, Reason, Session, SessionId, State, Status, Traffic};

/// A failed exchange is repeated after this, until the threshold is reached.
const REPEAT_EXCHANGE: Duration = Duration::from_secs(2);

/// One request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// Something the machine must decide about.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time is alive, for microseconds")]
pub enum Input {
    /// A client asks.
    Command(CallId, Command),
    /// The running connect has ended.
    ConnectEnded(Result<Session, ConnectFailure>),
    /// The engine that was to be stopped is gone.
    StopEnded(SessionId),
    /// A session's engine ended without being asked to.
    EngineExited(SessionId, String),
    /// An exchange through the session ended: its delay in milliseconds, or what failed.
    ExchangeEnded(SessionId, Result<u32, String>),
    /// The engine's counters were read for a status request; none when it did not answer.
    TrafficRead(CallId, SessionId, Option<Traffic>),
    /// The active config was read again; none when it is gone.
    ConfigRead(ConfigId, Option<String>),
    /// The settings were read again.
    SettingsRead(Rules),
    /// The system wants the daemon to end.
    Terminate,
}

/// Why a connect did not end in a session.
#[derive(Clone, Debug)]
pub struct ConnectFailure {
    /// The row, when one was made.
    pub session_id: Option<SessionId>,
    /// The kind of fault.
    pub reason: Reason,
    /// The answer to the client.
    pub failure: Failure,
}

/// Something the loop must do.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time is alive, for microseconds")]
pub enum Effect {
    /// Answer a client.
    Answer(CallId, Result<Outcome, Failure>),
    /// Tell everybody.
    Emit(Event),
    /// Begin a connect.
    Connect(ConfigId, Reason),
    /// Give the running connect up; it still reports its end.
    CancelConnect,
    /// End a session's engine.
    Stop(SessionId, Reason),
    /// Tell when a session's engine ends.
    Watch(SessionId),
    /// A session's engine is dead: write it down and forget it.
    Discard(SessionId, Reason, String),
    /// Try an exchange through a session.
    Exchange(SessionId, Duration),
    /// Read a session's counters for a status request.
    ReadTraffic(CallId, SessionId),
    /// Read the active config again.
    ReadConfig(ConfigId),
    /// The user wants no session any more.
    ForgetWanted,
    /// Execute the program again.
    Restart,
    /// End the daemon.
    Exit,
}

/// The settings that rules depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many failed exchanges in a row make the health `failed`.
    pub failure_threshold: u32,
    /// How often a node whose health is `failed` is tried again.
    pub interval: Duration,
}

/// The transition that runs, with who waits for it.
#[derive(Debug)]
enum Transition {
    Connect { config_id: ConfigId, call: Option<CallId>, cancelled: bool },
    Disconnect { session_id: SessionId, calls: Vec<CallId> },
}

/// The state of the daemon.
#[derive(Debug)]
pub struct Machine {
    info: DaemonInfo,
    rules: Rules,
    status: Status,
    transition: Option<Transition>,
    /// Disconnects that wait for a connect to be given up.
    disconnecting: Vec<CallId>,
    shutting_down: bool,
}

impl Machine {
    /// A machine that begins in `status`.
    pub fn new(info: DaemonInfo, rules: Rules, status: Status) -> Self {
        Self { info, rules, status, transition: None, disconnecting: Vec::new(), shutting_down: false }
    }

    /// The state as clients see it.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What to do at the very beginning: prove an adopted session, or begin one that is wanted.
    pub fn begin(&mut self, wanted: Option<(ConfigId, Reason)>, now: DateTime<Utc>) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(session) = &self.status.session {
            let session_id = session.session_id;
            effects.extend([Effect::Watch(session_id), Effect::Exchange(session_id, Duration::ZERO)]);
        } else if let Some((config_id, reason)) = wanted {
            self.connect(None, config_id, reason, now, &mut effects);
        }
        effects
    }

    /// Decides about one input.
    pub fn step(&mut self, input: Input, now: DateTime<Utc>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Command(call, command) => self.command(call, command, now, &mut effects),
            Input::ConnectEnded(result) => self.connect_ended(result, now, &mut effects),
            Input::StopEnded(session_id) => self.stop_ended(session_id, now, &mut effects),
            Input::EngineExited(session_id, detail) => self.engine_exited(session_id, detail, now, &mut effects),
            Input::ExchangeEnded(session_id, result) => self.exchange_ended(session_id, result, now, &mut effects),
            Input::TrafficRead(call, session_id, traffic) => {
                if let (Some(session), Some(traffic)) = (self.session_mut(session_id), traffic) {
                    session.traffic = Some(traffic);
                }
                effects.push(self.answer_status(call));
            }
            Input::ConfigRead(config_id, name) => {
                if let (Some(session), Some(name)) = (self.status.session.as_mut(), name)
                    && session.config_id == config_id
                {
                    session.name = name;
                }
                effects.push(Effect::Emit(Event::ConfigsChanged {}));
            }
            Input::SettingsRead(rules) => {
                self.rules = rules;
                effects.push(Effect::Emit(Event::SettingsChanged {}));
            }
            Input::Terminate => self.shut_down(now, &mut effects),
        }
        effects
    }

    fn command(&mut self, call: CallId, command: Command, now: DateTime<Utc>, effects: &mut Vec<Effect>) {
        let answer = |result| Effect::Answer(call, result);
        match command {
            Command::DaemonPing {} => effects.push(answer(Ok(Outcome::Info(self.info.clone())))),
            Command::RuntimeStatus {} => effects.push(match &self.status.session {
                Some(session) => Effect::ReadTraffic(call, session.session_id),
                None => self.answer_status(call),
            }),
            Command::DaemonShutdown {} => {
                effects.push(answer(Ok(Outcome::Done {})));
                self.shut_down(now, effects);
            }
            Command::ConfigsChanged {} => {
                effects.push(answer(Ok(Outcome::Done {})));
                effects.push(match &self.status.session {
                    Some(session) => Effect::ReadConfig(session.config_id),
                    None => Effect::Emit(Event::ConfigsChanged {}),
                });
            }
            _ if self.shutting_down => effects.push(answer(Err(Failure::conflict("the daemon is ending")))),
            Command::DaemonRestart {} => match self.running_transition() {
                Some(conflict) => effects.push(answer(Err(conflict))),
                None => effects.extend([answer(Ok(Outcome::Done {})), Effect::Restart]),
            },
            Command::RuntimeConnect { config_id } => match self.running_transition().or_else(|| self.running_session())
            {
                Some(conflict) => effects.push(answer(Err(conflict))),
                None => self.connect(Some(call), config_id, Reason::UserRequested, now, effects),
            },
            Command::RuntimeDisconnect {} => self.disconnect(call, now, effects),
            Command::RuntimeReplace { .. }
            | Command::ProxyStart {}
            | Command::ProxyStatus {}
            | Command::ProxyStop {}
            | Command::RotationHistory { .. } => effects.push(answer(Err(Failure::BadRequest(format!(
                "{} is not available yet in xrat {}",
                command.name(),
                self.info.version
            ))))),
            // Transports turn this one into a subscription themselves.
            Command::EventSubscribe { .. } => {
                effects.push(answer(Err(Failure::BadRequest("EventSubscribe needs a connection of its own".into()))));
            }
        }
    }

    fn connect(
        &mut self,
        call: Option<CallId>,
        config_id: ConfigId,
        reason: Reason,
        now: DateTime<Utc>,
        effects: &mut Vec<Effect>,
    ) {
        self.transition = Some(Transition::Connect { config_id, call, cancelled: false });
        self.enter(State::Connecting, reason, now, effects);
        effects.push(Effect::Connect(config_id, reason));
    }

    fn disconnect(&mut self, call: CallId, now: DateTime<Utc>, effects: &mut Vec<Effect>) {
        match &mut self.transition {
            Some(Transition::Disconnect { calls, .. }) => calls.push(call),
            Some(Transition::Connect { cancelled, .. }) => {
                self.disconnecting.push(call);
                if !std::mem::replace(cancelled, true) {
                    effects.extend([Effect::ForgetWanted, Effect::CancelConnect]);
                    self.enter(State::Disconnecting, Reason::UserRequested, now, effects);
                }
            }
            None => match self.status.session.as_ref().map(|session| session.session_id) {
                Some(session_id) => {
                    effects.push(Effect::ForgetWanted);
                    self.stop(session_id, vec![call], Reason::UserRequested, now, effects);
                }
                None if self.status.state == State::Disconnected => {
                    effects.push(Effect::Answer(call, Err(Failure::NotFound("no active session".into()))));
                }
                None => {
                    effects.push(Effect::ForgetWanted);
                    self.enter(State::Disconnected, Reason::UserRequested, now, effects);
                    effects.push(Effect::Answer(call, Ok(Outcome::Stopped { stopped_session_id: None })));
                }
            },
        }
    }

    fn stop(
        &mut self,
        session_id: SessionId,
        calls: Vec<CallId>,
        reason: Reason,
        now: DateTime<Utc>,
        effects: &mut Vec<Effect>,
    ) {
        self.transition = Some(Transition::Disconnect { session_id, calls });
        if let Some(session) = self.session_mut(session_id) {
            session.status = crate::event::SessionStatus::Stopping;
        }
        self.enter(State::Disconnecting, reason, now, effects);
        effects.push(Effect::Stop(session_id, reason));
    }

    fn shut_down(&mut self, now: DateTime<Utc>, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        match &mut self.transition {
            Some(Transition::Disconnect { .. }) => {}
            Some(Transition::Connect { cancelled, .. }) => {
                if !std::mem::replace(cancelled, true) {
                    effects.push(Effect::CancelConnect);
                    self.enter(State::Disconnecting, Reason::DaemonShutdown, now, effects);
                }
            }
            None => match self.status.session.as_ref().map(|session| session.session_id) {
                Some(session_id) => self.stop(session_id, Vec::new(), Reason::DaemonShutdown, now, effects),
                None => effects.push(Effect::Exit),
            },
        }
    }

    fn connect_ended(
        &mut self,
        result: Result<Session, ConnectFailure>,
        now: DateTime<Utc>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Transition::Connect { config_id, call, cancelled }) = self.transition.take() else { return };
        let reason = self.status.reason;
        match result {
            Ok(session) if cancelled => {
                // The connect was done before it heard that it was not wanted any more.
                let session_id = session.session_id;
                self.status.session = Some(session);
                effects.extend(call.map(|call| Effect::Answer(call, Err(given_up()))));
                let calls = std::mem::take(&mut self.disconnecting);
                self.stop(session_id, calls, reason, now, effects);
            }
            Ok(session) => {
                let session_id = session.session_id;
                self.status.session = Some(session.clone());
                self.enter(State::Connected, reason, now, effects);
                effects.extend(call.map(|call| Effect::Answer(call, Ok(Outcome::Session(Box::new(session))))));
                effects.extend([Effect::Watch(session_id), Effect::Exchange(session_id, Duration::ZERO)]);
            }
            Err(_) if cancelled => {
                effects.extend(call.map(|call| Effect::Answer(call, Err(given_up()))));
                self.enter(State::Disconnected, reason, now, effects);
                self.after_stop(None, Vec::new(), effects);
            }
            Err(failed) => {
                let detail = failed.failure.to_string();
                self.status.last_failure = Some(LastFailure {
                    at: now,
                    session_id: failed.session_id,
                    config_id,
                    reason: failed.reason,
                    detail: detail.clone(),
                });
                if let Some(session_id) = failed.session_id {
                    effects.push(Effect::Emit(Event::SessionFailed { session_id, reason: failed.reason, detail }));
                }
                // Who asked is told and decides; what the daemon began by itself is still wanted.
                let state = if call.is_some() { State::Disconnected } else { State::Failed };
                self.enter(state, failed.reason, now, effects);
                effects.extend(call.map(|call| Effect::Answer(call, Err(failed.failure))));
            }
        }
    }

    fn stop_ended(&mut self, stopped: SessionId, now: DateTime<Utc>, effects: &mut Vec<Effect>) {
        match self.transition.take() {
            Some(Transition::Disconnect { session_id, calls }) if session_id == stopped => {
                self.status.session = None;
                self.enter(State::Disconnected, self.status.reason, now, effects);
                self.after_stop(Some(stopped), calls, effects);
            }
            other => self.transition = other,
        }
    }

    /// Everything that waited for the session's end.
    fn after_stop(&mut self, stopped: Option<SessionId>, calls: Vec<CallId>, effects: &mut Vec<Effect>) {
        for call in calls.into_iter().chain(std::mem::take(&mut self.disconnecting)) {
            effects.push(Effect::Answer(call, Ok(Outcome::Stopped { stopped_session_id: stopped })));
        }
        if self.shutting_down {
            effects.push(Effect::Exit);
        }
    }

    fn engine_exited(&mut self, dead: SessionId, detail: String, now: DateTime<Utc>, effects: &mut Vec<Effect>) {
        if matches!(&self.transition, Some(Transition::Disconnect { session_id, .. }) if *session_id == dead) {
            return;
        }
        let Some(session) = self.status.session.take_if(|session| session.session_id == dead) else { return };
        self.status.last_failure = Some(LastFailure {
            at: now,
            session_id: Some(dead),
            config_id: session.config_id,
            reason: Reason::EngineExited,
            detail: detail.clone(),
        });
        effects.push(Effect::Discard(dead, Reason::EngineExited, detail.clone()));
        effects.push(Effect::Emit(Event::SessionFailed { session_id: dead, reason: Reason::EngineExited, detail }));
        self.enter(State::Failed, Reason::EngineExited, now, effects);
        if self.shutting_down {
            effects.push(Effect::Exit);
        }
    }

    fn exchange_ended(
        &mut self,
        session_id: SessionId,
        result: Result<u32, String>,
        now: DateTime<Utc>,
        effects: &mut Vec<Effect>,
    ) {
        let rules = self.rules;
        let Some(session) = self.session_mut(session_id) else { return };
        let health = &mut session.health;
        health.checked_at = Some(now);
        let detail = match result {
            Ok(delay_ms) => {
                session.delay_ms = Some(delay_ms);
                health.status = Health::Healthy;
                health.consecutive_failures = 0;
                None
            }
            Err(detail) => {
                health.consecutive_failures = health.consecutive_failures.saturating_add(1);
                let failed = health.consecutive_failures >= rules.failure_threshold;
                health.status = if failed { Health::Failed } else { Health::Degraded };
                let after = if failed { rules.interval } else { REPEAT_EXCHANGE };
                effects.push(Effect::Exchange(session_id, after));
                Some(detail)
            }
        };
        let (health, delay_ms) = (health.clone(), session.delay_ms);
        effects.push(Effect::Emit(Event::HealthChanged { session_id, health, delay_ms, detail }));
    }

    fn enter(&mut self, new: State, reason: Reason, now: DateTime<Utc>, effects: &mut Vec<Effect>) {
        let old = std::mem::replace(&mut self.status.state, new);
        self.status.reason = reason;
        self.status.since = now;
        effects.push(Effect::Emit(Event::StateChanged { new, old, reason, session: self.status.session.clone() }));
    }

    fn answer_status(&self, call: CallId) -> Effect {
        Effect::Answer(call, Ok(Outcome::Status(Box::new(self.status.clone()))))
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.status.session.as_mut().filter(|session| session.session_id == id)
    }

    fn running_session(&self) -> Option<Failure> {
        let session = self.status.session.as_ref()?;
        Some(Failure::Conflict {
            message: format!(
                "a session is already running: {} (config {}); disconnect first",
                session.name, session.config_id
            ),
            details: json!({ "session_id": session.session_id, "config_id": session.config_id }),
        })
    }

    fn running_transition(&self) -> Option<Failure> {
        let (name, details) = match self.transition.as_ref()? {
            Transition::Connect { config_id, .. } => ("connect", json!({ "config_id": config_id })),
            Transition::Disconnect { session_id, .. } => ("disconnect", json!({ "session_id": session_id })),
        };
        Some(Failure::Conflict {
            message: format!("a transition is in progress: {name}; try again when it is done"),
            details: json!({ "transition": name, "of": details }),
        })
    }
}

fn given_up() -> Failure {
    Failure::conflict("the connect was given up: a disconnect or the daemon's end came first")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
