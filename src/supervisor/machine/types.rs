//! What goes into the machine and what comes out of it: inputs, effects, and the rules it begins with.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::command::{Command, DaemonInfo, Decision, Failure, Outcome};
use crate::config::ConfigId;
use crate::event::{BusPresence, Event, Reason, Session, SessionId, Status, Traffic};
use crate::store::{CandidateRow, RotationFacts};

/// One request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// The moment of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock: only stored and shown.
    pub wall: DateTime<Utc>,
    /// CLOCK_BOOTTIME: what intervals are measured by.
    pub boot: Duration,
}

/// Something the machine must decide about.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client asks.
    Command(CallId, Command),
    /// The engine that was to be started is ready (and proven, if that was asked for), or was removed again.
    Started(Result<Session, StartFailure>),
    /// The started engine serves the public addresses, or was removed again.
    WentPublic(Result<(), StartFailure>),
    /// The engine that was to be stopped is gone.
    StopEnded(SessionId),
    /// A session's engine ended without being asked to.
    EngineExited(SessionId, String),
    /// A public port is no longer the session's.
    PortLost(SessionId, String),
    /// An exchange through the session ended: its delay in milliseconds, or what failed.
    ExchangeEnded(SessionId, Result<u32, String>),
    /// The engine's counters were read, for a status request or for the health check; none when it did not answer.
    TrafficRead(Option<CallId>, SessionId, Option<Traffic>),
    /// The configs that rotation may choose among, and a random number to choose with.
    CandidatesRead(Vec<CandidateRow>, u64),
    /// What a connect that names no config may choose among, or why that is not known.
    ChoiceRead(Result<Choice, StartFailure>),
    /// Candidates were tested: delays in milliseconds, or what failed.
    CandidatesTested(Vec<(ConfigId, Result<u32, String>)>),
    /// The active config was read again; none when it is gone.
    ConfigRead(ConfigId, Option<String>),
    /// The settings were read again.
    SettingsRead(Rules),
    /// The machine lost its way to the node, or has it again.
    Network {
        /// Whether there is one.
        online: bool,
    },
    /// What the daemon is on the session bus now.
    OnBus(BusPresence),
    /// The machine woke from sleep.
    Resumed,
    /// The deadline has come.
    Tick,
    /// The system wants the daemon to end.
    Terminate,
}

/// Why an engine does not serve.
#[derive(Clone, Debug)]
pub struct StartFailure {
    /// The row, when one was made.
    pub session_id: Option<SessionId>,
    /// The kind of fault.
    pub reason: Reason,
    /// The answer to a client that waits for it.
    pub failure: Failure,
}

/// What a connect that names no config may choose among.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Enabled configs that an engine of this machine can carry.
    pub usable: Vec<CandidateRow>,
    /// How many configs are stored in all.
    pub stored: usize,
    /// The config that a session served last; it may be gone.
    pub last: Option<ConfigId>,
}

/// Something the loop must do.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time is alive, for microseconds")]
pub enum Effect {
    /// Answer a client.
    Answer(CallId, Result<Outcome, Failure>),
    /// Answer a client with the last decisions.
    AnswerHistory(CallId, u32),
    /// Tell everybody.
    Emit(Event),
    /// Start an engine that no client reaches yet; with `prove`, an exchange through it must succeed.
    Start {
        /// For this config.
        config_id: ConfigId,
        /// Why.
        reason: Reason,
        /// Whether it must prove itself.
        prove: bool,
        /// It has this long.
        within: Duration,
    },
    /// Give the running start up; it still reports its end.
    CancelStart,
    /// Let a started engine serve the public addresses, in place of `old`.
    GoPublic {
        /// The session that begins.
        session_id: SessionId,
        /// The session whose engine serves them now.
        old: Option<SessionId>,
    },
    /// Tell when a session's engine ends.
    Watch(SessionId),
    /// Let a replaced engine finish its connections for so long, then end it. With a fault it was replaced for that.
    Drain(SessionId, Duration, Reason, Option<String>),
    /// End a session's engine.
    Stop(SessionId, Reason),
    /// End the engines that drain.
    EndDrains,
    /// A session's engine is dead or lost: end what is left of it and write it down.
    Discard(SessionId, Reason, String),
    /// Hold new connections until an engine is there.
    Hold,
    /// Refuse new connections politely, with this text.
    Refuse(String),
    /// Close the public addresses.
    ClosePublic,
    /// Try an exchange through a session.
    Exchange(SessionId),
    /// Read a session's counters, for a status request or for the health check.
    ReadTraffic(Option<CallId>, SessionId),
    /// Look whether the public ports are the session's.
    CheckPorts(SessionId),
    /// Read what rotation may choose among.
    ReadCandidates,
    /// Read what a connect that names no config may choose among.
    ReadChoice,
    /// Test candidates, within so long.
    TestCandidates(Vec<ConfigId>, Duration),
    /// Give the running test up; it still reports its end.
    CancelTest,
    /// Write a decision down.
    SaveDecision(Decision),
    /// Write the rotation's state down.
    SaveRotation(RotationFacts),
    /// Read the active config again.
    ReadConfig(ConfigId),
    /// The user wants no session any more.
    ForgetWanted,
    /// Execute the program again.
    Restart,
    /// End the daemon.
    Exit,
}

/// The settings that rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many failed exchanges in a row make the health `failed`.
    pub failure_threshold: u32,
    /// Between two health checks.
    pub health_interval: Duration,
    /// Rotate by the timer, unless the user said otherwise since.
    pub rotation_enabled: bool,
    /// Between two timer rotations.
    pub rotation_interval: Duration,
    /// Rotate away from a dead engine or node.
    pub health_trigger: bool,
    /// After an automatic rotation none follows for so long.
    pub cooldown: Duration,
    /// A timer rotation stays unless another node is faster by this.
    pub tolerance_ms: u32,
    /// At most so many candidates are tested.
    pub max_candidates: usize,
    /// A replaced engine may finish its connections for so long.
    pub drain: Duration,
}

/// What the machine begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Who this daemon is.
    pub info: DaemonInfo,
    /// The settings.
    pub rules: Rules,
    /// The state, with a session that was adopted.
    pub status: Status,
    /// The rotation's state as the daemon before left it.
    pub facts: RotationFacts,
    /// This boot.
    pub boot_id: String,
    /// The last decision's id.
    pub last_decision_id: i64,
    /// A random number, for jitter.
    pub seed: u64,
}
