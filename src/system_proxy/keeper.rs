//! Keeps the system proxy in step with the session, for the daemon.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_io::Timer;
use futures::FutureExt;
use futures::future::{Either, select};

use super::change::{Asked, Report, point_with, restore_with, save};
use super::journal::{self, Lock, State as Journal};
use super::tool::Leash;
use super::{Servers, SystemProxyError};
use crate::event::{Event, State, Status};
use crate::paths::Paths;
use crate::settings::Settings;
use crate::supervisor::Handle;

/// The daemon's end waits so long for desktops to have their values back: one tool may hang, and 'xrat daemon stop'
/// waits for 15 s. What is not done by then the next daemon does.
const FINISH: Duration = Duration::from_secs(5);

/// Follows the session. The daemon's loop never waits for it, nor does any command.
pub struct Keeper {
    paths: Paths,
    ended: Arc<AtomicBool>,
    leash: Leash,
}

/// What the settings should be, as far as the session's state says.
enum Aim {
    /// There is no session: the user's own values.
    Own,
    /// Something is under way, or is to be brought back and the gate answers: as they are.
    AsTheyAre,
    /// There is a session.
    Session(Result<Option<Servers>, SystemProxyError>),
}

impl Keeper {
    /// A keeper for a daemon of this root.
    pub fn new(paths: Paths) -> Self {
        Self { paths, ended: Arc::default(), leash: Leash::default() }
    }

    /// Follows the session until the daemon ends. To be given up by being dropped, and then [`Keeper::finish`].
    pub async fn follow(&self, handle: Handle, mut settings: Settings) {
        let Ok(mut events) = handle.subscribe(None).await else { return };
        let mut now: Option<Status> = None;
        let mut told = None;
        while let Some(recorded) = events.next().await {
            let mut next = Some(recorded.event);
            let mut news = false;
            // What happened meanwhile is in the past already: only the last state matters.
            while let Some(event) = next {
                match event {
                    Event::Snapshot(status) => (now, news) = (Some(status), true),
                    Event::StateChanged { new, session, .. } => {
                        news = true;
                        if let Some(status) = &mut now {
                            (status.state, status.session) = (new, session);
                        }
                    }
                    Event::SettingsChanged {} => {
                        news = true;
                        settings = reread(&self.paths.settings(), settings);
                    }
                    Event::Lagged { .. } => match handle.subscribe(None).await {
                        Ok(again) => events = again,
                        Err(_) => return,
                    },
                    _ => {}
                }
                next = events.next().now_or_never().flatten().map(|recorded| recorded.event);
            }
            let Some(status) = now.as_ref().filter(|_| news) else { continue };
            let aim = match status.state {
                State::Disconnected | State::Disconnecting => Aim::Own,
                State::Connected | State::Replacing => Aim::Session(Servers::of_status(status, &settings)),
                State::Connecting | State::Recovering | State::Failed | State::Unknown => Aim::AsTheyAre,
            };
            let (paths, ended, leash) = (self.paths.clone(), Arc::clone(&self.ended), self.leash.clone());
            let by_settings = settings.desktop.system_proxy;
            let done = smol::unblock(move || carry_out(&paths, aim, by_settings, &ended, leash)).await;
            tell(done, &mut told);
        }
    }

    /// Gives the desktop its own values back because the daemon ends.
    pub async fn finish(&self) {
        // A change that waits for its turn is none any more.
        self.ended.store(true, Ordering::SeqCst);
        if !self.paths.system_proxy().exists() {
            return;
        }
        let (paths, leash) = (self.paths.clone(), self.leash.clone());
        let restored = smol::unblock(move || restore_with(&paths, &Lock::take_with(&paths, leash)?));
        match within(FINISH, restored).await {
            Some(done) => tell(done, &mut None),
            None => {
                // One that hangs would keep the lock from whoever tries again.
                self.leash.end();
                tracing::warn!(
                    "the desktop's proxy settings have not got their own values back yet: the next daemon, or \
                     'xrat system-proxy off', tries again"
                );
            }
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select(std::pin::pin!(work), Timer::after(limit)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// The settings as the daemon reads them at the same moment; what cannot be used leaves the old ones in force, and the
/// daemon says so.
fn reread(path: &Path, old: Settings) -> Settings {
    Settings::load(path).map_or(old, |(settings, _)| settings)
}

fn carry_out(
    paths: &Paths,
    aim: Aim,
    by_settings: bool,
    ended: &AtomicBool,
    leash: Leash,
) -> Result<Report, SystemProxyError> {
    // Who does not use the system proxy has no file, and costs nothing.
    if matches!(aim, Aim::AsTheyAre) || !by_settings && !paths.system_proxy().exists() {
        return Ok(unchanged(paths));
    }
    let lock = Lock::take_with(paths, leash)?;
    let journal = lock.read()?;
    if ended.load(Ordering::SeqCst) {
        return Ok(Report::default());
    }
    match aim {
        Aim::Session(servers) if journal.switch.unwrap_or(by_settings) => match servers {
            Ok(Some(servers)) => point_with(paths, &lock, servers, Asked::BySession),
            Ok(None) => Ok(Report::default()),
            Err(error) => {
                save(&lock, &journal, Journal { problem: Some(error.to_string()), ..journal.clone() })?;
                Err(error)
            }
        },
        _ => restore_with(paths, &lock),
    }
}

/// Nothing done: what was wrong still is.
fn unchanged(paths: &Paths) -> Report {
    let problem = journal::read(&paths.system_proxy()).ok().and_then(|journal| journal.problem);
    Report { problem, ..Report::default() }
}

/// A line in the log for each change, and for each problem once.
fn tell(done: Result<Report, SystemProxyError>, told: &mut Option<String>) {
    let problem = match done {
        Ok(report) => {
            for name in &report.changed {
                tracing::info!("system proxy: changed the settings of {name}");
            }
            for (name, key) in &report.left_alone {
                tracing::info!("system proxy: {key} of {name} was changed by somebody else and is left alone");
            }
            report.problem
        }
        Err(error) => Some(error.to_string()),
    };
    if let Some(problem) = &problem
        && told.as_ref() != Some(problem)
    {
        tracing::warn!("system proxy: {problem}");
    }
    *told = problem;
}
