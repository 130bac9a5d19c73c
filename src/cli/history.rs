//! `history`: the sessions there were, and why each began and ended.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use chrono::{DateTime, Local, Utc};
use serde_json::json;

use super::error::CliError;
use super::render::{Cell, Tone};
use super::{Cli, render};
use crate::event::SessionStatus;
use crate::store::SessionRow;

/// Show the last sessions, newest first: why each began and ended.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "history")]
pub(super) struct History {
    /// print JSON
    #[argh(switch)]
    json: bool,

    /// how many (default: 20)
    #[argh(option, default = "20")]
    limit: u32,
}

impl History {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (_, store) = cli.store()?;
        let sessions = store.sessions(self.limit)?;
        if self.json {
            let rows: Vec<_> = sessions.iter().map(value).collect();
            render::json(&mut cli.out, &rows)?;
        } else if sessions.is_empty() {
            writeln!(cli.out, "There was no session yet: 'xrat connect ID' begins one")?;
        } else {
            let rows: Vec<_> = sessions.iter().map(row).collect();
            render::table(&mut cli.out, ["ID", "CONFIG", "ENGINE", "BEGAN", "WHY", "ENDED", "HOW"], &rows)?;
        }
        Ok(())
    }
}

fn value(row: &SessionRow) -> serde_json::Value {
    json!({
        "session_id": row.session_id,
        "config_id": row.config_id,
        "name": row.name,
        "protocol": row.protocol,
        "address": row.address,
        "port": row.port,
        "engine": row.engine,
        "engine_version": row.engine_version,
        "status": row.status,
        "begin_reason": row.begin_reason,
        "stop_reason": row.stop_reason,
        "failure_reason": row.failure.as_ref().map(|(reason, _)| reason),
        "failure_detail": row.failure.as_ref().map(|(_, detail)| detail),
        "started_at": row.started_at,
        "stopped_at": row.stopped_at,
    })
}

fn row(row: &SessionRow) -> [Cell; 7] {
    let words = |text: &str| text.replace('_', " ");
    let how = match (&row.failure, row.stop_reason) {
        (Some((_, detail)), _) => Cell::toned(detail, Tone::Bad),
        (None, Some(reason)) => words(reason.as_str()).into(),
        (None, None) if row.status == SessionStatus::Running => Cell::toned("running", Tone::Good),
        (None, None) => words(row.status.as_str()).into(),
    };
    [
        row.session_id.to_string().into(),
        format!("{} ({})", row.config_id, row.name).into(),
        format!("{} {}", row.engine, row.engine_version).into(),
        time(row.started_at).into(),
        words(row.begin_reason.as_str()).into(),
        row.stopped_at.map(time).unwrap_or_default().into(),
        how,
    ]
}

fn time(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%m-%d %H:%M:%S").to_string()
}
