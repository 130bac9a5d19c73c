//! `xrat import`: links from anywhere into the store.

use std::cell::Cell;
use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use chrono::Utc;
use indicatif::{ProgressBar, ProgressStyle};

use super::error::CliError;
use super::source::Source;
use super::{Cli, download, notify, render};
use crate::config::{ConfigId, Secret};
use crate::import::{self, Done, ImportError};
use crate::link::subscription::{Reason, Refusals};
use crate::net::url::Url;
use crate::store::{Imported, Store, SubscriptionId};

/// So many reasons for refusals are told unless all lines are asked for.
const SHOWN_REASONS: usize = 20;
/// So many configs are named one by one.
const SHOWN_NAMES: usize = 5;
/// Less is stored before a bar could be seen, in bytes.
const WORTH_A_BAR: usize = 1 << 20;
/// The bar moves once in so many links.
const LINKS_A_STEP: usize = 1000;

/// Store the configs of links or of a subscription.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "import")]
pub(super) struct Import {
    /// tell every line that was refused, not only the reasons
    #[argh(switch)]
    verbose: bool,

    /// print the result as JSON
    #[argh(switch)]
    json: bool,

    /// links, a file with links or their base64, - for standard input, or the http(s) address of a subscription
    #[argh(positional)]
    source: Vec<String>,
}

impl Import {
    /// Stores what can be read; fails when nothing could.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        if self.source.is_empty() {
            return Err(CliError::Usage("nothing to import: give a link, a file, '-' or an address".to_owned()));
        }
        if self.source.len() > 1 && !self.source.iter().all(|source| source.contains("://")) {
            return Err(CliError::Usage("several links may be given at once, but only one file or '-'".to_owned()));
        }
        match &Source::of(&self.source.join("\n")) {
            Source::Urls(urls) => self.subscribe_all(cli, urls),
            source => self.import(cli, source),
        }
    }

    fn import(&self, cli: &mut Cli, source: &Source<'_>) -> Result<(), CliError> {
        let opened = source.open()?;
        let (paths, mut store) = cli.store()?;
        let mut opened = opened.settled(source, paths.root())?;
        let bar = Bar::new(opened.bytes());
        let done = import::add(&mut store, opened.links(), &source.name(), &mut |read| bar.at(read));
        bar.end();
        let done = self.stored(cli, done)?;
        notify::configs_changed(&paths);
        self.tell(cli, &store, None, &done)
    }

    /// One address after the other; one that fails does not keep the others from being tried.
    fn subscribe_all(&self, cli: &mut Cli, urls: &[&str]) -> Result<(), CliError> {
        let mut result = Ok(());
        for url in urls {
            if let Err(error) = self.subscribe(cli, url) {
                if urls.len() == 1 {
                    return Err(error);
                }
                if !matches!(error, CliError::Told) {
                    render::note(&format!("Error: {error}"));
                }
                result = Err(CliError::Told);
            }
        }
        result
    }

    fn subscribe(&self, cli: &mut Cli, text: &str) -> Result<(), CliError> {
        let url = Url::parse(text)?;
        let (paths, mut store) = cli.store()?;
        let settings = cli.settings(&paths)?;
        let body = download::subscription(&url, &settings, &store)?;
        let what = format!("the subscription from {url}");
        self.stored(cli, import::check(&body, &what))?;
        let id = store.subscribe(&Secret::new(text), Utc::now())?;
        let bar = Bar::new(Some(body.len()));
        let done = import::update(&mut store, id, &body, &what, &mut |read| bar.at(read));
        bar.end();
        let done = self.stored(cli, done)?;
        notify::configs_changed(&paths);
        self.tell(cli, &store, Some(id), &done)
    }

    /// Tells what was refused when nothing was stored because of it.
    fn stored<T>(&self, cli: &mut Cli, result: Result<T, ImportError>) -> Result<T, CliError> {
        if let Err(ImportError::AllRefused { refused, .. }) = &result {
            if self.json {
                tell_json(cli, None, &Imported::default(), refused)?;
                return Err(CliError::Told);
            }
            if refused.total() > 1 {
                tell_refused(cli, refused, self.verbose)?;
            }
        }
        Ok(result?)
    }

    fn tell(
        &self,
        cli: &mut Cli,
        store: &Store,
        subscription: Option<SubscriptionId>,
        Done { imported, refused }: &Done,
    ) -> Result<(), CliError> {
        if self.json {
            return tell_json(cli, subscription, imported, refused);
        }
        if let Some(SubscriptionId(id)) = subscription {
            write!(cli.out, "subscription {id}: ")?;
        }
        writeln!(cli.out, "{}", summary(imported, refused.total()))?;
        if imported.added.len() <= SHOWN_NAMES {
            tell_names(cli, store, "added", &imported.added)?;
        }
        if imported.added.is_empty() && imported.known.len() <= SHOWN_NAMES {
            tell_names(cli, store, "already known", &imported.known)?;
        }
        tell_refused(cli, refused, self.verbose)
    }
}

/// How far a long import is, on standard error; nothing where that or standard output is no terminal.
struct Bar {
    bar: ProgressBar,
    calls: Cell<usize>,
}

impl Bar {
    /// For so many bytes, if that is known.
    fn new(bytes: Option<usize>) -> Self {
        let short = bytes.is_some_and(|bytes| bytes < WORTH_A_BAR);
        let bar = match bytes {
            _ if short || !console::user_attended() => ProgressBar::hidden(),
            Some(bytes) => ProgressBar::new(bytes as u64),
            None => ProgressBar::no_length(),
        };
        let template = if bytes.is_some() { "Importing {bytes}/{total_bytes} [{bar:24}]" } else { "Importing {bytes}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, calls: Cell::new(0) }
    }

    fn at(&self, read: usize) {
        let calls = self.calls.get() + 1;
        self.calls.set(calls);
        if calls.is_multiple_of(LINKS_A_STEP) {
            self.bar.set_position(read as u64);
        }
    }

    fn end(self) {
        self.bar.finish_and_clear();
    }
}

fn tell_names(cli: &mut Cli, store: &Store, what: &str, ids: &[ConfigId]) -> Result<(), CliError> {
    for id in ids {
        if let Some(row) = store.config(*id)? {
            writeln!(cli.out, "  {what}: {id} ({})", render::clean(&row.config.name))?;
        }
    }
    Ok(())
}

/// One sentence on what an import did.
pub(super) fn summary(imported: &Imported, refused: usize) -> String {
    let mut text = format!("{} added, {} already known", imported.added.len(), imported.known.len());
    if !imported.gone.is_empty() {
        text.push_str(&format!(", {} gone and disabled", imported.gone.len()));
    }
    text.push_str(&format!(", {refused} refused"));
    text
}

/// The result for a program: every id, the refused lines and the reasons.
pub(super) fn tell_json(
    cli: &mut Cli,
    subscription: Option<SubscriptionId>,
    imported: &Imported,
    refused: &Refusals,
) -> Result<(), CliError> {
    Ok(render::json(&mut cli.out, &import::result(subscription, imported, refused))?)
}

/// What was refused, by reason, the most frequent first; or all lines in their order.
pub(super) fn tell_refused(cli: &mut Cli, refused: &Refusals, all: bool) -> Result<(), CliError> {
    if all {
        for one in refused.list() {
            writeln!(cli.out, "  {}: {}", one.place, render::clean(&one.reason.to_string()))?;
        }
        let rest = refused.total() - refused.list().len();
        if rest > 0 {
            writeln!(cli.out, "  and {rest} more")?;
        }
        return Ok(());
    }
    let reasons = refused.reasons();
    for Reason { text, count, places } in reasons.iter().take(SHOWN_REASONS) {
        // A single one is told with its value.
        let single = refused.list().iter().find(|one| *count == 1 && places.first() == Some(&one.place));
        match single {
            Some(one) => writeln!(cli.out, "  {}: {}", one.place, render::clean(&one.reason.to_string()))?,
            None => {
                let first: Vec<_> = places.iter().map(ToString::to_string).collect();
                let more = if *count > places.len() { ", …" } else { "" };
                writeln!(cli.out, "  {count} times: {} ({}{more})", render::clean(text), first.join(", "))?;
            }
        }
    }
    if reasons.len() > SHOWN_REASONS {
        writeln!(cli.out, "  and {} more reasons (--verbose tells every line)", reasons.len() - SHOWN_REASONS)?;
    }
    Ok(())
}
