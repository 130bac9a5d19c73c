//! Whether the active node works: when it is checked, and what a check's end means.

use std::time::Duration;

use super::{CallId, Effect, Machine, Now, Transition};
use crate::command::{DecisionOutcome, Trigger};
use crate::event::{Event, Health, SessionId, State, Traffic};

/// A failed exchange is repeated after this, until the threshold is reached.
const REPEAT: Duration = Duration::from_secs(2);
/// An idle session is checked every so many intervals, so that the check is no beacon.
const IDLE_INTERVALS: u32 = 4;
/// After a health rotation that found nothing better, the next one is tried no sooner.
const PAUSE: Duration = Duration::from_secs(60);

/// When the active session is checked next.
#[derive(Debug, Default)]
pub(super) struct HealthPlan {
    /// The next look at ports and counters.
    pub(super) tick_at: Option<Duration>,
    /// The next exchange that is already decided.
    exchange_at: Option<Duration>,
    /// The exchange that runs.
    running: bool,
    /// When the last exchange ended.
    last_exchange: Duration,
    /// The counters at the last look.
    traffic: Option<Traffic>,
    /// The next reading is only one to compare with.
    baseline: bool,
    /// What failed, while the health is `failed`.
    pub(super) fault: Option<String>,
    /// A dead node makes no rotation before this.
    rotate_after: Duration,
    /// The cooldown that keeps a dead node's session is written down.
    cooldown_told: bool,
}

impl HealthPlan {
    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.tick_at, self.exchange_at.filter(|_| !self.running)].into_iter().flatten().min()
    }

    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

impl Machine {
    /// A session is active from now on: prove it, and look after it.
    pub(super) fn begin_health(&mut self, session_id: SessionId, now: Now, effects: &mut Vec<Effect>) {
        self.health = HealthPlan { tick_at: Some(now.boot + self.rules.health_interval), ..HealthPlan::default() };
        self.exchange(session_id, effects);
    }

    /// Whether the session is being ended: nothing is found out about it any more, and nothing planned.
    fn is_ending(&self) -> bool {
        matches!(self.transition, Some(Transition::Disconnect { .. }))
    }

    fn exchange(&mut self, session_id: SessionId, effects: &mut Vec<Effect>) {
        self.health.exchange_at = None;
        self.health.running = true;
        effects.push(Effect::Exchange(session_id));
    }

    pub(super) fn health_tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(session_id) = self.session_id() else { return };
        if self.health.exchange_at.is_some_and(|at| at <= now.boot) && !self.health.running {
            self.exchange(session_id, effects);
        }
        if self.health.tick_at.is_some_and(|at| at <= now.boot) {
            self.health.tick_at = Some(now.boot + self.rules.health_interval);
            effects.extend([Effect::CheckPorts(session_id), Effect::ReadTraffic(None, session_id)]);
        }
    }

    pub(super) fn traffic_read(
        &mut self,
        call: Option<CallId>,
        session_id: SessionId,
        traffic: Option<Traffic>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if let (Some(session), Some(traffic)) = (self.session_mut(session_id), traffic) {
            session.traffic = Some(traffic);
        }
        match call {
            Some(call) => effects.push(self.answer_status(call)),
            None if self.session_id() == Some(session_id) && !self.is_ending() => {
                self.judge_traffic(session_id, traffic, now, effects);
            }
            None => {}
        }
    }

    /// Bytes that came back since the last look are the best proof; otherwise an exchange is due now, or when the
    /// session has been idle for long enough.
    fn judge_traffic(&mut self, session_id: SessionId, traffic: Option<Traffic>, now: Now, effects: &mut Vec<Effect>) {
        if self.health.running || self.health.exchange_at.is_some() {
            // Its own bytes would count.
            self.health.traffic = None;
            return;
        }
        let before = std::mem::replace(&mut self.health.traffic, traffic);
        if std::mem::take(&mut self.health.baseline) {
            return;
        }
        let idle_for = now.boot.saturating_sub(self.health.last_exchange);
        let due = match (before, traffic) {
            (Some(before), Some(traffic)) if traffic.downlink_bytes > before.downlink_bytes => false,
            (Some(before), Some(traffic)) if traffic.uplink_bytes > before.uplink_bytes => true,
            (_, Some(_)) => {
                let patience = self.rules.health_interval * IDLE_INTERVALS;
                let jitter = self.jittered(patience).saturating_sub(patience);
                // A look comes once an interval: half of one early is as near as it gets.
                idle_for + self.rules.health_interval / 2 >= patience + jitter
            }
            // An engine that does not even count is asked for more.
            (_, None) => true,
        };
        if due {
            self.exchange(session_id, effects);
        }
    }

    pub(super) fn exchange_ended(
        &mut self,
        session_id: SessionId,
        result: Result<u32, String>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let (threshold, online) = (self.rules.failure_threshold, self.online);
        if self.session_id() != Some(session_id) || self.is_ending() {
            return;
        }
        self.health.running = false;
        self.health.last_exchange = now.boot;
        self.health.traffic = None;
        let Some(session) = self.status.session.as_mut() else { return };
        let health = &mut session.health;
        if result.is_err() && !online {
            // Without a network no node is judged; its return brings the next exchange.
            return;
        }
        health.checked_at = Some(now.wall);
        let detail = match result {
            Ok(delay_ms) => {
                session.delay_ms = Some(delay_ms);
                health.status = Health::Healthy;
                health.consecutive_failures = 0;
                self.health.cooldown_told = false;
                self.health.rotate_after = Duration::ZERO;
                self.health.fault = None;
                // From here on bytes are the user's: what they send right now and never see answered must count.
                self.health.baseline = true;
                effects.push(Effect::ReadTraffic(None, session_id));
                None
            }
            Err(detail) => {
                health.consecutive_failures = health.consecutive_failures.saturating_add(1);
                let failed = health.consecutive_failures >= threshold;
                health.status = if failed { Health::Failed } else { Health::Degraded };
                let after = if failed { self.rules.health_interval } else { REPEAT };
                self.health.exchange_at = Some(now.boot + after);
                self.health.fault = failed.then(|| format!("the node does not answer: {detail}"));
                Some(detail)
            }
        };
        let (health, delay_ms) = (health.clone(), session.delay_ms);
        let failed = health.status == Health::Failed;
        effects.push(Effect::Emit(Event::HealthChanged { session_id, health, delay_ms, detail }));
        if failed {
            self.node_dead(now, effects);
        }
    }

    /// The node is dead and its engine lives: it is kept unless there is a better one.
    fn node_dead(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.transition.is_some() || self.shutting_down || !self.rules.health_trigger {
            return;
        }
        if self.cooling(now) {
            if !std::mem::replace(&mut self.health.cooldown_told, true) {
                let reason = "the node is dead, and a cooldown is active".to_owned();
                self.decide_at_once(Trigger::Health, DecisionOutcome::Cooldown, reason, now, effects);
            }
        } else if self.health.rotate_after <= now.boot {
            self.health.rotate_after = now.boot + PAUSE;
            self.rotate(Trigger::Health, None, None, now, effects);
        }
    }

    /// The network went or came, or the machine slept: look at the present node before anything else.
    pub(super) fn network_changed(&mut self, online: bool, now: Now, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.online, online) != online {
            effects.push(Effect::Emit(Event::NetworkChanged { online }));
        }
        if online {
            self.look_again(now, effects);
        }
    }

    pub(super) fn look_again(&mut self, now: Now, effects: &mut Vec<Effect>) {
        match self.session_id() {
            Some(session_id) if !self.health.running && !self.is_ending() => self.exchange(session_id, effects),
            None if self.status.state == State::Failed && self.transition.is_none() && !self.shutting_down => {
                self.again_at = None;
                self.start_again(now, effects);
            }
            _ => {}
        }
    }
}
