//! The interface `org.xrat.Daemon1`: who the daemon is, and its end.

use std::sync::Arc;

use super::errors::Error;
use super::values::{self, Dict};
use super::{Shared, unexpected};
use crate::command::{Command, Outcome};

pub(super) struct Daemon(pub(super) Arc<Shared>);

/// The daemon itself.
#[zbus::interface(name = "org.xrat.Daemon1")]
impl Daemon {
    /// Who the daemon is: version, protocol_version, instance_id, pid, started_at.
    #[zbus(out_args("info"))]
    async fn ping(&self) -> Result<Dict, Error> {
        let work = async {
            match self.0.ask(Command::DaemonPing {}).await? {
                Outcome::Info(info) => Ok(values::dict(&info)),
                other => unexpected(&other),
            }
        };
        self.0.answer(work).await
    }

    /// Ends the session and the daemon.
    async fn shutdown(&self) -> Result<(), Error> {
        self.0.answer(async { self.0.ask(Command::DaemonShutdown {}).await.map(|_| ()) }).await
    }

    /// Executes the daemon's program again, after an update: same process, and session and connections stay. It is done
    /// when InstanceId is another one.
    async fn restart(&self) -> Result<(), Error> {
        self.0.answer(async { self.0.ask(Command::DaemonRestart {}).await.map(|_| ()) }).await
    }

    /// The program's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        &self.0.info.version
    }

    /// Version of the socket protocol.
    #[zbus(property(emits_changed_signal = "const"))]
    fn protocol_version(&self) -> u32 {
        self.0.info.protocol_version
    }

    /// Made anew whenever the daemon begins, also when it restarts in place.
    #[zbus(property(emits_changed_signal = "const"))]
    fn instance_id(&self) -> String {
        self.0.info.instance_id.to_string()
    }
}
