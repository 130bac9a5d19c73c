//! `xrat parse`: what a link says, without storing it.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use serde_json::{Value, json};

use super::error::CliError;
use super::source::Source;
use super::{Cli, render};
use crate::config::Config;
use crate::import::ImportError;
use crate::link::subscription::{Place, Refused};
use crate::link::{self, Fields};

/// The order in which people read the fields; a field that is not here comes after them.
const ORDER: &[&str] = &[
    "name",
    "protocol",
    "address",
    "port",
    "uuid",
    "username",
    "password",
    "method",
    "alter_id",
    "plugin",
    "encryption",
    "flow",
    "secret_key",
    "ports",
    "hop_secs",
    "obfs",
    "obfs_password",
    "network",
    "header_type",
    "host",
    "path",
    "service_name",
    "mode",
    "seed",
    "extra",
    "security",
    "sni",
    "alpn",
    "fingerprint",
    "public_key",
    "short_id",
];

/// Decode links without storing them; credentials are shown.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "parse")]
pub(super) struct Parse {
    /// one JSON object a link: its fields, or `error`
    #[argh(switch)]
    json: bool,

    /// a link, a file with links or their base64, or - for standard input
    #[argh(positional)]
    source: String,
}

impl Parse {
    /// Prints the fields of every link in its place; fails when one could not be read.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let source = Source::of(&self.source);
        let body = match source.read() {
            Ok(body) => body,
            Err(error) => return self.refuse(cli, error),
        };
        let parsed = link::subscription::parse(&body);
        if parsed.configs.is_empty() && parsed.refused.is_empty() {
            return self.refuse(cli, ImportError::NoLinks(source.name()).into());
        }
        let single = parsed.configs.len() + parsed.refused.len() == 1;
        let failed = !parsed.refused.is_empty();
        let mut links: Vec<(Place, Result<Config, Refused>)> =
            parsed.configs.into_iter().map(|(place, config)| (place, Ok(config))).collect();
        links.extend(parsed.refused.into_iter().map(|refused| (refused.place, Err(refused))));
        links.sort_by_key(|(place, _)| *place);
        let mut first = true;
        for (place, link) in links {
            match link {
                Ok(config) if self.json => render::json(&mut cli.out, &link::fields(&config))?,
                Ok(config) => {
                    if !std::mem::take(&mut first) {
                        writeln!(cli.out)?;
                    }
                    render::fields(&mut cli.out, &rows(&link::fields(&config)))?;
                }
                Err(refused) if self.json => {
                    render::json(&mut cli.out, &json!({ "error": refused.reason.to_string() }))?;
                }
                Err(refused) if single => render::note(&format!("Error: {}", refused.reason)),
                Err(refused) => render::note(&format!("Error: {place}: {}", refused.reason)),
            }
        }
        if failed { Err(CliError::Told) } else { Ok(()) }
    }

    /// A source without links fails in the same form as a link.
    fn refuse(&self, cli: &mut Cli, error: CliError) -> Result<(), CliError> {
        if !self.json {
            return Err(error);
        }
        render::json(&mut cli.out, &json!({ "error": error.to_string() }))?;
        Err(CliError::Told)
    }
}

/// The fields as names and texts, in the order for people.
pub(super) fn rows(fields: &Fields) -> Vec<(String, String)> {
    // A struct of texts and numbers always serializes.
    let Ok(Value::Object(map)) = serde_json::to_value(fields) else { return Vec::new() };
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut rows: Vec<_> = map.into_iter().map(|(name, value)| (name, text(&value))).collect();
    rows.sort_by_key(|(name, _)| place(name));
    rows
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
