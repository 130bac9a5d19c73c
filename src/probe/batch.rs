//! Testing many configs through one engine: how long each takes to answer, or what is wrong with it.
//!
//! An engine is started with every config as an outbound and a user for each (`engine::batch_config`); who connects to
//! its private socket as that user goes out through that config. A thousand configs cost one process and some
//! milliseconds until it is ready.
//!
//! No config can spoil the test of another: what the engine cannot carry is found before it is told, what it refuses is
//! found by its words or by halving (`trial`), what an engine would take for another config gets an engine of its own,
//! and when one ends in the middle, those that were being tested are tried again in halves until the one is found that
//! ends it.

mod queue;
mod sweep;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};

use self::queue::Queue;
pub use self::sweep::{is_of_live_test, sweep_dead_tests};
use self::trial::{Bench, Trial};
use super::delay::{self, ProbeError};
use super::serving::Serving;
use crate::config::{Config, ConfigId};
use crate::engine::{Engine, Unsupported, outbound_tag, share_an_engine};
use crate::net::url::Url;
use crate::paths::Paths;

/// Exchanges at once when nothing else is said: three rounds of the default timeout test 384 dead nodes.
pub const CONCURRENCY: usize = 128;
/// Exchanges at once with one server: more would look like an attack on it, and measure its queue.
pub const PER_SERVER: usize = 16;
/// An engine that ends more often than this while it tests is given up: enough to find one culprit of [`CONCURRENCY`].
const MAX_ENDS: u32 = 12;
/// The kernel closes the sockets of a dying process before it tells of its death: so long may it be in between.
const DEATH_NOTICE: Duration = Duration::from_millis(20);
/// How long the end of all engines is waited for; the kernel may hold one.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A config to test.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its key; no two jobs of a batch may have the same.
    pub config_id: ConfigId,
    /// The node.
    pub config: Config,
}

/// How to test.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is fetched through each config.
    pub url: Url,
    /// How long one fetch may take, connecting included.
    pub timeout: Duration,
    /// Fetches at once in all; 0 for [`CONCURRENCY`].
    pub concurrency: usize,
    /// Fetches at once through one server address, loopback excepted; 0 for [`PER_SERVER`].
    pub per_server: usize,
    /// A session that works and must not notice.
    pub serving: Option<Serving>,
}

impl Options {
    /// The usual limits.
    pub fn new(url: Url, timeout: Duration) -> Self {
        Self { url, timeout, concurrency: 0, per_server: 0, serving: None }
    }
}

/// What a test found out about one config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works: from the request to the first byte of the answer, over a new proxied connection.
    Delay(Duration),
    /// It does not.
    Failed(Failure),
}

/// Why a config does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, for counting.
    pub kind: FailureKind,
    /// One sentence without credentials.
    pub detail: String,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// No answer in time.
    TimedOut,
    /// The connection broke, or what came was no answer.
    Connection,
    /// The site, or somebody in its place, answered with an error.
    Status,
    /// No installed engine can carry it.
    Unsupported,
    /// The engine does not accept its settings.
    Refused,
    /// The engine ended when it was used.
    EngineEnded,
    /// To test it would take the running session's node away from it.
    InUse,
}

impl FailureKind {
    /// The text in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Connection => "connection",
            Self::Status => "status",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::EngineEnded => "engine_ended",
            Self::InUse => "in_use",
        }
    }
}

/// How a batch went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Configs that work.
    pub working: usize,
    /// Configs that do not, by kind.
    pub failed: BTreeMap<FailureKind, usize>,
    /// Configs without a verdict: the batch was stopped before.
    pub untested: usize,
}

/// Why no config could be tested.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The engine does not work, whatever it is told.
    #[error("{engine} does not start: {words}")]
    Engine {
        /// Which one.
        engine: String,
        /// Its own words.
        words: String,
    },
    /// The system does not start it.
    #[error("{} cannot be started: {source}", engine.display())]
    Start {
        /// The program.
        engine: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its socket's path.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// This process cannot name itself.
    #[error("cannot read /proc: {0}")]
    Identity(std::io::Error),
}

/// Tests every job once and reports each verdict as soon as it is known, in no order.
///
/// Each config is tested with the first of `engines` that can carry it, one engine after the other; almost always that
/// is one process in all. `stop` ends the batch early: what is being tested then gets no verdict. Engines of tests
/// whose owner was killed are ended first. No engine of this batch is left when it returns.
///
/// Dropping the future kills the engine; its files are removed in the background.
///
/// # Errors
/// When an engine cannot be started at all; verdicts that were reported hold all the same.
pub async fn run(
    engines: &[Engine],
    paths: &Paths,
    jobs: Vec<Job>,
    options: &Options,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(ConfigId, Verdict),
) -> Result<Summary, BatchError> {
    let mut summary = Summary { untested: jobs.len(), ..Summary::default() };
    let tell = |id: ConfigId, verdict: Verdict| {
        summary.untested -= 1;
        match &verdict {
            Verdict::Delay(_) => summary.working += 1,
            Verdict::Failed(failure) => *summary.failed.entry(failure.kind).or_default() += 1,
        }
        report(id, verdict);
    };
    let (gone, all_gone) = async_channel::bounded(1);
    let jobs = Arc::new(jobs);
    let result = match select(pin!(test_all(engines, paths, &jobs, options, gone, tell)), pin!(stop)).await {
        Either::Left((result, _)) => result,
        Either::Right(((), _)) => Ok(()),
    };
    // Nothing is ever sent: it ends when every engine is gone.
    let _ = select(pin!(all_gone.recv()), Timer::after(END_TIMEOUT)).await;
    result.map(|()| summary)
}

async fn test_all(
    engines: &[Engine],
    paths: &Paths,
    jobs: &Arc<Vec<Job>>,
    options: &Options,
    gone: async_channel::Sender<()>,
    mut tell: impl FnMut(ConfigId, Verdict),
) -> Result<(), BatchError> {
    sweep_dead_tests(paths).await;
    let owner = trial::me()?;
    let spared = match &options.serving {
        Some(serving) => serving.spare(jobs, options, &mut tell).await,
        None => BTreeSet::new(),
    };
    for (engine, set) in engines.iter().zip(assign(engines, jobs, &spared, &mut tell)) {
        let bench = Bench { engine, paths, jobs, owner, gone: gone.clone() };
        Batch { bench, options }.run(set, &mut tell).await?;
    }
    Ok(())
}

/// The jobs of each engine, without those that are done. Those that none can carry are told with what the first lacks.
fn assign(
    engines: &[Engine],
    jobs: &[Job],
    done: &BTreeSet<usize>,
    tell: &mut impl FnMut(ConfigId, Verdict),
) -> Vec<Vec<usize>> {
    let mut sets = vec![Vec::new(); engines.len()];
    for (number, job) in jobs.iter().enumerate().filter(|(number, _)| !done.contains(number)) {
        let mut refusal = None;
        let able = engines.iter().position(|engine| match engine.supports(&job.config) {
            Ok(()) => true,
            Err(error) => {
                refusal.get_or_insert(error);
                false
            }
        });
        match able.and_then(|engine| sets.get_mut(engine)) {
            Some(set) => set.push(number),
            None => {
                let detail = refusal.map_or_else(|| "no engine is installed".to_owned(), |error| error.to_string());
                tell(job.config_id, failed(FailureKind::Unsupported, detail));
            }
        }
    }
    sets
}

pub(super) fn failed(kind: FailureKind, detail: String) -> Verdict {
    Verdict::Failed(Failure { kind, detail })
}

/// What an exchange says about its node.
pub(super) fn verdict(result: Result<Duration, ProbeError>) -> Verdict {
    let error = match result {
        Ok(delay) => return Verdict::Delay(delay),
        Err(error) => error,
    };
    let kind = match &error {
        ProbeError::TimedOut(_) => FailureKind::TimedOut,
        ProbeError::Status { .. } => FailureKind::Status,
        ProbeError::Engine(_) | ProbeError::Http(_) => FailureKind::Connection,
    };
    failed(kind, error.to_string())
}

/// The jobs of one engine.
struct Batch<'a> {
    bench: Bench<'a>,
    options: &'a Options,
}

/// What became of jobs whose engine ended before all were tested.
struct Cut {
    /// Were being tested: one of them may be the cause.
    suspects: Vec<usize>,
    /// Had not begun.
    rest: Vec<usize>,
}

impl Batch<'_> {
    async fn run(&self, all: Vec<usize>, tell: &mut impl FnMut(ConfigId, Verdict)) -> Result<(), BatchError> {
        let mut groups = self.apart(all);
        let mut ends = 0;
        while let Some(mut group) = groups.pop() {
            let started = self.bench.start(&mut group, |(job, reason)| {
                self.tell(tell, job, failed(FailureKind::Refused, reason));
            });
            let Some(trial) = started.await? else { continue };
            let Cut { mut suspects, rest } = self.measure(&trial, &group, tell).await;
            if suspects.is_empty() && rest.is_empty() {
                continue;
            }
            ends += 1;
            let exit = trial.exited().await;
            drop(trial);
            let engine = self.bench.engine;
            tracing::warn!("{engine} {exit} while it was testing {} configs", suspects.len());
            if ends > MAX_ENDS {
                for job in groups.into_iter().flatten().chain(suspects).chain(rest) {
                    self.tell(tell, job, failed(FailureKind::EngineEnded, format!("{engine} {exit} again and again")));
                }
                return Ok(());
            }
            if let [culprit] = suspects[..] {
                self.tell(tell, culprit, failed(FailureKind::EngineEnded, format!("{engine} {exit} when it used it")));
            } else {
                let half = suspects.split_off(suspects.len() / 2);
                groups.extend([half, suspects]);
            }
            groups.push(rest);
            groups.retain(|group| !group.is_empty());
        }
        Ok(())
    }

    /// The jobs in as few groups as it takes that no two which cannot share an engine are in one: almost always one.
    fn apart(&self, all: Vec<usize>) -> Vec<Vec<usize>> {
        let mut groups = vec![Vec::new()];
        // Of each server, who is in which group.
        let mut servers: BTreeMap<(&str, NonZeroU16), Vec<Vec<&Config>>> = BTreeMap::new();
        for number in all {
            let Some(Job { config, .. }) = self.bench.jobs.get(number) else { continue };
            let there = servers.entry((&config.address, config.port)).or_default();
            let friends =
                |group: &Vec<&Config>| group.iter().all(|one| share_an_engine(self.bench.engine, one, config));
            let place = there.iter().position(friends).unwrap_or(there.len());
            if place == there.len() {
                there.push(Vec::new());
            }
            there[place].push(config);
            if place == groups.len() {
                groups.push(Vec::new());
            }
            groups[place].push(number);
        }
        groups
    }

    fn tell(&self, tell: &mut impl FnMut(ConfigId, Verdict), job: usize, verdict: Verdict) {
        if let Some(job) = self.bench.jobs.get(job) {
            tell(job.config_id, verdict);
        }
    }

    /// One exchange for each of these jobs, until the engine ends.
    async fn measure(&self, trial: &Trial, set: &[usize], tell: &mut impl FnMut(ConfigId, Verdict)) -> Cut {
        let or = |limit: usize, usual| if limit == 0 { usual } else { limit };
        let known = set.iter().filter_map(|job| Some((*job, self.bench.jobs.get(*job)?)));
        let mut queue = Queue::new(
            known.map(|(number, job)| (number, job.config.address.as_str())),
            or(self.options.concurrency, CONCURRENCY),
            or(self.options.per_server, PER_SERVER),
        );
        let mut suspects = Vec::new();
        let mut running = FuturesUnordered::new();
        loop {
            // Once it has ended, only what was begun is waited for: its sockets are closed.
            while suspects.is_empty()
                && let Some(ticket) = queue.take()
            {
                running.push(async move {
                    let verdict = self.exchange(trial, ticket.job).await;
                    (ticket, verdict)
                });
            }
            let Some((ticket, verdict)) = running.next().await else { break };
            queue.done(&ticket);
            match verdict {
                Some(verdict) => self.tell(tell, ticket.job, verdict),
                None => suspects.push(ticket.job),
            }
        }
        Cut { suspects, rest: queue.rest() }
    }

    /// The verdict on one job; none when the engine ended meanwhile.
    async fn exchange(&self, trial: &Trial, job: usize) -> Option<Verdict> {
        let id = self.bench.jobs.get(job)?.config_id;
        let (url, timeout) = (&self.options.url, self.options.timeout);
        let verdict = verdict(delay::exchange_as(&trial.socket, Some(&outbound_tag(id)), url, timeout).await);
        if matches!(&verdict, Verdict::Failed(failure) if failure.kind == FailureKind::Connection)
            && let Either::Left(_) = select(pin!(trial.exited()), Timer::after(DEATH_NOTICE)).await
        {
            return None;
        }
        Some(verdict)
    }
}
