//! Links from anywhere into the store: what the command line and the session bus do alike.

use std::io::{self, BufRead};
use std::ops::ControlFlow;

use chrono::Utc;
use serde_json::{Value, json};

use crate::config::ConfigId;
use crate::engine::process::machine_id;
use crate::event::SessionStatus;
use crate::link::subscription::{Item, Place, Reason, Refusals, Refused, each, each_line, is_configuration};
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
    #[error("nothing was imported from {what}: {}", .refused.one_sentence())]
    AllRefused {
        /// The source.
        what: String,
        /// What was in it.
        refused: Box<Refusals>,
    },
    /// A source that cannot be read to its end.
    #[error("cannot read {what}: {source}")]
    Read {
        /// The source.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
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

/// Where links come from.
pub enum Links<'a> {
    /// A whole body, in any format.
    Body(&'a [u8]),
    /// Plain lines, which need not fit into memory.
    Lines(&'a mut dyn BufRead),
}

/// What an import did.
#[derive(Debug)]
pub struct Done {
    /// What is stored.
    pub imported: Imported,
    /// What is not.
    pub refused: Refusals,
}

/// Whether there is a node in a body: reads it up to the first.
///
/// # Errors
/// When there is none, with what was refused; `what` is what the body came from.
pub fn check(body: &[u8], what: &str) -> Result<(), ImportError> {
    let mut refused = Refusals::default();
    let flow = each(body, &mut |Item { place, outcome, .. }| match outcome {
        Ok(_) => ControlFlow::Break(()),
        Err(reason) => {
            refused.push(Refused { place, reason });
            ControlFlow::Continue(())
        }
    });
    if flow.is_break() { Ok(()) } else { Err(nothing(what, refused)) }
}

/// Stores the configs of links that belong to no subscription, as they are read: `progress` is told how many bytes of
/// the source were.
///
/// # Errors
/// Nothing is stored then, also when there is no node at all.
pub fn add(
    store: &mut Store,
    links: Links<'_>,
    what: &str,
    progress: &mut dyn FnMut(usize),
) -> Result<Done, ImportError> {
    feed(store, links, what, None, None, progress)
}

/// Makes the membership of a subscription what its body says; the active config is kept.
///
/// # Errors
/// Nothing is stored then, also when there is no node at all: that is how an outage looks.
pub fn update(
    store: &mut Store,
    id: SubscriptionId,
    body: &[u8],
    what: &str,
    progress: &mut dyn FnMut(usize),
) -> Result<Done, ImportError> {
    let keep = store.active_config(&machine_id())?;
    let done = feed(store, Links::Body(body), what, Some(id), keep, progress)?;
    store.subscription_updated(id, Ok(Utc::now()))?;
    Ok(done)
}

fn feed(
    store: &mut Store,
    links: Links<'_>,
    what: &str,
    subscription: Option<SubscriptionId>,
    keep: Option<ConfigId>,
    progress: &mut dyn FnMut(usize),
) -> Result<Done, ImportError> {
    let mut refused = Refusals::default();
    let imported = store.import(subscription, keep, Utc::now(), |importing| {
        let mut failed = None;
        let mut sink = |Item { place, read, outcome }| {
            progress(read);
            match outcome {
                Ok(config) => {
                    if let Err(error) = importing.add(&config) {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                Err(reason) => refused.push(Refused { place, reason }),
            }
            ControlFlow::Continue(())
        };
        let read = match links {
            Links::Body(body) => Ok(each(body, &mut sink)),
            Links::Lines(reader) => each_line(reader, &mut sink),
        };
        // A break is the sink's own.
        let _ = read.map_err(|source| ImportError::Read { what: what.to_owned(), source })?;
        match failed {
            Some(error) => Err(error.into()),
            None if importing.is_empty() => Err(nothing(what, std::mem::take(&mut refused))),
            None => Ok(()),
        }
    })?;
    Ok(Done { imported, refused })
}

fn nothing(what: &str, refused: Refusals) -> ImportError {
    let what = what.to_owned();
    if refused.total() == 0 {
        ImportError::NoLinks(what)
    } else {
        ImportError::AllRefused { what, refused: Box::new(refused) }
    }
}

/// The result for a program: every id, and the refused lines.
pub fn result(subscription: Option<SubscriptionId>, imported: &Imported, refused: &Refusals) -> Value {
    json!({
        "subscription_id": subscription,
        "added": imported.added,
        "known": imported.known,
        "gone": imported.gone,
        "refused": refused.list().iter().map(refusal).collect::<Vec<_>>(),
        "refused_total": refused.total(),
        "refused_reasons": reasons(refused),
    })
}

/// Why lines were refused, the most frequent reason first.
pub fn reasons(refused: &Refusals) -> Vec<Value> {
    let value = |reason: Reason| {
        let first: Vec<_> = reason.places.iter().map(ToString::to_string).collect();
        json!({ "reason": reason.text, "count": reason.count, "first": first })
    };
    refused.reasons().into_iter().map(value).collect()
}

/// One refused line, or node where all are one line.
pub fn refusal(refused: &Refused) -> Value {
    let reason = refused.reason.to_string();
    match refused.place {
        Place::Line(number) => json!({ "line": number, "reason": reason }),
        Place::Node(number) => json!({ "node": number, "reason": reason }),
    }
}

/// Links that were pasted into one text. A name may have spaces and the address of a web site in it, so that a new
/// link begins only where a word looks like the link of a proxy. A configuration stays as it is.
pub fn one_a_line(text: &str) -> String {
    if is_configuration(text.as_bytes()) {
        return text.to_owned();
    }
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
