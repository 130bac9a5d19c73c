//! Fetches a subscription: directly, and when that fails through the running session.

use std::time::Duration;

use indicatif::ProgressBar;

use super::error::CliError;
use crate::engine::process::machine_id;
use crate::event::SessionStatus;
use crate::net::fetch::{self, FetchError, Route};
use crate::net::url::Url;
use crate::settings::Settings;
use crate::store::{Store, StoreError};

/// How often the spinner moves.
const SPINNER_TICK: Duration = Duration::from_millis(100);

/// The body of a subscription. Blocks for at most [`fetch::MAX_TIME`] on each of the two ways.
///
/// # Errors
/// Says what went wrong on each way; names the host only.
pub(super) fn subscription(url: &Url, settings: &Settings, store: &Store) -> Result<Vec<u8>, CliError> {
    let spinner = Spinner::new(format!("fetching the subscription from {url}"));
    let agent = &settings.subscriptions.user_agent;
    let direct = match async_io::block_on(fetch::fetch(url, &Route::Direct, agent)) {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    let tunnelled = match session(settings, store)?.filter(|_| worth_another_way(&direct, url)) {
        Some(route) => {
            spinner.say(format!("fetching the subscription from {url} through the running session"));
            match async_io::block_on(fetch::fetch(url, &route, agent)) {
                Ok(body) => return Ok(body),
                Err(error) => Some(Box::new(error)),
            }
        }
        None => None,
    };
    Err(CliError::Fetch { host: url.to_string(), direct: Box::new(direct), tunnelled })
}

/// Whether somebody between here and the host may have been what failed.
fn worth_another_way(error: &FetchError, url: &Url) -> bool {
    // An address of this machine would be one of the node's machine there.
    !fetch::is_local(&url.host) && !matches!(error, FetchError::Url(_))
}

/// The way through the running session, if there is one as far as the database knows.
fn session(settings: &Settings, store: &Store) -> Result<Option<Route>, StoreError> {
    let sessions = store.open_sessions(&machine_id())?;
    let running = sessions.into_iter().find(|session| session.status == SessionStatus::Running);
    Ok(running.map(|session| Route::Socks { address: session.socks, auth: settings.runtime.socks.auth() }))
}

/// A spinner on standard error; nothing where it or standard output is not a terminal.
struct Spinner(ProgressBar);

impl Spinner {
    fn new(message: String) -> Self {
        if !console::user_attended() {
            return Self(ProgressBar::hidden());
        }
        // Hidden by itself when standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        bar.set_message(message);
        bar.enable_steady_tick(SPINNER_TICK);
        Self(bar)
    }

    fn say(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
