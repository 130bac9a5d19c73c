//! `daemon start|stop|status|restart|run`, and `install|uninstall` by way of their own file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use async_io::{Async, Timer};
use futures::future::{Either, select};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::client::{accept, ask, ask_for, root};
use super::error::CliError;
use super::install::{Install, Uninstall};
use super::service::Service;
use super::status::on_bus;
use super::{Cli, render};
use crate::command::{Command, DaemonInfo};
use crate::daemon::Manner;
use crate::event::{BusPresence, Status};
use crate::ipc::client::{self, ClientError};
use crate::paths::Paths;

/// A daemon that is not there by then hangs: adopting a session takes a few seconds at the most, and one whose socket
/// file was deleted makes it again within 15 s.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// An engine has 5 s to end, a hung one 2 s more.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks whether the daemon answers.
const POLL: Duration = Duration::from_millis(5);
/// Between two attempts to take a lock that another daemon holds.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// So many of the last lines of its log are shown when a daemon does not start.
const LAST_LINES: usize = 5;
/// They are in so much of the log's end.
const LOG_TAIL: u64 = 8 << 10;

/// Start, stop or look at the daemon.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "daemon")]
pub(super) struct Daemon {
    #[argh(subcommand)]
    action: Action,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Action {
    Start(Start),
    Stop(Stop),
    Status(DaemonStatus),
    Restart(Restart),
    Run(Run),
    Install(Install),
    Uninstall(Uninstall),
}

/// Start the daemon in the background; returns when it answers.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "start")]
struct Start {
    /// print what the daemon says of itself as JSON
    #[argh(switch)]
    json: bool,
}

/// End the session and the daemon; returns when it is gone.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "stop")]
struct Stop {
    /// print the answer as JSON
    #[argh(switch)]
    json: bool,
}

/// Say whether the daemon answers (exit code 3 if not).
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
struct DaemonStatus {
    /// print what the daemon says of itself as JSON
    #[argh(switch)]
    json: bool,
}

/// Execute the daemon's program again, after an update: same process, session and connections stay.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "restart")]
struct Restart {
    /// print what the daemon says of itself as JSON
    #[argh(switch)]
    json: bool,
}

/// Be the daemon, in the foreground.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "run")]
struct Run {
    /// leave the terminal's session; what 'daemon start' uses
    #[argh(switch)]
    background: bool,

    /// stay off the session D-Bus
    #[argh(switch)]
    no_dbus: bool,
}

impl Daemon {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        match self.action {
            Action::Install(install) => install.run(cli),
            Action::Uninstall(uninstall) => uninstall.run(cli),
            Action::Start(Start { json }) => {
                let (info, new) = async_io::block_on(start(&paths))?;
                tell(cli, json, &info, if new { "Started" } else { "Already running" })
            }
            Action::Stop(Stop { json }) => {
                let stopped = async_io::block_on(stop(&paths))?;
                match (json, stopped) {
                    (true, _) => render::json(&mut cli.out, &serde_json::json!({ "stopped_pid": stopped }))?,
                    (false, Some(pid)) => writeln!(cli.out, "Stopped: pid {pid}")?,
                    (false, None) => writeln!(cli.out, "No daemon runs")?,
                }
                Ok(())
            }
            Action::Status(DaemonStatus { json }) => {
                let (info, status) = async_io::block_on(async {
                    let info = ask_for::<DaemonInfo>(&paths, &Command::DaemonPing {}).await?;
                    Ok::<_, CliError>((info, ask_for::<Status>(&paths, &Command::RuntimeStatus {}).await?))
                })?;
                if json {
                    #[derive(Serialize)]
                    struct Whole {
                        #[serde(flatten)]
                        info: DaemonInfo,
                        bus: BusPresence,
                    }
                    return Ok(render::json(&mut cli.out, &Whole { info, bus: status.bus })?);
                }
                tell(cli, false, &info, "Running")?;
                match on_bus(status.bus) {
                    Some(text) => Ok(writeln!(cli.out, "Session bus: {text}")?),
                    None => Ok(()),
                }
            }
            Action::Restart(Restart { json }) => {
                let (info, how) = async_io::block_on(restart(&paths))?;
                tell(cli, json, &info, how)
            }
            Action::Run(Run { background, no_dbus }) => Ok(crate::daemon::run(paths, Manner { background, no_dbus })?),
        }
    }
}

fn tell(cli: &mut Cli, json: bool, info: &DaemonInfo, how: &str) -> Result<(), CliError> {
    if json {
        render::json(&mut cli.out, info)?;
    } else {
        writeln!(
            cli.out,
            "{how}: pid {}, xrat {}, protocol version {}, instance {}",
            info.pid, info.version, info.protocol_version, info.instance_id
        )?;
    }
    Ok(())
}

/// What the daemon says of itself; none when there is no daemon.
async fn ping(paths: &Paths) -> Result<Option<DaemonInfo>, CliError> {
    match client::dial(&paths.socket(), 1).await {
        Err(ClientError::NotReachable { .. }) => Ok(None),
        _ => match ask_for(paths, &Command::DaemonPing {}).await {
            Ok(info) => Ok(Some(info)),
            // It ended between the two, or in the middle: a live daemon answers whatever happens.
            Err(CliError::Client(ClientError::NotReachable { .. } | ClientError::Broken(_))) => Ok(None),
            Err(error) => Err(error),
        },
    }
}

async fn start(paths: &Paths) -> Result<(DaemonInfo, bool), CliError> {
    if let Some(info) = ping(paths).await? {
        return Ok((info, false));
    }
    if let Some(service) = Service::of(paths) {
        service.start()?;
        // READY=1 comes after the socket is there.
        return match ping(paths).await? {
            Some(info) => Ok((info, true)),
            None => Err(service.silent(&paths.socket())),
        };
    }
    paths.create()?;
    let failed = |source| CliError::StartDaemon { source };
    let log = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(paths.daemon_log())
        .map_err(|source| CliError::Read { what: paths.daemon_log().display().to_string(), source })?;
    let begin = log.metadata().map_err(failed)?.len();
    // `xrat daemon start 2> daemon.log` means that file.
    let (stderr, log) = match own_stderr() {
        Some(file) => (file, None),
        None => (log.try_clone().map_err(failed)?, Some(log)),
    };
    let not_started = |what: &str, code: Option<i32>| CliError::NotStarted {
        what: what.to_owned(),
        usage: code == Some(super::error::Exit::Usage as i32),
        lines: log.as_ref().and_then(|log| last_lines(log, begin).ok()).unwrap_or_default(),
    };
    let program = std::env::current_exe().map_err(failed)?;
    let spawn = || {
        std::process::Command::new(&program)
            .arg("--root")
            .arg(paths.root())
            .args(["daemon", "run", "--background"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.try_clone()?)
            .spawn()
    };
    let mut child = spawn().map_err(failed)?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(info) = ping(paths).await? {
            let new = info.pid == child.id();
            // Ours lost and is about to end. Left to itself it might come to life after a 'daemon stop'.
            while !new && child.try_wait().map_err(failed)?.is_none() {
                if Instant::now() >= deadline {
                    end(&mut child);
                }
                Timer::after(POLL).await;
            }
            return Ok((info, new));
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            if status.code() != Some(super::error::Exit::Conflict as i32) {
                return Err(not_started(&format!("it ended with {status}"), status.code()));
            }
            if Instant::now() >= deadline {
                return Err(not_started("another one holds its lock and does not answer", None));
            }
            // Another one has the lock. One that was started at the same moment is about to answer; one that was killed
            // is about to let go of it, and then it is our turn.
            Timer::after(LOCK_POLL).await;
            if ping(paths).await?.is_none() {
                child = spawn().map_err(failed)?;
            }
            continue;
        }
        if Instant::now() >= deadline {
            end(&mut child);
            return Err(not_started(&format!("it did not answer within {} s", START_TIMEOUT.as_secs()), None));
        }
        Timer::after(POLL).await;
    }
}

/// Standard error, if it is a file that somebody chose.
fn own_stderr() -> Option<File> {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().ok()?;
    let file = File::from(stderr);
    file.metadata().ok().filter(std::fs::Metadata::is_file).map(|_| file)
}

fn end(child: &mut Child) {
    // It hangs and was never a daemon to anybody; its engine, if it has one, is found by the next.
    let _ = child.kill();
    let _ = child.wait();
}

/// The last lines of a log after `begin`.
fn last_lines(mut log: &File, begin: u64) -> std::io::Result<Vec<String>> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(begin.max(length.saturating_sub(LOG_TAIL))))?;
    let mut text = Vec::new();
    log.take(LOG_TAIL).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).map(|line| (*line).to_owned()).collect())
}

async fn stop(paths: &Paths) -> Result<Option<u32>, CliError> {
    let running = ping(paths).await?;
    // Opened before it is told to end: afterwards the pid might be another process's.
    let process = running.as_ref().and_then(|info| watch(info.pid));
    // Also without a daemon: systemd may be about to start one again.
    Service::of(paths).filter(Service::is_active).map_or(Ok(()), |service| service.stop())?;
    let Some(info) = running else { return Ok(None) };
    match ask(paths, &Command::DaemonShutdown {}).await {
        Ok(_) | Err(CliError::Client(ClientError::NotReachable { .. } | ClientError::Broken(_))) => {}
        Err(error) => return Err(error),
    }
    if let Some(process) = process {
        let gone = std::pin::pin!(process.readable());
        if let Either::Right(_) = select(gone, Timer::after(STOP_TIMEOUT)).await {
            return Err(CliError::StillRunning { pid: info.pid });
        }
    }
    Ok(Some(info.pid))
}

fn watch(pid: u32) -> Option<Async<OwnedFd>> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    Async::new_nonblocking(pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?).ok()
}

async fn restart(paths: &Paths) -> Result<(DaemonInfo, &'static str), CliError> {
    let Some(before) = ping(paths).await? else { return Ok((start(paths).await?.0, "Started")) };
    // The process stays the same one; that it ends means that it did not begin again.
    let process = watch(before.pid);
    let ended = async {
        match process {
            Some(process) => process.readable().await.map_or((), |()| ()),
            None => std::future::pending().await,
        }
    };
    match select(std::pin::pin!(again(paths, &before)), std::pin::pin!(ended)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => {
            let lines = File::open(paths.daemon_log()).and_then(|log| last_lines(&log, 0)).unwrap_or_default();
            Err(CliError::NotStarted { what: "it ended instead of starting again".to_owned(), usage: false, lines })
        }
    }
}

/// Has the daemon execute itself, and waits until the next instance answers.
async fn again(paths: &Paths, before: &DaemonInfo) -> Result<(DaemonInfo, &'static str), CliError> {
    accept(client::call(&paths.socket(), &Command::DaemonRestart {}).await?)?;
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        // The listener is handed over: a request in between waits in it, or is closed with the old daemon.
        if let Ok(Some(info)) = ping(paths).await
            && info.instance_id != before.instance_id
        {
            return Ok((info, "Restarted"));
        }
        Timer::after(POLL).await;
    }
    Err(CliError::StillRunning { pid: before.pid })
}
