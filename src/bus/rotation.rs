//! The interface `org.xrat.Daemon1.Rotation`: moving by itself, and why it did.

use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, DBusError};

use super::errors::Error;
use super::values::{self, Dict};
use super::view::Present;
use super::{Shared, unexpected};
use crate::command::{Command, Outcome};

/// The interface's name.
pub(super) const INTERFACE: &str = "org.xrat.Daemon1.Rotation";

pub(super) struct Rotation(pub(super) Arc<Shared>);

/// Automatic rotation.
#[zbus::interface(name = "org.xrat.Daemon1.Rotation")]
impl Rotation {
    /// Rotates by the timer from now on; also when it does already.
    async fn start(&self) -> Result<(), Error> {
        self.0.answer(async { self.0.change(Command::ProxyStart {}).await.map(|_| ()) }).await
    }

    /// Rotates by the timer no more.
    async fn stop(&self) -> Result<(), Error> {
        self.0.answer(async { self.0.change(Command::ProxyStop {}).await.map(|_| ()) }).await
    }

    /// Whether, when and why it rotates.
    #[zbus(out_args("status"))]
    async fn get_status(&self) -> Result<Dict, Error> {
        let work = async {
            match self.0.ask(Command::ProxyStatus {}).await? {
                Outcome::Rotation(status) => Ok(values::rotation(&status)),
                other => unexpected(&other),
            }
        };
        self.0.answer(work).await
    }

    /// The last decisions, newest first: at most so many, 20 when it is 0.
    #[zbus(out_args("decisions"))]
    async fn history(&self, limit: u32) -> Result<Vec<Dict>, Error> {
        let limit = (limit != 0).then_some(limit);
        let work = async {
            match self.0.ask(Command::RotationHistory { limit }).await? {
                Outcome::History(decisions) => Ok(decisions.iter().map(values::decision).collect()),
                other => unexpected(&other),
            }
        };
        self.0.answer(work).await
    }

    /// Whether the timer rotates. Setting it is Start or Stop.
    #[zbus(property)]
    fn enabled(&self) -> bool {
        self.0.view.read(|present| present.rotation.enabled)
    }

    #[zbus(property)]
    async fn set_enabled(
        &self,
        enabled: bool,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> zbus::fdo::Result<()> {
        // zbus tells of the change after this; once is enough.
        let _setting = self.0.view.setting(enabled);
        let command = if enabled { Command::ProxyStart {} } else { Command::ProxyStop {} };
        let Err(error) = self.0.answer(self.0.change(command)).await else { return Ok(()) };
        let text = error.description().unwrap_or_default().to_owned();
        // A setter's error can only have a name of D-Bus's own, so the answer that has ours is sent from here, and none
        // follows. What is held up by that ends with the connection: this is refused only while the daemon ends.
        if let (Error::Conflict(_), Some(header)) = (&error, header) {
            bus.reply_dbus_error(&header, error).await?;
            return std::future::pending().await;
        }
        Err(zbus::fdo::Error::Failed(text))
    }

    /// When the timer rotates next, in seconds since 1970; 0 when that is not planned.
    #[zbus(property)]
    fn next_at(&self) -> i64 {
        self.0.view.read(Present::next_at)
    }

    /// Until when no automatic rotation follows the last one, in seconds since 1970; 0 when that is over.
    #[zbus(property)]
    fn cooldown_until(&self) -> i64 {
        self.0.view.read(Present::cooldown_until)
    }

    /// The last decision, also one that changed nothing; empty before the first.
    #[zbus(property)]
    fn last_decision(&self) -> Dict {
        self.0.view.read(Present::last_decision)
    }

    /// The session moved. old_config_id is 0 when there was none; the detail is the decision.
    #[zbus(signal)]
    pub(super) async fn rotated(
        emitter: &SignalEmitter<'_>,
        old_config_id: i64,
        new_config_id: i64,
        trigger: &str,
        detail: Dict,
    ) -> zbus::Result<()>;
}
