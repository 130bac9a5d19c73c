//! The daemon's process: its lock, its supervisor and transports, and how it ends or begins again.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join;
use futures::{FutureExt, pin_mut, select};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags};
use smol::LocalExecutor;

use crate::bus::Bus;
use crate::event::BusPresence;
use crate::gate::{Handover, Record};
use crate::ipc::server::Server;
use crate::paths::{PathError, Paths};
use crate::settings::{Settings, SettingsError};
use crate::supervisor::{BeginError, End, Supervisor};
use crate::system_proxy::Keeper;
use crate::systemd::Manager;
use crate::updates;

/// Answers that are being written when the daemon ends have so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Names the descriptors that a restarted daemon inherits: lock and listener.
const RESTART: &str = "XRAT_RESTART";
/// The listeners on public addresses that it inherits, as JSON.
const RESTART_GATES: &str = "XRAT_RESTART_GATES";

/// Why a daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The root directory.
    #[error(transparent)]
    Path(#[from] PathError),
    /// `config.toml`.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Another daemon has this root.
    #[error("another daemon already runs with the root {}", .0.display())]
    Locked(PathBuf),
    /// The lock cannot be taken.
    #[error("cannot lock {}: {source}", path.display())]
    Lock {
        /// The root.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Store, /proc or signals.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The socket.
    #[error("cannot listen at {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The restart.
    #[error("cannot execute {}: {source}", path.display())]
    Restart {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How a daemon runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Leaves the terminal's session first.
    pub background: bool,
    /// Stays off the session bus.
    pub no_dbus: bool,
}

/// Runs a daemon to its end, on this thread.
///
/// # Errors
/// See [`DaemonError`]. A session that was running is adopted by the next daemon.
pub fn run(paths: Paths, manner: Manner) -> Result<(), DaemonError> {
    let program =
        std::env::current_exe().map(|path| match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
            // What the kernel says of a file that was replaced; the new one is in its place.
            Some(place) if !path.exists() => PathBuf::from(place),
            _ => path,
        });
    if manner.background {
        // Fails only for a process that leads a group already, which is as good.
        let _ = rustix::process::setsid();
        let _ = std::env::set_current_dir("/");
    }
    raise_descriptor_limit();
    paths.create()?;
    let inherited = Inherited::take(&paths);
    let (lock, listener, gates) = match inherited {
        Some(Inherited { lock, listener, gates }) => (lock, Some(listener), gates),
        None => (take_lock(&paths)?, None, Vec::new()),
    };
    crate::log::init(&paths.daemon_log());
    let (settings, warnings) = Settings::load(&paths.settings())?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

    let executor = LocalExecutor::new();
    // On the heap: it is large, and on the way to where it stays it would be copied on the stack, which keeps its pages.
    let served = Box::pin(serve(&executor, paths.clone(), settings, manner, listener, gates));
    let (end, listener) = smol::block_on(executor.run(served))?;
    match end {
        End::Exit => {
            let _ = std::fs::remove_file(paths.socket());
            tracing::info!("the daemon ends");
            Ok(())
        }
        End::Restart(gates) => {
            let own = Path::new("/proc/self/exe");
            let path = program.unwrap_or_else(|_| own.to_owned());
            tracing::info!("executing {} again", path.display());
            let source = restart(&path, &paths, manner, &lock, &listener, &gates);
            // The file is away, or in the middle of an update; the one that runs can still be had.
            tracing::warn!("cannot execute {}: {source}; the daemon stays the program that it was", path.display());
            let source = restart(own, &paths, manner, &lock, &listener, &gates);
            Err(DaemonError::Restart { path: own.to_owned(), source })
        }
    }
}

/// As many descriptors as the system allows: while there is no engine the gate holds every connection of the user.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

async fn serve(
    executor: &LocalExecutor<'_>,
    paths: Paths,
    settings: Settings,
    manner: Manner,
    listener: Option<OwnedFd>,
    gates: Vec<Handover>,
) -> Result<(End, OwnedFd), DaemonError> {
    let path = paths.socket();
    let keeper = Rc::new(Keeper::new(paths.clone()));
    let (mut supervisor, handle) = Supervisor::begin(paths.clone(), settings.clone(), gates).await?;
    let instance_id = supervisor.instance_id();
    let told = handle.clone();
    let bus = (!manner.no_dbus).then(|| Bus::new(handle.clone(), paths.clone()));
    if bus.is_none() {
        handle.on_bus(BusPresence::Off).await;
    }
    let failed = |source| DaemonError::Socket { path: path.clone(), source };
    let server = match listener {
        Some(listener) => Server::inherit(&path, listener, handle),
        None => Server::bind(&path, handle),
    };
    let server = Rc::new(server.map_err(failed)?);
    let mended = Rc::clone(&server);
    supervisor.every_housekeeping(move || mended.mend());
    if let Some(manager) = Manager::from_env().map(Rc::new) {
        manager.ready();
        manager.alive();
        let watched = Rc::clone(&manager);
        if let Some(limit) = manager.watchdog() {
            // As sd_watchdog_enabled(3) has it.
            supervisor.keep_house_within(limit / 2);
        }
        supervisor.every_housekeeping(move || watched.alive());
        let told = told.clone();
        executor.spawn(async move { manager.follow(told).await }).detach();
    }
    executor.spawn(updates::follow(paths.clone(), told.clone(), settings.clone())).detach();
    let (kept, following) = (Rc::clone(&keeper), told.clone());
    let system_proxy = executor.spawn(async move { kept.follow(following, settings).await });
    tracing::info!(%instance_id, pid = std::process::id(), "xrat {} listens at {}", env!("CARGO_PKG_VERSION"), path.display());

    let end = {
        let supervised = supervisor.run().fuse();
        let served = server.serve(executor).fuse();
        let on_bus = async {
            match &bus {
                Some(bus) => bus.run(executor).await,
                None => std::future::pending().await,
            }
        };
        let on_bus = on_bus.fuse();
        pin_mut!(supervised, served, on_bus);
        select! {
            end = supervised => end,
            () = served => End::Exit,
            () = on_bus => End::Exit,
        }
    };
    let left = async {
        if let Some(bus) = &bus {
            bus.close(DRAIN_TIMEOUT).await;
        }
    };
    let restored = async {
        system_proxy.cancel().await;
        if matches!(end, End::Exit) {
            keeper.finish().await;
        }
    };
    join(join(server.drain(DRAIN_TIMEOUT), left), restored).await;
    let listener = server.listener().map_err(failed)?;
    Ok((end, listener))
}

/// One daemon a root: a lock on the directory itself, which lives as long as the descriptor.
fn take_lock(paths: &Paths) -> Result<OwnedFd, DaemonError> {
    let failed = |source| DaemonError::Lock { path: paths.root().to_owned(), source };
    let root = File::open(paths.root()).map_err(failed)?;
    match rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(root.into()),
        Err(Errno::WOULDBLOCK) => Err(DaemonError::Locked(paths.root().to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Executes the program in place of this one: same pid, same children, same lock and listeners. Returns only its failure.
fn restart(
    program: &std::path::Path,
    paths: &Paths,
    manner: Manner,
    lock: &OwnedFd,
    listener: &OwnedFd,
    gates: &[Handover],
) -> std::io::Error {
    for descriptor in [lock, listener] {
        if let Err(error) = rustix::io::fcntl_setfd(descriptor, FdFlags::empty()) {
            return error.into();
        }
    }
    let mut command = Command::new(program);
    command.arg("--root").arg(paths.root()).args(["daemon", "run"]);
    if manner.background {
        command.arg("--background");
    }
    if manner.no_dbus {
        command.arg("--no-dbus");
    }
    // One that cannot be kept is opened anew.
    let records: Vec<_> = gates.iter().filter_map(|gate| gate.keep().ok()).collect();
    command.env(RESTART_GATES, serde_json::to_string(&records).unwrap_or_default());
    command.env(RESTART, format!("{} {}", lock.as_raw_fd(), listener.as_raw_fd())).exec()
}

/// What the daemon before handed over by executing this one.
struct Inherited {
    lock: OwnedFd,
    listener: OwnedFd,
    gates: Vec<Handover>,
}

impl Inherited {
    /// Takes the descriptors over, if they are what they should be: the root directory and a socket.
    fn take(paths: &Paths) -> Option<Self> {
        let text = std::env::var(RESTART).ok()?;
        let (lock, listener) = text.split_once(' ')?;
        let (lock, listener): (RawFd, RawFd) = (lock.parse().ok()?, listener.parse().ok()?);
        if lock <= 2 || listener <= 2 || lock == listener {
            return None;
        }
        let is_open = |fd: RawFd| std::fs::metadata(format!("/proc/self/fd/{fd}"));
        let (directory, root) = (is_open(lock).ok()?, std::fs::metadata(paths.root()).ok()?);
        if (directory.dev(), directory.ino()) != (root.dev(), root.ino()) {
            return None;
        }
        let link = std::fs::read_link(format!("/proc/self/fd/{listener}")).ok()?;
        link.to_str().filter(|link| link.starts_with("socket:"))?;
        // SAFETY: both are open (looked up above), and at this point of a fresh process nothing else owns them: they
        // are not the standard streams, and no other thread or library has opened anything that could be them.
        #[allow(unsafe_code)]
        let (lock, listener) = unsafe { (OwnedFd::from_raw_fd(lock), OwnedFd::from_raw_fd(listener)) };
        for descriptor in [&lock, &listener] {
            rustix::io::fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC).ok()?;
        }
        let records = std::env::var(RESTART_GATES).ok();
        let records: Vec<Record> = records.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let gates = records.into_iter().filter_map(Record::take).collect();
        Some(Self { lock, listener, gates })
    }
}
