//! The session bus: `org.xrat.Daemon1`, for desktop programs and scripts.
//!
//! One file an interface; their methods only translate a call into a [`Command`] and its outcome into D-Bus types.
//! Properties are read from a `view::View` that the daemon's events keep up to date, so that no read waits for anything.
//! `connection` is the life of the connection itself: the name, and what happens without
//! a bus. What each member means is in `docs/dbus.md`; `dbus/*.xml` is the contract.

mod appear;
mod configs;
mod connection;
mod daemon;
mod errors;
mod follow;
mod job;
mod options;
mod rotation;
mod runtime;
mod values;
mod view;

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures::future::{Either, select};
use smol::LocalExecutor;

use self::connection::Connected;
use self::errors::{Error, guarded};
use self::view::View;
use crate::command::{Command, DaemonInfo, Outcome};
use crate::paths::Paths;
use crate::supervisor::Handle;

/// The well-known name.
pub const NAME: &str = "org.xrat.Daemon1";
/// The daemon's object.
pub const PATH: &str = "/org/xrat/Daemon1";
/// A call is answered within this: bindings give up after 25 s by themselves.
const CALL_TIMEOUT: Duration = Duration::from_secs(18);
/// An answer waits so long for the signals that belong before it. They take microseconds unless the bus is stuck.
const SIGNALS_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks whether the last answers are on their way, while the daemon ends.
const DRAIN_POLL: Duration = Duration::from_millis(1);

/// The daemon's presence on the session bus.
pub struct Bus {
    handle: Handle,
    paths: Paths,
    connected: RefCell<Option<Connected>>,
    calls: Arc<AtomicUsize>,
    jobs: Sender<job::Request>,
    requests: Receiver<job::Request>,
    /// Jobs that run.
    running: Arc<AtomicUsize>,
    runner: RefCell<Option<smol::Task<()>>>,
}

impl Bus {
    /// A presence that begins with [`Bus::run`].
    pub fn new(handle: Handle, paths: Paths) -> Self {
        let (jobs, requests) = job::queue();
        Self {
            handle,
            paths,
            connected: RefCell::new(None),
            calls: Arc::default(),
            jobs,
            requests,
            running: Arc::default(),
            runner: RefCell::new(None),
        }
    }

    /// Stays on the bus for ever: connects, serves, and begins again when the bus went away. Without a bus it says so
    /// once. Dropping the future leaves the connection open, see [`Bus::close`].
    pub async fn run(&self, executor: &LocalExecutor<'_>) {
        *self.runner.borrow_mut() = Some(executor.spawn(job::run_all(self.requests.clone())));
        connection::live(self, executor).await;
    }

    /// Ends every job, and leaves the bus when every call has its answer, after `timeout` at the latest.
    pub async fn close(&self, timeout: Duration) {
        let runner = self.runner.take();
        if let Some(runner) = runner {
            runner.cancel().await;
        }
        let Some(connected) = self.connected.take() else { return };
        let answered = async {
            while self.calls.load(Ordering::Relaxed) > 0 {
                Timer::after(DRAIN_POLL).await;
            }
            connected.close().await;
        };
        select(std::pin::pin!(answered), Timer::after(timeout)).await;
    }
}

/// What all interfaces of one connection share.
struct Shared {
    handle: Handle,
    paths: Paths,
    info: DaemonInfo,
    view: View,
    jobs: Sender<job::Request>,
    running: Arc<AtomicUsize>,
    /// Calls without an answer, for [`Bus::close`].
    calls: Arc<AtomicUsize>,
}

impl Shared {
    /// Does a call's work. A panic in it is a fault of this call alone.
    async fn answer<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let _call = Count::new(&self.calls);
        guarded(work).await
    }

    /// Asks the supervisor.
    async fn ask(&self, command: Command) -> Result<Outcome, Error> {
        Ok(self.handle.call(command).await?)
    }

    /// Asks for a change, within [`CALL_TIMEOUT`]. When the answer is there, properties and signals tell of the change.
    async fn change(&self, command: Command) -> Result<Outcome, Error> {
        let name = command.name();
        let call = std::pin::pin!(self.handle.call(command));
        let result = match select(call, Timer::after(CALL_TIMEOUT)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                let limit = CALL_TIMEOUT.as_secs();
                let text = format!("{name} is not done within {limit} s and goes on; StateChanged tells how it ends");
                return Err(Error::Internal(text));
            }
        };
        self.signalled().await;
        Ok(result?)
    }

    /// Waits until everything that has happened so far is told on the bus.
    async fn signalled(&self) {
        let told = async {
            // A new subscription begins with the place of the last event.
            let mut now = self.handle.subscribe(None).await.ok()?;
            self.view.reached(now.next().await?.seq).await;
            Some(())
        };
        select(std::pin::pin!(told), Timer::after(SIGNALS_TIMEOUT)).await;
    }
}

/// An outcome that the command before cannot have: a fault of this program.
fn unexpected<T>(outcome: &Outcome) -> Result<T, Error> {
    tracing::error!("an outcome of another command: {outcome:?}");
    Err(Error::Internal("the daemon answered another question".into()))
}

struct Count(Arc<AtomicUsize>);

impl Count {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
