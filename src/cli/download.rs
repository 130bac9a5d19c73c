//! Fetches a subscription: directly, and when that fails through the running session.

use std::time::Duration;

use indicatif::ProgressBar;

use super::error::CliError;
use crate::import;
use crate::net::url::Url;
use crate::settings::Settings;
use crate::store::Store;

/// How often the spinner moves.
const SPINNER_TICK: Duration = Duration::from_millis(100);

/// The body of a subscription. Blocks for at most [`crate::net::fetch::MAX_TIME`] on each of the two ways.
///
/// # Errors
/// Says what went wrong on each way; names the host only.
pub(super) fn subscription(url: &Url, settings: &Settings, store: &Store) -> Result<Vec<u8>, CliError> {
    let spinner = Spinner::new(format!("fetching the subscription from {url}"));
    let agent = &settings.subscriptions.user_agent;
    let session = import::session(settings, store)?;
    let again = || spinner.say(format!("fetching the subscription from {url} through the running session"));
    Ok(async_io::block_on(import::download(url, agent, session, again))?)
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
