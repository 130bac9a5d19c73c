//! One connection to the session bus: who owns the names that matter, signals in their order, and calls.
//!
//! No call of this file starts a program by itself but those that say so: looking at a daemon must not start one.

use std::collections::HashMap;
use std::time::Duration;

use async_channel::Sender;
use futures::StreamExt;
use zbus::fdo::{DBusProxy, RequestNameFlags, RequestNameReply};
use zbus::message::Type;
use zbus::names::{BusName, OwnedUniqueName};
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::zvariant::{DynamicDeserialize, DynamicType};
use zbus::{Connection, MatchRule, Message, MessageStream, Proxy};

/// The daemon's name.
pub(crate) const DAEMON: &str = "org.xrat.Daemon1";
/// The daemon's object.
pub(crate) const PATH: &str = "/org/xrat/Daemon1";
/// Shows notifications.
pub(crate) const NOTIFICATIONS: &str = "org.freedesktop.Notifications";
/// The tray's own name: there is one tray on a bus.
const TRAY: &str = "org.xrat.Tray";
/// The daemon answers everything within 18 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// A name on the bus whose owner is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Daemon,
    Notifications,
}

impl Name {
    const ALL: [Self; 2] = [Self::Daemon, Self::Notifications];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => DAEMON,
            Self::Notifications => NOTIFICATIONS,
        }
    }
}

/// What the bus tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Somebody owns the name now, or nobody.
    Owner(Name, bool),
    /// A signal of the owner of this name.
    Signal(Name, Message),
}

/// Why the tray cannot be on this bus.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// Another tray is there.
    #[error("xrat-tray runs already{}; this one is not needed", pid.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    Running {
        /// Its process.
        pid: Option<u32>,
    },
    /// The bus.
    #[error(transparent)]
    Bus(#[from] zbus::Error),
}

impl From<zbus::fdo::Error> for BusError {
    fn from(error: zbus::fdo::Error) -> Self {
        Self::Bus(error.into())
    }
}

/// Connects to the session bus. Nothing happens on the connection until its executor is run.
pub(crate) async fn connect() -> zbus::Result<Connection> {
    zbus::connection::Builder::session()?.internal_executor(false).method_timeout(CALL_TIMEOUT).build().await
}

/// Makes sure that this is the only tray on the bus.
pub(crate) async fn be_the_only_one(bus: &Connection) -> Result<(), BusError> {
    match bus.request_name_with_flags(TRAY, RequestNameFlags::DoNotQueue.into()).await {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(RequestNameReply::Exists | RequestNameReply::InQueue) | Err(zbus::Error::NameTaken) => {
            let proxy = DBusProxy::new(bus).await?;
            let pid = proxy.get_connection_unix_process_id(BusName::try_from(TRAY).map_err(zbus::Error::from)?).await;
            Err(BusError::Running { pid: pid.ok() })
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells everything that happens to the followed names until the bus is gone. The first words are who owns them.
pub(crate) async fn follow(bus: &Connection, news: Sender<News>) -> zbus::Result<()> {
    // Before the first rule, so that nothing between a rule and a question is missed.
    let mut messages = MessageStream::from(bus);
    let proxy = DBusProxy::new(bus).await?;
    for name in Name::ALL {
        let changes = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")?
            .member("NameOwnerChanged")?
            .arg(0, name.as_str())?
            .build();
        proxy.add_match_rule(changes).await?;
    }
    let daemon = MatchRule::builder().msg_type(Type::Signal).sender(DAEMON)?.path_namespace(PATH)?.build();
    let notifications =
        MatchRule::builder().msg_type(Type::Signal).sender(NOTIFICATIONS)?.interface(NOTIFICATIONS)?.build();
    for rule in [daemon, notifications] {
        proxy.add_match_rule(rule).await?;
    }
    let mut owners: HashMap<Name, OwnedUniqueName> = HashMap::new();
    for name in Name::ALL {
        // An error is nobody; a change meanwhile is in the stream.
        if let Ok(owner) = proxy.get_name_owner(BusName::try_from(name.as_str())?).await {
            owners.insert(name, owner);
        }
        let _ = news.try_send(News::Owner(name, owners.contains_key(&name)));
    }
    // Unbounded channel: this loop never waits for anything but the bus, whose queue it must keep short.
    while let Some(message) = messages.next().await {
        let Ok(message) = message else { continue };
        let told = interpret(&mut owners, message);
        if told.is_some_and(|told| news.try_send(told).is_err()) {
            break;
        }
    }
    Ok(())
}

fn interpret(owners: &mut HashMap<Name, OwnedUniqueName>, message: Message) -> Option<News> {
    let header = message.header();
    if header.message_type() != Type::Signal {
        return None;
    }
    let sender = header.sender()?.to_owned();
    if sender == "org.freedesktop.DBus" {
        if header.member()?.as_str() != "NameOwnerChanged" {
            return None;
        }
        let (name, _, new): (String, String, String) = message.body().deserialize().ok()?;
        let name = Name::ALL.into_iter().find(|known| known.as_str() == name)?;
        match OwnedUniqueName::try_from(new) {
            Ok(owner) => owners.insert(name, owner),
            Err(_) => owners.remove(&name),
        };
        return Some(News::Owner(name, owners.contains_key(&name)));
    }
    let name = Name::ALL.into_iter().find(|name| owners.get(name).is_some_and(|owner| *owner == sender))?;
    Some(News::Signal(name, message))
}

/// Whether a call may start the program that has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Never,
    Allowed,
}

/// Calls a method.
pub(crate) async fn call<B, R>(
    bus: &Connection,
    (name, path, interface, method): (&str, &str, &str, &str),
    activation: Activation,
    body: &B,
) -> zbus::Result<R>
where
    B: serde::Serialize + DynamicType,
    R: for<'d> DynamicDeserialize<'d>,
{
    let proxy: Proxy<'_> = zbus::proxy::Builder::new(bus)
        .destination(name)?
        .path(path)?
        .interface(interface)?
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    match activation {
        Activation::Allowed => proxy.call(method, body).await,
        Activation::Never => {
            let answer = proxy.call_with_flags(method, MethodFlags::NoAutoStart.into(), body).await?;
            answer.ok_or(zbus::Error::InvalidReply)
        }
    }
}
