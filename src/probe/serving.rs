//! The session that runs while configs are tested, and must not notice.
//!
//! A WireGuard node knows its user by a key and answers to wherever the last packet with that key came from: a second
//! engine with the key takes the node away from the first, for half a minute and more. So the session's own node is
//! tested through the session's own engine, and no other node with its key is tested while it runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};

use super::batch::{FailureKind, Job, Options, Verdict, failed, verdict};
use super::delay;
use crate::config::{Config, ConfigId, Protocol};
use crate::engine::{private, process, takes_over};
use crate::event::SessionStatus;
use crate::paths::Paths;
use crate::store::{Shared, StoreError};

/// How long the session's engine may take to say that it is there: it does so at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A session that works.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Its node.
    config: Config,
    /// The private proxy of its engine.
    socket: PathBuf,
}

/// The running session, if a test of these jobs could take its node away from it.
///
/// # Errors
/// When the database cannot be read.
pub async fn serving(paths: &Paths, store: &Shared, jobs: &[Job]) -> Result<Option<Serving>, StoreError> {
    let is_wireguard = |config: &Config| matches!(config.protocol, Protocol::Wireguard(_));
    if !jobs.iter().any(|job| is_wireguard(&job.config)) {
        return Ok(None);
    }
    let found = store.run(|store| {
        let sessions = store.open_sessions(&process::machine_id())?;
        let Some(session) = sessions.into_iter().find(|session| session.status == SessionStatus::Running) else {
            return Ok(None);
        };
        Ok(store.config(session.config_id)?.map(|row| (session.session_id, row.config)))
    });
    let Some((session_id, config)) = found.await?.filter(|(_, config)| is_wireguard(config)) else {
        return Ok(None);
    };
    let socket = paths.session_socket(session_id, "http");
    let answers = match select(std::pin::pin!(private::ready(&socket)), Timer::after(ANSWER_TIMEOUT)).await {
        Either::Left((answer, _)) => answer.is_ok(),
        Either::Right(_) => false,
    };
    Ok(answers.then_some(Serving { config, socket }))
}

impl Serving {
    /// Gives a verdict on every job that would disturb the session, without an engine of its own; the numbers of them.
    pub(super) async fn spare(
        &self,
        jobs: &[Job],
        options: &Options,
        tell: &mut impl FnMut(ConfigId, Verdict),
    ) -> BTreeSet<usize> {
        let mut spared = BTreeSet::new();
        for (number, job) in jobs.iter().enumerate().filter(|(_, job)| takes_over(&self.config, &job.config)) {
            spared.insert(number);
            let verdict = if job.config.identity() == self.config.identity() {
                verdict(delay::exchange(&self.socket, &options.url, options.timeout).await)
            } else {
                failed(FailureKind::InUse, "the running session uses its WireGuard key".to_owned())
            };
            tell(job.config_id, verdict);
        }
        spared
    }
}
