//! What can be asked of the daemon, and what it answers: `Command`, `Outcome`, `Failure`. No I/O.
//!
//! The wire request *is* the command: its serde form is the `request` object of the socket protocol.
//!
//! ```
//! use xrat::command::Command;
//! let command: Command =
//!     serde_json::from_str(r#"{"type":"RuntimeConnect","payload":{"config_id":42}}"#).unwrap();
//! assert_eq!(command.name(), "RuntimeConnect");
//! ```

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::config::ConfigId;
use crate::event::{Session, SessionId, Status};

/// Version of the socket protocol. Members are only ever added within one version.
pub const PROTOCOL_VERSION: u32 = 1;

/// Why a rotation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The user asked.
    Manual,
    /// The rotation timer.
    Timer,
    /// A dead engine or node.
    Health,
}

/// A request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "payload")]
pub enum Command {
    /// Who are you?
    DaemonPing {},
    /// End the session and the daemon.
    DaemonShutdown {},
    /// Execute the daemon's binary again in the same process, keeping session and connections.
    DaemonRestart {},
    /// State, reason and session.
    RuntimeStatus {},
    /// Start a session for a config.
    RuntimeConnect {
        /// The config; 0 ([`ConfigId::NONE`]) lets the daemon choose.
        config_id: ConfigId,
    },
    /// Move to another config without losing a connection.
    RuntimeReplace {
        /// Why.
        trigger: Trigger,
        /// Where to; null lets rotation choose.
        #[serde(default)]
        candidate_id: Option<ConfigId>,
    },
    /// End the session.
    RuntimeDisconnect {},
    /// Rotate automatically.
    ProxyStart {},
    /// The rotation status.
    ProxyStatus {},
    /// Stop rotating automatically.
    ProxyStop {},
    /// The last decisions, newest first.
    RotationHistory {
        /// At most so many.
        #[serde(default)]
        limit: Option<u32>,
    },
    /// Another process changed the store.
    ConfigsChanged {},
    /// Turn this connection into a stream of events.
    EventSubscribe {
        /// The instance that `seq` counts in.
        #[serde(default)]
        instance_id: Option<Uuid>,
        /// The last event that was seen.
        #[serde(default)]
        seq: Option<u64>,
    },
}

/// The `type` of every request, in the order of the documentation.
pub const COMMAND_NAMES: &[&str] = &[
    "DaemonPing",
    "DaemonShutdown",
    "DaemonRestart",
    "RuntimeStatus",
    "RuntimeConnect",
    "RuntimeReplace",
    "RuntimeDisconnect",
    "ProxyStart",
    "ProxyStatus",
    "ProxyStop",
    "RotationHistory",
    "ConfigsChanged",
    "EventSubscribe",
];

impl Trigger {
    /// The text in JSON and SQLite.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Timer => "timer",
            Self::Health => "health",
        }
    }
}

impl Command {
    /// The request's `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DaemonPing {} => "DaemonPing",
            Self::DaemonShutdown {} => "DaemonShutdown",
            Self::DaemonRestart {} => "DaemonRestart",
            Self::RuntimeStatus {} => "RuntimeStatus",
            Self::RuntimeConnect { .. } => "RuntimeConnect",
            Self::RuntimeReplace { .. } => "RuntimeReplace",
            Self::RuntimeDisconnect {} => "RuntimeDisconnect",
            Self::ProxyStart {} => "ProxyStart",
            Self::ProxyStatus {} => "ProxyStatus",
            Self::ProxyStop {} => "ProxyStop",
            Self::RotationHistory { .. } => "RotationHistory",
            Self::ConfigsChanged {} => "ConfigsChanged",
            Self::EventSubscribe { .. } => "EventSubscribe",
        }
    }

    /// Reads a request's `type` and `payload`; an absent or null payload is an empty one.
    ///
    /// # Errors
    /// [`Failure::BadRequest`] naming the type, or the field that is missing or wrong.
    pub fn from_parts(kind: &str, payload: Option<Value>) -> Result<Self, Failure> {
        if !COMMAND_NAMES.contains(&kind) {
            return Err(Failure::BadRequest(format!(
                "unknown request type `{}`; this daemon knows {}",
                kind.escape_debug().take(80).collect::<String>(),
                COMMAND_NAMES.join(", ")
            )));
        }
        let payload = payload.filter(|p| !p.is_null()).unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let command: Self = serde_json::from_value(serde_json::json!({ "type": kind, "payload": payload }))
            .map_err(|error| Failure::BadRequest(format!("{kind}: {error}")))?;
        if let Self::EventSubscribe { instance_id, seq } = &command
            && instance_id.is_some() != seq.is_some()
        {
            return Err(Failure::BadRequest(
                "EventSubscribe: give `instance_id` and `seq` together, or neither".into(),
            ));
        }
        Ok(command)
    }
}

/// Why a command was not done. One mapping per transport: a code on the socket, an error name on D-Bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request itself is wrong (400).
    #[error("{0}")]
    BadRequest(String),
    /// What it names does not exist (404).
    #[error("{0}")]
    NotFound(String),
    /// It does not go together with what is (409).
    #[error("{message}")]
    Conflict {
        /// One sentence a person can act on.
        message: String,
        /// Details for a program, or null.
        details: Value,
    },
    /// The daemon's or the engine's fault (500).
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    /// A conflict without details.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into(), details: Value::Null }
    }
}

/// What `DaemonPing` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonInfo {
    /// The protocol the daemon speaks.
    pub protocol_version: u32,
    /// The program's version.
    pub version: String,
    /// Made anew whenever the daemon begins, also when it restarts in place.
    pub instance_id: Uuid,
    /// The daemon's process id.
    pub pid: u32,
    /// When this instance began.
    pub started_at: DateTime<Utc>,
}

/// How a run of the rotation scheduler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionOutcome {
    /// The session moved.
    Replaced,
    /// The active node is as good as any.
    Stayed,
    /// No config could be chosen.
    NoCandidate,
    /// Every candidate failed.
    Failed,
    /// An automatic rotation was too short a time ago.
    Cooldown,
    /// The machine has no network, or none that any node can be judged by.
    Offline,
}

/// What became of one candidate of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The session moved to it.
    Chosen,
    /// It works, and another one was better or came first.
    NotNeeded,
    /// Its test failed.
    TestFailed,
    /// Its engine did not start, or did not prove itself.
    StartFailed,
}

/// One candidate of a rotation, with what was known of it then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The config.
    pub config_id: ConfigId,
    /// Its delay, if its test succeeded.
    pub delay_ms: Option<u32>,
    /// What failed.
    pub failure: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
}

/// One run of the rotation scheduler, also one that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Counts from 1.
    pub decision_id: i64,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Why it ran.
    pub trigger: Trigger,
    /// How it ended.
    pub outcome: DecisionOutcome,
    /// Why, in one sentence.
    pub reason: String,
    /// The config before.
    pub old_config_id: Option<ConfigId>,
    /// The config afterwards, if the session moved.
    pub new_config_id: Option<ConfigId>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Who was looked at.
    pub candidates: Vec<Candidate>,
}

/// What `ProxyStatus` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// Whether the timer rotates.
    pub enabled: bool,
    /// Seconds between two timer rotations.
    pub interval_secs: u64,
    /// Whether a dead engine or node makes the session move.
    pub health_trigger_enabled: bool,
    /// Seconds after an automatic rotation in which none follows.
    pub cooldown_secs: u64,
    /// Whether that time is running.
    pub cooldown_active: bool,
    /// Until when.
    pub cooldown_until: Option<DateTime<Utc>>,
    /// When the timer rotates next.
    pub next_timer_at: Option<DateTime<Utc>>,
    /// When the session last moved.
    pub last_rotation_at: Option<DateTime<Utc>>,
    /// Why the scheduler last ran.
    pub last_trigger: Option<Trigger>,
    /// How that ended.
    pub last_result: Option<DecisionOutcome>,
    /// The config of the session.
    pub active_config_id: Option<ConfigId>,
}

/// What a command gave; serialized it is the answer's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// `DaemonPing`.
    Info(DaemonInfo),
    /// `RuntimeStatus`.
    Status(Box<Status>),
    /// `RuntimeConnect`.
    Session(Box<Session>),
    /// `RuntimeDisconnect`.
    Stopped {
        /// The session that ended.
        stopped_session_id: Option<SessionId>,
    },
    /// `RuntimeReplace`.
    Replaced {
        /// Why it ran.
        trigger: Trigger,
        /// The session before, if there was one.
        old_session_id: Option<SessionId>,
        /// The session now.
        session: Box<Session>,
        /// The decision as it is stored.
        decision: Box<Decision>,
    },
    /// `ProxyStart`, `ProxyStatus`, `ProxyStop`.
    Rotation(Box<RotationStatus>),
    /// `RotationHistory`.
    History(Vec<Decision>),
    /// Done, with nothing to say.
    Done {},
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_absent_a_null_and_an_empty_payload_are_the_same() {
        for payload in [None, Some(Value::Null), Some(json!({})), Some(json!({"extra": 1}))] {
            assert_eq!(Command::from_parts("DaemonPing", payload).unwrap(), Command::DaemonPing {});
        }
    }

    #[test]
    fn every_name_is_a_command_and_the_other_way_round() {
        for name in COMMAND_NAMES {
            let payload = match *name {
                "RuntimeConnect" => json!({"config_id": 1}),
                "RuntimeReplace" => json!({"trigger": "manual"}),
                _ => Value::Null,
            };
            assert_eq!(Command::from_parts(name, Some(payload)).unwrap().name(), *name);
        }
    }

    #[test]
    fn errors_name_the_request_and_the_field() {
        let message = |kind: &str, payload| Command::from_parts(kind, Some(payload)).unwrap_err().to_string();
        assert!(message("Nonsense", json!({})).starts_with("unknown request type `Nonsense`"));
        assert!(message("RuntimeConnect", json!({})).contains("config_id"));
        assert!(message("RuntimeConnect", json!({"config_id": "x"})).starts_with("RuntimeConnect: invalid type"));
        assert!(message("RuntimeReplace", json!({"trigger": "banana"})).contains("banana"));
        assert!(message("EventSubscribe", json!({"seq": 1})).contains("together"));
    }
}
