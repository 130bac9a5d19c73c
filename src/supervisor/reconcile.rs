//! What an earlier daemon left: sessions to adopt, engines to end, rows to close.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::time::Duration;

use chrono::Utc;

use super::connect::{public_inbounds, session_of, until_ready};
use super::context::{Context, Running};
use crate::engine::api::Api;
use crate::engine::ports::{self, Kind, Owner};
use crate::engine::process::{IdentityError, Process, TERM_GRACE, processes_with_argument};
use crate::engine::{Engine, Family};
use crate::event::{Reason, Session, SessionStatus};
use crate::store::{ProcessIdentity, SessionRow, StoreError};

/// An engine that has been serving answers at once; one that does not by then hangs.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks at every open row of this machine and at every engine of this root. Returns the session that goes on.
///
/// # Errors
/// When the database cannot be read or written.
pub(super) async fn reconcile(context: &Rc<Context>) -> Result<Option<Session>, StoreError> {
    let machine_id = context.machine_id.clone();
    let rows = context.store.run(move |store| store.open_sessions(&machine_id)).await?;
    let mut adopted: Option<Session> = None;
    for row in &rows {
        match find(context, row) {
            Ok(process) => match row.status {
                SessionStatus::Running if adopted.is_none() => match adopt(context, row, process).await {
                    Ok(session) => adopted = Some(session),
                    Err(refusal) => close(context, row, Reason::AdoptionRefused, refusal).await?,
                },
                SessionStatus::Stopping => {
                    process.stop(TERM_GRACE).await;
                    close_stopped(context, row).await?;
                }
                _ => {
                    process.stop(TERM_GRACE).await;
                    let detail = "the daemon ended while the engine was being started".to_owned();
                    close(context, row, Reason::InternalError, detail).await?;
                }
            },
            Err(_) if row.status == SessionStatus::Stopping => close_stopped(context, row).await?,
            Err((reason, detail)) => close(context, row, reason, detail).await?,
        }
    }
    end_strangers(context, adopted.as_ref()).await;
    sweep_runtime(context, adopted.as_ref());
    Ok(adopted)
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

/// Takes a running engine over: it must answer, and serve the addresses its row names.
async fn adopt(context: &Rc<Context>, row: &SessionRow, process: Process) -> Result<Session, String> {
    let result = take_over(context, row, &process).await;
    match result {
        Ok((session, api, files)) => {
            let config_id = row.config_id;
            let config = context.store.run(move |store| store.config(config_id)).await.ok().flatten();
            let config = config.map(|row| row.config);
            tracing::info!(session_id = %row.session_id, pid = session.pid, "adopted the session of an earlier daemon");
            context.engines.borrow_mut().insert(row.session_id, Rc::new(Running { process, api, files, config }));
            Ok(session)
        }
        Err(refusal) => {
            process.stop(TERM_GRACE).await;
            Err(refusal)
        }
    }
}

async fn take_over(
    context: &Rc<Context>,
    row: &SessionRow,
    process: &Process,
) -> Result<(Session, Api, crate::engine::SessionFiles), String> {
    let engine = Engine {
        family: if row.engine == Family::Xray.name() { Family::Xray } else { Family::V2ray },
        version: row.engine_version.parse().map_err(|_| "its engine's version cannot be read".to_owned())?,
        path: row.engine_path.clone(),
    };
    let files = context.session_files(row.session_id, &engine);
    until_ready(&engine, &files, ADOPT_TIMEOUT)
        .await
        .map_err(|error| format!("the engine does not answer on its private socket: {error}"))?;
    let api = Api::new(&engine, &files.api);
    put_back_inbounds(context, row, process.identity(), &api).await?;
    let (session_id, instance) = (row.session_id, context.info.instance_id);
    context
        .store
        .run(move |store| store.session_adopted(session_id, instance))
        .await
        .map_err(|error| error.to_string())?;
    Ok((session_of(row, process.identity(), context), api, files))
}

/// A daemon that was killed between two steps may have left the engine without a public address.
async fn put_back_inbounds(
    context: &Rc<Context>,
    row: &SessionRow,
    process: ProcessIdentity,
    api: &Api,
) -> Result<(), String> {
    // The row's own addresses: the settings may have changed since, and apply from the next session on.
    let mut settings = (*context.settings()).clone();
    let host = |text: &str| text.parse().map_err(|_| format!("its address `{text}` cannot be read"));
    settings.runtime.socks.host = host(&row.socks.host)?;
    settings.runtime.socks.port = row.socks.port;
    settings.runtime.http.enabled = row.http.is_some();
    if let Some(http) = &row.http {
        settings.runtime.http.host = host(&http.host)?;
        settings.runtime.http.port = http.port;
    }
    for inbound in public_inbounds(&settings) {
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
        let added = api.add_inbound(&inbound).await;
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
async fn end_strangers(context: &Context, adopted: Option<&Session>) {
    let prefix = context.paths.runtime().join("session-").into_os_string();
    let is_session_file =
        |word: &OsStr| word.as_bytes().starts_with(prefix.as_bytes()) && word.as_bytes().ends_with(b".json");
    for (identity, argument) in processes_with_argument(is_session_file) {
        if adopted.is_some_and(|session| session.pid == identity.pid) {
            continue;
        }
        if let Ok(process) = Process::find(identity, &[&argument]) {
            tracing::warn!(pid = identity.pid, "ending an engine of ours that no session knows");
            process.stop(TERM_GRACE).await;
        }
    }
}

/// Removes files and sockets of engines that are no more.
fn sweep_runtime(context: &Context, adopted: Option<&Session>) {
    let mut keep = HashSet::from([context.paths.socket()]);
    if let Some(session) = adopted {
        for role in ["socks", "http", "api"] {
            let socket = context.paths.session_socket(session.session_id, role);
            let mut lock = socket.clone().into_os_string();
            lock.push(".lock");
            keep.extend([socket, lock.into()]);
        }
    }
    let Ok(entries) = std::fs::read_dir(context.paths.runtime()) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| !keep.contains(path)) {
        let ours = path.extension().is_some_and(|kind| kind == "sock" || kind == "lock" || kind == "json");
        if ours && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}
