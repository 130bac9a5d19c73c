//! What the tray knows, and which icon stands for it. No I/O.

use chrono::{DateTime, Utc};
use xrat::event::{Health, Reason, State};

/// Everything that is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    /// What the daemon says; none while there is no daemon on the bus.
    pub(crate) daemon: Option<Daemon>,
    /// The stored configs, fastest first.
    pub(crate) configs: Vec<Config>,
    /// The test that was begun here, while it runs.
    pub(crate) test: Option<Progress>,
    /// What the user asked for last and was refused.
    pub(crate) complaint: Option<String>,
}

/// What the daemon says, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Daemon {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    /// When the state was entered.
    pub(crate) since: Option<DateTime<Utc>>,
    pub(crate) session: Option<Session>,
    /// The sentence of the last fault.
    pub(crate) last_failure: Option<String>,
    pub(crate) rotation: Rotation,
}

/// The session.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Session {
    pub(crate) config_id: i64,
    pub(crate) name: String,
    pub(crate) health: Health,
    pub(crate) delay_ms: Option<i64>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    /// Bytes up and down.
    pub(crate) traffic: Option<(u64, u64)>,
    /// Where programs find the SOCKS proxy, as `127.0.0.1:18200`.
    pub(crate) socks: String,
}

/// Automatic rotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rotation {
    pub(crate) enabled: bool,
    pub(crate) next_at: Option<DateTime<Utc>>,
    pub(crate) last: Option<Decision>,
}

/// Why the scheduler did what it did last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) at: Option<DateTime<Utc>>,
    /// `manual`, `timer` or `health`.
    pub(crate) trigger: String,
    /// One sentence.
    pub(crate) reason: String,
    pub(crate) old_config_id: Option<i64>,
    pub(crate) new_config_id: Option<i64>,
    pub(crate) candidates: Vec<Candidate>,
}

/// One config that a decision looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) config_id: i64,
    pub(crate) delay_ms: Option<i64>,
    pub(crate) chosen: bool,
}

/// A stored config.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) config_id: i64,
    pub(crate) name: String,
    pub(crate) enabled: bool,
    /// Of its last test, if that succeeded.
    pub(crate) delay_ms: Option<i64>,
    /// The subscription it comes from, by its host.
    pub(crate) source: Option<String>,
}

/// How far a test is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) done: u32,
    /// 0 until it is known.
    pub(crate) total: u32,
}

/// What can be asked for in the menu, and in a notification.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Run the session through this config.
    Connect(i64),
    /// Move to another config; rotation chooses.
    Rotate,
    /// Rotate by the timer, or no more.
    Automatic(bool),
    /// Test every enabled config.
    Test,
    /// End the test early.
    StopTest,
    /// Put the SOCKS proxy's address into the clipboard.
    Copy,
    /// End the session.
    Disconnect,
    /// Start the daemon.
    Start,
    /// End the tray.
    Quit,
}

/// The icons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Disconnected,
    Connecting,
    Connected,
    Degraded,
    Replacing,
    Failed,
}

impl Look {
    pub(crate) const ALL: [Self; 6] =
        [Self::Disconnected, Self::Connecting, Self::Connected, Self::Degraded, Self::Replacing, Self::Failed];

    /// The icon's name in the theme.
    pub(crate) fn icon_name(self) -> &'static str {
        match self {
            Self::Disconnected => "xrat-disconnected",
            Self::Connecting => "xrat-connecting",
            Self::Connected => "xrat-connected",
            Self::Degraded => "xrat-degraded",
            Self::Replacing => "xrat-replacing",
            Self::Failed => "xrat-failed",
        }
    }
}

impl Model {
    /// The icon for this.
    pub(crate) fn look(&self) -> Look {
        self.daemon.as_ref().map_or(Look::Disconnected, Daemon::look)
    }

    /// A config's name; its number where it is not stored any more.
    pub(crate) fn name_of(&self, config_id: i64) -> String {
        let known = self.configs.iter().find(|config| config.config_id == config_id);
        known.map_or_else(|| format!("config {config_id}"), |config| config.name.clone())
    }
}

impl Daemon {
    pub(crate) fn look(&self) -> Look {
        match self.state {
            State::Unknown | State::Disconnected | State::Disconnecting => Look::Disconnected,
            State::Connecting => Look::Connecting,
            State::Replacing | State::Recovering => Look::Replacing,
            State::Failed => Look::Failed,
            State::Connected => match self.health() {
                Health::Degraded => Look::Degraded,
                Health::Failed => Look::Failed,
                Health::Unknown | Health::Unproven | Health::Healthy => Look::Connected,
            },
        }
    }

    /// The session's health.
    pub(crate) fn health(&self) -> Health {
        self.session.as_ref().map_or(Health::Unknown, |session| session.health)
    }

    /// Whether there is something to disconnect, also what is only wanted.
    pub(crate) fn wants_session(&self) -> bool {
        !matches!(self.state, State::Unknown | State::Disconnected | State::Disconnecting)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;

    /// A daemon in `state`, with a session on config 1 where that state has one.
    pub(crate) fn daemon(state: State, health: Health) -> Daemon {
        let has_session = matches!(state, State::Connected | State::Replacing);
        Daemon {
            state,
            reason: Reason::UserRequested,
            since: Some(DateTime::UNIX_EPOCH),
            session: has_session.then(|| session(1, "one", health)),
            last_failure: None,
            rotation: Rotation::default(),
        }
    }

    pub(crate) fn session(config_id: i64, name: &str, health: Health) -> Session {
        Session {
            config_id,
            name: name.into(),
            health,
            delay_ms: Some(35),
            started_at: Some(DateTime::UNIX_EPOCH),
            traffic: Some((1 << 20, 5 << 20)),
            socks: "127.0.0.1:18200".into(),
        }
    }

    #[test]
    fn each_state_has_its_icon() {
        let look = |state, health| daemon(state, health).look();
        let healthy = Health::Healthy;
        assert_eq!(look(State::Unknown, healthy), Look::Disconnected);
        assert_eq!(look(State::Disconnected, healthy), Look::Disconnected);
        assert_eq!(look(State::Disconnecting, healthy), Look::Disconnected);
        assert_eq!(look(State::Connecting, healthy), Look::Connecting);
        assert_eq!(look(State::Connected, healthy), Look::Connected);
        assert_eq!(look(State::Connected, Health::Unproven), Look::Connected);
        assert_eq!(look(State::Connected, Health::Degraded), Look::Degraded);
        assert_eq!(look(State::Connected, Health::Failed), Look::Failed);
        assert_eq!(look(State::Replacing, Health::Failed), Look::Replacing);
        assert_eq!(look(State::Recovering, healthy), Look::Replacing);
        assert_eq!(look(State::Failed, healthy), Look::Failed);
        assert_eq!(Model::default().look(), Look::Disconnected, "no daemon");
    }
}
