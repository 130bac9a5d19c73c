//! `xrat list`, `show`, `enable`, `disable`, `rename` and `remove`: the stored configs.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use serde_json::{Value, json};

use super::error::CliError;
use super::render::{Cell, Tone};
use super::{Cli, active, notify, parse, qr, render};
use crate::config::ConfigId;
use crate::link::{self, is_unprintable};
use crate::store::{ConfigRow, Disabled, FindError, Sort, Store};

/// Stands for a credential.
const MASK: &str = "***";
/// The longest name that can be given, in characters; longer ones fit no list.
const NAME_CHARS: usize = 200;

/// List the stored configs, without credentials.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
pub(super) struct List {
    /// print the list as JSON
    #[argh(switch)]
    json: bool,

    /// delay (fastest first), name or id (the default)
    #[argh(option, default = "Sort::Id", from_str_fn(sort), arg_name = "order")]
    sort: Sort,

    /// only configs with this in their name or address, or of this protocol
    #[argh(positional)]
    query: Option<String>,
}

fn sort(text: &str) -> Result<Sort, String> {
    match text {
        "delay" => Ok(Sort::Delay),
        "name" => Ok(Sort::Name),
        "id" => Ok(Sort::Id),
        _ => Err("expected delay, name or id".to_owned()),
    }
}

impl List {
    /// Prints one line a config.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (_, store) = cli.store()?;
        let rows = store.configs(self.query.as_deref(), self.sort)?;
        if self.json {
            let list: Vec<_> = rows.iter().map(ConfigRow::summary).collect();
            return Ok(render::json(&mut cli.out, &list)?);
        }
        if rows.is_empty() {
            render::note(match self.query {
                Some(_) => "No config matches.",
                None => "There is no config yet: 'xrat import SOURCE' adds some.",
            });
            return Ok(());
        }
        let cells: Vec<_> = rows.iter().map(cells).collect();
        let heading = ["ID", "NAME", "PROTOCOL", "ADDRESS", "NETWORK", "SECURITY", "DELAY", "STATE"];
        Ok(render::table(&mut cli.out, heading, &cells)?)
    }
}

fn cells(row: &ConfigRow) -> [Cell; 8] {
    let config = &row.config;
    let delay = match &row.last_test {
        None => Cell::toned("-", Tone::Dim),
        Some(test) => match test.delay_ms {
            Some(delay) => Cell::toned(format!("{delay} ms"), Tone::Good),
            None => Cell::toned("failed", Tone::Bad),
        },
    };
    let tone = if row.disabled.is_some() { Tone::Dim } else { Tone::Plain };
    [
        row.config_id.to_string().into(),
        Cell::toned(&config.name, tone),
        config.protocol.name().into(),
        config.endpoint().into(),
        config.transport.name().into(),
        config.security.name().into(),
        delay,
        Cell::toned(state(row), tone),
    ]
}

fn state(row: &ConfigRow) -> &'static str {
    match row.disabled {
        None => "enabled",
        Some(Disabled::User) => "disabled",
        Some(Disabled::Gone) => "gone",
    }
}

/// Show one config.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "show")]
pub(super) struct Show {
    /// show the credentials
    #[argh(switch)]
    reveal: bool,

    /// print the share link, which has the credentials in it
    #[argh(switch)]
    link: bool,

    /// draw the share link as a QR code, for the camera of a phone
    #[argh(switch)]
    qr: bool,

    /// draw it also where standard output is no terminal, or a narrow one
    #[argh(switch)]
    force: bool,

    /// print the config as JSON
    #[argh(switch)]
    json: bool,

    /// its number, its name or a part of the name that no other has
    #[argh(positional)]
    id: String,
}

impl Show {
    /// Prints every field of a config, or its link.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (_, store) = cli.store()?;
        let row = find(&store, &self.id)?;
        if self.qr && self.json {
            return Err(CliError::Usage("--qr and --json do not go together".to_owned()));
        }
        if (self.link || self.qr) && !self.json {
            let link = link::write(&row.config);
            if self.qr {
                qr::draw(&mut cli.out, &link, self.force)?;
            }
            if self.link {
                writeln!(cli.out, "{link}")?;
            }
            return Ok(());
        }
        let mut fields = link::fields(&row.config);
        if !self.reveal {
            fields.secrets().for_each(|secret| MASK.clone_into(secret));
        }
        if self.json {
            let mut value = row.summary();
            // Both are objects; where both have a name they mean the same.
            if let (Some(all), Value::Object(fields)) = (value.as_object_mut(), json!(fields)) {
                all.extend(fields);
                if self.link {
                    all.insert("link".to_owned(), link::write(&row.config).into());
                }
            }
            return Ok(render::json(&mut cli.out, &value)?);
        }
        let mut rows = vec![("id".to_owned(), row.config_id.to_string())];
        rows.extend(parse::rows(&fields));
        rows.push(("state".to_owned(), state(&row).to_owned()));
        rows.push(("added".to_owned(), render::time(row.added_at)));
        if let Some(test) = &row.last_test {
            let result = match (test.delay_ms, &test.failure) {
                (Some(delay), _) => format!("{delay} ms"),
                (None, failure) => failure.clone().unwrap_or_else(|| "failed".to_owned()),
            };
            rows.push(("last test".to_owned(), format!("{result} ({})", render::time(test.at))));
        }
        Ok(render::fields(&mut cli.out, &rows)?)
    }
}

/// Let rotation use a config again.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "enable")]
pub(super) struct Enable {
    /// its number, its name or a part of the name that no other has
    #[argh(positional)]
    id: String,
}

impl Enable {
    /// Enables a config; one that is enabled already stays so.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let row = change(cli, &self.id, |store, id| Ok(store.set_enabled(id, true)?))?;
        tell(cli, "enabled", &row)
    }
}

/// Keep a config out of rotation.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "disable")]
pub(super) struct Disable {
    /// its number, its name or a part of the name that no other has
    #[argh(positional)]
    id: String,
}

impl Disable {
    /// Disables a config; one that is disabled already stays so.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let row = change(cli, &self.id, |store, id| Ok(store.set_enabled(id, false)?))?;
        tell(cli, "disabled", &row)
    }
}

/// Give a config another name.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rename")]
pub(super) struct Rename {
    /// its number, its name or a part of the name that no other has
    #[argh(positional)]
    id: String,

    /// the new name
    #[argh(positional)]
    name: String,
}

impl Rename {
    /// Renames a config; an import of its link does not change the name back.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let name = self.name.trim();
        if name.is_empty() {
            return Err(CliError::Usage("a name cannot be empty".to_owned()));
        }
        if name.chars().any(is_unprintable) {
            return Err(CliError::Usage("a name cannot have control characters in it".to_owned()));
        }
        if name.chars().count() > NAME_CHARS {
            return Err(CliError::Usage(format!("a name has at most {NAME_CHARS} characters")));
        }
        let row = change(cli, &self.id, |store, id| Ok(store.rename(id, name)?))?;
        writeln!(cli.out, "renamed {} ({}) to {name}", row.config_id, render::clean(&row.config.name))?;
        Ok(())
    }
}

/// Remove a config with its tests.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "remove")]
pub(super) struct Remove {
    /// its number, its name or a part of the name that no other has
    #[argh(positional)]
    id: String,
}

impl Remove {
    /// Removes a config; a session that runs for it goes on.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let mut in_use = false;
        let row = change(cli, &self.id, |store, id| {
            in_use = active(store)? == Some(id);
            Ok(store.remove(id)?)
        })?;
        tell(cli, "removed", &row)?;
        if in_use {
            render::note("The running session goes on with it until it is disconnected or moved.");
        }
        Ok(())
    }
}

/// Finds a config, changes it and tells the daemon. The row is the one from before.
fn change(
    cli: &mut Cli,
    text: &str,
    work: impl FnOnce(&mut Store, ConfigId) -> Result<bool, CliError>,
) -> Result<ConfigRow, CliError> {
    let (paths, mut store) = cli.store()?;
    let row = find(&store, text)?;
    if !work(&mut store, row.config_id)? {
        return Err(vanished(row.config_id));
    }
    notify::configs_changed(&paths);
    Ok(row)
}

fn tell(cli: &mut Cli, done: &str, row: &ConfigRow) -> Result<(), CliError> {
    writeln!(cli.out, "{done} {} ({})", row.config_id, render::clean(&row.config.name))?;
    Ok(())
}

fn find(store: &Store, text: &str) -> Result<ConfigRow, CliError> {
    let id = store.find(text)?;
    store.config(id)?.ok_or_else(|| vanished(id))
}

/// Another process removed it between two looks.
fn vanished(id: ConfigId) -> CliError {
    FindError::Missing(id.to_string()).into()
}
