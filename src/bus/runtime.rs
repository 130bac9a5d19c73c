//! The interface `org.xrat.Daemon1.Runtime`: the session.

use std::sync::Arc;

use serde_json::json;
use zbus::object_server::SignalEmitter;

use super::errors::Error;
use super::values::{self, Dict};
use super::view::Present;
use super::{Shared, unexpected};
use crate::command::{Command, Outcome};
use crate::config::ConfigId;
use crate::event::BusPresence;

/// The interface's name.
pub(super) const INTERFACE: &str = "org.xrat.Daemon1.Runtime";

pub(super) struct Runtime(pub(super) Arc<Shared>);

/// The session.
#[zbus::interface(name = "org.xrat.Daemon1.Runtime")]
impl Runtime {
    /// Starts a session for a config; answers when it runs, within 18 s. With config_id 0 it is the config that was
    /// connected last, or the best by the stored results.
    #[zbus(out_args("session"))]
    async fn connect(&self, config_id: i64) -> Result<Dict, Error> {
        let work = async {
            match self.0.change(Command::RuntimeConnect { config_id: ConfigId(config_id) }).await? {
                Outcome::Session(session) => Ok(values::session(&session)),
                other => unexpected(&other),
            }
        };
        self.0.answer(work).await
    }

    /// Ends the session; answers when it is gone.
    async fn disconnect(&self) -> Result<(), Error> {
        self.0.answer(async { self.0.change(Command::RuntimeDisconnect {}).await.map(|_| ()) }).await
    }

    /// Moves the session to another config without losing a connection; answers when it runs there, within 18 s. The
    /// trigger is manual, timer or health. With candidate_id 0 rotation chooses.
    #[zbus(out_args("session"))]
    async fn replace(&self, trigger: &str, candidate_id: i64) -> Result<Dict, Error> {
        let candidate_id = (candidate_id != 0).then_some(candidate_id);
        let work = async {
            let payload = json!({ "trigger": trigger, "candidate_id": candidate_id });
            match self.0.change(Command::from_parts("RuntimeReplace", Some(payload))?).await? {
                Outcome::Replaced { session, .. } => Ok(values::session(&session)),
                other => unexpected(&other),
            }
        };
        self.0.answer(work).await
    }

    /// State, reason, session and last failure at this moment.
    #[zbus(out_args("status"))]
    async fn get_status(&self) -> Result<Dict, Error> {
        let work = async {
            match self.0.ask(Command::RuntimeStatus {}).await? {
                Outcome::Status(mut status) => {
                    // A call that had the daemon started arrives with the name, before the loop hears of it.
                    if status.bus == BusPresence::Absent {
                        status.bus = BusPresence::Owned;
                    }
                    Ok(values::status(&status))
                }
                other => unexpected(&other),
            }
        };
        self.0.answer(work).await
    }

    /// 0 unknown, 1 disconnected, 2 connecting, 3 connected, 4 replacing, 5 recovering, 6 failed, 7 disconnecting.
    #[zbus(property)]
    fn state(&self) -> u32 {
        self.0.view.read(|present| present.status.state.number())
    }

    /// The state, and the reason it was entered for.
    #[zbus(property)]
    fn state_reason(&self) -> (u32, u32) {
        self.0.view.read(Present::state_reason)
    }

    /// The session; empty when there is none.
    #[zbus(property)]
    fn session(&self) -> Dict {
        self.0.view.read(Present::session)
    }

    /// 0 unknown, 1 unproven, 2 healthy, 3 degraded, 4 failed.
    #[zbus(property)]
    fn health(&self) -> u32 {
        self.0.view.read(Present::health)
    }

    /// Bytes carried up and down by this session. Its changes are not told: read it when it is shown.
    // The last one: GetAll reads in this order, and only this read waits, so that the others are of one moment.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn traffic(&self) -> (u64, u64) {
        match self.0.answer(self.0.ask(Command::RuntimeStatus {})).await {
            Ok(Outcome::Status(status)) => status
                .session
                .and_then(|session| session.traffic)
                .map_or((0, 0), |traffic| (traffic.uplink_bytes, traffic.downlink_bytes)),
            _ => (0, 0),
        }
    }

    /// A state was entered; State, StateReason and Session have changed already.
    #[zbus(signal, name = "StateChanged")]
    pub(super) async fn entered(emitter: &SignalEmitter<'_>, new: u32, old: u32, reason: u32) -> zbus::Result<()>;

    /// A session ended by a fault, or never got running.
    #[zbus(signal)]
    pub(super) async fn session_failed(
        emitter: &SignalEmitter<'_>,
        session_id: i64,
        reason: u32,
        detail: &str,
    ) -> zbus::Result<()>;
}
