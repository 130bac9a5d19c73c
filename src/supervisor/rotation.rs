//! What the scheduler needs from outside: who can be chosen, and how fast they are now.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use async_io::Timer;
use chrono::Utc;
use futures::channel::oneshot;
use futures::future::{Either, select};

use super::context::Context;
use super::machine::{Choice, StartFailure};
use crate::command::Failure;
use crate::config::ConfigId;
use crate::engine::discover;
use crate::event::Reason;
use crate::net::url::Url;
use crate::probe::batch::{self, Job, Options, Verdict};
use crate::probe::serving::serving;
use crate::store::{CandidateRow, Sort, TestRow};

/// Enabled configs that an engine of this machine can carry. Empty when the database or the engines cannot be read.
pub(super) async fn candidates(context: Rc<Context>) -> Vec<CandidateRow> {
    choice(context).await.map(|choice| choice.usable).unwrap_or_else(|failed| {
        tracing::error!("no candidates: {}", failed.failure);
        Vec::new()
    })
}

/// What can be chosen, and what was last. Nothing is wrong with an empty answer; it fails without engine or database.
pub(super) async fn choice(context: Rc<Context>) -> Result<Choice, StartFailure> {
    let settings = context.settings();
    let failed = |reason, error: &dyn std::error::Error| StartFailure {
        session_id: None,
        reason,
        failure: Failure::Internal(error.to_string()),
    };
    let engines =
        discover::engines(&settings, &context.store).await.map_err(|error| failed(Reason::EngineMissing, &error))?;
    let read = context.store.run(move |store| {
        let carried: HashMap<ConfigId, bool> = store
            .configs(None, Sort::Id)?
            .into_iter()
            .map(|row| (row.config_id, engines.iter().any(|engine| engine.supports(&row.config).is_ok())))
            .collect();
        let mut usable = store.candidates()?;
        usable.retain(|row| carried.get(&row.config_id).copied().unwrap_or_default());
        Ok(Choice { usable, stored: carried.len(), last: store.last_config()? })
    });
    read.await.map_err(|error| failed(Reason::InternalError, &error))
}

/// Tests configs in one engine, within `budget`; what is not done by then has failed. A message on `cancel` (not its
/// drop) ends it at once. With `spare` the session that runs does not notice; one that does not work has nothing to
/// lose. Results are stored. Must be driven to its end.
pub(super) async fn test(
    context: Rc<Context>,
    ids: Vec<ConfigId>,
    budget: Duration,
    spare: bool,
    cancel: oneshot::Receiver<()>,
) -> Vec<(ConfigId, Result<u32, String>)> {
    let mut results = HashMap::new();
    let stop = async {
        match select(cancel, Timer::after(budget)).await {
            Either::Left((Err(_), timer)) => drop(timer.await),
            Either::Left((Ok(()), _)) | Either::Right(_) => {}
        }
    };
    if let Err(error) = run(&context, &ids, spare, stop, &mut results).await {
        tracing::error!("the candidates could not be tested: {error}");
    }
    let at = Utc::now();
    let rows: Vec<_> = results
        .iter()
        .map(|(id, result): (&ConfigId, &Result<u32, String>)| {
            (*id, TestRow { at, delay_ms: result.as_ref().ok().copied(), failure: result.as_ref().err().cloned() })
        })
        .collect();
    context.write(move |store| store.add_tests(&rows));
    ids.into_iter()
        .map(|id| (id, results.remove(&id).unwrap_or_else(|| Err(format!("no verdict within {} s", budget.as_secs())))))
        .collect()
}

async fn run(
    context: &Context,
    ids: &[ConfigId],
    spare: bool,
    stop: impl Future<Output = ()>,
    results: &mut HashMap<ConfigId, Result<u32, String>>,
) -> Result<(), String> {
    let settings = context.settings();
    let engines = discover::engines(&settings, &context.store).await.map_err(|error| error.to_string())?;
    let wanted = ids.to_vec();
    let jobs: Vec<_> = context
        .store
        .run(move |store| wanted.iter().map(|id| store.config(*id)).collect::<Result<Vec<_>, _>>())
        .await
        .map_err(|error| error.to_string())?
        .into_iter()
        .flatten()
        .map(|row| Job { config_id: row.config_id, config: row.config })
        .collect();
    let url = Url::parse(&settings.testing.url).map_err(|error| error.to_string())?;
    let serving = match spare {
        true => serving(&context.paths, &context.store, &jobs).await.map_err(|error| error.to_string())?,
        false => None,
    };
    let options = Options {
        serving,
        concurrency: settings.runtime.rotation.test_concurrency.try_into().unwrap_or_default(),
        ..Options::new(url, settings.test_timeout())
    };
    let report = |id, verdict| {
        let result = match verdict {
            Verdict::Delay(delay) => Ok(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)),
            Verdict::Failed(failure) => Err(failure.detail),
        };
        results.insert(id, result);
    };
    batch::run(&engines, &context.paths, jobs, &options, stop, report)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}
