//! `proxy start|status|rotate|stop|history|why`: moving to another node, by hand and automatically.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use chrono::{DateTime, Local, Utc};
use serde_json::Value;

use super::client::{ask, ask_for, root};
use super::error::CliError;
use super::render::{Cell, Tone};
use super::{Cli, render, status};
use crate::command::{Candidate, Command, Decision, DecisionOutcome, RotationStatus, Trigger, Verdict};
use crate::config::ConfigId;
use crate::event::Session;
use crate::ipc::client::ClientError;
use crate::paths::Paths;
use crate::store::Store;

/// So many decisions are shown unless another number is asked for.
const DEFAULT_LIMIT: u32 = 20;

/// Move to another node, by hand or automatically.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "proxy")]
pub(super) struct Proxy {
    #[argh(subcommand)]
    action: Action,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Action {
    Start(Start),
    Status(RotationStatusCommand),
    Rotate(Rotate),
    Stop(Stop),
    History(History),
    Why(Why),
}

/// Rotate automatically, by the timer.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "start")]
struct Start {
    /// print the rotation's status as JSON
    #[argh(switch)]
    json: bool,
}

/// Show whether, when and why the session moves.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
struct RotationStatusCommand {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Move to the best other config, or to the one that is named, without losing a connection.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rotate")]
struct Rotate {
    /// print the answer as JSON
    #[argh(switch)]
    json: bool,

    /// number or name of the config to move to; that of the session itself gets a new engine with the present settings
    #[argh(positional)]
    id: Option<String>,
}

/// Stop rotating by the timer.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "stop")]
struct Stop {
    /// print the rotation's status as JSON
    #[argh(switch)]
    json: bool,
}

/// Show the last decisions, newest first.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "history")]
struct History {
    /// print JSON
    #[argh(switch)]
    json: bool,

    /// how many (default: 20)
    #[argh(option)]
    limit: Option<u32>,
}

/// Explain the last decision.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "why")]
struct Why {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Proxy {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        match self.action {
            Action::Start(Start { json }) => show(cli, &paths, &Command::ProxyStart {}, json),
            Action::Status(RotationStatusCommand { json }) => show(cli, &paths, &Command::ProxyStatus {}, json),
            Action::Stop(Stop { json }) => show(cli, &paths, &Command::ProxyStop {}, json),
            Action::Rotate(Rotate { json, id }) => rotate(cli, &paths, id.as_deref(), json),
            Action::History(History { json, limit }) => {
                let decisions = decisions(&paths, limit.unwrap_or(DEFAULT_LIMIT))?;
                if json {
                    render::json(&mut cli.out, &decisions)?;
                } else {
                    table(cli, &decisions)?;
                }
                Ok(())
            }
            Action::Why(Why { json }) => why(cli, &paths, json),
        }
    }
}

fn decisions(paths: &Paths, limit: u32) -> Result<Vec<Decision>, CliError> {
    async_io::block_on(ask_for(paths, &Command::RotationHistory { limit: Some(limit) }))
}

fn show(cli: &mut Cli, paths: &Paths, command: &Command, json: bool) -> Result<(), CliError> {
    let payload = async_io::block_on(ask(paths, command))?;
    if json {
        render::json(&mut cli.out, &payload)?;
        return Ok(());
    }
    let status: RotationStatus = serde_json::from_value(payload).map_err(ClientError::Protocol)?;
    let mut fields = vec![(
        "automatic rotation",
        match (status.enabled, status.next_timer_at) {
            (true, Some(at)) => format!("every {} s, next at {}", status.interval_secs, time(at)),
            (true, None) => format!("every {} s, once there is a session", status.interval_secs),
            (false, _) => "off".to_owned(),
        },
    )];
    let health = if status.health_trigger_enabled { "moves to another node" } else { "starts the same node again" };
    fields.push(("after a failure", health.to_owned()));
    if let Some(until) = status.cooldown_until {
        fields.push(("cooldown until", time(until)));
    }
    if let Some(at) = status.last_rotation_at {
        fields.push(("last moved", time(at)));
    }
    if let (Some(trigger), Some(result)) = (status.last_trigger, status.last_result) {
        fields.push(("last decision", format!("{} ({})", outcome(result), trigger.as_str())));
    }
    if let Some(id) = status.active_config_id {
        fields.push(("active config", id.to_string()));
    }
    render::fields(&mut cli.out, &fields)?;
    Ok(())
}

fn rotate(cli: &mut Cli, paths: &Paths, id: Option<&str>, json: bool) -> Result<(), CliError> {
    let payload = async_io::block_on(async {
        crate::ipc::client::dial(&paths.socket(), crate::ipc::client::MAX_ATTEMPTS).await?;
        let candidate_id = match id {
            Some(id) => Some(Store::open(&paths.database())?.find(id)?),
            None => None,
        };
        ask(paths, &Command::RuntimeReplace { trigger: Trigger::Manual, candidate_id }).await
    })?;
    if json {
        render::json(&mut cli.out, &payload)?;
        return Ok(());
    }
    let part = |name: &str| payload.get(name).cloned().unwrap_or(Value::Null);
    let session: Session = serde_json::from_value(part("session")).map_err(ClientError::Protocol)?;
    let decision: Decision = serde_json::from_value(part("decision")).map_err(ClientError::Protocol)?;
    let delay = session.delay_ms.map(|delay| format!(", {delay} ms")).unwrap_or_default();
    writeln!(cli.out, "Moved to {}{delay}", status::node(&session))?;
    if decision.candidates.len() > 1 {
        writeln!(
            cli.out,
            "{} candidates in {} ms: 'xrat proxy why' tells more",
            decision.candidates.len(),
            decision.took_ms
        )?;
    }
    Ok(())
}

fn table(cli: &mut Cli, decisions: &[Decision]) -> Result<(), CliError> {
    if decisions.is_empty() {
        writeln!(cli.out, "There is no decision yet")?;
        return Ok(());
    }
    let config = |id: Option<ConfigId>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let rows: Vec<_> = decisions
        .iter()
        .map(|decision| {
            [
                decision.decision_id.to_string().into(),
                time(decision.at).into(),
                decision.trigger.as_str().into(),
                Cell::toned(outcome(decision.outcome), tone(decision.outcome)),
                config(decision.old_config_id).into(),
                config(decision.new_config_id).into(),
                Cell::from(&decision.reason),
            ]
        })
        .collect();
    render::table(&mut cli.out, ["ID", "TIME", "TRIGGER", "OUTCOME", "FROM", "TO", "WHY"], &rows)?;
    Ok(())
}

fn why(cli: &mut Cli, paths: &Paths, json: bool) -> Result<(), CliError> {
    let decision = decisions(paths, 1)?.into_iter().next();
    if json {
        render::json(&mut cli.out, &decision)?;
        return Ok(());
    }
    let Some(decision) = decision else {
        writeln!(cli.out, "There is no decision yet: the session has never moved")?;
        return Ok(());
    };
    writeln!(
        cli.out,
        "{}: {} ({} trigger, {} ms)",
        time(decision.at),
        outcome(decision.outcome),
        decision.trigger.as_str(),
        decision.took_ms
    )?;
    writeln!(cli.out, "Why: {}", render::clean(&decision.reason))?;
    let names = names(paths);
    let name = |id: ConfigId| match names.as_ref().and_then(|names| names.config(id).ok().flatten()) {
        Some(row) => format!("{id} ({})", row.config.name),
        None => id.to_string(),
    };
    if let Some(old) = decision.old_config_id {
        writeln!(cli.out, "From: {}", render::clean(&name(old)))?;
    }
    if let Some(new) = decision.new_config_id {
        writeln!(cli.out, "To: {}", render::clean(&name(new)))?;
    }
    let rows: Vec<_> = decision
        .candidates
        .iter()
        .map(|candidate: &Candidate| {
            let (verdict, tone) = match candidate.verdict {
                Verdict::Chosen => ("chosen", Tone::Good),
                Verdict::NotNeeded => ("works", Tone::Plain),
                Verdict::TestFailed => ("failed its test", Tone::Bad),
                Verdict::StartFailed => ("did not start", Tone::Bad),
            };
            [
                Cell::from(name(candidate.config_id)),
                candidate.delay_ms.map_or_else(|| "-".to_owned(), |delay| format!("{delay} ms")).into(),
                Cell::toned(verdict, tone),
                Cell::from(candidate.failure.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        render::table(&mut cli.out, ["CANDIDATE", "DELAY", "VERDICT", "FAILURE"], &rows)?;
    }
    Ok(())
}

/// The database, for names; without it the numbers must do.
fn names(paths: &Paths) -> Option<Store> {
    Store::open(&paths.database()).ok()
}

fn outcome(outcome: DecisionOutcome) -> &'static str {
    match outcome {
        DecisionOutcome::Replaced => "replaced",
        DecisionOutcome::Stayed => "stayed",
        DecisionOutcome::NoCandidate => "no candidate",
        DecisionOutcome::Failed => "failed",
        DecisionOutcome::Cooldown => "cooldown",
        DecisionOutcome::Offline => "offline",
    }
}

fn tone(outcome: DecisionOutcome) -> Tone {
    match outcome {
        DecisionOutcome::Replaced => Tone::Good,
        DecisionOutcome::NoCandidate | DecisionOutcome::Failed => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}
