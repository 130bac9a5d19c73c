//! The scheduler: when the session may move, to whom, and what is written down about it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::choose::choose;
use super::commands::wall;
use super::{CallId, Effect, Machine, Now, StartFailure, Transition};
use crate::command::{Candidate, Decision, DecisionOutcome, Failure, Outcome, Trigger, Verdict};
use crate::config::ConfigId;
use crate::event::{Event, Health, Reason, Session, State};
use crate::store::CandidateRow;

/// One replace has this long in all: D-Bus bindings give up at 25 s.
const BUDGET: Duration = Duration::from_secs(18);
/// Tests have at most this much of it.
const TEST_BUDGET: Duration = Duration::from_secs(8);
/// No further candidate is tried with less left.
const LAST_ATTEMPT: Duration = Duration::from_secs(6);
/// After a death, results younger than this choose without a test.
const FRESH: chrono::TimeDelta = chrono::TimeDelta::minutes(10);
/// An uplink under suspicion: the active node and so many others, each on a host of its own, fail together.
const SUSPECT_HOSTS: usize = 3;

/// A run of the scheduler.
#[derive(Debug)]
pub(super) struct Rotation {
    pub(super) trigger: Trigger,
    pub(super) call: Option<CallId>,
    /// Whether the engine that is to be replaced lives.
    pub(super) alive: bool,
    began: Duration,
    old: Option<ConfigId>,
    /// How the engine ended that is to be replaced, if it has.
    pub(super) cause: Option<String>,
    /// Why the state before was what it was; it comes back if the session stays.
    before: Reason,
    /// Still to be tried, the best first.
    queue: VecDeque<ConfigId>,
    /// What is being started.
    trying: Option<ConfigId>,
    hosts: BTreeMap<ConfigId, (String, u32)>,
    candidates: Vec<Candidate>,
    /// The only one that was asked for.
    only: Option<ConfigId>,
    last_failure: Option<StartFailure>,
}

impl Machine {
    pub(super) fn rotation_enabled(&self) -> bool {
        self.facts.enabled.unwrap_or(self.rules.rotation_enabled)
    }

    pub(super) fn cooling(&self, now: Now) -> bool {
        self.cooldown_until.is_some_and(|until| now.boot < until)
    }

    /// Whether the timer counts: automatic rotation is on and there is a session to move.
    pub(super) fn timer_runs(&self) -> bool {
        self.rotation_enabled() && self.status.session.is_some() && self.transition.is_none() && !self.shutting_down
    }

    /// Takes deadlines over from the daemon before: by the boot's clock, or after a reboot by the wall clock, and then
    /// no further off than the settings allow.
    pub(super) fn restore_deadlines(&mut self, now: Now) {
        let facts = &self.facts;
        let same_boot = facts.boot_id == self.boot_id;
        let deadline = |boot_ms: Option<u64>, at: Option<chrono::DateTime<chrono::Utc>>, most: Duration| {
            if same_boot {
                return boot_ms.map(Duration::from_millis).filter(|until| *until > now.boot);
            }
            let left = (at? - now.wall).to_std().ok()?;
            Some(now.boot + left.min(most))
        };
        self.cooldown_until = deadline(facts.cooldown_until_boot_ms, facts.cooldown_until, self.rules.cooldown);
        self.next_timer = deadline(facts.next_timer_boot_ms, facts.next_timer_at, self.rules.rotation_interval);
        if self.next_timer.is_none() && self.rotation_enabled() && self.status.session.is_some() {
            self.next_timer = Some(now.boot + self.rules.rotation_interval);
        }
        self.told = (self.rotation_enabled(), self.next_timer);
    }

    pub(super) fn switch_rotation(&mut self, enabled: bool, now: Now, effects: &mut Vec<Effect>) {
        self.facts.enabled = Some(enabled);
        self.next_timer = None;
        self.schedule_timer(now, effects);
    }

    /// Sets the timer if it counts and is not set, and writes the rotation's state down.
    pub(super) fn schedule_timer(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !self.rotation_enabled() {
            self.next_timer = None;
        } else if self.next_timer.is_none() {
            self.next_timer = Some(now.boot + self.rules.rotation_interval);
        }
        let until = self.cooldown_until.filter(|_| self.cooling(now));
        self.facts.boot_id.clone_from(&self.boot_id);
        self.facts.cooldown_until_boot_ms = until.map(millis);
        self.facts.cooldown_until = until.map(|at| wall(at, now));
        self.facts.next_timer_boot_ms = self.next_timer.map(millis);
        self.facts.next_timer_at = self.next_timer.map(|at| wall(at, now));
        effects.push(Effect::SaveRotation(self.facts.clone()));
        let told = (self.rotation_enabled(), self.next_timer);
        if std::mem::replace(&mut self.told, told) != told {
            effects.push(Effect::Emit(Event::RotationChanged(Box::new(self.rotation_status(now)))));
        }
    }

    pub(super) fn timer_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.next_timer = None;
        if self.cooling(now) {
            let why = "the timer came during a cooldown".to_owned();
            self.decide_at_once(Trigger::Timer, DecisionOutcome::Cooldown, why, now, effects);
        } else if !self.online {
            let why = "the machine is offline: no node is judged".to_owned();
            self.decide_at_once(Trigger::Timer, DecisionOutcome::Offline, why, now, effects);
        } else {
            self.rotate(Trigger::Timer, None, None, now, effects);
        }
        self.schedule_timer(now, effects);
    }

    /// Begins a run of the scheduler, for `only` if that is given.
    pub(super) fn rotate(
        &mut self,
        trigger: Trigger,
        call: Option<CallId>,
        only: Option<ConfigId>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.again_at = None;
        let alive = self.status.session.is_some();
        let old = self.status.session.as_ref().map(|session| session.config_id).or(self.lost);
        let rotation = Rotation {
            trigger,
            call,
            alive,
            began: now.boot,
            old,
            cause: self.cause(trigger),
            before: self.status.reason,
            queue: only.into_iter().collect(),
            trying: None,
            hosts: BTreeMap::new(),
            candidates: Vec::new(),
            only,
            last_failure: None,
        };
        let state = if alive { State::Replacing } else { State::Recovering };
        if self.status.state != state {
            self.enter(state, reason_of(trigger), now, effects);
        }
        if only.is_some() {
            return self.try_next(rotation, now, effects);
        }
        self.transition = Some(Transition::Rotate(Box::new(rotation)));
        effects.push(Effect::ReadCandidates);
    }

    pub(super) fn candidates_read(
        &mut self,
        rows: Vec<CandidateRow>,
        random: u64,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.cancelled {
            return self.finish_cancel(None, now, effects);
        }
        let Some(Transition::Rotate(mut rotation)) = self.transition.take() else { return };
        self.quarantine.retain(|_, until| *until > now.boot);
        self.forget_old_starts(now);
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|row| Some(row.config_id) != rotation.old && !self.quarantine.contains_key(&row.config_id))
            .collect();
        let chosen = choose(rows, self.rules.max_candidates, random);
        rotation.hosts = chosen.iter().map(|row| (row.config_id, (row.host.clone(), row.failures))).collect();
        if chosen.is_empty() {
            let why = "no other config can be chosen: enable or import more".to_owned();
            return self.conclude(*rotation, DecisionOutcome::NoCandidate, why, now, effects);
        }
        if !rotation.alive && rotation.trigger == Trigger::Health {
            let fresh: Vec<_> = chosen
                .iter()
                .filter(|row| row.tested_at.is_some_and(|at| (now.wall - at).abs() < FRESH))
                .map(|row| (row.config_id, row.delay_ms.ok_or_else(|| "its last test failed".to_owned())))
                .collect();
            if fresh.iter().any(|(_, result)| result.is_ok()) {
                rotation.rank(fresh);
                return self.try_next(*rotation, now, effects);
            }
            // An engine's death says nothing of its node, and people wait: a test comes first only when it dies again.
            if self.starts.is_empty() {
                let why = "no other config has a fresh good result: the same one is started again".to_owned();
                return self.conclude(*rotation, DecisionOutcome::Stayed, why, now, effects);
            }
        }
        let mut ids: Vec<_> = chosen.iter().map(|row| row.config_id).collect();
        // The active node is measured beside the others, so that like is compared with like.
        ids.extend(rotation.old.filter(|_| rotation.alive && rotation.trigger != Trigger::Manual));
        self.transition = Some(Transition::Rotate(rotation));
        effects.push(Effect::TestCandidates(ids, TEST_BUDGET));
    }

    pub(super) fn candidates_tested(
        &mut self,
        mut results: Vec<(ConfigId, Result<u32, String>)>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.cancelled {
            return self.finish_cancel(None, now, effects);
        }
        let Some(Transition::Rotate(mut rotation)) = self.transition.take() else { return };
        let at = results.iter().position(|(id, _)| Some(*id) == rotation.old);
        let active = at.map(|at| results.swap_remove(at).1);
        let all_failed = results.iter().all(|(_, result)| result.is_err());
        let hosts: HashSet<_> =
            results.iter().filter_map(|(id, _)| rotation.hosts.get(id).map(|(host, _)| host.as_str())).collect();
        let suspect = all_failed && hosts.len() >= SUSPECT_HOSTS && self.active_fails(active.as_ref());
        rotation.rank(results);
        if suspect || all_failed && !self.online {
            let why =
                "the active node and all others fail together: the uplink is suspect, no node is judged".to_owned();
            return self.conclude(*rotation, DecisionOutcome::Offline, why, now, effects);
        }
        if all_failed {
            let why = "every candidate failed its test".to_owned();
            return self.conclude(*rotation, DecisionOutcome::Failed, why, now, effects);
        }
        if rotation.trigger == Trigger::Timer
            && let Some(Ok(active)) = active
            && let Some(best) = rotation.best()
            && best.saturating_add(self.rules.tolerance_ms) >= active
        {
            let tolerance = self.rules.tolerance_ms;
            let why =
                format!("the best other takes {best} ms, the active node {active} ms: not faster by {tolerance} ms");
            return self.conclude(*rotation, DecisionOutcome::Stayed, why, now, effects);
        }
        self.try_next(*rotation, now, effects);
    }

    fn active_fails(&self, tested: Option<&Result<u32, String>>) -> bool {
        let unhealthy = |session: &Session| matches!(session.health.status, Health::Degraded | Health::Failed);
        match tested {
            Some(result) => result.is_err(),
            None => self.status.session.as_ref().is_none_or(unhealthy),
        }
    }

    /// Starts the next candidate, or gives up.
    fn try_next(&mut self, mut rotation: Rotation, now: Now, effects: &mut Vec<Effect>) {
        let left = BUDGET.saturating_sub(now.boot.saturating_sub(rotation.began));
        let next = rotation.queue.pop_front().filter(|_| left >= LAST_ATTEMPT);
        let Some(config_id) = next else {
            let why = match &rotation.last_failure {
                Some(failed) => format!("no candidate could be used: {}", failed.failure),
                None => "the time was up before a candidate could be tried".to_owned(),
            };
            return self.conclude(rotation, DecisionOutcome::Failed, why, now, effects);
        };
        rotation.trying = Some(config_id);
        // With a living engine nobody waits: the new one proves itself first. After a death it serves at once.
        let (reason, prove) = (reason_of(rotation.trigger), rotation.alive);
        self.transition = Some(Transition::Rotate(Box::new(rotation)));
        effects.push(Effect::Start { config_id, reason, prove, within: left });
    }

    pub(super) fn candidate_failed(
        &mut self,
        mut rotation: Rotation,
        failed: StartFailure,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(config_id) = rotation.trying.take() {
            let detail = failed.failure.to_string();
            rotation.verdict(config_id, Verdict::StartFailed, Some(detail.clone()));
            // That there is no such config is no failure of anything.
            if !matches!(failed.failure, Failure::NotFound(_)) {
                if self.online {
                    self.quarantine.insert(config_id, now.boot + self.rules.cooldown);
                }
                self.note_failure(config_id, failed.session_id, failed.reason, detail, now, effects);
            }
        }
        rotation.last_failure = Some(failed);
        self.try_next(rotation, now, effects);
    }

    /// The session has moved.
    pub(super) fn moved(
        &mut self,
        mut rotation: Rotation,
        session: &Session,
        old: Option<Session>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        rotation.verdict(session.config_id, Verdict::Chosen, None);
        let reason = reason_of(rotation.trigger);
        let why = match rotation.trigger {
            Trigger::Manual if rotation.old == Some(session.config_id) => "a new engine for the same config".to_owned(),
            Trigger::Manual => "the user asked for it".to_owned(),
            Trigger::Timer => "it is the fastest, and faster than the one before".to_owned(),
            Trigger::Health if rotation.alive => "the node before does not answer any more".to_owned(),
            Trigger::Health => "the engine before has ended".to_owned(),
        };
        if rotation.trigger != Trigger::Manual {
            self.cooldown_until = Some(now.boot + self.rules.cooldown);
        }
        self.facts.last_rotation_at = Some(now.wall);
        let (call, trigger, old_config_id) = (rotation.call, rotation.trigger, rotation.old);
        let decision = self.decide(rotation, DecisionOutcome::Replaced, why, Some(session.config_id), now, effects);
        let old_session_id = old.as_ref().map(|session| session.session_id);
        if let Some(old_session_id) = old_session_id {
            // A dead node carries nothing: what hangs on it had better break now.
            let dead = trigger == Trigger::Health;
            let limit = if dead { Duration::ZERO } else { self.rules.drain };
            let fault = self.health.fault.take().filter(|_| dead);
            if let (Some(fault), Some(old_config_id)) = (&fault, old_config_id) {
                let (id, reason) = (Some(old_session_id), Reason::ExchangeFailed);
                self.note_failure(old_config_id, id, reason, fault.clone(), now, effects);
            }
            effects.push(Effect::Drain(old_session_id, limit, reason, fault));
        }
        self.enter(State::Connected, reason, now, effects);
        let new_config_id = session.config_id;
        let told = Box::new(decision.clone());
        effects.push(Effect::Emit(Event::Rotated { old_config_id, new_config_id, decision: told }));
        effects.extend(call.map(|call| {
            let session = Box::new(session.clone());
            let decision = Box::new(decision);
            Effect::Answer(call, Ok(Outcome::Replaced { trigger, old_session_id, session, decision }))
        }));
    }

    /// The run ends and the session has not moved.
    fn conclude(
        &mut self,
        rotation: Rotation,
        outcome: DecisionOutcome,
        why: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let failure = match (outcome, rotation.only, &rotation.last_failure) {
            (_, Some(_), Some(failed)) => failed.failure.clone(),
            (DecisionOutcome::NoCandidate, _, _) => Failure::NotFound(format!("no eligible candidate: {why}")),
            (DecisionOutcome::Stayed | DecisionOutcome::Offline, _, _) => Failure::conflict(why.clone()),
            _ => Failure::Internal(why.clone()),
        };
        let (call, alive, before, old) = (rotation.call, rotation.alive, rotation.before, rotation.old);
        let offline = outcome == DecisionOutcome::Offline;
        let decision = self.decide(rotation, outcome, why, None, now, effects);
        effects.push(Effect::Emit(Event::RotationDecided { decision: Box::new(decision) }));
        if alive {
            self.enter(State::Connected, before, now, effects);
        }
        effects.extend(call.map(|call| Effect::Answer(call, Err(failure))));
        if !alive && let Some(old) = old {
            let reason = if offline { Reason::Offline } else { before };
            self.again(old, reason, now, effects);
        }
    }

    /// A run that ends before it begins.
    pub(super) fn decide_at_once(
        &mut self,
        trigger: Trigger,
        outcome: DecisionOutcome,
        why: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let rotation = Rotation {
            trigger,
            call: None,
            alive: self.status.session.is_some(),
            began: now.boot,
            old: self.status.session.as_ref().map(|session| session.config_id).or(self.lost),
            cause: self.cause(trigger),
            before: self.status.reason,
            queue: VecDeque::new(),
            trying: None,
            hosts: BTreeMap::new(),
            candidates: Vec::new(),
            only: None,
            last_failure: None,
        };
        let decision = self.decide(rotation, outcome, why, None, now, effects);
        effects.push(Effect::Emit(Event::RotationDecided { decision: Box::new(decision) }));
    }

    /// What made the session leave its node, for the decision's reason: a person asks for it later than the next fault.
    fn cause(&self, trigger: Trigger) -> Option<String> {
        match &self.status.session {
            _ if trigger != Trigger::Health => None,
            Some(_) => self.health.fault.clone(),
            None => self.status.last_failure.as_ref().map(|failure| failure.detail.clone()),
        }
    }

    fn decide(
        &mut self,
        rotation: Rotation,
        outcome: DecisionOutcome,
        reason: String,
        new_config_id: Option<ConfigId>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Decision {
        self.last_decision_id += 1;
        self.facts.last_trigger = Some(rotation.trigger);
        self.facts.last_result = Some(outcome);
        let decision = Decision {
            decision_id: self.last_decision_id,
            at: now.wall,
            trigger: rotation.trigger,
            outcome,
            reason: match &rotation.cause {
                Some(cause) => format!("{cause}; {reason}"),
                None => reason,
            },
            old_config_id: rotation.old,
            new_config_id,
            took_ms: millis(now.boot.saturating_sub(rotation.began)),
            candidates: rotation.candidates,
        };
        effects.push(Effect::SaveDecision(decision.clone()));
        effects.push(Effect::SaveRotation(self.facts.clone()));
        decision
    }
}

impl Rotation {
    /// Writes results down and puts those that succeeded into the queue: by delay, then by how often they failed lately.
    fn rank(&mut self, results: Vec<(ConfigId, Result<u32, String>)>) {
        let mut good: Vec<(u32, u32, ConfigId)> = Vec::new();
        for (config_id, result) in results {
            let (delay_ms, failure, verdict) = match result {
                Ok(delay) => {
                    let failures = self.hosts.get(&config_id).map_or(0, |(_, failures)| *failures);
                    good.push((delay, failures, config_id));
                    (Some(delay), None, Verdict::NotNeeded)
                }
                Err(failure) => (None, Some(failure), Verdict::TestFailed),
            };
            self.candidates.push(Candidate { config_id, delay_ms, failure, verdict });
        }
        good.sort_unstable_by_key(|(delay, failures, id)| (*delay, *failures, id.0));
        self.candidates
            .sort_by_key(|candidate| (candidate.delay_ms.is_none(), candidate.delay_ms, candidate.config_id));
        self.queue = good.into_iter().map(|(_, _, id)| id).collect();
    }

    fn best(&self) -> Option<u32> {
        let best = self.queue.front()?;
        self.candidates.iter().find(|candidate| candidate.config_id == *best)?.delay_ms
    }

    fn verdict(&mut self, config_id: ConfigId, verdict: Verdict, failure: Option<String>) {
        match self.candidates.iter_mut().find(|candidate| candidate.config_id == config_id) {
            Some(candidate) => {
                candidate.verdict = verdict;
                candidate.failure = failure;
            }
            None => self.candidates.push(Candidate { config_id, delay_ms: None, failure, verdict }),
        }
    }
}

fn reason_of(trigger: Trigger) -> Reason {
    match trigger {
        Trigger::Manual => Reason::ManualRotation,
        Trigger::Timer => Reason::TimerRotation,
        Trigger::Health => Reason::HealthRotation,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
