//! What all effects share: settings, store, identity of this daemon, and the engines it holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use smol::LocalExecutor;

use super::machine::{Input, Rules};
use super::public::OpenGate;
use crate::command::DaemonInfo;
use crate::config::Config;
use crate::engine::api::{Api, PublicInbound};
use crate::engine::process::Process;
use crate::engine::{Engine, SessionFiles};
use crate::event::SessionId;
use crate::gate::Handover;
use crate::paths::Paths;
use crate::settings::Settings;
use crate::store::{Shared, Store, StoreError};

/// As much of the end of an engine's log is searched for its last line.
const LOG_TAIL: u64 = 4096;
/// A longer line of an engine is cut in messages.
const MAX_LINE: usize = 300;

/// A change of the database that nobody waits for.
pub(super) type Write = Box<dyn FnOnce(&mut Store) -> Result<(), StoreError> + Send>;

/// Shared by the loop and every effect, on one thread.
pub(super) struct Context {
    pub(super) info: DaemonInfo,
    pub(super) paths: Paths,
    pub(super) store: Shared,
    pub(super) settings: RefCell<Rc<Settings>>,
    pub(super) boot_id: String,
    pub(super) machine_id: String,
    pub(super) engines: RefCell<HashMap<SessionId, Rc<Running>>>,
    pub(super) gates: RefCell<Vec<OpenGate>>,
    /// Listeners that the daemon before a restart in place had, until they are gates again.
    pub(super) handed: RefCell<Vec<Handover>>,
    /// Runs the gates, which have no end to wait for.
    pub(super) executor: LocalExecutor<'static>,
    pub(super) writes: Sender<Write>,
}

/// A running engine of ours.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) api: Api,
    pub(super) files: SessionFiles,
    /// What it serves, or is to serve, on the public addresses.
    pub(super) inbounds: Vec<PublicInbound>,
    /// What it runs for, to mask its words with; none when an adopted one's config has been removed.
    pub(super) config: Option<Config>,
}

impl Context {
    /// SIGHUP: settings that cannot be used leave the old ones in force.
    pub(super) fn reload(&self) -> Option<Input> {
        match Settings::load(&self.paths.settings()) {
            Ok((settings, warnings)) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                *self.settings.borrow_mut() = Rc::new(settings);
                tracing::info!("settings read again; ports apply at the next session");
                Some(Input::SettingsRead(self.rules()))
            }
            Err(error) => {
                tracing::error!("the settings stay as they were: {error}");
                None
            }
        }
    }

    /// The settings as of now; a reload does not change what is held already.
    pub(super) fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// What of the settings the machine goes by.
    pub(super) fn rules(&self) -> Rules {
        let settings = self.settings();
        let (health, rotation) = (&settings.runtime.health, &settings.runtime.rotation);
        Rules {
            failure_threshold: health.failure_threshold,
            health_interval: Duration::from_secs(health.interval_secs),
            rotation_enabled: rotation.enabled,
            rotation_interval: Duration::from_secs(rotation.interval_secs),
            health_trigger: rotation.health_trigger_enabled,
            cooldown: Duration::from_secs(rotation.cooldown_secs),
            tolerance_ms: rotation.tolerance_ms,
            max_candidates: rotation.max_candidates.try_into().unwrap_or(usize::MAX),
            drain: Duration::from_secs(settings.runtime.drain_secs),
        }
    }

    pub(super) fn engine(&self, id: SessionId) -> Option<Rc<Running>> {
        self.engines.borrow().get(&id).cloned()
    }

    /// Queues a change of the database; changes are made in their order, before the daemon ends.
    pub(super) fn write(&self, change: impl FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static) {
        if self.writes.try_send(Box::new(change)).is_err() {
            tracing::error!("the queue of database changes is full: a change is lost");
        }
    }

    /// Where a session's private sockets are.
    pub(super) fn session_files(&self, id: SessionId, engine: &Engine) -> SessionFiles {
        let socket = |role| self.paths.session_socket(id, role);
        SessionFiles {
            socks: engine.private_socks().then(|| socket("socks")),
            http: socket("http"),
            api: socket("api"),
        }
    }

    /// Removes what a session leaves in the runtime directory: its file and its sockets with their locks.
    pub(super) fn sweep(&self, id: SessionId) {
        let mut files = vec![self.paths.session_file(id)];
        for role in ["socks", "http", "api"] {
            let socket = self.paths.session_socket(id, role);
            files.push(with_suffix(&socket, ".lock"));
            files.push(socket);
        }
        for file in files {
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("cannot remove {}: {error}", file.display());
            }
        }
    }

    /// The last line that a session's engine printed, made fit for a message: without the credentials of `config`, and
    /// only the end of a long one, because where it was cut half a credential might stay.
    pub(super) fn last_line(&self, id: SessionId, config: &Config) -> Option<String> {
        let mut log = std::fs::File::open(self.paths.session_log(id)).ok()?;
        let length = log.metadata().ok()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
        let mut tail = Vec::new();
        log.take(LOG_TAIL).read_to_end(&mut tail).ok()?;
        let tail = String::from_utf8_lossy(&tail);
        let line = tail.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        let line: String = config.masked(line).chars().filter(|c| !c.is_control()).collect();
        let begin = line.char_indices().rev().nth(MAX_LINE - 1).map_or(0, |(place, _)| place);
        Some(if begin > 0 { format!("…{}", &line[begin..]) } else { line })
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes queued changes one after the other until the queue is closed and empty.
pub(super) async fn write_all(context: Rc<Context>, writes: Receiver<Write>) {
    while let Ok(change) = writes.recv().await {
        if let Err(error) = context.store.run(change).await {
            tracing::error!("a change of the database is lost: {error}");
        }
    }
}
