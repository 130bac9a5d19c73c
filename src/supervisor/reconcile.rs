//! What an earlier daemon left: sessions to adopt, engines to end, rows to close.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use chrono::Utc;

use super::context::{Context, Running};
use super::start::{public_inbounds, session_of, until_ready};
use crate::config::Config;
use crate::engine::api::{Api, PublicInbound};
use crate::engine::ports::{self, Kind, Owner};
use crate::engine::process::{IdentityError, Process, TERM_GRACE, processes_with_argument};
use crate::engine::{Engine, Family, SessionFiles};
use crate::event::{Reason, Session, SessionId, SessionStatus};
use crate::gate::{Behind, Gate, settle};
use crate::probe::batch;
use crate::store::{ProcessIdentity, SessionRow, StoreError};

/// An engine that has been serving answers at once; one that does not by then hangs.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(2);

/// What an earlier daemon left and this one goes on with.
#[derive(Default)]
pub(super) struct Left {
    /// The session.
    pub(super) adopted: Option<Session>,
    /// Replaced engines that still have connections.
    pub(super) draining: Vec<SessionId>,
}

/// Looks at every open row of this machine and at every engine of this root.
///
/// # Errors
/// When the database cannot be read or written.
pub(super) async fn reconcile(context: &Rc<Context>) -> Result<Left, StoreError> {
    let machine_id = context.machine_id.clone();
    let rows = context.store.run(move |store| store.open_sessions(&machine_id)).await?;
    let mut left = Left::default();
    let mut others = Vec::new();
    for row in rows {
        match find(context, &row) {
            Ok(process) if row.status == SessionStatus::Running => match take_over(context, &row, process).await {
                Ok(session) => left.adopted = Some(session),
                Err(refusal) => close(context, &row, Reason::AdoptionRefused, refusal).await?,
            },
            Ok(process) => others.push((row, process)),
            Err(_) if row.status == SessionStatus::Stopping => close_stopped(context, &row).await?,
            Err((reason, detail)) => close(context, &row, reason, detail).await?,
        }
    }
    for (row, process) in &mut others {
        // What cannot be spoken to is ended below.
        if let (Ok(engine), Ok(inbounds)) = (engine_of(row), inbounds_of(context, row)) {
            let files = context.session_files(row.session_id, &engine);
            let api = Api::new(&engine, &files.api);
            if let Ok(process) = Process::find(process.identity(), &[]) {
                let running = Rc::new(Running { process, api, files, inbounds, config: None });
                context.engines.borrow_mut().insert(row.session_id, running);
            }
        }
    }
    if let Some(session) = &left.adopted {
        join_gates(context, session.session_id).await;
    }
    for (row, process) in others {
        let leaves = leave_public(context, row.session_id, left.adopted.is_some()).await;
        // One that a hand-over left may finish; one that somebody wanted ended has had its time.
        if row.status == SessionStatus::Stopping && row.stop_reason.is_none() && leaves {
            left.draining.push(row.session_id);
            continue;
        }
        process.stop(TERM_GRACE).await;
        context.engines.borrow_mut().remove(&row.session_id);
        context.left(row.session_id);
        if row.status == SessionStatus::Stopping {
            close_stopped(context, &row).await?;
        } else {
            let detail = "the daemon ended while the engine was being started".to_owned();
            close(context, &row, Reason::InternalError, detail).await?;
        }
    }
    end_strangers(context).await;
    batch::sweep_dead_tests(&context.paths).await;
    sweep_runtime(context);
    Ok(left)
}

/// Opens the gates beside the engine that stays, and beside those that a hand-over was about when the daemon died.
async fn join_gates(context: &Rc<Context>, session_id: SessionId) {
    let Some(running) = context.engine(session_id) else { return };
    // What was handed over was so for want of an engine; it would be in the way of finding out who listens where.
    context.handed.borrow_mut().clear();
    let engines: Vec<_> =
        context.engines.borrow().iter().map(|(id, running)| (*id, running.process.identity().pid)).collect();
    for inbound in &running.inbounds {
        let behind = Behind::Engine(running.files.http.clone());
        match Gate::adopt(inbound.clone(), &engines, session_id, behind).await {
            Ok(gate) => context.add_gate(gate),
            Err(error) => tracing::error!("{}: the session goes on without a gate: {error}", inbound.address()),
        }
    }
}

/// Has an engine that is not to serve leave the public addresses, if it still has them. False when it does not listen
/// to that.
async fn leave_public(context: &Rc<Context>, session_id: SessionId, steered: bool) -> bool {
    let Some(running) = context.engine(session_id) else { return false };
    if steered {
        settle(running.process.identity().pid, &running.addresses()).await;
    }
    for inbound in &running.inbounds {
        if running.api.remove_inbound(&inbound.tag).await.is_err() {
            return false;
        }
    }
    context.left(session_id);
    true
}

/// The engine of a row, if it is beyond doubt the one that the row means.
fn find(context: &Context, row: &SessionRow) -> Result<Process, (Reason, String)> {
    let Some(identity) = row.process else {
        return Err((Reason::InternalError, "the daemon ended before the engine was started".to_owned()));
    };
    if row.boot_id != context.boot_id {
        return Err((Reason::EngineExited, "the machine was restarted".to_owned()));
    }
    let file = context.paths.session_file(row.session_id);
    Process::find(identity, &[row.engine_path.as_os_str(), file.as_os_str()]).map_err(|error| match error {
        IdentityError::Gone => (Reason::EngineExited, "the engine ended while no daemon watched".to_owned()),
        other => (Reason::AdoptionRefused, format!("the engine was not found again: {other}; it is left alone")),
    })
}

/// Takes a running engine over: it must answer, and serve the addresses its row names. What cannot be taken over is ended.
async fn take_over(context: &Rc<Context>, row: &SessionRow, process: Process) -> Result<Session, String> {
    let identity = process.identity();
    match try_take_over(context, row, identity).await {
        Ok((session, api, files, inbounds, config)) => {
            tracing::info!(session_id = %row.session_id, pid = session.pid, "adopted the session of an earlier daemon");
            let running = Rc::new(Running { process, api, files, inbounds, config });
            context.engines.borrow_mut().insert(row.session_id, running);
            Ok(session)
        }
        Err(refusal) => {
            process.stop(TERM_GRACE).await;
            Err(refusal)
        }
    }
}

async fn try_take_over(
    context: &Rc<Context>,
    row: &SessionRow,
    identity: ProcessIdentity,
) -> Result<(Session, Api, SessionFiles, Vec<PublicInbound>, Option<Config>), String> {
    let engine = engine_of(row)?;
    let files = context.session_files(row.session_id, &engine);
    until_ready(&engine, &files, ADOPT_TIMEOUT)
        .await
        .map_err(|error| format!("the engine does not answer on its private socket: {error}"))?;
    let api = Api::new(&engine, &files.api);
    let inbounds = inbounds_of(context, row)?;
    put_back_inbounds(row, identity, &inbounds, &api).await?;
    let (session_id, config_id, instance) = (row.session_id, row.config_id, context.info.instance_id);
    let config = context.store.run(move |store| {
        store.session_adopted(session_id, instance)?;
        store.config(config_id)
    });
    let config = config.await.map_err(|error| error.to_string())?;
    let mut session = session_of(row, identity, context);
    // It may have been renamed since; one that was removed keeps the name it had.
    let config = config.map(|row| row.config);
    if let Some(config) = &config {
        session.name.clone_from(&config.name);
    }
    Ok((session, api, files, inbounds, config))
}

fn engine_of(row: &SessionRow) -> Result<Engine, String> {
    Ok(Engine {
        family: if row.engine == Family::Xray.name() { Family::Xray } else { Family::V2ray },
        version: row.engine_version.parse().map_err(|_| "its engine's version cannot be read".to_owned())?,
        path: row.engine_path.clone(),
    })
}

/// The row's own addresses: the settings may have changed since, and apply from the next session on.
fn inbounds_of(context: &Context, row: &SessionRow) -> Result<Vec<PublicInbound>, String> {
    let mut settings = (*context.settings()).clone();
    let host = |text: &str| text.parse().map_err(|_| format!("its address `{text}` cannot be read"));
    settings.runtime.socks.host = host(&row.socks.host)?;
    settings.runtime.socks.port = row.socks.port;
    settings.runtime.http.enabled = row.http.is_some();
    if let Some(http) = &row.http {
        settings.runtime.http.host = host(&http.host)?;
        settings.runtime.http.port = http.port;
    }
    Ok(public_inbounds(&settings))
}

/// A daemon that was killed between two steps may have left the engine without a public address.
async fn put_back_inbounds(
    row: &SessionRow,
    process: ProcessIdentity,
    inbounds: &[PublicInbound],
    api: &Api,
) -> Result<(), String> {
    for inbound in inbounds {
        let (host, port) = (inbound.host, inbound.port);
        let owners = smol::unblock(move || ports::owners(host, port, Kind::Tcp)).await;
        let serves = owners.iter().any(|owner| matches!(owner, Owner::Process { pid, .. } if *pid == process.pid));
        if serves {
            continue;
        }
        if let Some(other) = owners.first() {
            return Err(format!("{} belongs to {other} now", inbound.address()));
        }
        // It may be registered without listening; removing what is not there is no error.
        let removed = api.remove_inbound(&inbound.tag).await;
        let added = api.add_inbound(inbound).await;
        removed.and(added).map_err(|error| format!("it does not serve {}: {error}", inbound.address()))?;
        tracing::warn!(session_id = %row.session_id, "put the public address {} back", inbound.address());
    }
    Ok(())
}

async fn close(context: &Context, row: &SessionRow, reason: Reason, detail: String) -> Result<(), StoreError> {
    tracing::warn!(session_id = %row.session_id, %reason, "an earlier daemon's session is closed: {detail}");
    let (id, at) = (row.session_id, Utc::now());
    context.store.run(move |store| store.session_failed(id, reason, &detail, at)).await
}

async fn close_stopped(context: &Context, row: &SessionRow) -> Result<(), StoreError> {
    let (id, at) = (row.session_id, Utc::now());
    context.store.run(move |store| store.session_stopped(id, Reason::UserRequested, at)).await
}

/// Ends engines that run with a session file of this root and that no row knows.
async fn end_strangers(context: &Context) {
    let known: HashSet<u32> = context.engines.borrow().values().map(|running| running.process.identity().pid).collect();
    for (identity, argument) in processes_with_argument(|word| context.paths.is_session_file(word)) {
        if known.contains(&identity.pid) {
            continue;
        }
        if let Ok(process) = Process::find(identity, &[&argument]) {
            tracing::warn!(pid = identity.pid, "ending an engine of ours that no session knows");
            process.stop(TERM_GRACE).await;
        }
    }
}

/// Removes files and sockets of engines that are no more.
fn sweep_runtime(context: &Context) {
    let mut keep = HashSet::from([context.paths.socket()]);
    for session_id in context.engines.borrow().keys() {
        for role in ["socks", "http", "api"] {
            let socket = context.paths.session_socket(*session_id, role);
            let mut lock = socket.clone().into_os_string();
            lock.push(".lock");
            keep.extend([socket, lock.into()]);
        }
    }
    let Ok(entries) = std::fs::read_dir(context.paths.runtime()) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| !keep.contains(path)) {
        let ours = path.extension().is_some_and(|kind| kind == "sock" || kind == "lock" || kind == "json");
        // Somebody may run `xrat test` at this moment.
        if ours
            && !batch::is_of_live_test(&path)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}
