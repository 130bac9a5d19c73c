//! What clients ask for.

use serde_json::json;

use super::{CallId, Effect, Machine, Now, Transition};
use crate::command::{Command, Failure, Outcome, RotationStatus, Trigger};
use crate::event::{Event, Reason, State};

/// So many decisions are answered unless another number is asked for.
const DEFAULT_HISTORY: u32 = 20;

impl Machine {
    pub(super) fn command(&mut self, call: CallId, command: Command, now: Now, effects: &mut Vec<Effect>) {
        let answer = |result| Effect::Answer(call, result);
        match command {
            Command::DaemonPing {} => effects.push(answer(Ok(Outcome::Info(self.info.clone())))),
            Command::RuntimeStatus {} => effects.push(match self.session_id() {
                Some(session_id) => Effect::ReadTraffic(Some(call), session_id),
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
            Command::ProxyStatus {} => effects.push(answer(Ok(self.rotation_outcome(now)))),
            Command::RotationHistory { limit } => {
                effects.push(Effect::AnswerHistory(call, limit.unwrap_or(DEFAULT_HISTORY)));
            }
            // Transports turn this one into a subscription themselves.
            Command::EventSubscribe { .. } => {
                effects.push(answer(Err(Failure::BadRequest("EventSubscribe needs a connection of its own".into()))));
            }
            _ if self.shutting_down => effects.push(answer(Err(Failure::conflict("the daemon is ending")))),
            Command::DaemonRestart {} => match self.running_transition() {
                Some(conflict) => effects.push(answer(Err(conflict))),
                None => effects.extend([answer(Ok(Outcome::Done {})), Effect::Restart]),
            },
            Command::RuntimeConnect { config_id } => {
                match self.running_transition().or_else(|| self.running_session()) {
                    Some(conflict) => effects.push(answer(Err(conflict))),
                    None => self.connect(Some(call), config_id, Reason::UserRequested, now, effects),
                }
            }
            Command::RuntimeReplace { trigger, candidate_id } => match self.replace_refusal(trigger, now) {
                Some(refusal) => effects.push(answer(Err(refusal))),
                None => self.rotate(trigger, Some(call), candidate_id, now, effects),
            },
            Command::RuntimeDisconnect {} => self.disconnect(call, now, effects),
            Command::ProxyStart {} => {
                self.switch_rotation(true, now, effects);
                effects.push(answer(Ok(self.rotation_outcome(now))));
            }
            Command::ProxyStop {} => {
                self.switch_rotation(false, now, effects);
                effects.push(answer(Ok(self.rotation_outcome(now))));
            }
        }
    }

    fn disconnect(&mut self, call: CallId, now: Now, effects: &mut Vec<Effect>) {
        match &mut self.transition {
            Some(Transition::Disconnect { calls, .. }) => calls.push(call),
            Some(_) => {
                self.disconnecting.push(call);
                effects.push(Effect::ForgetWanted);
                self.cancel(Reason::UserRequested, now, effects);
            }
            None if self.status.state == State::Disconnected => {
                effects.push(Effect::Answer(call, Err(Failure::NotFound("no active session".into()))));
            }
            None => {
                effects.push(Effect::ForgetWanted);
                self.stop(None, vec![call], Reason::UserRequested, now, effects);
            }
        }
    }

    /// Why a rotation cannot begin now; none when it can.
    fn replace_refusal(&self, trigger: Trigger, now: Now) -> Option<Failure> {
        // A wait for the next attempt after a fault is no transition: a replace may come first.
        self.running_transition().or_else(|| {
            if self.status.session.is_none() && self.lost.is_none() {
                Some(Failure::NotFound("no active session".into()))
            } else if trigger != Trigger::Manual && self.cooling(now) {
                Some(Failure::Conflict {
                    message: "a cooldown is active: the last automatic rotation was too short a time ago".into(),
                    details: json!({ "cooldown_until": self.rotation_status(now).cooldown_until }),
                })
            } else {
                None
            }
        })
    }

    pub(super) fn answer_status(&self, call: CallId) -> Effect {
        Effect::Answer(call, Ok(Outcome::Status(Box::new(self.status.clone()))))
    }

    fn rotation_outcome(&self, now: Now) -> Outcome {
        Outcome::Rotation(Box::new(self.rotation_status(now)))
    }

    /// The rotation as clients see it.
    pub fn rotation_status(&self, now: Now) -> RotationStatus {
        RotationStatus {
            enabled: self.rotation_enabled(),
            interval_secs: self.rules.rotation_interval.as_secs(),
            health_trigger_enabled: self.rules.health_trigger,
            cooldown_secs: self.rules.cooldown.as_secs(),
            cooldown_active: self.cooling(now),
            cooldown_until: self.cooldown_until.filter(|_| self.cooling(now)).map(|at| wall(at, now)),
            next_timer_at: self.next_timer.filter(|_| self.timer_runs()).map(|at| wall(at, now)),
            last_rotation_at: self.facts.last_rotation_at,
            last_trigger: self.facts.last_trigger,
            last_result: self.facts.last_result,
            active_config_id: self.status.session.as_ref().map(|session| session.config_id),
        }
    }

    fn running_session(&self) -> Option<Failure> {
        let session = self.status.session.as_ref()?;
        Some(Failure::Conflict {
            message: format!(
                "a session is already running: {} (config {}); move it with 'xrat proxy rotate ID', or disconnect first",
                session.name, session.config_id
            ),
            details: json!({ "session_id": session.session_id, "config_id": session.config_id }),
        })
    }

    fn running_transition(&self) -> Option<Failure> {
        let (name, of) = match self.transition.as_ref()? {
            Transition::Connect { config_id, .. } => ("connect", json!({ "config_id": config_id })),
            Transition::Again { config_id } => ("recovery", json!({ "config_id": config_id })),
            Transition::Rotate(rotation) => ("replace", json!({ "trigger": rotation.trigger })),
            Transition::Disconnect { first, .. } => ("disconnect", json!({ "session_id": first })),
        };
        Some(Failure::Conflict {
            message: format!("a transition is in progress: {name}; try again when it is done"),
            details: json!({ "transition": name, "of": of }),
        })
    }
}

/// A moment of CLOCK_BOOTTIME on the wall clock.
pub(super) fn wall(at: std::time::Duration, now: Now) -> chrono::DateTime<chrono::Utc> {
    let span = |duration| chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX);
    let shown = match at.checked_sub(now.boot) {
        Some(ahead) => now.wall.checked_add_signed(span(ahead)),
        None => now.wall.checked_sub_signed(span(now.boot - at)),
    };
    shown.unwrap_or(now.wall)
}
