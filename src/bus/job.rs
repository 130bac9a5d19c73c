//! The interface `org.xrat.Daemon1.Job`: work that takes longer than a call may, at an object of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::{FutureExt, join};
use futures::stream::FuturesUnordered;
use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedObjectPath;

use super::errors::Error;
use super::{PATH, Shared};
use crate::command::Command;
use crate::config::ConfigId;
use crate::probe::batch::{self, Options, Verdict};
use crate::probe::stored;
use crate::settings::Settings;
use crate::store::Store;

/// So many run at once, or wait to be begun.
const MAX_JOBS: usize = 4;
/// So many that have ended keep their objects, for clients that look late.
const KEPT: usize = 8;

/// Counts jobs over the life of the process, so that no path ever means two.
static LAST: AtomicU64 = AtomicU64::new(0);

pub(super) struct Job(Arc<Progress>);

struct Progress {
    done: AtomicU32,
    total: u32,
    cancel: Mutex<Option<oneshot::Sender<()>>>,
}

/// One job.
#[zbus::interface(name = "org.xrat.Daemon1.Job")]
impl Job {
    /// Ends the job early; what is done stays done.
    fn cancel(&self) {
        let cancel = self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(cancel) = cancel {
            // A job that has ended hears nothing.
            let _ = cancel.send(());
        }
    }

    /// What the job does: test.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> &str {
        "test"
    }

    /// Configs with a result.
    #[zbus(property)]
    fn done(&self) -> u32 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Configs in all.
    #[zbus(property(emits_changed_signal = "const"))]
    fn total(&self) -> u32 {
        self.0.total
    }

    /// One config's result: its delay, or -1 and what failed.
    #[zbus(signal)]
    async fn result(emitter: &SignalEmitter<'_>, config_id: i64, delay_ms: i32, failure: &str) -> zbus::Result<()>;

    /// The job has ended and everything is stored: done, cancelled or failed.
    #[zbus(signal)]
    async fn finished(emitter: &SignalEmitter<'_>, outcome: &str) -> zbus::Result<()>;
}

/// A job that is to run.
pub(super) struct Request {
    job: Job,
    path: OwnedObjectPath,
    bus: Connection,
    shared: Arc<Shared>,
    configs: Vec<batch::Job>,
    options: Options,
    settings: Settings,
    cancelled: oneshot::Receiver<()>,
}

/// The way to [`run_all`], and its end of it.
pub(super) fn queue() -> (Sender<Request>, Receiver<Request>) {
    async_channel::bounded(MAX_JOBS)
}

/// Puts a job on the bus and lets it run; gives its path.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    bus: &Connection,
    configs: Vec<batch::Job>,
    options: Options,
    settings: Settings,
) -> Result<OwnedObjectPath, Error> {
    if shared.running.load(Ordering::Relaxed) >= MAX_JOBS {
        return Err(Error::Conflict(format!("{MAX_JOBS} tests run already")));
    }
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let path = OwnedObjectPath::try_from(format!("{PATH}/job/{number}")).map_err(zbus::Error::from)?;
    let (cancel, cancelled) = oneshot::channel();
    let total = u32::try_from(configs.len()).unwrap_or(u32::MAX);
    let progress = Arc::new(Progress { done: AtomicU32::new(0), total, cancel: Mutex::new(Some(cancel)) });
    bus.object_server().at(&path, Job(Arc::clone(&progress))).await?;
    let request = Request {
        job: Job(progress),
        path: path.clone(),
        bus: bus.clone(),
        shared: Arc::clone(shared),
        configs,
        options,
        settings,
        cancelled,
    };
    shared.running.fetch_add(1, Ordering::Relaxed);
    if shared.jobs.try_send(request).is_err() {
        shared.running.fetch_sub(1, Ordering::Relaxed);
        let _ = bus.object_server().remove::<Job, _>(&path).await;
        return Err(Error::Conflict("the daemon is ending".into()));
    }
    Ok(path)
}

/// Runs jobs until dropped, which ends those that run.
pub(super) async fn run_all(requests: Receiver<Request>) {
    let mut requests = std::pin::pin!(requests.fuse());
    let mut running = FuturesUnordered::new();
    let mut ended: VecDeque<(Connection, OwnedObjectPath)> = VecDeque::new();
    loop {
        futures::select! {
            request = requests.select_next_some() => running.push(request.run().boxed_local()),
            one = running.select_next_some() => {
                ended.push_back(one);
                if ended.len() > KEPT && let Some((bus, path)) = ended.pop_front() {
                    // Gone already with a bus that is gone.
                    let _ = bus.object_server().remove::<Job, _>(path).await;
                }
            }
        }
    }
}

impl Request {
    async fn run(self) -> (Connection, OwnedObjectPath) {
        let Self { job, path, bus, shared, configs, options, settings, cancelled } = self;
        let (verdicts, inbox) = async_channel::unbounded();
        let stop = async {
            if cancelled.await.is_err() {
                std::future::pending().await
            }
        };
        let report = |id: ConfigId, verdict: Verdict| {
            // Unbounded, and closed below only.
            let _ = verdicts.try_send((id, verdict));
        };
        let database = shared.paths.database();
        let test = async {
            let result = async {
                let store = crate::store::Shared::new(smol::unblock(move || Store::open(&database)).await?);
                stored::run(&shared.paths, &settings, &store, configs, &options, stop, report).await
            };
            let result = result.await;
            verdicts.close();
            result
        };
        // A bus that went away does not end the test: its results are stored.
        let emitter = SignalEmitter::new(&bus, &path);
        let tell = async {
            while let Ok((id, verdict)) = inbox.recv().await {
                job.0.done.fetch_add(1, Ordering::Relaxed);
                if let Ok(emitter) = &emitter {
                    let _ = tell(&job, emitter, id, &verdict).await;
                }
            }
        };
        let (result, ()) = join(test, tell).await;
        let outcome = match result {
            Ok(summary) if summary.untested == 0 => "done",
            Ok(_) => "cancelled",
            Err(error) => {
                tracing::warn!("a test from the bus failed: {error}");
                "failed"
            }
        };
        // A daemon that is ending needs not know.
        let _ = shared.handle.call(Command::ConfigsChanged {}).await;
        shared.running.fetch_sub(1, Ordering::Relaxed);
        if let Ok(emitter) = &emitter {
            let _ = Job::finished(emitter, outcome).await;
        }
        drop(emitter);
        (bus, path)
    }
}

async fn tell(job: &Job, emitter: &SignalEmitter<'_>, id: ConfigId, verdict: &Verdict) -> zbus::Result<()> {
    job.done_changed(emitter).await?;
    let (delay_ms, failure) = match verdict {
        Verdict::Delay(delay) => (i32::try_from(stored::millis(*delay)).unwrap_or(i32::MAX), ""),
        Verdict::Failed(failure) => (-1, failure.detail.as_str()),
    };
    Job::result(emitter, id.0, delay_ms, failure).await
}
