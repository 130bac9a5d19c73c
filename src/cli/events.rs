//! `events`: what happens, as it happens.

use std::io::{IsTerminal, Write};
use std::pin::pin;

use argh::{ArgsInfo, FromArgs};
use async_io::Async;
use chrono::Local;
use futures::future::{Either, select};

use super::client::root;
use super::error::CliError;
use super::{Cli, render, status};
use crate::event::{Event, Recorded};
use crate::ipc::client;

/// Follow what the daemon does.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "events")]
pub(super) struct Events {
    /// print the events as the daemon sends them, one JSON object a line
    #[argh(switch)]
    json: bool,
}

impl Events {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        let follow = async {
            let mut events = match client::subscribe(&paths.socket()).await? {
                Ok(events) => events,
                Err(answer) => return Err(CliError::Refused(answer)),
            };
            if self.json {
                while let Some(line) = events.next_line().await? {
                    writeln!(cli.out, "{line}")?;
                    cli.out.flush()?;
                }
            } else {
                while let Some(event) = events.next().await? {
                    let time = event.at.with_timezone(&Local).format("%H:%M:%S%.3f");
                    writeln!(cli.out, "{time}  {}", render::clean(&describe(&event)))?;
                    cli.out.flush()?;
                }
            }
            Err(CliError::DaemonEnded)
        };
        let gone = output_closed();
        match async_io::block_on(select(pin!(follow), pin!(gone))) {
            Either::Left((ended, _)) => ended,
            // The reader has what it wanted.
            Either::Right(_) => Ok(()),
        }
    }
}

/// Waits until nobody reads standard output any more: without it `events | head -1` would stay for the next event.
/// Never on a terminal or a file.
async fn output_closed() {
    let stdout = std::io::stdout();
    let watched = if stdout.is_terminal() { None } else { Async::new_nonblocking(stdout).ok() };
    // The write end of a pipe becomes readable only by the end of its reader.
    match watched {
        Some(watched) => drop(watched.readable().await),
        None => std::future::pending().await,
    }
}

fn describe(event: &Recorded) -> String {
    match &event.event {
        Event::Snapshot(status) => {
            let session = status.session.as_ref().map(|session| format!(": {}", status::node(session)));
            format!("{}{}", status.state, session.unwrap_or_default())
        }
        Event::StateChanged { new, old, reason, session } => {
            let session = session.as_ref().map(|session| format!(": {}", status::node(session)));
            format!("{old} -> {new} ({reason}){}", session.unwrap_or_default())
        }
        Event::HealthChanged { session_id, health, delay_ms, detail } => {
            let delay = delay_ms.map(|delay| format!(", {delay} ms")).unwrap_or_default();
            let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
            format!("session {session_id} is {}{delay}{detail}", health.status)
        }
        Event::SessionFailed { session_id, reason, detail } => {
            format!("session {session_id} failed ({reason}): {detail}")
        }
        Event::Rotated { old_config_id, new_config_id, decision } => {
            let old = old_config_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
            format!("moved from config {old} to {new_config_id}: {}", decision.reason)
        }
        Event::RotationDecided { decision } => format!("rotation ({}): {}", decision.trigger.as_str(), decision.reason),
        Event::RotationChanged(status) => {
            let next = status.next_timer_at.map(|at| at.with_timezone(&Local).format(", next at %H:%M:%S").to_string());
            let enabled = if status.enabled { "on" } else { "off" };
            format!("automatic rotation is {enabled}{}", next.unwrap_or_default())
        }
        Event::Drained { session_id, cut_connections: 0 } => format!("session {session_id} has ended"),
        Event::Drained { session_id, cut_connections } => {
            format!("session {session_id} has ended; {cut_connections} connections were cut")
        }
        Event::NetworkChanged { online: true } => "the network is back".to_owned(),
        Event::NetworkChanged { online: false } => "the machine is offline".to_owned(),
        Event::ConfigsChanged {} => "configs changed".to_owned(),
        Event::SettingsChanged {} => "settings read again".to_owned(),
        Event::Lagged { missed } => format!("{missed} events missed: this reader was too slow"),
    }
}
