//! `connect` and `disconnect`.

use std::io::Write;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use async_io::Timer;
use futures::future::{Either, select};
use serde_json::Value;

use super::client::{accept, ask, root};
use super::error::CliError;
use super::{Cli, render, status};
use crate::command::Command;
use crate::config::ConfigId;
use crate::event::{Event, Health, Session, SessionId};
use crate::ipc::client::{self, ClientError, Events};
use crate::store::Store;

/// How long `connect` waits for the first exchange through the new session.
const FIRST_EXCHANGE: Duration = Duration::from_secs(5);

/// Start a session for a config; without one the daemon chooses: the last one, or the best by the last tests.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "connect")]
pub(super) struct Connect {
    /// print the session as JSON
    #[argh(switch)]
    json: bool,

    /// number or name of the config
    #[argh(positional)]
    id: Option<String>,
}

impl Connect {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        let (mut session, events) = async_io::block_on(async {
            // Before anything else: without a daemon the id does not matter.
            client::dial(&paths.socket(), client::MAX_ATTEMPTS).await?;
            let config_id = match &self.id {
                Some(id) => Store::open(&paths.database())?.find(id)?,
                None => ConfigId::NONE,
            };
            // Subscribed first: the exchange may be done before the answer is read.
            let events = client::subscribe(&paths.socket()).await?.ok();
            let answer = client::call(&paths.socket(), &Command::RuntimeConnect { config_id }).await?;
            let session: Session = serde_json::from_value(accept(answer)?).map_err(ClientError::Protocol)?;
            Ok::<_, CliError>((session, events))
        })?;
        if !self.json {
            writeln!(cli.out, "Connected to {}", status::node(&session))?;
            writeln!(cli.out, "{}", status::proxies(&session))?;
            cli.out.flush()?;
        }
        let proof = async_io::block_on(async {
            let first = first_exchange(events, &mut session);
            match select(std::pin::pin!(first), Timer::after(FIRST_EXCHANGE)).await {
                Either::Left((proof, _)) => proof,
                Either::Right(_) => Err(format!("no answer within {} s", FIRST_EXCHANGE.as_secs())),
            }
        });
        if self.json {
            render::json(&mut cli.out, &session)?;
        } else if let Ok(delay_ms) = proof {
            writeln!(cli.out, "Healthy: {delay_ms} ms")?;
        }
        if let Err(failure) = proof {
            render::note(&format!("Warning: the session runs, but nothing came through the node yet: {failure}"));
        }
        Ok(())
    }
}

/// Waits for the first exchange through a session, and writes into the session what it showed.
async fn first_exchange(events: Option<Events>, session: &mut Session) -> Result<u32, String> {
    let mut events = events.ok_or("the daemon has no event stream left to tell of it")?;
    while let Some(event) = events.next().await.map_err(|error| error.to_string())? {
        match event.event {
            Event::HealthChanged { session_id, health, delay_ms, detail } if session_id == session.session_id => {
                let healthy = health.status == Health::Healthy;
                session.health = health;
                session.delay_ms = delay_ms;
                return match delay_ms {
                    Some(delay_ms) if healthy => Ok(delay_ms),
                    _ => Err(detail.unwrap_or_else(|| "no reason given".to_owned())),
                };
            }
            Event::SessionFailed { session_id, detail, .. } if session_id == session.session_id => return Err(detail),
            _ => {}
        }
    }
    Err("the daemon has ended".to_owned())
}

/// End the session.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "disconnect")]
pub(super) struct Disconnect {
    /// print the answer as JSON
    #[argh(switch)]
    json: bool,
}

impl Disconnect {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        let payload = async_io::block_on(ask(&paths, &Command::RuntimeDisconnect {}))?;
        if self.json {
            render::json(&mut cli.out, &payload)?;
        } else {
            match payload.get("stopped_session_id").and_then(Value::as_i64).map(SessionId) {
                Some(session_id) => writeln!(cli.out, "Disconnected (session {session_id})")?,
                None => writeln!(cli.out, "Disconnected")?,
            }
        }
        Ok(())
    }
}
