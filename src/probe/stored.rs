//! A batch whose verdicts are stored while it runs: what `xrat test` and the session bus do alike.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_channel::Receiver;
use async_io::Timer;
use chrono::Utc;
use futures::future::join;

use super::batch::{self, BatchError, Job, Options, Summary, Verdict};
use super::serving::serving;
use crate::config::ConfigId;
use crate::engine::discover::{self, DiscoverError};
use crate::net::url::{Url, UrlError};
use crate::paths::Paths;
use crate::settings::Settings;
use crate::store::{Shared, StoreError, TestRow};

/// The longest timeout that can be asked for; no engine holds a connection to a silent node longer.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// More at once would run out of descriptors where the limit is the usual 1024.
pub const MAX_CONCURRENCY: usize = 512;
/// Results are stored together that come within this time: what SIGKILL loses.
const STORE_EVERY: Duration = Duration::from_millis(200);

/// Why tests ended early or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// No engine.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// The engine does not work.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A result could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The limits that the settings say.
///
/// # Errors
/// When `testing.url` is none.
pub fn options(settings: &Settings) -> Result<Options, UrlError> {
    let concurrency = settings.runtime.rotation.test_concurrency;
    Ok(Options {
        concurrency: usize::try_from(concurrency).unwrap_or(MAX_CONCURRENCY),
        ..Options::new(Url::parse(&settings.testing.url)?, settings.test_timeout())
    })
}

/// Tests every job as [`batch::run`] does, and stores each verdict that is reported before it returns.
///
/// # Errors
/// See [`TestError`].
pub async fn run(
    paths: &Paths,
    settings: &Settings,
    store: &Shared,
    jobs: Vec<Job>,
    options: &Options,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(ConfigId, Verdict),
) -> Result<Summary, TestError> {
    let engines = discover::engines(settings, store).await?;
    let options = &Options { serving: serving(paths, store, &jobs).await?, ..options.clone() };
    let (results, inbox) = async_channel::unbounded();
    let tell = |id: ConfigId, verdict: Verdict| {
        // Unbounded: it is full never, and closed only when the store has failed, which is told in the end.
        let _ = results.try_send((id, test_row(&verdict)));
        report(id, verdict);
    };
    let batch = async {
        let result = batch::run(&engines, paths, jobs, options, pin!(stop), tell).await;
        results.close();
        result
    };
    let (summary, stored) = join(batch, keep(store, inbox)).await;
    stored?;
    Ok(summary?)
}

/// Stores results as they come, some at a time.
async fn keep(store: &Shared, inbox: Receiver<(ConfigId, TestRow)>) -> Result<(), StoreError> {
    while let Ok(first) = inbox.recv().await {
        let mut some = vec![first];
        if !inbox.is_closed() {
            Timer::after(STORE_EVERY).await;
        }
        while let Ok(next) = inbox.try_recv() {
            some.push(next);
        }
        store.run(move |store| store.add_tests(&some)).await?;
    }
    Ok(())
}

fn test_row(verdict: &Verdict) -> TestRow {
    let (delay_ms, failure) = match verdict {
        Verdict::Delay(delay) => (Some(millis(*delay)), None),
        Verdict::Failed(failure) => (None, Some(failure.detail.clone())),
    };
    TestRow { at: Utc::now(), delay_ms, failure }
}

/// A delay as it is stored and shown.
pub fn millis(delay: Duration) -> u32 {
    u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)
}
