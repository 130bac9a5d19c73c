//! `system-proxy on|off|status`: the desktop's own proxy settings, with and without a daemon.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use serde_json::{Value, json};

use super::client::ask_for;
use super::error::CliError;
use super::render::{Cell, Tone};
use super::{Cli, render};
use crate::command::Command;
use crate::event::Status;
use crate::ipc::client::{self, ClientError};
use crate::paths::Paths;
use crate::settings::Settings;
use crate::system_proxy::{self, Asked, Points, Report, Servers, Summary};

/// A session that moves while the settings are written moves them along; after so many moves that is the daemon's work.
const MAX_MOVES: usize = 5;

/// Point the desktop's proxy settings at the session, or give them their own values back.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "system-proxy")]
pub(super) struct SystemProxy {
    #[argh(subcommand)]
    action: Action,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Action {
    On(On),
    Off(Off),
    Status(ProxyStatus),
}

/// Point the settings at the session, now and whenever there is one.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "on")]
struct On {
    /// print what was done as JSON
    #[argh(switch)]
    json: bool,
}

/// Give the settings their own values back; also without a daemon, after a crash.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "off")]
struct Off {
    /// only if neither a daemon nor an engine is left at the address they point to; the next session turns it on again
    #[argh(switch)]
    if_orphaned: bool,

    /// print what was done as JSON
    #[argh(switch)]
    json: bool,
}

/// Say whether the settings point at the session, desktop by desktop.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
struct ProxyStatus {
    /// print it as JSON
    #[argh(switch)]
    json: bool,
}

impl SystemProxy {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = cli.paths()?;
        match self.action {
            Action::On(On { json }) => on(cli, &paths, json),
            Action::Off(Off { if_orphaned, json }) => off(cli, &paths, if_orphaned, json),
            Action::Status(ProxyStatus { json }) => status(cli, &paths, json),
        }
    }
}

fn on(cli: &mut Cli, paths: &Paths, json: bool) -> Result<(), CliError> {
    let settings = cli.settings(paths)?;
    Servers::of_settings(&settings)?;
    // Said first: a daemon that is about to connect sees it.
    if let Some(missing) = nowhere(&system_proxy::look(paths)?) {
        return Err(system_proxy::SystemProxyError::NoDesktop { missing }.into());
    }
    system_proxy::switch(paths, true)?;
    let (mut done, mut report) = (None, Report::default());
    for _ in 0..MAX_MOVES {
        // Asked again after each change: a session that ended or moved meanwhile may have been overlooked by the daemon,
        // which looks at the settings when that happens and not later.
        let now = now(paths, &settings)?;
        if now == done {
            break;
        }
        let step = match now {
            Some(servers) => system_proxy::point(paths, servers, Asked::ByUser)?,
            None => system_proxy::restore(paths)?,
        };
        report = merged(report, step);
        done = now;
    }
    if json {
        render::json(&mut cli.out, &value(done, &report))?;
    } else if report.problem.is_none() {
        match done {
            Some(servers) => writeln!(cli.out, "On: the desktop's settings point at {servers}")?,
            None => writeln!(cli.out, "On: from the next session on, there is none now")?,
        }
    }
    finish(report, json)
}

fn off(cli: &mut Cli, paths: &Paths, if_orphaned: bool, json: bool) -> Result<(), CliError> {
    if if_orphaned {
        let alive = async_io::block_on(client::dial(&paths.socket(), 1)).is_ok();
        if alive || !system_proxy::is_orphaned(paths)? {
            let on = system_proxy::summary(paths)?.on.map(|(servers, _)| servers);
            return match (json, on) {
                (true, on) => Ok(render::json(&mut cli.out, &value(on, &Report::default()))?),
                (false, Some(servers)) => Ok(writeln!(cli.out, "Left as it is: {servers} is looked after")?),
                (false, None) => Ok(writeln!(cli.out, "Nothing to do: the desktop's settings are its own")?),
            };
        }
    } else {
        // Said first: a daemon that runs does not turn it on again.
        system_proxy::switch(paths, false)?;
    }
    let report = system_proxy::restore(paths)?;
    if json {
        render::json(&mut cli.out, &value(None, &report))?;
    } else {
        for (desktop, key) in &report.left_alone {
            writeln!(cli.out, "{desktop}: {key} was changed meanwhile and is left alone")?;
        }
        if report.problem.is_none() {
            writeln!(cli.out, "Off: the desktop's settings are its own")?;
        }
    }
    finish(report, json)
}

fn status(cli: &mut Cli, paths: &Paths, json: bool) -> Result<(), CliError> {
    let settings = cli.settings(paths)?;
    let looked = system_proxy::look(paths)?;
    let Summary { switch, on, problem } = system_proxy::summary(paths)?;
    let by_settings = settings.desktop.system_proxy;
    let wanted = switch.unwrap_or(by_settings);
    let problem = problem.or_else(|| wanted.then(|| nowhere(&looked)).flatten());
    if json {
        let answer = json!({
            "wanted": wanted,
            "decided_by": if switch.is_some() { "command" } else { "settings" },
            "servers": on.as_ref().map(|(servers, _)| servers),
            "desktops": looked,
            "problem": problem,
        });
        return Ok(render::json(&mut cli.out, &answer)?);
    }
    let why = match switch {
        Some(true) => "'xrat system-proxy on'",
        Some(false) => "'xrat system-proxy off'",
        None if by_settings => "desktop.system_proxy in config.toml",
        None => "the default",
    };
    writeln!(cli.out, "{} (by {why})", if wanted { "On" } else { "Off" })?;
    if let Some((servers, _)) = &on {
        writeln!(cli.out, "The desktop's settings point at {servers}")?;
    } else if wanted {
        writeln!(cli.out, "There is no session: the desktop's settings are its own")?;
    }
    let rows: Vec<_> = looked
        .iter()
        .map(|look| {
            let (text, tone) = match look.points_here {
                Points::Yes => ("at xrat", Tone::Good),
                Points::Partly => ("partly at xrat", Tone::Bad),
                Points::No => ("its own", Tone::Plain),
            };
            let mut notes: Vec<_> = look.problem.iter().cloned().collect();
            if !look.changed_since.is_empty() {
                notes.push(format!("changed meanwhile: {}", look.changed_since.join(", ")));
            }
            [Cell::from(look.desktop.to_string()), Cell::toned(text, tone), Cell::from(notes.join("; "))]
        })
        .collect();
    render::table(&mut cli.out, ["DESKTOP", "POINTS", "NOTE"], &rows)?;
    if let Some(problem) = problem {
        writeln!(cli.out, "Problem: {}", render::clean(&problem))?;
    }
    Ok(())
}

/// Where the settings should point to now. Without a daemon there is no session to point at.
fn now(paths: &Paths, settings: &Settings) -> Result<Option<Servers>, CliError> {
    match async_io::block_on(ask_for::<Status>(paths, &Command::RuntimeStatus {})) {
        Ok(status) => Ok(Servers::of_status(&status, settings)?),
        Err(CliError::Client(ClientError::NotReachable { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What every desktop lacks, if there is none.
fn nowhere(looked: &[system_proxy::Look]) -> Option<String> {
    let lacks =
        |look: &system_proxy::Look| format!("{}: {}", look.desktop, look.problem.as_deref().unwrap_or_default());
    looked.iter().all(|look| !look.found).then(|| looked.iter().map(lacks).collect::<Vec<_>>().join("; "))
}

fn merged(before: Report, after: Report) -> Report {
    let mut changed = before.changed;
    changed.extend(after.changed.iter().filter(|name| !changed.contains(name)).copied().collect::<Vec<_>>());
    Report { changed, ..after }
}

fn value(servers: Option<Servers>, report: &Report) -> Value {
    let left: Vec<_> =
        report.left_alone.iter().map(|(desktop, key)| json!({ "desktop": desktop, "key": key })).collect();
    json!({ "servers": servers, "changed": report.changed, "left_alone": left, "problem": report.problem })
}

/// What went wrong with one desktop is a failure, when the others are done.
fn finish(report: Report, json: bool) -> Result<(), CliError> {
    match report.problem {
        Some(problem) if json => {
            render::note(&format!("Error: {problem}"));
            Err(CliError::Told)
        }
        Some(problem) => Err(CliError::Desktop(problem)),
        None => Ok(()),
    }
}
