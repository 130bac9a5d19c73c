//! From the daemon's `a{sv}` to the [`model`](crate::model). What is missing or of another type is left out: a newer
//! daemon may say more, and a tray shows what it understands.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use xrat::event::{Health, Reason, State};
use zbus::zvariant::{OwnedValue, Value};

use crate::model::{Candidate, Config, Daemon, Decision, Rotation, Session};

/// An `a{sv}`.
pub(crate) type Dict = HashMap<String, OwnedValue>;

/// `Runtime.GetStatus` and the properties of `Rotation`, together.
pub(crate) fn daemon(status: &Dict, rotation: Rotation) -> Daemon {
    Daemon {
        state: number(status, "state").and_then(|n| by_number(State::ALL, State::number, n)).unwrap_or(State::Unknown),
        reason: number(status, "reason")
            .and_then(|n| by_number(Reason::ALL, Reason::number, n))
            .unwrap_or(Reason::Unknown),
        since: time(status, "since"),
        session: dict(status, "session").filter(|session| !session.is_empty()).map(|dict| session(&dict)),
        last_failure: dict(status, "last_failure").and_then(|failure| text(&failure, "detail")),
        rotation,
    }
}

fn session(session: &Dict) -> Session {
    let health = dict(session, "health").and_then(|health| number(&health, "status"));
    let traffic = dict(session, "traffic").and_then(|traffic| {
        let bytes = |name| integer(&traffic, name).and_then(|bytes| u64::try_from(bytes).ok());
        Some((bytes("uplink_bytes")?, bytes("downlink_bytes")?))
    });
    let socks = dict(session, "socks").and_then(|socks| {
        let (host, port) = (text(&socks, "host")?, integer(&socks, "port")?);
        Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    });
    Session {
        config_id: integer(session, "config_id").unwrap_or_default(),
        name: text(session, "name").unwrap_or_default(),
        health: health.and_then(|n| by_number(Health::ALL, Health::number, n)).unwrap_or(Health::Unknown),
        delay_ms: integer(session, "delay_ms"),
        started_at: time(session, "started_at"),
        traffic,
        socks: socks.unwrap_or_default(),
    }
}

/// The properties of `Rotation`.
pub(crate) fn rotation(properties: &Dict) -> Rotation {
    let next_at = integer(properties, "NextAt").filter(|at| *at > 0);
    Rotation {
        enabled: take(properties, "Enabled").unwrap_or(false),
        next_at: next_at.and_then(|at| DateTime::from_timestamp(at, 0)),
        last: dict(properties, "LastDecision").filter(|decision| !decision.is_empty()).map(|dict| decision(&dict)),
    }
}

fn decision(decision: &Dict) -> Decision {
    let candidates: Vec<Dict> = take(decision, "candidates").unwrap_or_default();
    let candidates = candidates.iter().filter_map(|candidate| {
        Some(Candidate {
            config_id: integer(candidate, "config_id")?,
            delay_ms: integer(candidate, "delay_ms"),
            chosen: text(candidate, "verdict").is_some_and(|verdict| verdict == "chosen"),
        })
    });
    Decision {
        at: time(decision, "at"),
        trigger: text(decision, "trigger").unwrap_or_default(),
        reason: text(decision, "reason").unwrap_or_default(),
        old_config_id: integer(decision, "old_config_id"),
        new_config_id: integer(decision, "new_config_id"),
        candidates: candidates.collect(),
    }
}

/// One row of `Configs.List`.
pub(crate) fn config(config: &Dict) -> Option<Config> {
    Some(Config {
        config_id: integer(config, "config_id")?,
        name: text(config, "name").unwrap_or_default(),
        enabled: take(config, "enabled").unwrap_or(true),
        delay_ms: dict(config, "last_test").and_then(|test| integer(&test, "delay_ms")),
        source: text(config, "source"),
    })
}

fn by_number<T: Copy>(all: &[T], number: impl Fn(T) -> u32, wanted: u32) -> Option<T> {
    all.iter().copied().find(|value| number(*value) == wanted)
}

fn take<T: TryFrom<OwnedValue>>(dict: &Dict, name: &str) -> Option<T> {
    dict.get(name)?.try_clone().ok()?.try_into().ok()
}

fn dict(outer: &Dict, name: &str) -> Option<Dict> {
    take(outer, name)
}

fn text(dict: &Dict, name: &str) -> Option<String> {
    take(dict, name)
}

fn number(dict: &Dict, name: &str) -> Option<u32> {
    take(dict, name)
}

fn integer(dict: &Dict, name: &str) -> Option<i64> {
    match &**dict.get(name)? {
        Value::I64(value) => Some(*value),
        Value::U64(value) => i64::try_from(*value).ok(),
        _ => None,
    }
}

fn time(dict: &Dict, name: &str) -> Option<DateTime<Utc>> {
    text(dict, name)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn owned<'v>(value: impl Into<Value<'v>>) -> OwnedValue {
        value.into().try_into_owned().unwrap()
    }

    #[test]
    fn what_is_missing_or_unknown_is_left_out() {
        let empty = daemon(&Dict::new(), Rotation::default());
        assert_eq!((empty.state, empty.session), (State::Unknown, None));
        let strange = Dict::from([
            ("state".into(), owned(4711u32)),
            ("reason".into(), owned("words")),
            ("session".into(), owned(Dict::from([("config_id".into(), owned(3i64))]))),
        ]);
        let strange = daemon(&strange, Rotation::default());
        assert_eq!((strange.state, strange.reason), (State::Unknown, Reason::Unknown));
        assert_eq!(strange.session.map(|session| (session.config_id, session.health)), Some((3, Health::Unknown)));
    }

    #[test]
    fn an_address_of_version_6_has_brackets() {
        let socks = Dict::from([("host".into(), owned("::1")), ("port".into(), owned(18200i64))]);
        assert_eq!(session(&Dict::from([("socks".into(), owned(socks))])).socks, "[::1]:18200");
    }
}
