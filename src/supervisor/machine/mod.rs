//! Every rule of what happens next: `(state, input, now) -> effects`. No clock, no I/O, no randomness of its own.
//!
//! The loop in the parent module feeds it and carries its effects out, in their order. At most one transition runs at a
//! time: a start, a hand-over, a choice or a stop. What ends it is an input.

mod choose;
mod commands;
mod health;
mod recovery;
mod rotation;
mod types;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::command::{DaemonInfo, Failure, Outcome};
use crate::config::ConfigId;
use crate::event::{Event, Health, LastFailure, Reason, Session, SessionId, SessionStatus, State, Status};
use crate::store::RotationFacts;

pub use self::types::{Beginning, CallId, Choice, Effect, Input, Now, Rules, StartFailure};

use self::health::HealthPlan;
use self::recovery::Retry;
use self::rotation::Rotation;

/// One start has this long; D-Bus bindings give up at 25 s.
const START_BUDGET: Duration = Duration::from_secs(18);

/// The transition that runs.
#[derive(Debug)]
enum Transition {
    /// A client or a setting wants a session; of no config until one is chosen.
    Connect { config_id: ConfigId, call: Option<CallId>, before: State },
    /// The same config again after a fault.
    Again { config_id: ConfigId },
    /// A run of the scheduler.
    Rotate(Box<Rotation>),
    /// Sessions are being ended.
    Disconnect { left: BTreeSet<SessionId>, first: Option<SessionId>, calls: Vec<CallId> },
}

/// The state of the daemon.
#[derive(Debug)]
pub struct Machine {
    info: DaemonInfo,
    boot_id: String,
    rules: Rules,
    status: Status,
    transition: Option<Transition>,
    /// The running transition is to end as soon as it can.
    cancelled: bool,
    /// The engine that is ready and not public yet.
    started: Option<Session>,
    /// Disconnects that wait for a transition to be given up.
    disconnecting: Vec<CallId>,
    shutting_down: bool,
    health: HealthPlan,
    online: bool,
    /// What was lost and is still wanted.
    lost: Option<ConfigId>,
    /// When the lost config is started again.
    again_at: Option<Duration>,
    /// The starts of the last minutes, for the breaker.
    starts: VecDeque<Duration>,
    /// What a retry of `failed` still has.
    retry: Retry,
    facts: RotationFacts,
    cooldown_until: Option<Duration>,
    next_timer: Option<Duration>,
    /// What the last event said of the timer.
    told: (bool, Option<Duration>),
    quarantine: HashMap<ConfigId, Duration>,
    last_decision_id: i64,
    random: u64,
}

impl Machine {
    /// A machine that begins as it is told.
    pub fn new(beginning: Beginning, now: Now) -> Self {
        let Beginning { info, rules, status, facts, boot_id, last_decision_id, seed } = beginning;
        let mut machine = Self {
            info,
            boot_id,
            rules,
            status,
            transition: None,
            cancelled: false,
            started: None,
            disconnecting: Vec::new(),
            shutting_down: false,
            health: HealthPlan::default(),
            online: true,
            lost: None,
            again_at: None,
            starts: VecDeque::new(),
            retry: Retry::No,
            facts,
            cooldown_until: None,
            next_timer: None,
            told: (false, None),
            quarantine: HashMap::new(),
            last_decision_id,
            random: seed | 1,
        };
        machine.restore_deadlines(now);
        machine
    }

    /// The state as clients see it.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What to do at the very beginning: prove an adopted session, or begin one that is wanted.
    pub fn begin(&mut self, wanted: Option<(ConfigId, Reason)>, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(session_id) = self.session_id() {
            effects.push(Effect::Watch(session_id));
            self.begin_health(session_id, now, &mut effects);
        } else if let Some((config_id, reason)) = wanted {
            if reason == Reason::Autoconnect {
                self.connect(None, config_id, reason, now, &mut effects);
            } else {
                // The engine died while no daemon watched; the same config is what the user had.
                self.lost = Some(config_id);
                effects.push(Effect::Hold);
                self.enter(State::Recovering, reason, now, &mut effects);
                self.again(config_id, reason, now, &mut effects);
            }
        }
        effects
    }

    /// When [`Input::Tick`] is due, on CLOCK_BOOTTIME.
    pub fn deadline(&self) -> Option<Duration> {
        let timer = self.next_timer.filter(|_| self.timer_runs());
        [self.health.deadline(), self.again_at.filter(|_| self.transition.is_none()), timer].into_iter().flatten().min()
    }

    /// Decides about one input.
    pub fn step(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let effects_of = &mut effects;
        match input {
            Input::Command(call, command) => self.command(call, command, now, effects_of),
            Input::Started(result) => self.start_ended(result, now, effects_of),
            Input::WentPublic(result) => self.went_public(result, now, effects_of),
            Input::StopEnded(session_id) => self.stop_ended(session_id, now, effects_of),
            Input::EngineExited(session_id, detail) => {
                self.session_lost(session_id, Reason::EngineExited, detail, now, effects_of);
            }
            // In the middle of a hand-over the old engine leaves its ports as it is told to.
            Input::PortLost(..) if self.started.is_some() => {}
            Input::PortLost(session_id, detail) => {
                self.session_lost(session_id, Reason::PortLost, detail, now, effects_of);
            }
            Input::ExchangeEnded(session_id, result) => self.exchange_ended(session_id, result, now, effects_of),
            Input::TrafficRead(call, session_id, traffic) => {
                self.traffic_read(call, session_id, traffic, now, effects_of);
            }
            Input::CandidatesRead(rows, random) => self.candidates_read(rows, random, now, effects_of),
            Input::ChoiceRead(result) => self.choice_read(result, now, effects_of),
            Input::CandidatesTested(results) => self.candidates_tested(results, now, effects_of),
            Input::ConfigRead(config_id, name) => {
                if let (Some(session), Some(name)) = (self.status.session.as_mut(), name)
                    && session.config_id == config_id
                {
                    session.name = name;
                }
                effects_of.push(Effect::Emit(Event::ConfigsChanged {}));
            }
            Input::SettingsRead(rules) => {
                self.rules = rules;
                effects_of.push(Effect::Emit(Event::SettingsChanged {}));
                self.schedule_timer(now, effects_of);
            }
            Input::Network { online } => self.network_changed(online, now, effects_of),
            Input::OnBus(presence) => self.status.bus = presence,
            Input::Resumed => self.look_again(now, effects_of),
            Input::Tick => self.tick(now, effects_of),
            Input::Terminate => self.shut_down(now, effects_of),
        }
        effects
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.health_tick(now, effects);
        if self.again_at.is_some_and(|at| at <= now.boot) && self.transition.is_none() && !self.shutting_down {
            self.again_at = None;
            self.start_again(now, effects);
        }
        if self.timer_runs() && self.next_timer.is_some_and(|at| at <= now.boot) {
            self.timer_due(now, effects);
        }
    }

    fn connect(
        &mut self,
        call: Option<CallId>,
        config_id: ConfigId,
        reason: Reason,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.again_at = None;
        self.transition = Some(Transition::Connect { config_id, call, before: self.status.state });
        self.enter(State::Connecting, reason, now, effects);
        effects.push(match config_id {
            ConfigId::NONE => Effect::ReadChoice,
            _ => Effect::Start { config_id, reason, prove: false, within: START_BUDGET },
        });
    }

    /// A connect that named no config gets one.
    fn choice_read(&mut self, result: Result<Choice, StartFailure>, now: Now, effects: &mut Vec<Effect>) {
        if self.cancelled {
            return self.finish_cancel(None, now, effects);
        }
        let Some(Transition::Connect { config_id, .. }) = &mut self.transition else { return };
        let chosen = result.and_then(|choice| {
            choose::first(&choice.usable, choice.last).ok_or_else(|| StartFailure {
                session_id: None,
                reason: Reason::None,
                failure: Failure::NotFound(nothing_to_choose(choice.stored)),
            })
        });
        match chosen {
            Ok(chosen) => {
                *config_id = chosen;
                let reason = self.status.reason;
                effects.push(Effect::Start { config_id: chosen, reason, prove: false, within: START_BUDGET });
            }
            Err(failed) => self.start_failed(failed, now, effects),
        }
    }

    fn start_ended(&mut self, result: Result<Session, StartFailure>, now: Now, effects: &mut Vec<Effect>) {
        if self.cancelled {
            let started = result.ok().map(|session| session.session_id);
            return self.finish_cancel(started, now, effects);
        }
        match result {
            Ok(session) => {
                let old = self.session_id();
                effects.push(Effect::GoPublic { session_id: session.session_id, old });
                self.started = Some(session);
            }
            Err(failed) => self.start_failed(failed, now, effects),
        }
    }

    fn went_public(&mut self, result: Result<(), StartFailure>, now: Now, effects: &mut Vec<Effect>) {
        let Some(mut session) = self.started.take() else { return };
        if self.cancelled {
            return self.finish_cancel(result.is_ok().then_some(session.session_id), now, effects);
        }
        if let Err(failed) = result {
            return self.start_failed(failed, now, effects);
        }
        session.status = SessionStatus::Running;
        let session_id = session.session_id;
        let old = self.status.session.replace(session.clone());
        self.lost = None;
        self.again_at = None;
        self.retry = Retry::No;
        effects.push(Effect::Watch(session_id));
        let reason = self.status.reason;
        match self.transition.take() {
            Some(Transition::Connect { call, .. }) => {
                // What was before the user's own word does not count against what came of it.
                self.starts.clear();
                self.enter(State::Connected, reason, now, effects);
                effects.extend(call.map(|call| Effect::Answer(call, Ok(Outcome::Session(Box::new(session.clone()))))));
            }
            Some(Transition::Rotate(rotation)) => self.moved(*rotation, &session, old, now, effects),
            _ => self.enter(State::Connected, reason, now, effects),
        }
        self.next_timer = None;
        self.schedule_timer(now, effects);
        self.begin_health(session_id, now, effects);
    }

    /// An engine did not start, or did not get public: what was begun for it decides.
    fn start_failed(&mut self, failed: StartFailure, now: Now, effects: &mut Vec<Effect>) {
        match self.transition.take() {
            Some(Transition::Connect { config_id, call, before }) => {
                // That there is no such config, or none was chosen, is no failure of a session.
                if !matches!(failed.failure, Failure::NotFound(_)) && config_id != ConfigId::NONE {
                    let detail = failed.failure.to_string();
                    self.note_failure(config_id, failed.session_id, failed.reason, detail, now, effects);
                }
                // Who asked is told and decides; what the daemon began by itself is still wanted.
                if call.is_none() {
                    self.lost = Some(config_id);
                    self.fail(failed.reason, now, effects);
                } else if let Some(lost) = self.lost {
                    // A session was to be brought back before, and still is.
                    match before {
                        State::Failed => self.fail(failed.reason, now, effects),
                        _ => self.again(lost, failed.reason, now, effects),
                    }
                } else {
                    effects.push(Effect::ClosePublic);
                    self.enter(State::Disconnected, failed.reason, now, effects);
                }
                effects.extend(call.map(|call| Effect::Answer(call, Err(failed.failure))));
            }
            Some(Transition::Again { config_id }) => {
                self.note_failure(
                    config_id,
                    failed.session_id,
                    failed.reason,
                    failed.failure.to_string(),
                    now,
                    effects,
                );
                self.again(config_id, failed.reason, now, effects);
            }
            Some(Transition::Rotate(rotation)) => self.candidate_failed(*rotation, failed, now, effects),
            other => self.transition = other,
        }
    }

    /// Everything that was begun is given up; ends what is left of it.
    fn finish_cancel(&mut self, started: Option<SessionId>, now: Now, effects: &mut Vec<Effect>) {
        self.cancelled = false;
        self.started = None;
        let given_up = || Failure::conflict("given up: a disconnect or the daemon's end came first");
        match self.transition.take() {
            Some(Transition::Connect { call, .. }) => {
                effects.extend(call.map(|call| Effect::Answer(call, Err(given_up()))));
            }
            Some(Transition::Rotate(rotation)) => {
                effects.extend(rotation.call.map(|call| Effect::Answer(call, Err(given_up()))));
            }
            _ => {}
        }
        let calls = std::mem::take(&mut self.disconnecting);
        let reason = self.status.reason;
        self.stop(started, calls, reason, now, effects);
    }

    /// Ends the active session and `other`; at once disconnected if there is neither.
    fn stop(
        &mut self,
        other: Option<SessionId>,
        calls: Vec<CallId>,
        reason: Reason,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.forget_lost();
        self.health.end();
        let active = self.session_id();
        let left: BTreeSet<SessionId> = active.into_iter().chain(other).collect();
        if let Some(session) = &mut self.status.session {
            session.status = SessionStatus::Stopping;
        }
        if self.status.state != State::Disconnecting {
            self.enter(State::Disconnecting, reason, now, effects);
        }
        effects.extend([Effect::ClosePublic, Effect::EndDrains]);
        effects.extend(left.iter().map(|session_id| Effect::Stop(*session_id, reason)));
        let done = left.is_empty();
        self.transition = Some(Transition::Disconnect { left, first: active.or(other), calls });
        if done {
            self.stopped(now, effects);
        }
    }

    fn stop_ended(&mut self, stopped: SessionId, now: Now, effects: &mut Vec<Effect>) {
        if let Some(Transition::Disconnect { left, .. }) = &mut self.transition
            && left.remove(&stopped)
            && left.is_empty()
        {
            self.stopped(now, effects);
        }
    }

    fn stopped(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(Transition::Disconnect { first, calls, .. }) = self.transition.take() else { return };
        self.status.session = None;
        self.enter(State::Disconnected, self.status.reason, now, effects);
        for call in calls {
            effects.push(Effect::Answer(call, Ok(Outcome::Stopped { stopped_session_id: first })));
        }
        if self.shutting_down {
            effects.push(Effect::Exit);
        }
    }

    fn shut_down(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        match &self.transition {
            Some(Transition::Disconnect { .. }) => {}
            Some(_) => self.cancel(Reason::DaemonShutdown, now, effects),
            None => self.stop(None, Vec::new(), Reason::DaemonShutdown, now, effects),
        }
    }

    /// Has the running transition end as soon as it can.
    fn cancel(&mut self, reason: Reason, now: Now, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.cancelled, true) {
            self.enter(State::Disconnecting, reason, now, effects);
            effects.extend([Effect::CancelStart, Effect::CancelTest]);
        }
    }

    /// Keeps a fault for `status` and tells of the session it ended.
    fn note_failure(
        &mut self,
        config_id: ConfigId,
        session_id: Option<SessionId>,
        reason: Reason,
        detail: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(session_id) = session_id {
            let detail = detail.clone();
            effects.push(Effect::Emit(Event::SessionFailed { session_id, reason, detail }));
        }
        self.status.last_failure = Some(LastFailure { at: now.wall, session_id, config_id, reason, detail });
    }

    fn enter(&mut self, new: State, reason: Reason, now: Now, effects: &mut Vec<Effect>) {
        let old = std::mem::replace(&mut self.status.state, new);
        self.status.reason = reason;
        self.status.since = now.wall;
        effects.push(Effect::Emit(Event::StateChanged { new, old, reason, session: self.status.session.clone() }));
    }

    /// Whether a session runs of which nothing bad is known.
    pub fn session_works(&self) -> bool {
        let health = self.status.session.as_ref().map(|session| session.health.status);
        matches!(health, Some(Health::Unproven | Health::Healthy))
    }

    fn session_id(&self) -> Option<SessionId> {
        self.status.session.as_ref().map(|session| session.session_id)
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.status.session.as_mut().filter(|session| session.session_id == id)
    }

    /// A number for jitter (xorshift64); nothing depends on its quality.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// `duration` up to a fifth longer, so that many daemons do not act at once.
    fn jittered(&mut self, duration: Duration) -> Duration {
        let parts = u32::try_from(self.random() % 200).unwrap_or_default();
        duration + duration * parts / 1000
    }
}

fn nothing_to_choose(stored: usize) -> String {
    match stored {
        0 => "no config is stored yet: bring some with 'xrat import'".to_owned(),
        _ => format!(
            "none of the {stored} stored configs is enabled and within the engines at hand: see 'xrat list', or bring \
             others with 'xrat import'"
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
