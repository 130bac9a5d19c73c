//! `status`: the session in words, once or as it changes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use chrono::{DateTime, Local, Utc};
use console::Style;
use futures::StreamExt;
use futures::future::{Either, select};
use indicatif::HumanBytes;

use super::client::{ask_for, root};
use super::error::CliError;
use super::{Cli, render};
use crate::command::Command;
use crate::event::{BusPresence, Health, LastFailure, Reason, Recorded, Session, SessionId, State, Status, Traffic};
use crate::ipc::client::{self, ClientError, Events};
use crate::paths::Paths;

/// How often a terminal is drawn anew.
const REDRAW: Duration = Duration::from_secs(1);
/// A timer that does not matter.
const NEVER: Duration = Duration::from_secs(1 << 30);

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
                return show(&paths, self.json, None, cli).await;
            }
            let events = match client::subscribe(&paths.socket()).await? {
                Ok(events) => events,
                Err(answer) => return Err(CliError::Refused(answer)),
            };
            let redraw = !self.json && std::io::stdout().is_terminal();
            let mut rate = Rate::default();
            // On a terminal the counters go on between events; a reader of a pipe wants changes only.
            let mut every = async_io::Timer::interval(if redraw { REDRAW } else { NEVER });
            let mut next = Box::pin(next_event(events));
            loop {
                match select(next, every.next()).await {
                    Either::Left(((event, events), _)) => {
                        if event?.is_none() {
                            break;
                        }
                        next = Box::pin(next_event(events));
                    }
                    Either::Right((_, waiting)) => next = waiting,
                }
                if redraw {
                    write!(cli.out, "\x1b[H\x1b[2J")?;
                }
                show(&paths, self.json, Some(&mut rate), cli).await?;
                if !redraw && !self.json {
                    writeln!(cli.out)?;
                }
                cli.out.flush()?;
            }
            Err(CliError::DaemonEnded)
        })
    }
}

/// The next event, and the stream back: reading a line is not to be dropped half-way.
async fn next_event(mut events: Events) -> (Result<Option<Recorded>, ClientError>, Events) {
    (events.next().await, events)
}

async fn show(paths: &Paths, json: bool, rate: Option<&mut Rate>, cli: &mut Cli) -> Result<(), CliError> {
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
        let mut fields = describe(session, Utc::now());
        if let Some((up, down)) = rate.and_then(|rate| rate.of(session)) {
            fields.push(("rate", format!("{}/s up, {}/s down", HumanBytes(up), HumanBytes(down))));
        }
        render::fields(&mut cli.out, &fields)?;
    }
    if let Some(text) = system_proxy(paths) {
        render::fields(&mut cli.out, &[("system proxy", text)])?;
    }
    if let Some(failure) = unanswered(&status) {
        let at = failure.at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S");
        let text = format!("{at}, config {}: {}", failure.config_id, failure.detail);
        render::fields(&mut cli.out, &[("last failure", text)])?;
    }
    if let Some(text) = on_bus(status.bus) {
        render::fields(&mut cli.out, &[("session bus", text.to_owned())])?;
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

/// The last failure, as long as nothing has begun or was asked for since: the daemon keeps it for good.
fn unanswered(status: &Status) -> Option<&LastFailure> {
    let failure = status.last_failure.as_ref()?;
    let is_reason = match status.reason {
        Reason::EngineExited
        | Reason::EngineNotReady
        | Reason::PortLost
        | Reason::ExchangeFailed
        | Reason::ConfigUnsupported
        | Reason::EngineMissing
        | Reason::AddressInUse
        | Reason::AdoptionRefused
        | Reason::Offline
        | Reason::TooManyFailures
        | Reason::InternalError => true,
        Reason::Unknown
        | Reason::None
        | Reason::UserRequested
        | Reason::TimerRotation
        | Reason::ManualRotation
        | Reason::HealthRotation
        | Reason::Adopted
        | Reason::Resumed
        | Reason::DaemonShutdown
        | Reason::Autoconnect => false,
    };
    let shown = match status.state {
        State::Connected => false,
        State::Recovering | State::Failed => true,
        _ => is_reason || failure.at >= status.since,
    };
    Some(failure).filter(|_| shown)
}

/// The desktop's proxy settings in a few words, where they are used or were meant to be.
fn system_proxy(paths: &Paths) -> Option<String> {
    match crate::system_proxy::summary(paths) {
        Ok(summary) => match (summary.problem, summary.on) {
            (Some(problem), _) => Some(problem),
            (None, Some((_, desktops))) => {
                let names: Vec<_> = desktops.iter().map(ToString::to_string).collect();
                Some(format!("on ({})", names.join(", ")))
            }
            (None, None) => None,
        },
        Err(error) => Some(error.to_string()),
    }
}

/// What there is to say of the session bus; nothing when all is as usual.
pub(super) fn on_bus(presence: BusPresence) -> Option<&'static str> {
    match presence {
        BusPresence::Taken => Some("another daemon has the name; this one takes it when that one ends"),
        BusPresence::Off | BusPresence::Absent | BusPresence::Owned => None,
    }
}

/// What flowed between two looks.
#[derive(Default)]
struct Rate(Option<(SessionId, Instant, Traffic)>);

impl Rate {
    /// Bytes a second up and down since the last look at the same session.
    fn of(&mut self, session: &Session) -> Option<(u64, u64)> {
        let (traffic, now) = (session.traffic?, Instant::now());
        let (id, at, before) = self.0.replace((session.session_id, now, traffic))?;
        let passed = u64::try_from((now - at).as_millis()).ok().filter(|ms| *ms > 0 && id == session.session_id)?;
        let per_second = |now: u64, before: u64| now.saturating_sub(before).saturating_mul(1000) / passed;
        Some((
            per_second(traffic.uplink_bytes, before.uplink_bytes),
            per_second(traffic.downlink_bytes, before.downlink_bytes),
        ))
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_until_something_else_happens() {
        let at = DateTime::UNIX_EPOCH + Duration::from_secs(100);
        let failure = LastFailure {
            at,
            session_id: None,
            config_id: crate::config::ConfigId(7),
            reason: Reason::EngineExited,
            detail: "it ended".into(),
        };
        let shown = |state, reason, later: u64| {
            let since = at + Duration::from_secs(later);
            let (last_failure, bus) = (Some(failure.clone()), BusPresence::Off);
            unanswered(&Status { state, reason, since, session: None, last_failure, bus }).is_some()
        };
        // The state that the failure led to.
        assert!(shown(State::Disconnected, Reason::EngineExited, 0));
        assert!(shown(State::Disconnected, Reason::UserRequested, 0));
        assert!(shown(State::Failed, Reason::TooManyFailures, 60));
        assert!(shown(State::Recovering, Reason::Resumed, 60));
        // A session that did well, and its end.
        assert!(!shown(State::Connected, Reason::UserRequested, 1));
        assert!(!shown(State::Disconnected, Reason::UserRequested, 60));
        assert!(!shown(State::Disconnected, Reason::None, 60));
    }
}
