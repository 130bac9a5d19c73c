//! `xrat import`: links from anywhere into the store.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use chrono::Utc;
use serde_json::json;

use super::error::CliError;
use super::source::Source;
use super::{Cli, active, download, notify, render};
use crate::config::{Config, ConfigId, Secret};
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
        let imported = store.import(&nodes(&parsed), None, None, Utc::now())?;
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
        let imported = update(&mut store, id, &parsed)?;
        notify::configs_changed(&paths);
        self.tell(cli, &store, Some(id), &imported, &parsed.refused)
    }

    /// Fails when there is nothing to store, and tells what was refused then.
    fn check(&self, cli: &mut Cli, parsed: &Parsed, what: String) -> Result<(), CliError> {
        let checked = has_links(parsed, what);
        if checked.is_err() && !parsed.refused.is_empty() {
            if self.json {
                tell_json(cli, None, &Imported::default(), &parsed.refused)?;
                return Err(CliError::Told);
            }
            if parsed.refused.len() > 1 {
                tell_refused(cli, &parsed.refused, self.verbose)?;
            }
        }
        checked
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

/// Whether at least one line of a body is a config.
///
/// # Errors
/// When there is none, with the reason.
pub(super) fn has_links(parsed: &Parsed, what: String) -> Result<(), CliError> {
    match parsed.refused.as_slice() {
        _ if !parsed.configs.is_empty() => Ok(()),
        [] => Err(CliError::NoLinks(what)),
        [one] => Err(CliError::AllRefused { what, reason: one.reason.to_string() }),
        all => Err(CliError::AllRefused { what, reason: format!("all {} lines were refused", all.len()) }),
    }
}

/// Makes the membership of a subscription what its body says; the active config is kept.
pub(super) fn update(store: &mut Store, id: SubscriptionId, parsed: &Parsed) -> Result<Imported, CliError> {
    let (now, keep) = (Utc::now(), active(store)?);
    let imported = store.import(&nodes(parsed), Some(id), keep, now)?;
    store.subscription_updated(id, Ok(now))?;
    Ok(imported)
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
    let refused: Vec<_> =
        refused.iter().map(|one| json!({ "line": one.line, "reason": one.reason.to_string() })).collect();
    let result = json!({
        "subscription_id": subscription,
        "added": imported.added,
        "known": imported.known,
        "gone": imported.gone,
        "refused": refused,
    });
    Ok(render::json(&mut cli.out, &result)?)
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

fn nodes(parsed: &Parsed) -> Vec<Config> {
    parsed.configs.iter().map(|(_, config)| config.clone()).collect()
}
