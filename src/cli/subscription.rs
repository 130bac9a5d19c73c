//! `xrat subscription`: sources that are fetched again.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use serde_json::{Value, json};

use super::error::CliError;
use super::render::{Cell, Tone};
use super::{Cli, active, download, import, notify, render};
use crate::import::{Done, ImportError, update};
use crate::link::subscription::Refusals;
use crate::net::url::Url;
use crate::settings::Settings;
use crate::store::{Imported, Store, SubscriptionId, SubscriptionRow};

/// List, update and remove subscriptions; `xrat import URL` adds one.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "subscription")]
pub(super) struct Subscription {
    #[argh(subcommand)]
    action: Action,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Action {
    List(List),
    Update(Update),
    Remove(Remove),
}

impl Subscription {
    /// Does what the action says.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        match self.action {
            Action::List(list) => list.run(cli),
            Action::Update(update) => update.run(cli),
            Action::Remove(remove) => remove.run(cli),
        }
    }
}

/// List all subscriptions.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// print the list as JSON
    #[argh(switch)]
    json: bool,

    /// show the whole addresses, which are credentials
    #[argh(switch)]
    reveal: bool,
}

impl List {
    fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (_, store) = cli.store()?;
        let rows = store.subscriptions()?;
        if self.json {
            let list: Vec<_> = rows.iter().map(|row| self.value(row)).collect();
            return Ok(render::json(&mut cli.out, &list)?);
        }
        if rows.is_empty() {
            render::note("There is no subscription yet: 'xrat import URL' adds one.");
            return Ok(());
        }
        let cells: Vec<_> = rows
            .iter()
            .map(|row| {
                [
                    row.subscription_id.0.to_string().into(),
                    self.address(row).into(),
                    row.configs.to_string().into(),
                    row.updated_at.map_or_else(|| "never".to_owned(), render::time).into(),
                    Cell::toned(row.last_error.as_deref().unwrap_or_default(), Tone::Bad),
                ]
            })
            .collect();
        Ok(render::table(&mut cli.out, ["ID", "SOURCE", "CONFIGS", "UPDATED", "ERROR"], &cells)?)
    }

    fn value(&self, row: &SubscriptionRow) -> Value {
        json!({
            "subscription_id": row.subscription_id,
            "url": self.address(row),
            "configs": row.configs,
            "added_at": row.added_at,
            "updated_at": row.updated_at,
            "last_error": row.last_error,
        })
    }

    fn address(&self, row: &SubscriptionRow) -> String {
        if self.reveal { row.url.reveal().to_owned() } else { host(row) }
    }
}

/// Fetch subscriptions again: new configs are added, those that are gone are disabled.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "update")]
struct Update {
    /// one JSON object a subscription
    #[argh(switch)]
    json: bool,

    /// tell every line that was refused, not only the reasons
    #[argh(switch)]
    verbose: bool,

    /// its number; all when left out
    #[argh(positional)]
    id: Option<i64>,
}

impl Update {
    fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (paths, mut store) = cli.store()?;
        let settings = cli.settings(&paths)?;
        let rows = match self.id {
            Some(id) => vec![find(&store, id)?],
            None => store.subscriptions()?,
        };
        if rows.is_empty() && !self.json {
            render::note("There is no subscription yet: 'xrat import URL' adds one.");
        }
        let mut result = Ok(());
        for row in rows {
            match fetch(&mut store, &settings, &row) {
                Ok(Done { imported, refused }) => {
                    notify::configs_changed(&paths);
                    self.tell(cli, &row, &imported, &refused)?;
                }
                // What the database says of one, it says of all.
                Err(error @ (CliError::Store(_) | CliError::Import(ImportError::Store(_)))) => return Err(error),
                Err(error) => {
                    store.subscription_updated(row.subscription_id, Err(&error.to_string()))?;
                    if self.json {
                        let failed = json!({ "subscription_id": row.subscription_id, "error": error.to_string() });
                        render::json(&mut cli.out, &failed)?;
                    }
                    render::note(&format!("Error: subscription {}: {error}", row.subscription_id.0));
                    result = Err(CliError::Told);
                }
            }
        }
        result
    }

    fn tell(
        &self,
        cli: &mut Cli,
        row: &SubscriptionRow,
        imported: &Imported,
        refused: &Refusals,
    ) -> Result<(), CliError> {
        if self.json {
            return import::tell_json(cli, Some(row.subscription_id), imported, refused);
        }
        let summary = import::summary(imported, refused.total());
        writeln!(cli.out, "subscription {} ({}): {summary}", row.subscription_id.0, host(row))?;
        import::tell_refused(cli, refused, self.verbose)
    }
}

/// Fetches and stores; a body without a single config changes nothing, because that is how an outage looks.
fn fetch(store: &mut Store, settings: &Settings, row: &SubscriptionRow) -> Result<Done, CliError> {
    let url = Url::parse(row.url.reveal())?;
    let body = download::subscription(&url, settings, store)?;
    Ok(update(store, row.subscription_id, &body, &format!("the subscription from {url}"), &mut |_| ())?)
}

/// Remove a subscription and the configs that only it had, but for the one in use.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "remove")]
struct Remove {
    /// print the result as JSON
    #[argh(switch)]
    json: bool,

    /// its number
    #[argh(positional)]
    id: i64,
}

impl Remove {
    fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (paths, mut store) = cli.store()?;
        let row = find(&store, self.id)?;
        let keep = active(&store)?;
        let removed = store.unsubscribe(row.subscription_id, keep)?.ok_or(CliError::NoSubscription(self.id))?;
        notify::configs_changed(&paths);
        if self.json {
            let result = json!({ "subscription_id": row.subscription_id, "removed_configs": removed });
            return Ok(render::json(&mut cli.out, &result)?);
        }
        writeln!(cli.out, "removed subscription {} ({}) and {removed} configs", self.id, host(&row))?;
        Ok(())
    }
}

fn find(store: &Store, id: i64) -> Result<SubscriptionRow, CliError> {
    let mut rows = store.subscriptions()?.into_iter();
    rows.find(|row| row.subscription_id == SubscriptionId(id)).ok_or(CliError::NoSubscription(id))
}

/// Scheme and host: what follows them in the address of a subscription is a credential.
fn host(row: &SubscriptionRow) -> String {
    Url::parse(row.url.reveal()).map_or_else(|_| "(not a URL)".to_owned(), |url| url.to_string())
}
