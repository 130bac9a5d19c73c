//! The daemon as a client of its D-Bus interface sees it: reading what it is, and asking it for something.

use std::cell::Cell;
use std::rc::Rc;

use async_channel::{Receiver, Sender};
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::names::WellKnownName;
use zbus::zvariant::{OwnedObjectPath, Value};

use crate::bus::{Activation, DAEMON, PATH, call};
use crate::model::{Action, Config, Daemon};
use crate::reading::{self, Dict};

const RUNTIME: &str = "org.xrat.Daemon1.Runtime";
const ROTATION: &str = "org.xrat.Daemon1.Rotation";
const CONFIGS: &str = "org.xrat.Daemon1.Configs";
const JOB: &str = "org.xrat.Daemon1.Job";
/// What people can do who have no file that tells the bus how to start the daemon.
const NOT_INSTALLED: &str = "the bus does not know how: run 'xrat daemon install' once, or 'xrat daemon start'";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// What a reading gave.
#[derive(Debug)]
pub(crate) enum Reading {
    Daemon(Daemon),
    Configs(Vec<Config>),
    /// The daemon did not answer.
    Failed(zbus::Error),
}

/// Reads the daemon again whenever something may have changed.
///
/// What a signal says is not used, only that there was one: after the last signal the daemon is read once more, so that
/// what is shown is what the daemon says, whatever was missed or came twice.
pub(crate) struct Reader {
    dirty: Rc<Cell<Dirty>>,
    poke: Sender<()>,
}

#[derive(Clone, Copy, Default)]
struct Dirty {
    state: bool,
    configs: bool,
}

impl Reader {
    /// A reader, and the other end of it for [`read`].
    pub(crate) fn new() -> (Self, Unread) {
        let (poke, poked) = async_channel::bounded(1);
        let dirty = Rc::<Cell<Dirty>>::default();
        (Self { dirty: Rc::clone(&dirty), poke }, Unread { dirty, poked })
    }

    /// State, session or rotation may have changed.
    pub(crate) fn state(&self) {
        self.mark(Dirty { state: true, configs: false });
    }

    /// The list of configs may have changed.
    pub(crate) fn configs(&self) {
        self.mark(Dirty { state: false, configs: true });
    }

    fn mark(&self, new: Dirty) {
        let old = self.dirty.get();
        self.dirty.set(Dirty { state: old.state || new.state, configs: old.configs || new.configs });
        // Full: it is on its way.
        let _ = self.poke.try_send(());
    }
}

/// What is to be read.
pub(crate) struct Unread {
    dirty: Rc<Cell<Dirty>>,
    poked: Receiver<()>,
}

/// Reads what is marked, again and again.
pub(crate) async fn read(bus: &Connection, unread: Unread, readings: Sender<Reading>) {
    while unread.poked.recv().await.is_ok() {
        let dirty = unread.dirty.take();
        if dirty.state {
            let reading = state(bus).await.map_or_else(Reading::Failed, Reading::Daemon);
            let _ = readings.try_send(reading);
        }
        if dirty.configs {
            let reading = configs(bus).await.map_or_else(Reading::Failed, Reading::Configs);
            let _ = readings.try_send(reading);
        }
    }
}

async fn state(bus: &Connection) -> zbus::Result<Daemon> {
    let rotation: Dict = call(bus, (DAEMON, PATH, PROPERTIES, "GetAll"), Activation::Never, &(ROTATION,)).await?;
    let status: Dict = call(bus, (DAEMON, PATH, RUNTIME, "GetStatus"), Activation::Never, &()).await?;
    Ok(reading::daemon(&status, reading::rotation(&rotation)))
}

async fn configs(bus: &Connection) -> zbus::Result<Vec<Config>> {
    let options = std::collections::HashMap::from([("sort", Value::from("delay"))]);
    let rows: Vec<Dict> = call(bus, (DAEMON, PATH, CONFIGS, "List"), Activation::Never, &(options,)).await?;
    Ok(rows.iter().filter_map(reading::config).collect())
}

/// How far the job at `path` is: done and total.
pub(crate) async fn progress(bus: &Connection, path: &OwnedObjectPath) -> zbus::Result<(u32, u32)> {
    let job: Dict = call(bus, (DAEMON, path.as_str(), PROPERTIES, "GetAll"), Activation::Never, &(JOB,)).await?;
    let number = |name: &str| job.get(name).and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    Ok((number("Done"), number("Total")))
}

/// Begins a test of every enabled config; the path of its job.
pub(crate) async fn test(bus: &Connection) -> zbus::Result<OwnedObjectPath> {
    let (ids, options) = (Vec::<i64>::new(), Dict::new());
    call(bus, (DAEMON, PATH, CONFIGS, "Test"), Activation::Never, &(ids, options)).await
}

/// Ends a test early.
pub(crate) async fn stop_test(bus: &Connection, job: &OwnedObjectPath) -> zbus::Result<()> {
    call(bus, (DAEMON, job.as_str(), JOB, "Cancel"), Activation::Never, &()).await
}

/// Does what the menu or a notification asks for, as far as it is the daemon's; answers when it is done. `has_session`
/// tells whether there is one that can move.
pub(crate) async fn ask(bus: &Connection, action: &Action, has_session: bool) -> zbus::Result<()> {
    let runtime = |method| (DAEMON, PATH, RUNTIME, method);
    match action {
        Action::Connect(id) if has_session => {
            let _: Dict = call(bus, runtime("Replace"), Activation::Never, &("manual", id)).await?;
        }
        Action::Connect(id) => {
            let _: Dict = call(bus, runtime("Connect"), Activation::Never, &(id,)).await?;
        }
        Action::Rotate => {
            // 0: rotation chooses.
            let _: Dict = call(bus, runtime("Replace"), Activation::Never, &("manual", 0_i64)).await?;
        }
        Action::Automatic(on) => {
            let method = if *on { "Start" } else { "Stop" };
            call::<_, ()>(bus, (DAEMON, PATH, ROTATION, method), Activation::Never, &()).await?;
        }
        Action::Disconnect => call(bus, runtime("Disconnect"), Activation::Never, &()).await?,
        Action::Start => {
            let proxy = DBusProxy::new(bus).await?;
            proxy.start_service_by_name(WellKnownName::try_from(DAEMON)?, 0).await?;
        }
        Action::Test | Action::StopTest | Action::Copy | Action::Quit => {}
    }
    Ok(())
}

/// What went wrong, in the daemon's own words where it has some.
pub(crate) fn words(error: &zbus::Error) -> String {
    match error {
        zbus::Error::FDO(error) => match &**error {
            zbus::fdo::Error::ServiceUnknown(_) => NOT_INSTALLED.into(),
            other => other.to_string(),
        },
        zbus::Error::MethodError(name, message, _) => match name.as_str() {
            "org.freedesktop.DBus.Error.NameHasNoOwner" => "the daemon does not run".into(),
            _ => message.clone().unwrap_or_else(|| name.to_string()),
        },
        other => other.to_string(),
    }
}

/// The one value of the signal's body that is wanted, if it is of this kind.
pub(crate) fn body<T: for<'d> zbus::zvariant::DynamicDeserialize<'d>>(message: &zbus::Message) -> Option<T> {
    message.body().deserialize().ok()
}
