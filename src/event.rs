//! What the daemon tells: states, reasons, health, the session as seen from outside, and events. No I/O.
//!
//! The enums here are used in SQLite and JSON by their text and on D-Bus by their number. Numbers and texts
//! are append-only and pinned by a test.

use std::num::NonZeroU16;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::command::{Decision, RotationStatus};
use crate::config::ConfigId;

/// A name that no version of xrat has given to a state, reason or health.
#[derive(Debug, thiserror::Error)]
#[error("unknown {what} `{text}`")]
pub struct UnknownName {
    what: &'static str,
    text: String,
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)+ }

        impl $name {
            /// Every value, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on D-Bus.
            pub fn number(self) -> u32 {
                self as u32
            }

            /// The text in JSON and SQLite.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
                    .ok_or_else(|| UnknownName { what: stringify!($name), text: text.to_owned() })
            }
        }
    };
}

numbered! {
    /// What the daemon is doing for its user.
    State {
        /// Never sent by this version; what a client shows for a number it does not know.
        Unknown = 0 "unknown",
        /// No session, and none wanted.
        Disconnected = 1 "disconnected",
        /// A session is being started.
        Connecting = 2 "connecting",
        /// A session is running.
        Connected = 3 "connected",
        /// A session is running and another is being started in its place.
        Replacing = 4 "replacing",
        /// The session was lost and is being brought back.
        Recovering = 5 "recovering",
        /// The session was lost and could not be brought back; the user still wants one.
        Failed = 6 "failed",
        /// The session is being ended.
        Disconnecting = 7 "disconnecting",
    }
}

numbered! {
    /// Why a state was entered. Always travels with the state.
    Reason {
        /// A number that this version does not know.
        Unknown = 0 "unknown",
        /// Nothing happened yet.
        None = 1 "none",
        /// The user asked for it.
        UserRequested = 2 "user_requested",
        /// The rotation timer.
        TimerRotation = 3 "timer_rotation",
        /// The user asked for a rotation.
        ManualRotation = 4 "manual_rotation",
        /// Rotation away from a dead engine or node.
        HealthRotation = 5 "health_rotation",
        /// The engine's process ended by itself or was killed.
        EngineExited = 6 "engine_exited",
        /// The engine did not become ready.
        EngineNotReady = 7 "engine_not_ready",
        /// The public port is no longer the session's.
        PortLost = 8 "port_lost",
        /// No exchange through the node succeeded.
        ExchangeFailed = 9 "exchange_failed",
        /// The engine at hand cannot carry the config.
        ConfigUnsupported = 10 "config_unsupported",
        /// No engine was found.
        EngineMissing = 11 "engine_missing",
        /// A public address belongs to another process.
        AddressInUse = 12 "address_in_use",
        /// An earlier daemon's session was taken over.
        Adopted = 13 "adopted",
        /// An earlier daemon's session could not be taken over.
        AdoptionRefused = 14 "adoption_refused",
        /// The machine has no network.
        Offline = 15 "offline",
        /// The machine woke from sleep.
        Resumed = 16 "resumed",
        /// The daemon is ending.
        DaemonShutdown = 17 "daemon_shutdown",
        /// It failed too often in too short a time.
        TooManyFailures = 18 "too_many_failures",
        /// Connected again after a reboot, as the settings ask.
        Autoconnect = 19 "autoconnect",
        /// A fault of the daemon itself.
        InternalError = 20 "internal_error",
    }
}

numbered! {
    /// Whether traffic is known to get through the session's node.
    Health {
        /// No session.
        Unknown = 0 "unknown",
        /// No exchange through the node has been tried to its end yet.
        Unproven = 1 "unproven",
        /// The last exchange succeeded.
        Healthy = 2 "healthy",
        /// The last exchange failed; it is being repeated.
        Degraded = 3 "degraded",
        /// Several exchanges in a row failed.
        Failed = 4 "failed",
    }
}

numbered! {
    /// The status of a row of `runtime_sessions`. Not on D-Bus; numbered like the others for one rule.
    SessionStatus {
        /// The engine is being started.
        Starting = 1 "starting",
        /// The engine serves the public addresses.
        Running = 2 "running",
        /// The engine finishes what it has and takes nothing new.
        Stopping = 3 "stopping",
        /// Ended as intended.
        Stopped = 4 "stopped",
        /// Ended by a fault.
        Failed = 5 "failed",
    }
}

/// The key of a row of `runtime_sessions`: one run of an engine for one config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub i64);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A public address of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Host as in the settings.
    pub host: String,
    /// Port.
    pub port: NonZeroU16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Health with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The verdict.
    pub status: Health,
    /// When the last check ended; null before the first.
    pub checked_at: Option<DateTime<Utc>>,
    /// Failed checks since the last good one.
    pub consecutive_failures: u32,
}

impl HealthReport {
    /// The health of a session that no exchange went through yet.
    pub fn unproven() -> Self {
        Self { status: Health::Unproven, checked_at: None, consecutive_failures: 0 }
    }
}

/// Bytes carried for the user since the session began, the daemon's own checks included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From the user to the node.
    pub uplink_bytes: u64,
    /// From the node to the user.
    pub downlink_bytes: u64,
}

/// Who owns a session's engine. Only the daemon, in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    /// The daemon.
    Daemon,
}

/// The session as clients see it. Holds no credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The row of `runtime_sessions`.
    pub session_id: SessionId,
    /// The config it runs for.
    pub config_id: ConfigId,
    /// The config's name.
    pub name: String,
    /// The config's protocol, for example `vless`.
    pub protocol: String,
    /// The node's address.
    pub address: String,
    /// The node's port.
    pub port: NonZeroU16,
    /// `xray` or `v2ray`.
    pub engine: String,
    /// The engine's version, for example `26.3.27`.
    pub engine_version: String,
    /// The engine's process id.
    pub pid: u32,
    /// The row's status.
    pub status: SessionStatus,
    /// Where programs find the SOCKS proxy.
    pub socks: Address,
    /// Where programs find the HTTP proxy, if it is enabled.
    pub http: Option<Address>,
    /// When the engine was started.
    pub started_at: DateTime<Utc>,
    /// Who owns the engine.
    pub owner_kind: OwnerKind,
    /// The daemon instance that owns the engine now.
    pub owner_instance_id: Uuid,
    /// Delay of the last good exchange through the node, in milliseconds.
    pub delay_ms: Option<u32>,
    /// Health with its evidence.
    pub health: HealthReport,
    /// Bytes carried, as of the last time the engine was asked.
    pub traffic: Option<Traffic>,
}

/// The last session that ended by a fault, kept for `status` after it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The session, when one had begun.
    pub session_id: Option<SessionId>,
    /// The config.
    pub config_id: ConfigId,
    /// The kind of fault.
    pub reason: Reason,
    /// One sentence for a person.
    pub detail: String,
}

/// What the daemon is on the session bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusPresence {
    /// It was told to leave the bus alone.
    Off,
    /// There is no bus, or none yet.
    #[default]
    Absent,
    /// Another daemon has the name; this one takes it when that one ends.
    Taken,
    /// It has the name.
    Owned,
}

/// Everything `status` shows, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Why it was entered.
    pub reason: Reason,
    /// When it was entered.
    pub since: DateTime<Utc>,
    /// The session, if there is one.
    pub session: Option<Session>,
    /// The last fault, if there was one since the daemon's database was made.
    pub last_failure: Option<LastFailure>,
    /// What the daemon is on the session bus.
    #[serde(default)]
    pub bus: BusPresence,
}

/// Something that happened. Serialized with `type` beside its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Event {
    /// The full state: the first event of a stream that has no past to replay.
    Snapshot(Status),
    /// A state was entered.
    StateChanged {
        /// The state now.
        new: State,
        /// The state before.
        old: State,
        /// Why.
        reason: Reason,
        /// The session now, if there is one.
        session: Option<Session>,
    },
    /// A check of the node ended, and the verdict or its evidence changed.
    HealthChanged {
        /// The session that was checked.
        session_id: SessionId,
        /// The verdict with its evidence.
        health: HealthReport,
        /// Delay of a good exchange, in milliseconds.
        delay_ms: Option<u32>,
        /// What failed, when it failed.
        detail: Option<String>,
    },
    /// A session ended by a fault, or never got running.
    SessionFailed {
        /// The session.
        session_id: SessionId,
        /// The kind of fault.
        reason: Reason,
        /// One sentence for a person, with exit code or signal where an engine ended.
        detail: String,
    },
    /// The session moved to another engine.
    Rotated {
        /// Its config before.
        old_config_id: Option<ConfigId>,
        /// Its config now.
        new_config_id: ConfigId,
        /// Why, and who else was looked at.
        decision: Box<Decision>,
    },
    /// The scheduler ran and the session stays where it is.
    RotationDecided {
        /// Why, and who was looked at.
        decision: Box<Decision>,
    },
    /// Automatic rotation was switched on or off, or its next time changed.
    RotationChanged(Box<RotationStatus>),
    /// An engine that had been replaced has ended.
    Drained {
        /// Its session.
        session_id: SessionId,
        /// Connections that were still open and are cut.
        cut_connections: u32,
    },
    /// The machine lost its network, or has it again.
    NetworkChanged {
        /// Whether a node's address can be routed to.
        online: bool,
    },
    /// Configs were added, changed or removed.
    ConfigsChanged {},
    /// The settings were read again.
    SettingsChanged {},
    /// This reader was too slow: that many events are missing here.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// An event with its place in the daemon's history: one line of an event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Counts from 1 within one daemon instance.
    pub seq: u64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The daemon instance that counts.
    pub instance_id: Uuid,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn table<T: Copy + Serialize>(all: &[T], number: impl Fn(T) -> u32, text: impl Fn(T) -> &'static str) -> String {
        all.iter()
            .map(|v| {
                assert_eq!(serde_json::to_value(v).unwrap(), text(*v), "JSON and as_str differ");
                format!("{} {}", number(*v), text(*v))
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn numbers_and_texts_are_pinned() {
        assert_eq!(
            table(State::ALL, State::number, State::as_str),
            "0 unknown, 1 disconnected, 2 connecting, 3 connected, 4 replacing, 5 recovering, 6 failed, 7 disconnecting"
        );
        assert_eq!(
            table(Reason::ALL, Reason::number, Reason::as_str),
            "0 unknown, 1 none, 2 user_requested, 3 timer_rotation, 4 manual_rotation, 5 health_rotation, \
             6 engine_exited, 7 engine_not_ready, 8 port_lost, 9 exchange_failed, 10 config_unsupported, \
             11 engine_missing, 12 address_in_use, 13 adopted, 14 adoption_refused, 15 offline, 16 resumed, \
             17 daemon_shutdown, 18 too_many_failures, 19 autoconnect, 20 internal_error"
        );
        assert_eq!(
            table(Health::ALL, Health::number, Health::as_str),
            "0 unknown, 1 unproven, 2 healthy, 3 degraded, 4 failed"
        );
        assert_eq!(
            table(SessionStatus::ALL, SessionStatus::number, SessionStatus::as_str),
            "1 starting, 2 running, 3 stopping, 4 stopped, 5 failed"
        );
    }

    #[test]
    fn texts_parse_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>().unwrap(), *state);
        }
        assert!("banana".parse::<Reason>().is_err());
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let line =
            Recorded { seq: 7, at: DateTime::UNIX_EPOCH, instance_id: Uuid::nil(), event: Event::Lagged { missed: 3 } };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"seq":7,"at":"1970-01-01T00:00:00Z","instance_id":"00000000-0000-0000-0000-000000000000","type":"Lagged","missed":3}"#
        );
    }
}
