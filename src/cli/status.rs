//! `status`: the session in words, once or as it changes.

use std::io::{IsTerminal, Write};

use argh::{ArgsInfo, FromArgs};
use chrono::{DateTime, Local, Utc};
use console::Style;
use indicatif::HumanBytes;

use super::client::{ask_for, root};
use super::error::CliError;
use super::{Cli, render};
use crate::command::Command;
use crate::event::{Health, Reason, Session, State, Status};
use crate::ipc::client;
use crate::paths::Paths;

/// Show the session, its health and its traffic.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
pub(super) struct StatusCommand {
    /// print JSON, with --watch one object a change
    #[argh(switch)]
    json: bool,

    /// go on and show every change
    #[argh(switch)]
    watch: bool,
}

impl StatusCommand {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        async_io::block_on(async {
            if !self.watch {
                return show(&paths, self.json, cli).await;
            }
            let mut events = match client::subscribe(&paths.socket()).await? {
                Ok(events) => events,
                Err(answer) => return Err(CliError::Refused(answer)),
            };
            let redraw = !self.json && std::io::stdout().is_terminal();
            while events.next().await?.is_some() {
                if redraw {
                    write!(cli.out, "\x1b[H\x1b[2J")?;
                }
                show(&paths, self.json, cli).await?;
                if !redraw && !self.json {
                    writeln!(cli.out)?;
                }
                cli.out.flush()?;
            }
            Err(CliError::DaemonEnded)
        })
    }
}

async fn show(paths: &Paths, json: bool, cli: &mut Cli) -> Result<(), CliError> {
    let status: Status = ask_for(paths, &Command::RuntimeStatus {}).await?;
    if json {
        render::json(&mut cli.out, &status)?;
        return Ok(());
    }
    let color = match (status.state, status.session.as_ref().map(|session| session.health.status)) {
        (State::Failed, _) | (_, Some(Health::Failed)) => Style::new().red(),
        (_, Some(Health::Degraded)) | (State::Recovering | State::Replacing, _) => Style::new().yellow(),
        (State::Connected, _) => Style::new().green(),
        _ => Style::new(),
    };
    let reason = match status.reason {
        Reason::None => String::new(),
        reason => format!(" ({})", reason.as_str().replace('_', " ")),
    };
    writeln!(
        cli.out,
        "{} since {}{reason}",
        color.apply_to(status.state).bold(),
        status.since.with_timezone(&Local).format("%H:%M:%S")
    )?;
    if let Some(session) = &status.session {
        render::fields(&mut cli.out, &describe(session, Utc::now()))?;
    }
    if let Some(failure) = status.last_failure.filter(|_| status.state != State::Connected) {
        let at = failure.at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S");
        let text = format!("{at}, config {}: {}", failure.config_id, failure.detail);
        render::fields(&mut cli.out, &[("last failure", text)])?;
    }
    if status.state == State::Disconnected {
        writeln!(
            cli.out,
            "{}",
            Style::new().dim().apply_to("connect with 'xrat connect ID'; 'xrat list' shows the ids")
        )?;
    }
    Ok(())
}

fn describe(session: &Session, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("node", format!("{}, config {}", node(session), session.config_id)),
        (
            "engine",
            format!(
                "{} {}, pid {}, session {}",
                session.engine, session.engine_version, session.pid, session.session_id
            ),
        ),
        ("proxy", proxies(session)),
        ("health", health(session, now)),
    ];
    if let Some(traffic) = session.traffic {
        let (up, down) = (HumanBytes(traffic.uplink_bytes), HumanBytes(traffic.downlink_bytes));
        fields.push(("traffic", format!("{up} up, {down} down")));
    }
    fields
}

fn health(session: &Session, now: DateTime<Utc>) -> String {
    let mut text = session.health.status.to_string();
    if let Some(delay_ms) = session.delay_ms {
        text.push_str(&format!(", {delay_ms} ms"));
    }
    if session.health.consecutive_failures > 0 {
        text.push_str(&format!(", {} failed checks in a row", session.health.consecutive_failures));
    }
    if let Some(at) = session.health.checked_at {
        let age = (now - at).to_std().unwrap_or_default();
        text.push_str(&format!(", checked {} ago", indicatif::HumanDuration(age)));
    }
    text
}

/// The session's node in a few words.
pub(super) fn node(session: &Session) -> String {
    let name = render::clean(&session.name);
    let host = if session.address.contains(':') { format!("[{}]", session.address) } else { session.address.clone() };
    format!("{name} ({} {host}:{})", session.protocol, session.port)
}

/// Where programs find the session.
pub(super) fn proxies(session: &Session) -> String {
    let http = session.http.as_ref().map(|http| format!("  http://{http}")).unwrap_or_default();
    format!("socks5h://{}{http}", session.socks)
}
