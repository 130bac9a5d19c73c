//! The systemd user unit that `daemon install` sets up, for `daemon start` and `daemon stop`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{CliError, Exit};
use super::install::unit_file;
use crate::paths::Paths;

const UNIT: &str = "xrat.service";
/// Where its log is, for messages.
const LOG: &str = "'journalctl --user -u xrat' has its log";

/// The unit as the user's service manager knows it.
pub(super) struct Service {
    state: String,
}

impl Service {
    /// The unit, if it is installed and runs the daemon of this root; none without a service manager either.
    pub(super) fn of(paths: &Paths) -> Option<Self> {
        // A package's unit runs the default root; only `daemon install` makes one for another.
        if !paths.is_default() && !unit_file().is_ok_and(|file| file.exists()) {
            return None;
        }
        let said = show(&["LoadState", "ActiveState", "ExecStart"])?;
        let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let command = value("ExecStart")?;
        let same_root = if paths.is_default() {
            !command.contains(" --root ")
        } else {
            command.contains(&format!(" --root {} daemon run", paths.root().display()))
        };
        (value("LoadState") == Some("loaded") && same_root)
            .then(|| Self { state: value("ActiveState").unwrap_or_default().to_owned() })
    }

    /// Whether it runs, or is about to: also while systemd waits before it starts it again.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.state.as_str(), "inactive" | "failed")
    }

    /// Starts it; done when the daemon has said that it is ready.
    ///
    /// # Errors
    /// [`CliError::NotStarted`] with what systemd says.
    pub(super) fn start(&self) -> Result<(), CliError> {
        run("start").map_err(|problem| {
            let status = show(&["ExecMainStatus"]).unwrap_or_default();
            let usage = status.trim() == format!("ExecMainStatus={}", Exit::Usage as i32);
            CliError::NotStarted { what: format!("systemd: {problem} ({LOG})"), usage, lines: Vec::new() }
        })
    }

    /// Stops it; done when the daemon has ended.
    ///
    /// # Errors
    /// [`CliError::NotStopped`] with what systemd says.
    pub(super) fn stop(&self) -> Result<(), CliError> {
        run("stop").map_err(|problem| CliError::NotStopped(format!("systemd: {problem} ({LOG})")))
    }

    /// What is wrong when it runs and nobody answers at `socket`.
    pub(super) fn silent(&self, socket: &Path) -> CliError {
        let what = format!("{UNIT} runs, and nobody answers at {}; {LOG}", socket.display());
        CliError::NotStarted { what, usage: false, lines: Vec::new() }
    }
}

fn show(properties: &[&str]) -> Option<String> {
    let output = systemctl(&["show", "--property", &properties.join(","), UNIT]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(verb: &str) -> Result<(), String> {
    match systemctl(&[verb, UNIT]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.arg("--user").args(arguments).stdin(Stdio::null());
    command
}
