//! The interface `org.xrat.Daemon1.Configs`: the stored configs, and testing them.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use chrono::Utc;
use futures::future::{Either, select};
use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedObjectPath;

use super::errors::Error;
use super::options::Options;
use super::values::{self, Dict};
use super::{CALL_TIMEOUT, Shared, job};
use crate::command::Command;
use crate::config::{ConfigId, Secret};
use crate::import::{self, ImportError, Links};
use crate::link::looks_like_subscription_url;
use crate::link::subscription::Refusals;
use crate::net::fetch::MAX_BODY;
use crate::net::url::Url;
use crate::probe::batch;
use crate::probe::stored::{self, MAX_CONCURRENCY, MAX_TIMEOUT};
use crate::settings::Settings;
use crate::store::{Imported, Sort, Store, StoreError, SubscriptionId};

pub(super) struct Configs(pub(super) Arc<Shared>);

/// The stored configs.
#[zbus::interface(name = "org.xrat.Daemon1.Configs")]
impl Configs {
    /// The stored configs, without credentials. Options: query (s), a part of name or address, or a protocol; sort (s),
    /// which is id, name or delay; enabled (b), only those that are, or are not; limit, at most so many. Those of a
    /// subscription have its scheme and host as source (s).
    #[zbus(out_args("configs"))]
    async fn list(&self, options: Dict) -> Result<Vec<Dict>, Error> {
        let work = async {
            let mut options = Options::new(options);
            let query = options.text("query")?;
            let sort = match options.text("sort")?.as_deref() {
                None | Some("id") => Sort::Id,
                Some("name") => Sort::Name,
                Some("delay") => Sort::Delay,
                Some(_) => return Err(Error::BadRequest("the option `sort` is id, name or delay".into())),
            };
            let (enabled, limit) = (options.truth("enabled")?, options.number("limit")?);
            options.end("query, sort, enabled and limit")?;
            let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
            let read = move |store: &mut Store| Ok((store.configs(query.as_deref(), sort)?, store.sources()?));
            let (mut rows, sources) = self.store(read).await?;
            rows.retain(|row| enabled.is_none_or(|enabled| enabled == row.disabled.is_none()));
            let listed = rows.iter().take(limit).map(|row| {
                let mut dict = values::dict(&row.summary());
                if let Some(source) = sources.get(&row.config_id) {
                    values::put(&mut dict, "source", source.as_ref());
                }
                dict
            });
            Ok(listed.collect())
        };
        self.0.answer(work).await
    }

    /// Stores the configs of links, one a line, or of their base64, or of the subscription at an http(s) address, which
    /// is fetched within 18 s. There are no options yet. The result has added, known and gone (ids, ax), refused (with
    /// line or node, and reason, aa{sv}), refused_total, refused_reasons (with reason, count and first, aa{sv}), and
    /// subscription_id where there is one.
    #[zbus(out_args("result"))]
    async fn import(&self, text_or_url: &str, options: Dict) -> Result<Dict, Error> {
        let work = async {
            Options::new(options).end("none yet")?;
            let text = text_or_url.trim().to_owned();
            let (subscription, imported, refused) = match text.contains("://") && looks_like_subscription_url(&text) {
                true => self.subscribe(text).await?,
                false => self.add(text).await?,
            };
            self.0.change(Command::ConfigsChanged {}).await?;
            let mut result = values::dict(&import::result(subscription, &imported, &refused));
            for (name, ids) in [("added", &imported.added), ("known", &imported.known), ("gone", &imported.gone)] {
                values::put(&mut result, name, ids.iter().map(|id| id.0).collect::<Vec<_>>());
            }
            let lines = refused.list().iter().map(|one| values::dict(&import::refusal(one)));
            values::put(&mut result, "refused", lines.collect::<Vec<_>>());
            let reasons = import::reasons(&refused);
            values::put(&mut result, "refused_reasons", reasons.iter().map(values::dict).collect::<Vec<_>>());
            Ok(result)
        };
        self.0.answer(work).await
    }

    /// Tests configs, all enabled ones when the list is empty; the results are signals of the job, and stored. Options:
    /// timeout_ms, how long each may take, and concurrency, how many at once.
    #[zbus(out_args("job"))]
    async fn test(
        &self,
        config_ids: Vec<i64>,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<OwnedObjectPath, Error> {
        let work = async {
            let mut options = Options::new(options);
            let (timeout, concurrency) = (options.number("timeout_ms")?, options.number("concurrency")?);
            options.end("timeout_ms and concurrency")?;
            let settings = self.settings().await?;
            let mut limits = stored::options(&settings)
                .map_err(|error| Error::BadRequest(format!("testing.url in config.toml {error}")))?;
            if let Some(timeout) = timeout.map(Duration::from_millis) {
                if timeout.is_zero() || timeout > MAX_TIMEOUT {
                    let text = format!("the option `timeout_ms` is a number from 1 to {}", MAX_TIMEOUT.as_millis());
                    return Err(Error::BadRequest(text));
                }
                limits.timeout = timeout;
            }
            if let Some(concurrency) = concurrency {
                limits.concurrency = match usize::try_from(concurrency) {
                    Ok(number @ 1..=MAX_CONCURRENCY) => number,
                    _ => {
                        let text = format!("the option `concurrency` is a number from 1 to {MAX_CONCURRENCY}");
                        return Err(Error::BadRequest(text));
                    }
                };
            }
            let configs = self.store(move |store| wanted(store, &config_ids)).await?;
            job::begin(&self.0, bus, configs, limits, settings).await
        };
        self.0.answer(work).await
    }

    /// Configs were added, changed, tested or removed.
    #[zbus(signal)]
    pub(super) async fn changed(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;
}

/// What an import stored, and what it refused.
type Stored = (Option<SubscriptionId>, Imported, Refusals);

impl Configs {
    /// Works on the database, beside the supervisor as another process would.
    async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let database = self.0.paths.database();
        smol::unblock(move || work(&mut Store::open(&database)?)).await
    }

    async fn settings(&self) -> Result<Settings, Error> {
        let file = self.0.paths.settings();
        let loaded = smol::unblock(move || Settings::load(&file)).await;
        loaded.map(|(settings, _)| settings).map_err(|error| Error::BadRequest(error.to_string()))
    }

    async fn add(&self, text: String) -> Result<Stored, Error> {
        if text.len() > MAX_BODY {
            let text = format!("the text is larger than {} MiB: that is no list of links", MAX_BODY >> 20);
            return Err(Error::BadRequest(text));
        }
        self.store(move |store| {
            let lines = import::one_a_line(&text);
            let done = import::add(store, Links::Body(lines.as_bytes()), "the text", &mut |_| ())?;
            Ok((None, done.imported, done.refused))
        })
        .await
    }

    async fn subscribe(&self, text: String) -> Result<Stored, Error> {
        let url = Url::parse(&text).map_err(|error| Error::BadRequest(format!("the address {error}")))?;
        let settings = self.settings().await?;
        let agent = settings.subscriptions.user_agent.clone();
        let session = self.store(move |store| Ok(import::session(&settings, store)?)).await?;
        let fetching = pin!(import::download(&url, &agent, session, || ()));
        let body = match select(fetching, Timer::after(CALL_TIMEOUT)).await {
            Either::Left((body, _)) => body?,
            Either::Right(_) => {
                let text = format!("the subscription from {url} is not there within {} s", CALL_TIMEOUT.as_secs());
                return Err(Error::Internal(text));
            }
        };
        let what = format!("the subscription from {url}");
        self.store(move |store| {
            import::check(&body, &what)?;
            let id = store.subscribe(&Secret::new(text.as_str()), Utc::now())?;
            let done = import::update(store, id, &body, &what, &mut |_| ())?;
            Ok((Some(id), done.imported, done.refused))
        })
        .await
    }
}

/// The configs with these ids, or all enabled ones.
fn wanted(store: &mut Store, ids: &[i64]) -> Result<Vec<batch::Job>, Error> {
    let mut rows = store.configs(None, Sort::Id)?;
    if ids.is_empty() {
        rows.retain(|row| row.disabled.is_none());
    } else {
        let ids: HashSet<_> = ids.iter().map(|id| ConfigId(*id)).collect();
        rows.retain(|row| ids.contains(&row.config_id));
        if let Some(missing) = ids.iter().find(|id| !rows.iter().any(|row| row.config_id == **id)) {
            return Err(Error::NotFound(format!("no config with id {missing}")));
        }
    }
    if rows.is_empty() {
        return Err(Error::NotFound("there is no enabled config to test".into()));
    }
    Ok(rows.into_iter().map(|row| batch::Job { config_id: row.config_id, config: row.config }).collect())
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<ImportError> for Error {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::NoLinks(_) | ImportError::AllRefused { .. } => Self::BadRequest(error.to_string()),
            ImportError::Fetch { .. } | ImportError::Read { .. } | ImportError::Store(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}
