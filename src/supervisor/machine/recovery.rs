//! Bringing a lost session back: back-off, the breaker, and the state `failed` with its retries.

use std::time::Duration;

use super::{Effect, Machine, Now, Transition};
use crate::command::{DecisionOutcome, Trigger};
use crate::config::ConfigId;
use crate::event::{Reason, SessionId, State};

/// The waits before the first, second ... start of the same config within [`BREAKER`].
const WAITS: [Duration; 5] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// More starts than there are waits within this time, and it is given up for a while.
const BREAKER: Duration = Duration::from_secs(300);
/// What was given up is tried again after this, and jitter.
const RETRY: Duration = Duration::from_secs(60);

/// The one start of the same config that a retry of the state `failed` has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retry {
    /// No retry runs: the breaker counts.
    #[default]
    No,
    /// It has its start still.
    Armed,
    /// It has had it.
    Used,
}

impl Machine {
    /// A session's engine is dead, or no longer has its port.
    pub(super) fn session_lost(
        &mut self,
        session_id: SessionId,
        reason: Reason,
        detail: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(&self.transition, Some(Transition::Disconnect { .. })) {
            return;
        }
        let Some(session) = self.status.session.take_if(|session| session.session_id == session_id) else { return };
        self.health.end();
        self.lost = Some(session.config_id);
        effects.push(Effect::Discard(session_id, reason, detail.clone()));
        self.note_failure(session.config_id, Some(session_id), reason, detail, now, effects);
        match &mut self.transition {
            // What was to replace it is on its way; it is only needed more.
            Some(Transition::Rotate(rotation)) => {
                rotation.alive = false;
                if rotation.trigger == Trigger::Health {
                    rotation.cause = self.status.last_failure.as_ref().map(|failure| failure.detail.clone());
                }
                effects.push(Effect::Hold);
                if !self.cancelled {
                    self.enter(State::Recovering, reason, now, effects);
                }
            }
            _ => self.recover(session.config_id, reason, now, effects),
        }
    }

    /// Brings a session back: by rotation where that is allowed, else with the same config.
    pub(super) fn recover(&mut self, config_id: ConfigId, reason: Reason, now: Now, effects: &mut Vec<Effect>) {
        self.lost = Some(config_id);
        effects.push(Effect::Hold);
        self.enter(State::Recovering, reason, now, effects);
        if !self.rules.health_trigger || !self.online {
            self.again(config_id, reason, now, effects);
        } else if self.cooling(now) {
            let why = "the engine is dead and a cooldown is active: the same config is started again".to_owned();
            self.decide_at_once(Trigger::Health, DecisionOutcome::Cooldown, why, now, effects);
            self.again(config_id, reason, now, effects);
        } else {
            self.rotate(Trigger::Health, None, None, now, effects);
        }
    }

    /// The same config again: at once, then after ever longer waits, until the breaker says that it is enough.
    pub(super) fn again(&mut self, config_id: ConfigId, reason: Reason, now: Now, effects: &mut Vec<Effect>) {
        match std::mem::take(&mut self.retry) {
            Retry::No => {}
            Retry::Armed => {
                self.retry = Retry::Used;
                return self.start_same(config_id, effects);
            }
            Retry::Used => return self.fail(reason, now, effects),
        }
        self.forget_old_starts(now);
        let Some(wait) = WAITS.get(self.starts.len()).copied() else {
            return self.fail(Reason::TooManyFailures, now, effects);
        };
        self.starts.push_back(now.boot + wait);
        if self.status.state != State::Recovering {
            self.enter(State::Recovering, reason, now, effects);
        }
        if wait.is_zero() {
            self.start_same(config_id, effects);
        } else {
            self.again_at = Some(now.boot + wait);
        }
    }

    /// Starts that are longer ago than the breaker looks back.
    pub(super) fn forget_old_starts(&mut self, now: Now) {
        self.starts.retain(|at| now.boot.saturating_sub(*at) < BREAKER);
    }

    /// Given up for now. The user still wants a session: it is tried again every minute.
    pub(super) fn fail(&mut self, reason: Reason, now: Now, effects: &mut Vec<Effect>) {
        let why = self.status.last_failure.as_ref().map_or("the proxy session failed", |failure| &failure.detail);
        effects.push(Effect::Refuse(why.to_owned()));
        let retry = self.jittered(RETRY);
        self.again_at = Some(now.boot + retry);
        self.enter(State::Failed, reason, now, effects);
    }

    /// The wait is over.
    pub(super) fn start_again(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(config_id) = self.lost else { return };
        if self.status.state == State::Failed {
            self.retry = Retry::Armed;
            let reason = self.status.reason;
            self.recover(config_id, reason, now, effects);
        } else {
            self.start_same(config_id, effects);
        }
    }

    fn start_same(&mut self, config_id: ConfigId, effects: &mut Vec<Effect>) {
        self.transition = Some(Transition::Again { config_id });
        let (reason, within) = (self.status.reason, super::START_BUDGET);
        effects.push(Effect::Start { config_id, reason, prove: false, within });
    }

    /// Nothing is to be brought back any more.
    pub(super) fn forget_lost(&mut self) {
        self.lost = None;
        self.again_at = None;
        self.retry = Retry::No;
    }
}
