//! Starting an engine: from a config's id to a process that is ready, and that no client reaches yet.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Timer;
use chrono::{DateTime, Utc};
use futures::channel::oneshot;
use futures::{FutureExt, pin_mut, select_biased};
use serde_json::json;

use super::context::{Context, Running};
use super::health;
use super::machine::StartFailure;
use crate::command::Failure;
use crate::config::{Config, ConfigId};
use crate::engine::api::{Api, InboundKind, PublicInbound};
use crate::engine::ports::{self, Kind};
use crate::engine::process::{Process, TERM_GRACE};
use crate::engine::{self, Engine, SessionFiles, discover, session_config};
use crate::event::{Health, HealthReport, OwnerKind, Reason, Session, SessionId, SessionStatus};
use crate::settings::Settings;
use crate::store::{NewSession, ProcessIdentity, SessionRow};

/// An engine that is not ready by then never will be; a good one takes some ten milliseconds.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether the engine is ready: a fraction of what the fastest takes.
const READY_POLL: Duration = Duration::from_millis(2);
/// Logs of so many sessions are kept.
const KEPT_LOGS: i64 = 20;

/// Tags of the public inbounds.
const SOCKS_TAG: &str = "socks";
const HTTP_TAG: &str = "http";

struct Attempt {
    session_id: SessionId,
    process: Option<Process>,
}

/// Starts an engine for a config, and has it prove itself by an exchange if `prove` says so.
///
/// Must be driven to its end: it removes what it made when it fails or is given up.
pub(super) async fn start(
    context: Rc<Context>,
    config_id: ConfigId,
    reason: Reason,
    prove: bool,
    cancel: GiveUp,
) -> Result<Session, StartFailure> {
    let mut attempt = None;
    let result = try_start(&context, config_id, reason, prove, cancel, &mut attempt).await;
    match (result, attempt) {
        (Ok(session), _) => Ok(session),
        (Err((reason, failure)), None) => Err(StartFailure { session_id: None, reason, failure }),
        (Err((reason, failure)), Some(Attempt { session_id, process })) => {
            if let Some(process) = process {
                process.stop(TERM_GRACE).await;
            }
            context.sweep(session_id);
            let detail = failure.to_string();
            let at = Utc::now();
            context.write(move |store| match reason {
                Reason::UserRequested => store.session_stopped(session_id, reason, at),
                _ => store.session_failed(session_id, reason, &detail, at),
            });
            Err(StartFailure { session_id: Some(session_id), reason, failure })
        }
    }
}

pub(super) type Failed = (Reason, Failure);

async fn try_start(
    context: &Rc<Context>,
    config_id: ConfigId,
    reason: Reason,
    prove: bool,
    mut cancel: GiveUp,
    attempt: &mut Option<Attempt>,
) -> Result<Session, Failed> {
    let settings = context.settings();
    let row = context.store.run(move |store| store.config(config_id)).await.map_err(internal)?;
    let row = row.ok_or_else(|| (Reason::None, Failure::NotFound(format!("no config with id {config_id}"))))?;
    let config = row.config;
    let engine = choose_engine(context, &settings, &config).await?;
    check_ports(context, &settings).await?;

    let started_at = Utc::now();
    let session_id = begin_row(context, &settings, config_id, &config, &engine, reason, started_at).await?;
    let attempt = attempt.insert(Attempt { session_id, process: None });
    let files = context.session_files(session_id, &engine);
    let text = session_config(&engine, &config, &files)
        .map_err(|error| (Reason::ConfigUnsupported, Failure::BadRequest(error.to_string())))?;
    context.sweep(session_id);
    let file = context.paths.session_file(session_id);
    write_private(&file, text.to_string().as_bytes())
        .map_err(|error| internal(format!("cannot write {}: {error}", file.display())))?;

    let log = context.paths.session_log(session_id);
    let _ = std::fs::remove_file(context.paths.session_log(SessionId(session_id.0 - KEPT_LOGS)));
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .map_err(|error| internal(format!("cannot write {}: {error}", log.display())))?;
    let process = Process::spawn(&engine.path, engine.run_args(&file), output).await.map_err(|error| {
        let message = format!("{} cannot be started: {error}", engine.path.display());
        (Reason::EngineNotReady, Failure::Internal(message))
    })?;
    let process = attempt.process.insert(process);
    let identity = process.identity();
    context.store.run(move |store| store.session_process(session_id, identity)).await.map_err(internal)?;

    wait_ready(context, &engine, &config, session_id, process, &files, &mut cancel).await?;
    let _ = std::fs::remove_file(&file);
    let mut health = HealthReport::unproven();
    let mut delay_ms = None;
    if prove {
        let delay = prove_itself(&settings, process, &files, &mut cancel).await?;
        delay_ms = Some(delay);
        health = HealthReport { status: Health::Healthy, checked_at: Some(Utc::now()), consecutive_failures: 0 };
    }
    if cancel.is_said() {
        return Err(given_up());
    }

    let session = Session {
        session_id,
        config_id,
        name: config.name.clone(),
        protocol: config.protocol.name().to_owned(),
        address: config.address.clone(),
        port: config.port,
        engine: engine.name().to_owned(),
        engine_version: engine.version.to_string(),
        pid: identity.pid,
        status: SessionStatus::Starting,
        socks: settings.socks_address(),
        http: settings.http_address(),
        started_at,
        owner_kind: OwnerKind::Daemon,
        owner_instance_id: context.info.instance_id,
        delay_ms,
        health,
        traffic: None,
    };
    if let Some(process) = attempt.process.take() {
        let api = Api::new(&engine, &files.api);
        let inbounds = public_inbounds(&settings);
        let running = Running { process, api, files, inbounds, config: Some(config) };
        context.engines.borrow_mut().insert(session_id, Rc::new(running));
    }
    Ok(session)
}

/// An exchange through the engine must succeed before any client reaches it: its delay in milliseconds.
async fn prove_itself(
    settings: &Settings,
    process: &Process,
    files: &SessionFiles,
    cancel: &mut GiveUp,
) -> Result<u32, Failed> {
    let failed = |what: String| (Reason::ExchangeFailed, Failure::Internal(what));
    let proof = health::prove(settings, &files.http).fuse();
    let exited = process.exited().fuse();
    let cancelled = cancel.wait().fuse();
    pin_mut!(proof, exited, cancelled);
    select_biased! {
        exit = exited => Err(failed(format!("the engine {exit} before it proved itself"))),
        why = cancelled => Err(why),
        proof = proof => proof.map_err(|error| failed(format!("nothing came through the node: {error}"))),
    }
}

/// When a start is to be given up: when somebody says so, or when its time is over.
pub(super) struct GiveUp {
    said: oneshot::Receiver<()>,
    deadline: Instant,
    within: Duration,
}

impl GiveUp {
    pub(super) fn new(said: oneshot::Receiver<()>, within: Duration) -> Self {
        Self { said, deadline: Instant::now() + within, within }
    }

    /// Waits until it is to be given up; why. A sender that is gone says nothing: only a message does. Safe to drop.
    async fn wait(&mut self) -> Failed {
        let said = async {
            if (&mut self.said).await.is_err() {
                futures::future::pending::<()>().await;
            }
        }
        .fuse();
        let late = Timer::at(self.deadline).fuse();
        pin_mut!(said, late);
        select_biased! {
            () = said => given_up(),
            _ = late => {
                let message = format!("it was not done within {} s", self.within.as_secs());
                (Reason::EngineNotReady, Failure::Internal(message))
            }
        }
    }

    /// Whether somebody has said so.
    fn is_said(&mut self) -> bool {
        self.said.try_recv() == Ok(Some(()))
    }
}

pub(super) fn internal(error: impl ToString) -> Failed {
    (Reason::InternalError, Failure::Internal(error.to_string()))
}

fn given_up() -> Failed {
    (Reason::UserRequested, Failure::conflict("given up"))
}

/// The first engine that can carry the config; else why the preferred one cannot.
async fn choose_engine(context: &Context, settings: &Settings, config: &Config) -> Result<Engine, Failed> {
    let engines = discover::engines(settings, &context.store)
        .await
        .map_err(|error| (Reason::EngineMissing, Failure::Internal(error.to_string())))?;
    let mut refusal = None;
    for engine in engines {
        match engine.supports(config) {
            Ok(()) => return Ok(engine),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let message = refusal.map_or_else(|| "no engine found".to_owned(), |error| error.to_string());
    Err((Reason::ConfigUnsupported, Failure::BadRequest(message)))
}

/// What belongs to another process is refused here: the engine itself would share the port without a word.
async fn check_ports(context: &Context, settings: &Settings) -> Result<(), Failed> {
    let mut ours: Vec<u32> = context.engines.borrow().values().map(|running| running.process.identity().pid).collect();
    ours.push(std::process::id());
    let runtime = &settings.runtime;
    let mut wanted = vec![(runtime.socks.host, runtime.socks.port, Kind::Tcp, "runtime.socks.port")];
    if runtime.socks.udp {
        wanted.push((runtime.socks.host, runtime.socks.port, Kind::Udp, "runtime.socks.port"));
    }
    if runtime.http.enabled {
        wanted.push((runtime.http.host, runtime.http.port, Kind::Tcp, "runtime.http.port"));
    }
    let taken = smol::unblock(move || {
        let own: Vec<_> = wanted.iter().map(|(_, port, ..)| *port).collect();
        wanted.into_iter().find_map(|(host, port, kind, key)| {
            let foreign =
                |owner: &ports::Owner| !matches!(owner, ports::Owner::Process { pid, .. } if ours.contains(pid));
            let owner = ports::owners(host, port, kind).into_iter().find(foreign)?;
            Some((host, port, key, owner, ports::free_near(port, &own)))
        })
    });
    match taken.await {
        None => Ok(()),
        Some((host, port, key, owner, free)) => Err((Reason::AddressInUse, port_taken(host, port, key, &owner, free))),
    }
}

fn port_taken(host: IpAddr, port: NonZeroU16, key: &str, owner: &ports::Owner, free: Option<u16>) -> Failure {
    let address = std::net::SocketAddr::new(host, port.get());
    let mut message = format!("{address} belongs to {owner}: end it, or set {key} in config.toml to another port");
    if let Some(free) = free {
        message.push_str(&format!(" ({free} is free) and run 'xrat daemon restart'"));
    }
    let (pid, name, uid) = match owner {
        ports::Owner::Process { pid, name } => (Some(pid), Some(name), None),
        ports::Owner::User { uid } => (None, None, Some(uid)),
    };
    let details = json!({ "address": address, "pid": pid, "name": name, "uid": uid, "free_port": free });
    Failure::Conflict { message, details }
}

async fn begin_row(
    context: &Context,
    settings: &Settings,
    config_id: ConfigId,
    config: &Config,
    engine: &Engine,
    reason: Reason,
    started_at: DateTime<Utc>,
) -> Result<SessionId, Failed> {
    let (config, engine) = (config.clone(), engine.clone());
    let (boot_id, machine_id) = (context.boot_id.clone(), context.machine_id.clone());
    let (socks, http, owner_instance_id) =
        (settings.socks_address(), settings.http_address(), context.info.instance_id);
    let row = context.store.run(move |store| {
        store.begin_session(&NewSession {
            config_id,
            config: &config,
            owner_instance_id,
            engine: engine.name(),
            engine_version: &engine.version.to_string(),
            engine_path: &engine.path,
            boot_id: &boot_id,
            machine_id: &machine_id,
            socks: &socks,
            http: http.as_ref(),
            reason,
            started_at,
        })
    });
    row.await.map_err(internal)
}

fn write_private(path: &std::path::Path, text: &[u8]) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)
}

/// Ready means that the engine answers on its private sockets. Its end, or that it is given up, ends the wait at once.
async fn wait_ready(
    context: &Context,
    engine: &Engine,
    config: &Config,
    session_id: SessionId,
    process: &Process,
    files: &SessionFiles,
    cancel: &mut GiveUp,
) -> Result<(), Failed> {
    let failed = |what: String| {
        let mut message = format!("{engine} {what}");
        if let Some(line) = context.last_line(session_id, config) {
            message.push_str(&format!(": {line}"));
        }
        (Reason::EngineNotReady, Failure::Internal(message))
    };
    let ready = until_ready(engine, files, READY_TIMEOUT).fuse();
    let exited = process.exited().fuse();
    let cancelled = cancel.wait().fuse();
    pin_mut!(ready, exited, cancelled);
    select_biased! {
        exit = exited => Err(failed(format!("{exit} before it was ready"))),
        why = cancelled => Err(why),
        ready = ready => match ready {
            Ok(()) => Ok(()),
            Err(error) => Err(failed(format!("was not ready within {} s ({error})", READY_TIMEOUT.as_secs()))),
        },
    }
}

/// Asks an engine's private sockets until they answer. Safe to drop.
///
/// # Errors
/// The last answer's, once `timeout` has passed.
pub(super) async fn until_ready(engine: &Engine, files: &SessionFiles, timeout: Duration) -> std::io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let attempt = engine::ready(engine, files).fuse();
        let late = Timer::at(deadline).fuse();
        pin_mut!(attempt, late);
        let result = select_biased! {
            result = attempt => result,
            _ = late => Err(std::io::ErrorKind::TimedOut.into()),
        };
        if result.is_ok() || Instant::now() >= deadline {
            return result;
        }
        Timer::after(READY_POLL).await;
    }
}

/// The inbounds on the public addresses.
pub(super) fn public_inbounds(settings: &Settings) -> Vec<PublicInbound> {
    let (socks, http) = (&settings.runtime.socks, &settings.runtime.http);
    let mut inbounds = vec![PublicInbound {
        tag: SOCKS_TAG.to_owned(),
        kind: InboundKind::Socks { udp: socks.udp },
        host: socks.host,
        port: socks.port,
        auth: socks.auth(),
    }];
    if http.enabled {
        inbounds.push(PublicInbound {
            tag: HTTP_TAG.to_owned(),
            kind: InboundKind::Http,
            host: http.host,
            port: http.port,
            auth: socks.auth(),
        });
    }
    inbounds
}

/// The session of a row whose engine is found alive.
pub(super) fn session_of(row: &SessionRow, process: ProcessIdentity, context: &Context) -> Session {
    Session {
        session_id: row.session_id,
        config_id: row.config_id,
        name: row.name.clone(),
        protocol: row.protocol.clone(),
        address: row.address.clone(),
        port: row.port,
        engine: row.engine.clone(),
        engine_version: row.engine_version.clone(),
        pid: process.pid,
        status: SessionStatus::Running,
        socks: row.socks.clone(),
        http: row.http.clone(),
        started_at: row.started_at,
        owner_kind: row.owner_kind,
        owner_instance_id: context.info.instance_id,
        delay_ms: None,
        health: HealthReport::unproven(),
        traffic: None,
    }
}
