//! `test`: how fast each config answers, or what is wrong with it.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use async_signal::{Signal, Signals};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::error::CliError;
use super::render::{Cell, Tone};
use super::{Cli, notify, render};
use crate::config::ConfigId;
use crate::paths::Paths;
use crate::probe::batch::{FailureKind, Job, Options, Summary, Verdict};
use crate::probe::stored::{self, MAX_CONCURRENCY, MAX_TIMEOUT, millis};
use crate::settings::Settings;
use crate::store::{ConfigRow, Shared, Sort, Store};

/// Test configs: how long each takes to answer. Ctrl-C stops it and keeps what is done (exit code 130).
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "test")]
pub(super) struct Test {
    /// also those that are disabled
    #[argh(switch)]
    all: bool,

    /// how long each may take, such as 5s (the default is testing.timeout_ms) or 500ms
    #[argh(option, from_str_fn(duration), arg_name = "time")]
    timeout: Option<Duration>,

    /// so many at once (the default is runtime.rotation.test_concurrency), of them 16 with one server
    #[argh(option, from_str_fn(concurrency), arg_name = "n")]
    concurrency: Option<usize>,

    /// print the results as JSON
    #[argh(switch)]
    json: bool,

    /// numbers, names or parts of names that no other has; all enabled ones when left out
    #[argh(positional)]
    ids: Vec<String>,
}

/// Reads `5s`, `500ms`, and `5` for seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit): (_, fn(u64) -> Duration) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, Duration::from_millis),
        (None, Some(digits)) => (digits, Duration::from_secs),
        (None, None) => (text, Duration::from_secs),
    };
    match digits.parse().map(unit) {
        Ok(time) if !time.is_zero() && time <= MAX_TIMEOUT => Ok(time),
        _ => Err(format!("expected a time such as 5s or 500ms, at most {} s", MAX_TIMEOUT.as_secs())),
    }
}

fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=MAX_CONCURRENCY) => Ok(number),
        _ => Err(format!("expected a number from 1 to {MAX_CONCURRENCY}")),
    }
}

/// A config with what its test found.
struct Tested {
    row: ConfigRow,
    verdict: Verdict,
}

impl Test {
    /// Tests, stores the results while it does, and prints them, fastest first.
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let (paths, store) = cli.store()?;
        let settings = cli.settings(&paths)?;
        let rows = self.rows(&store)?;
        if rows.is_empty() {
            render::note(if store.configs(None, Sort::Id)?.is_empty() {
                "There is no config yet: 'xrat import SOURCE' adds some."
            } else {
                "Every config is disabled: '--all' tests them all the same."
            });
        }
        let options = self.options(&settings)?;
        let result = async_io::block_on(test(&paths, &settings, store, rows, &options));
        // Also after a failure: what was done before is stored.
        notify::configs_changed(&paths);
        let (mut tested, summary) = result?;
        tested.sort_by_key(|one| (order(&one.verdict), one.row.config_id));
        if self.json {
            let results: Vec<_> = tested.iter().map(value).collect();
            let failed: BTreeMap<_, _> = summary.failed.iter().map(|(kind, count)| (kind.as_str(), count)).collect();
            let answer = json!({
                "working": summary.working,
                "failed": failed,
                "untested": summary.untested,
                "results": results,
            });
            render::json(&mut cli.out, &answer)?;
        } else if !tested.is_empty() {
            let rows: Vec<_> = tested.iter().map(cells).collect();
            render::table(&mut cli.out, ["ID", "NAME", "ADDRESS", "DELAY", "FAILURE"], &rows)?;
            writeln!(cli.out, "{}", counts(&summary))?;
        }
        if summary.untested > 0 {
            return Err(CliError::Interrupted { untested: summary.untested });
        }
        if summary.working == 0 { Err(CliError::NoneWorks) } else { Ok(()) }
    }

    fn rows(&self, store: &Store) -> Result<Vec<ConfigRow>, CliError> {
        let mut rows = store.configs(None, Sort::Id)?;
        if self.ids.is_empty() {
            rows.retain(|row| self.all || row.disabled.is_none());
        } else {
            let wanted: HashSet<ConfigId> = self.ids.iter().map(|id| store.find(id)).collect::<Result<_, _>>()?;
            rows.retain(|row| wanted.contains(&row.config_id));
        }
        Ok(rows)
    }

    fn options(&self, settings: &Settings) -> Result<Options, CliError> {
        let usual = stored::options(settings)
            .map_err(|error| CliError::Usage(format!("testing.url in config.toml {error}")))?;
        Ok(Options {
            concurrency: self.concurrency.unwrap_or(usual.concurrency),
            timeout: self.timeout.unwrap_or(usual.timeout),
            ..usual
        })
    }
}

/// Tests all rows until done or interrupted; every verdict that is returned is stored.
async fn test(
    paths: &Paths,
    settings: &Settings,
    store: Store,
    rows: Vec<ConfigRow>,
    options: &Options,
) -> Result<(Vec<Tested>, Summary), CliError> {
    if rows.is_empty() {
        return Ok((Vec::new(), Summary::default()));
    }
    // Caught from here on: whatever was begun is ended and stored.
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let stop = async {
        signals.next().await;
    };
    let store = Shared::new(store);
    let jobs = rows.iter().map(|row| Job { config_id: row.config_id, config: row.config.clone() }).collect();
    let bar = progress_bar(rows.len());
    let mut rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.config_id, row)).collect();
    let (mut tested, mut fastest, mut working) = (Vec::new(), None, 0_usize);
    let report = |id: ConfigId, verdict: Verdict| {
        let Some(row) = rows.remove(&id) else { return };
        if let Verdict::Delay(delay) = verdict {
            working += 1;
            if fastest.as_ref().is_none_or(|(best, _)| delay < *best) {
                fastest = Some((delay, render::clean(&row.config.name)));
            }
            if let Some((best, name)) = &fastest {
                bar.set_message(format!("{working} work, the fastest in {} ms: {name}", best.as_millis()));
            }
        }
        bar.inc(1);
        tested.push(Tested { row, verdict });
    };
    let summary = stored::run(paths, settings, &store, jobs, options, stop, report).await;
    bar.finish_and_clear();
    Ok((tested, summary?))
}

/// On standard error, and nowhere when that is no terminal.
fn progress_bar(count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template("Testing {pos}/{len} [{bar:24}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.tick();
    bar
}

/// The fastest first, then failures by kind.
fn order(verdict: &Verdict) -> (Option<FailureKind>, Duration) {
    match verdict {
        Verdict::Delay(delay) => (None, *delay),
        Verdict::Failed(failure) => (Some(failure.kind), Duration::ZERO),
    }
}

fn cells(one: &Tested) -> [Cell; 5] {
    let (delay, failure) = match &one.verdict {
        Verdict::Delay(delay) => (Cell::toned(format!("{} ms", millis(*delay)), Tone::Good), "".into()),
        Verdict::Failed(failure) => (Cell::toned("-", Tone::Dim), Cell::toned(&failure.detail, Tone::Bad)),
    };
    let config = &one.row.config;
    [one.row.config_id.to_string().into(), config.name.as_str().into(), config.endpoint().into(), delay, failure]
}

fn value(one: &Tested) -> Value {
    let (delay_ms, failure) = match &one.verdict {
        Verdict::Delay(delay) => (Some(millis(*delay)), None),
        Verdict::Failed(failure) => (None, Some(json!({ "kind": failure.kind.as_str(), "detail": failure.detail }))),
    };
    json!({
        "config_id": one.row.config_id,
        "name": one.row.config.name,
        "delay_ms": delay_ms,
        "failure": failure,
    })
}

/// One line: how many work, and why the others do not.
fn counts(summary: &Summary) -> String {
    let failed: usize = summary.failed.values().sum();
    let mut text = format!("{} of {} work", summary.working, summary.working + failed);
    let failures = summary.failed.iter().map(|(kind, count)| {
        let what = match kind {
            FailureKind::TimedOut => "timed out",
            FailureKind::Connection => "without a connection",
            FailureKind::Status => "answered with an error",
            FailureKind::Unsupported => "unsupported by the engine",
            FailureKind::Refused => "refused by the engine",
            FailureKind::EngineEnded => "ended the engine",
            FailureKind::InUse => "in use",
        };
        format!("{count} {what}")
    });
    let failures: Vec<_> = failures.collect();
    if !failures.is_empty() {
        text.push_str(&format!("; {}", failures.join(", ")));
    }
    if summary.untested > 0 {
        text.push_str(&format!("; {} not tested", summary.untested));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "0ms", "s", "ms", "-1s", "1.5s", "5m", "61s", "99999999999999999999"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_line_counts_what_failed_by_kind() {
        let failed = BTreeMap::from([(FailureKind::Refused, 1), (FailureKind::TimedOut, 2)]);
        let summary = Summary { working: 3, failed, untested: 4 };
        assert_eq!(counts(&summary), "3 of 6 work; 2 timed out, 1 refused by the engine; 4 not tested");
    }
}
