//! The life of the connection: serving before the name is asked for, a name that another daemon has, a bus that goes.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use futures::StreamExt;
use futures::future::{Either, select};
use smol::LocalExecutor;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, RequestNameFlags, RequestNameReply};

use super::appear::Appearance;
use super::configs::Configs;
use super::daemon::Daemon;
use super::rotation::Rotation;
use super::runtime::Runtime;
use super::view::View;
use super::{Bus, NAME, PATH, Shared, follow};
use crate::event::BusPresence;
use crate::supervisor::Subscription;

/// A bus that does not answer by then is none.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);
/// After a bus went away it is looked for at once, then less and less often.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// For the first minute at least this often, in case that its socket cannot be watched.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// So many looks are a minute of those.
const QUICK_LOOKS: u32 = 34;
/// Afterwards, and where there was no bus from the start.
const SLOW_PAUSE: Duration = Duration::from_secs(60);

/// An open connection, and the task that runs what zbus has to do.
pub(super) struct Connected {
    bus: Connection,
    ticker: smol::Task<()>,
}

impl Connected {
    /// Closes it. The bus has everything that was sent before.
    pub(super) async fn close(self) {
        // Its answer comes after it has read all that is before the question.
        let _ = self
            .bus
            .call_method(Some("org.freedesktop.DBus"), "/", Some("org.freedesktop.DBus.Peer"), "Ping", &())
            .await;
        let _ = self.bus.close().await;
        drop(self.ticker);
    }
}

/// So long the name is left to an owner that lost it: a daemon that executes itself takes less.
const FIRST_RIGHT: Duration = Duration::from_secs(2);

/// Connects again and again. Ends with the daemon only.
pub(super) async fn live(presence: &Bus, executor: &LocalExecutor<'_>) {
    // The first failure is that of a machine without a bus; the pauses of a bus that went away are shorter.
    let mut pauses = Pauses::slow();
    let mut told = false;
    loop {
        // From before the attempt on: a bus that comes during it is not missed.
        let appearance = Appearance::watch();
        match connect(presence, executor).await {
            Ok(Some((bus, shared, events))) => {
                let admitted = Cell::new(false);
                let why = serve(&bus, &shared, events, &admitted).await;
                presence.connected.take();
                presence.handle.on_bus(BusPresence::Absent).await;
                // One that throws us out again and again is not asked all the time.
                if admitted.get() {
                    pauses = Pauses::quick();
                }
                let why = why.map_or_else(|error| format!(": {error}"), |()| String::new());
                tracing::warn!("the session bus is gone{why}; it is looked for");
                told = true;
            }
            // The daemon is ending.
            Ok(None) => return std::future::pending().await,
            Err(error) if told => tracing::debug!("still no session bus: {error}"),
            Err(error) => {
                tracing::info!("no session bus ({error}): commands and the socket work without");
                told = true;
            }
        }
        let comes = async {
            match &appearance {
                Some(appearance) => appearance.comes().await,
                None => std::future::pending().await,
            }
        };
        if let Either::Left(_) = select(pin!(comes), Timer::after(pauses.next())).await {
            pauses = Pauses::quick();
        }
    }
}

/// How long is waited before the next look.
struct Pauses {
    looks: u32,
    next: Duration,
}

impl Pauses {
    fn quick() -> Self {
        Self { looks: 0, next: FIRST_PAUSE }
    }

    fn slow() -> Self {
        Self { looks: QUICK_LOOKS, next: SLOW_PAUSE }
    }

    fn next(&mut self) -> Duration {
        self.looks = self.looks.saturating_add(1);
        let pause = self.next;
        self.next = if self.looks >= QUICK_LOOKS { SLOW_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        pause
    }
}

/// Connects and serves every object, without the name yet. None when the daemon is ending.
async fn connect(
    presence: &Bus,
    executor: &LocalExecutor<'_>,
) -> zbus::Result<Option<(Connection, Arc<Shared>, Subscription)>> {
    let Some((info, present, seq, events)) = follow::begin(&presence.handle).await else { return Ok(None) };
    let shared = Arc::new(Shared {
        handle: presence.handle.clone(),
        paths: presence.paths.clone(),
        info,
        view: View::new(present, seq),
        jobs: presence.jobs.clone(),
        running: Arc::clone(&presence.running),
        calls: Arc::clone(&presence.calls),
    });
    let building = Builder::session()?
        .internal_executor(false)
        .method_timeout(BUS_TIMEOUT)
        .serve_at(PATH, Daemon(Arc::clone(&shared)))?
        .serve_at(PATH, Runtime(Arc::clone(&shared)))?
        .serve_at(PATH, Rotation(Arc::clone(&shared)))?
        .serve_at(PATH, Configs(Arc::clone(&shared)))?
        .build();
    let bus = match select(pin!(building), Timer::after(BUS_TIMEOUT)).await {
        Either::Left((bus, _)) => bus?,
        Either::Right(_) => return Err(zbus::Error::Failure("it does not answer".into())),
    };
    // Before the first call: nothing is read from the bus, and no call is answered, unless this runs.
    let work = bus.executor().clone();
    let ticker = executor.spawn(async move {
        loop {
            work.tick().await;
        }
    });
    *presence.connected.borrow_mut() = Some(Connected { bus: bus.clone(), ticker });
    Ok(Some((bus, shared, events)))
}

/// Serves until the bus is gone; `admitted` says that it had a word for us.
async fn serve(bus: &Connection, shared: &Shared, events: Subscription, admitted: &Cell<bool>) -> zbus::Result<()> {
    let following = async {
        follow::follow(shared, bus, events).await?;
        // No more events: the daemon ends, and closes the connection itself.
        std::future::pending().await
    };
    let naming = async {
        own_name(bus, shared, admitted).await?;
        shared.handle.on_bus(BusPresence::Owned).await;
        tracing::info!("on the session bus as {NAME}");
        follow::tell_all(shared, bus).await?;
        std::future::pending().await
    };
    let working = pin!(futures::future::try_join(following, naming));
    match select(working, pin!(bus.closed())).await {
        Either::Left((result, _)) => result.map(|((), ())| ()),
        Either::Right(_) => Ok(()),
    }
}

/// Waits until the name is ours. An owner is never replaced, and cannot replace us.
async fn own_name(bus: &Connection, shared: &Shared, admitted: &Cell<bool>) -> zbus::Result<()> {
    let proxy = DBusProxy::new(bus).await?;
    // Before the question: the owner may end between the two.
    let mut owners = proxy.receive_name_owner_changed_with_args(&[(0, NAME)]).await?;
    let mut told = false;
    loop {
        let reply = bus.request_name_with_flags(NAME, RequestNameFlags::DoNotQueue.into()).await;
        admitted.set(matches!(reply, Ok(_) | Err(zbus::Error::NameTaken)));
        match reply {
            Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => return Ok(()),
            Ok(RequestNameReply::Exists | RequestNameReply::InQueue) | Err(zbus::Error::NameTaken) => {}
            Err(error) => return Err(error),
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                "another daemon has the name {NAME} on the session bus; this one takes it when that one ends"
            );
            shared.handle.on_bus(BusPresence::Taken).await;
        }
        loop {
            let Some(change) = owners.next().await else { return Err(zbus::Error::Failure("closed".into())) };
            if change.args()?.new_owner().is_none() {
                // One that only executes itself again is back in a moment, and its session is what everybody means.
                Timer::after(FIRST_RIGHT).await;
                break;
            }
        }
    }
}
