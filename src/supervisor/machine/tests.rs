//! The machine on its own: every rule, and random sequences of inputs.

mod rules;
mod sequences;

use std::num::NonZeroU16;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::*;
use crate::command::{Command, Decision};
use crate::event::{Address, BusPresence, HealthReport, OwnerKind, Traffic};
use crate::store::CandidateRow;

/// A moment, in milliseconds after the beginning.
fn at(ms: u64) -> Now {
    let start: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    Now { wall: start + Duration::from_millis(ms), boot: Duration::from_millis(1_000_000 + ms) }
}

fn rules() -> Rules {
    Rules {
        failure_threshold: 3,
        health_interval: Duration::from_secs(15),
        rotation_enabled: false,
        rotation_interval: Duration::from_secs(1800),
        health_trigger: true,
        cooldown: Duration::from_secs(300),
        tolerance_ms: 50,
        max_candidates: 64,
        drain: Duration::from_secs(3600),
    }
}

fn machine_with(rules: Rules, facts: RotationFacts, now: Now) -> Machine {
    let info =
        DaemonInfo { protocol_version: 1, version: "0".into(), instance_id: Uuid::nil(), pid: 1, started_at: now.wall };
    let status = Status {
        state: State::Disconnected,
        reason: Reason::None,
        since: now.wall,
        session: None,
        last_failure: None,
        bus: BusPresence::default(),
    };
    let boot_id = "boot".to_owned();
    Machine::new(Beginning { info, rules, status, facts, boot_id, last_decision_id: 0, seed: 7 }, now)
}

fn machine() -> Machine {
    machine_with(rules(), RotationFacts::default(), at(0))
}

fn session(session_id: i64, config_id: i64) -> Session {
    let port = NonZeroU16::new(18200).unwrap();
    Session {
        session_id: SessionId(session_id),
        config_id: ConfigId(config_id),
        name: format!("config {config_id}"),
        protocol: "vless".into(),
        address: "node.example".into(),
        port,
        engine: "xray".into(),
        engine_version: "1.0.0".into(),
        pid: 1,
        status: SessionStatus::Starting,
        socks: Address { host: "127.0.0.1".into(), port },
        http: None,
        started_at: at(0).wall,
        owner_kind: OwnerKind::Daemon,
        owner_instance_id: Uuid::nil(),
        delay_ms: None,
        health: HealthReport::unproven(),
        traffic: None,
    }
}

fn failure(session_id: Option<i64>) -> StartFailure {
    StartFailure {
        session_id: session_id.map(SessionId),
        reason: Reason::EngineNotReady,
        failure: Failure::Internal("it did not start".into()),
    }
}

fn row(config_id: i64, delay_ms: Option<u32>, tested_at: Option<Now>) -> CandidateRow {
    CandidateRow {
        config_id: ConfigId(config_id),
        host: format!("host{config_id}"),
        tested_at: tested_at.map(|now| now.wall),
        delay_ms,
        failures: 0,
    }
}

/// A machine with session 1 of config 1 running and healthy.
fn connected() -> Machine {
    let mut machine = machine();
    connect(&mut machine, at(0));
    machine
}

fn connect(machine: &mut Machine, now: Now) {
    machine.step(Input::Command(CallId(1), Command::RuntimeConnect { config_id: ConfigId(1) }), now);
    machine.step(Input::Started(Ok(session(1, 1))), now);
    machine.step(Input::WentPublic(Ok(())), now);
    machine.step(Input::ExchangeEnded(SessionId(1), Ok(100)), now);
    assert_eq!(machine.status().state, State::Connected);
}

fn answer(effects: &[Effect]) -> Option<&Result<Outcome, Failure>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer(_, result) => Some(result),
        _ => None,
    })
}

fn decision(effects: &[Effect]) -> Option<&Decision> {
    effects.iter().find_map(|effect| match effect {
        Effect::SaveDecision(decision) => Some(decision),
        _ => None,
    })
}

fn starts(effects: &[Effect]) -> Option<(ConfigId, bool)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Start { config_id, prove, .. } => Some((*config_id, *prove)),
        _ => None,
    })
}
