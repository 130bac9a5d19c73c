//! `xrat import`: links from anywhere into the store.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use chrono::Utc;

use super::error::CliError;
use super::source::Source;
use super::{Cli, download, notify, render};
use crate::config::{ConfigId, Secret};
use crate::import;
use crate::link::subscription::{Parsed, Refused, parse};
use crate::net::url::Url;
use crate::store::{Imported, Store, SubscriptionId};

/// So many refused lines are told unless all are asked for.
const SHOWN_REFUSED: usize = 20;
/// So many new configs are named one by one.
const SHOWN_ADDED: usize = 5;

/// Store the configs of links or of a subscription.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "import")]
pub(super) struct Import {
    /// tell every line that was refused, not only the first 20
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
        let parsed = parse(&source.read()?);
        self.check(cli, &parsed, source.name())?;
        let (paths, mut store) = cli.store()?;
        let imported = import::add(&mut store, &parsed)?;
        notify::configs_changed(&paths);
        self.tell(cli, &store, None, &imported, &parsed.refused)
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
        let parsed = parse(&download::subscription(&url, &settings, &store)?);
        self.check(cli, &parsed, format!("the subscription from {url}"))?;
        let id = store.subscribe(&Secret::new(text), Utc::now())?;
        let imported = import::update(&mut store, id, &parsed)?;
        notify::configs_changed(&paths);
        self.tell(cli, &store, Some(id), &imported, &parsed.refused)
    }

    /// Fails when there is nothing to store, and tells what was refused then.
    fn check(&self, cli: &mut Cli, parsed: &Parsed, what: String) -> Result<(), CliError> {
        let checked = import::has_links(parsed, what);
        if checked.is_err() && !parsed.refused.is_empty() {
            if self.json {
                tell_json(cli, None, &Imported::default(), &parsed.refused)?;
                return Err(CliError::Told);
            }
            if parsed.refused.len() > 1 {
                tell_refused(cli, &parsed.refused, self.verbose)?;
            }
        }
        Ok(checked?)
    }

    fn tell(
        &self,
        cli: &mut Cli,
        store: &Store,
        subscription: Option<SubscriptionId>,
        imported: &Imported,
        refused: &[Refused],
    ) -> Result<(), CliError> {
        if self.json {
            return tell_json(cli, subscription, imported, refused);
        }
        if let Some(SubscriptionId(id)) = subscription {
            write!(cli.out, "subscription {id}: ")?;
        }
        writeln!(cli.out, "{}", summary(imported, refused.len()))?;
        if imported.added.len() <= SHOWN_ADDED {
            tell_names(cli, store, "added", &imported.added)?;
        }
        if imported.added.is_empty() && imported.known.len() <= SHOWN_ADDED {
            tell_names(cli, store, "already known", &imported.known)?;
        }
        tell_refused(cli, refused, self.verbose)
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

/// The result for a program: every id, every refused line.
pub(super) fn tell_json(
    cli: &mut Cli,
    subscription: Option<SubscriptionId>,
    imported: &Imported,
    refused: &[Refused],
) -> Result<(), CliError> {
    Ok(render::json(&mut cli.out, &import::result(subscription, imported, refused))?)
}

/// The refused lines with their reasons, all of them or the first 20.
pub(super) fn tell_refused(cli: &mut Cli, refused: &[Refused], all: bool) -> Result<(), CliError> {
    let shown = if all { refused.len() } else { SHOWN_REFUSED.min(refused.len()) };
    for one in refused.iter().take(shown) {
        writeln!(cli.out, "  line {}: {}", one.line, render::clean(&one.reason.to_string()))?;
    }
    if shown < refused.len() {
        writeln!(cli.out, "  and {} more (--verbose tells all)", refused.len() - shown)?;
    }
    Ok(())
}
