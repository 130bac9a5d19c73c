//! Updates subscriptions when they are due, for the daemon: beside the session, as `xrat subscription update` does it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use async_io::Timer;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::{Either, select};

use crate::command::Command;
use crate::event::{Event, State};
use crate::import::{self, ImportError};
use crate::net::url::{Url, UrlError};
use crate::paths::Paths;
use crate::settings::Settings;
use crate::store::{Imported, Store, StoreError, SubscriptionId, SubscriptionRow};
use crate::supervisor::Handle;

/// After a failure the next attempt follows so much later, or when the subscription is due anyway.
const RETRY: TimeDelta = TimeDelta::hours(1);
/// At least so often somebody looks what is due: timers stand still while the machine sleeps, and the command line may
/// have added a subscription.
const LOOK: Duration = Duration::from_secs(15 * 60);

/// A century: more would pass the end of the calendar.
const MAX_HOURS: u32 = 100 * 365 * 24;

/// Why a subscription was not updated. Names the host only.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    /// Its address, which was good when it was imported.
    #[error("the address {0}")]
    Url(#[from] UrlError),
    /// It cannot be fetched, or has no links in it.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An update that failed.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: DateTime<Utc>,
    /// Whether there was a session to go through, when the direct way failed.
    connected: bool,
}

/// What is known besides the database. It outlives no daemon: a new one tries again what failed.
#[derive(Debug, Default)]
struct Plan {
    failed: HashMap<SubscriptionId, Attempt>,
}

impl Plan {
    /// When a subscription is to be fetched; `now`, or before, is at once.
    fn due_at(&self, row: &SubscriptionRow, every: TimeDelta, connected: bool, now: DateTime<Utc>) -> DateTime<Utc> {
        // A time that lies ahead is of a clock that was wrong.
        let regular = row.updated_at.filter(|at| *at <= now).map_or(now, |at| at + every);
        match self.failed.get(&row.subscription_id) {
            // The session is the second way, and was not there then.
            Some(failed) if connected && !failed.connected => regular,
            Some(failed) if failed.at <= now => regular.max(failed.at + RETRY.min(every)),
            _ => regular,
        }
    }
}

/// Updates what is due until the daemon ends. Dropping the future ends the fetch that runs; what was fetched before it
/// is stored.
pub async fn follow(paths: Paths, handle: Handle, mut settings: Settings) {
    let Ok(mut events) = handle.subscribe(None).await else { return };
    let mut plan = Plan::default();
    let mut connected = false;
    loop {
        let wait = match settings.subscriptions.update_hours {
            // By hand.
            0 => None,
            hours => {
                let every = TimeDelta::hours(hours.min(MAX_HOURS).into());
                Some(update_due(&paths, &handle, &settings, every, connected, &mut plan).await)
            }
        };
        let until = wait.map(|wait| Instant::now() + wait);
        loop {
            let timer = async {
                match until {
                    Some(until) => drop(Timer::at(until).await),
                    None => std::future::pending().await,
                }
            };
            let event = match select(pin!(events.next()), pin!(timer)).await {
                Either::Left((Some(recorded), _)) => recorded.event,
                Either::Left((None, _)) => return,
                Either::Right(_) => break,
            };
            let before = connected;
            match event {
                Event::Snapshot(status) => connected = status.state == State::Connected,
                Event::StateChanged { new, .. } => connected = new == State::Connected,
                Event::SettingsChanged {} => {
                    let file = paths.settings();
                    // What cannot be used leaves the old ones in force, and the daemon says so.
                    if let Ok((new, _)) = smol::unblock(move || Settings::load(&file)).await {
                        settings = new;
                    }
                    break;
                }
                Event::Lagged { .. } => match handle.subscribe(None).await {
                    Ok(again) => events = again,
                    Err(_) => return,
                },
                _ => {}
            }
            if connected && !before {
                break;
            }
        }
    }
}

/// Updates one after the other what is due, and gives how long there is nothing to do.
async fn update_due(
    paths: &Paths,
    handle: &Handle,
    settings: &Settings,
    every: TimeDelta,
    connected: bool,
    plan: &mut Plan,
) -> Duration {
    let rows = match in_store(paths.database(), |store| store.subscriptions()).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!("subscriptions are not updated: {error}");
            return LOOK;
        }
    };
    let mut changed = false;
    for row in &rows {
        let (id, now) = (row.subscription_id, Utc::now());
        if plan.due_at(row, every, connected, now) > now {
            continue;
        }
        match update(paths, settings, row).await {
            Ok((imported, refused)) => {
                plan.failed.remove(&id);
                changed = true;
                tracing::info!(
                    "updated subscription {}: {} new, {} known, {} gone, {refused} refused",
                    id.0,
                    imported.added.len(),
                    imported.known.len(),
                    imported.gone.len()
                );
            }
            Err(error) => {
                plan.failed.insert(id, Attempt { at: now, connected });
                let text = error.to_string();
                tracing::warn!("subscription {} was not updated: {text}", id.0);
                let written = in_store(paths.database(), move |store| store.subscription_updated(id, Err(&text))).await;
                if let Err(error) = written {
                    tracing::error!("the failure of subscription {} is not written down: {error}", id.0);
                }
            }
        }
    }
    if changed {
        // An error means that the daemon ends.
        let _ = handle.call(Command::ConfigsChanged {}).await;
    }
    // Read again: their times are others now.
    let rows = in_store(paths.database(), |store| store.subscriptions()).await.unwrap_or_default();
    let now = Utc::now();
    let next = rows.iter().map(|row| plan.due_at(row, every, connected, now) - now).min();
    next.map_or(LOOK, |next| next.to_std().unwrap_or_default().min(LOOK))
}

/// Fetches and stores; how many lines were refused. A body without a single config changes nothing.
async fn update(paths: &Paths, settings: &Settings, row: &SubscriptionRow) -> Result<(Imported, usize), UpdateError> {
    let url = Url::parse(row.url.reveal())?;
    let of_session = settings.clone();
    let session = in_store(paths.database(), move |store| import::session(&of_session, store)).await?;
    let body = import::download(&url, &settings.subscriptions.user_agent, session, || ()).await?;
    let id = row.subscription_id;
    in_store(paths.database(), move |store| {
        let done = import::update(store, id, &body, &format!("the subscription from {url}"), &mut |_| ())?;
        Ok((done.imported, done.refused.total()))
    })
    .await
}

/// Works on the database beside the supervisor, as another process would.
async fn in_store<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    database: PathBuf,
    work: impl FnOnce(&mut Store) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    smol::unblock(move || work(&mut Store::open(&database)?)).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const EVERY: TimeDelta = TimeDelta::hours(6);

    fn row(updated_at: Option<DateTime<Utc>>) -> SubscriptionRow {
        SubscriptionRow {
            subscription_id: SubscriptionId(1),
            url: Secret::new("https://example.org/sub"),
            configs: 1,
            added_at: DateTime::UNIX_EPOCH,
            updated_at,
            last_error: None,
        }
    }

    fn hours(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(100 + hours)
    }

    #[test]
    fn it_is_due_after_its_hours_and_at_once_when_nobody_knows() {
        let due = |updated: Option<i64>| Plan::default().due_at(&row(updated.map(hours)), EVERY, false, hours(0));
        assert_eq!(due(Some(-1)), hours(5));
        assert_eq!(due(Some(-6)), hours(0));
        assert_eq!(due(None), hours(0));
        assert_eq!(due(Some(1000)), hours(0), "the clock was wrong");
    }

    #[test]
    fn a_failure_is_tried_again_later_and_at_once_when_there_is_another_way() {
        let failed =
            |connected| Plan { failed: HashMap::from([(SubscriptionId(1), Attempt { at: hours(0), connected })]) };
        let row = row(Some(hours(-8)));
        assert_eq!(failed(false).due_at(&row, EVERY, false, hours(0)), hours(1));
        assert_eq!(failed(true).due_at(&row, EVERY, true, hours(0)), hours(1));
        assert!(failed(false).due_at(&row, EVERY, true, hours(0)) <= hours(0), "through the session");
        // A failure of a clock that was ahead holds nothing up.
        assert!(failed(true).due_at(&row, EVERY, true, hours(-1)) <= hours(-1));
        // What failed and was updated by hand since is due when it is due.
        assert_eq!(failed(true).due_at(&super::tests::row(Some(hours(0))), EVERY, true, hours(0)), hours(6));
    }
}
