//! Links from anywhere into the store: what the command line and the session bus do alike.

use chrono::Utc;
use serde_json::{Value, json};

use crate::config::Config;
use crate::engine::process::machine_id;
use crate::event::SessionStatus;
use crate::link::subscription::{Parsed, Refused};
use crate::link::{looks_like_subscription_url, split_scheme};
use crate::net::fetch::{self, FetchError, Route};
use crate::net::url::Url;
use crate::settings::Settings;
use crate::store::{Imported, Store, StoreError, SubscriptionId};

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A source without a single link.
    #[error("{0} is empty: it has no links")]
    NoLinks(String),
    /// A source whose every line was refused.
    #[error("nothing was imported from {what}: {reason}")]
    AllRefused {
        /// The source.
        what: String,
        /// Why its only line was refused, or how many were.
        reason: String,
    },
    /// An address that cannot be fetched.
    #[error("cannot fetch the subscription from {host}: {direct}{}", .tunnelled.as_ref().map(|error| format!("; through the running session: {error}")).unwrap_or_default())]
    Fetch {
        /// Its host; the rest of the address is a credential.
        host: String,
        /// What went wrong directly.
        direct: Box<FetchError>,
        /// What went wrong through the session, if one runs.
        tunnelled: Option<Box<FetchError>>,
    },
}

/// Whether at least one line of a body is a config.
///
/// # Errors
/// When there is none, with the reason; `what` is what the body came from.
pub fn has_links(parsed: &Parsed, what: String) -> Result<(), ImportError> {
    match parsed.refused.as_slice() {
        _ if !parsed.configs.is_empty() => Ok(()),
        [] => Err(ImportError::NoLinks(what)),
        [one] => Err(ImportError::AllRefused { what, reason: one.reason.to_string() }),
        all => Err(ImportError::AllRefused { what, reason: format!("all {} lines were refused", all.len()) }),
    }
}

/// Stores the configs of links that belong to no subscription.
///
/// # Errors
/// Nothing is stored then.
pub fn add(store: &mut Store, parsed: &Parsed) -> Result<Imported, StoreError> {
    store.import(&nodes(parsed), None, None, Utc::now())
}

/// Makes the membership of a subscription what its body says; the active config is kept.
///
/// # Errors
/// When the database cannot be read or written.
pub fn update(store: &mut Store, id: SubscriptionId, parsed: &Parsed) -> Result<Imported, StoreError> {
    let (now, keep) = (Utc::now(), store.active_config(&machine_id())?);
    let imported = store.import(&nodes(parsed), Some(id), keep, now)?;
    store.subscription_updated(id, Ok(now))?;
    Ok(imported)
}

/// The result for a program: every id, every refused line.
pub fn result(subscription: Option<SubscriptionId>, imported: &Imported, refused: &[Refused]) -> Value {
    let refused: Vec<_> =
        refused.iter().map(|one| json!({ "line": one.line, "reason": one.reason.to_string() })).collect();
    json!({
        "subscription_id": subscription,
        "added": imported.added,
        "known": imported.known,
        "gone": imported.gone,
        "refused": refused,
    })
}

fn nodes(parsed: &Parsed) -> Vec<Config> {
    parsed.configs.iter().map(|(_, config)| config.clone()).collect()
}

/// Links that were pasted into one text. A name may have spaces and the address of a web site in it, so that a new
/// link begins only where a word looks like the link of a proxy.
pub fn one_a_line(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + 1);
    for line in text.lines().map(str::trim) {
        let mut begin = 0;
        for (at, space) in line.match_indices(char::is_whitespace) {
            let next = at + space.len();
            let word = line[next..].split(char::is_whitespace).next().unwrap_or_default();
            if split_scheme(word).is_some() && !looks_like_subscription_url(word) {
                lines.push_str(&line[begin..at]);
                lines.push('\n');
                begin = next;
            }
        }
        lines.push_str(&line[begin..]);
        lines.push('\n');
    }
    lines
}

/// The body of a subscription: directly, and when that fails through the running session, if `session` has one.
/// `again` is called in between. Takes at most [`fetch::MAX_TIME`] on each way; dropping the future ends the fetch.
///
/// # Errors
/// Says what went wrong on each way; names the host only.
pub async fn download(
    url: &Url,
    user_agent: &str,
    session: Option<Route>,
    again: impl FnOnce(),
) -> Result<Vec<u8>, ImportError> {
    let direct = match fetch::fetch(url, &Route::Direct, user_agent).await {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    let tunnelled = match session.filter(|_| worth_another_way(&direct, url)) {
        Some(route) => {
            again();
            match fetch::fetch(url, &route, user_agent).await {
                Ok(body) => return Ok(body),
                Err(error) => Some(Box::new(error)),
            }
        }
        None => None,
    };
    Err(ImportError::Fetch { host: url.to_string(), direct: Box::new(direct), tunnelled })
}

/// Whether somebody between here and the host may have been what failed.
fn worth_another_way(error: &FetchError, url: &Url) -> bool {
    // An address of this machine would be one of the node's machine there.
    !fetch::is_local(&url.host) && !matches!(error, FetchError::Url(_))
}

/// The way through the running session, if there is one as far as the database knows.
///
/// # Errors
/// When the database cannot be read.
pub fn session(settings: &Settings, store: &Store) -> Result<Option<Route>, StoreError> {
    let sessions = store.open_sessions(&machine_id())?;
    let running = sessions.into_iter().find(|session| session.status == SessionStatus::Running);
    Ok(running.map(|session| Route::Socks { address: session.socks, auth: settings.runtime.socks.auth() }))
}
