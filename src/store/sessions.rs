//! The table `runtime_sessions`: one row a run of an engine.

use std::num::NonZeroU16;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, params};
use uuid::Uuid;

use super::{Store, StoreError, time_text, time_value};
use crate::config::{Config, ConfigId};
use crate::event::{Address, LastFailure, OwnerKind, Reason, SessionId, SessionStatus};

/// So many sessions are kept.
const KEPT: u32 = 200;

/// What makes a process this process and no other: a pid alone is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

/// What is known of a session before its engine is started.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    /// The config's key.
    pub config_id: ConfigId,
    /// The config.
    pub config: &'a Config,
    /// The daemon's instance.
    pub owner_instance_id: Uuid,
    /// `xray` or `v2ray`.
    pub engine: &'a str,
    /// The engine's version.
    pub engine_version: &'a str,
    /// The engine's binary.
    pub engine_path: &'a std::path::Path,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: &'a str,
    /// `/etc/machine-id`.
    pub machine_id: &'a str,
    /// Public SOCKS address.
    pub socks: &'a Address,
    /// Public HTTP address.
    pub http: Option<&'a Address>,
    /// Why it begins.
    pub reason: Reason,
    /// Now.
    pub started_at: DateTime<Utc>,
}

/// One row of `runtime_sessions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The key.
    pub session_id: SessionId,
    /// The config it ran for; may be removed.
    pub config_id: ConfigId,
    /// The config's name then.
    pub name: String,
    /// The config's protocol.
    pub protocol: String,
    /// The node's address.
    pub address: String,
    /// The node's port.
    pub port: NonZeroU16,
    /// Who owns the engine.
    pub owner_kind: OwnerKind,
    /// The daemon instance that owns the engine, or did last.
    pub owner_instance_id: Uuid,
    /// `xray` or `v2ray`.
    pub engine: String,
    /// The engine's version.
    pub engine_version: String,
    /// The engine's binary.
    pub engine_path: PathBuf,
    /// The engine's process; none when it was never started.
    pub process: Option<ProcessIdentity>,
    /// The boot it ran in.
    pub boot_id: String,
    /// The machine it ran on.
    pub machine_id: String,
    /// Public SOCKS address.
    pub socks: Address,
    /// Public HTTP address.
    pub http: Option<Address>,
    /// Where it stands.
    pub status: SessionStatus,
    /// Why it began.
    pub begin_reason: Reason,
    /// Why it was ended on purpose.
    pub stop_reason: Option<Reason>,
    /// What was wrong with it.
    pub failure: Option<(Reason, String)>,
    /// When the engine was started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub stopped_at: Option<DateTime<Utc>>,
}

const SELECT: &str = "SELECT session_id, config_id, name, protocol, address, port, owner_instance_id, engine, \
     engine_version, engine_path, pid, pid_start_ticks, boot_id, machine_id, socks_host, socks_port, http_host, \
     http_port, status, begin_reason, stop_reason, failure_reason, failure_detail, started_at, stopped_at \
     FROM runtime_sessions";

fn read(row: &Row<'_>) -> rusqlite::Result<Result<SessionRow, StoreError>> {
    let id: i64 = row.get("session_id")?;
    let bad = |column: &str| StoreError::Row(format!("runtime_sessions.{column} of session {id}"));
    let reason = |column: &str| -> rusqlite::Result<Option<Reason>> {
        // A reason of a newer version reads as unknown; it is only shown.
        Ok(row.get::<_, Option<String>>(column)?.map(|text| text.parse().unwrap_or(Reason::Unknown)))
    };
    let http: (Option<String>, Option<u16>) = (row.get("http_host")?, row.get("http_port")?);
    let process: (Option<u32>, Option<i64>) = (row.get("pid")?, row.get("pid_start_ticks")?);
    let (port, socks_port): (u16, u16) = (row.get("port")?, row.get("socks_port")?);
    let (status, owner): (String, String) = (row.get("status")?, row.get("owner_instance_id")?);
    let (started_at, stopped_at): (String, Option<String>) = (row.get("started_at")?, row.get("stopped_at")?);
    let failure_detail: Option<String> = row.get("failure_detail")?;
    let (begin_reason, stop_reason, failure_reason) =
        (reason("begin_reason")?, reason("stop_reason")?, reason("failure_reason")?);
    let address = |host: String, port: u16, column: &str| {
        Ok::<_, StoreError>(Address { host, port: NonZeroU16::new(port).ok_or_else(|| bad(column))? })
    };
    let texts: [String; 7] = [
        row.get("name")?,
        row.get("protocol")?,
        row.get("address")?,
        row.get("engine")?,
        row.get("engine_version")?,
        row.get("boot_id")?,
        row.get("machine_id")?,
    ];
    let (config_id, engine_path, socks_host): (i64, String, String) =
        (row.get("config_id")?, row.get("engine_path")?, row.get("socks_host")?);
    Ok((|| {
        let [name, protocol, node_address, engine, engine_version, boot_id, machine_id] = texts;
        Ok(SessionRow {
            session_id: SessionId(id),
            config_id: ConfigId(config_id),
            name,
            protocol,
            address: node_address,
            port: NonZeroU16::new(port).ok_or_else(|| bad("port"))?,
            owner_kind: OwnerKind::Daemon,
            owner_instance_id: owner.parse().map_err(|_| bad("owner_instance_id"))?,
            engine,
            engine_version,
            engine_path: engine_path.into(),
            process: match process {
                (Some(pid), Some(ticks)) => Some(ProcessIdentity {
                    pid,
                    start_ticks: u64::try_from(ticks).map_err(|_| bad("pid_start_ticks"))?,
                }),
                _ => None,
            },
            boot_id,
            machine_id,
            socks: address(socks_host, socks_port, "socks_port")?,
            http: match http {
                (Some(host), Some(port)) => Some(address(host, port, "http_port")?),
                _ => None,
            },
            status: status.parse().map_err(|_| bad("status"))?,
            begin_reason: begin_reason.unwrap_or(Reason::Unknown),
            stop_reason,
            failure: failure_reason.map(|reason| (reason, failure_detail.unwrap_or_default())),
            started_at: time_value(&started_at)?,
            stopped_at: stopped_at.as_deref().map(time_value).transpose()?,
        })
    })())
}

impl Store {
    /// Adds a session with status `starting` and forgets the oldest ended ones past 200.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn begin_session(&mut self, new: &NewSession<'_>) -> Result<SessionId, StoreError> {
        let transaction = self.change()?;
        transaction.prepare_cached(
            "INSERT INTO runtime_sessions (config_id, name, protocol, address, port, owner_kind, owner_instance_id, \
             engine, engine_version, engine_path, boot_id, machine_id, socks_host, socks_port, http_host, http_port, \
             status, begin_reason, started_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'daemon', ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 'starting', ?16, ?17)",
        )?
        .execute(params![
            new.config_id.0,
            new.config.name,
            new.config.protocol.name(),
            new.config.address,
            new.config.port.get(),
            new.owner_instance_id.to_string(),
            new.engine,
            new.engine_version,
            new.engine_path.to_string_lossy(),
            new.boot_id,
            new.machine_id,
            new.socks.host,
            new.socks.port.get(),
            new.http.map(|http| &http.host),
            new.http.map(|http| http.port.get()),
            new.reason.as_str(),
            time_text(new.started_at),
        ])?;
        let id = transaction.last_insert_rowid();
        transaction
            .prepare_cached(
                "DELETE FROM runtime_sessions WHERE status IN ('stopped', 'failed') AND session_id NOT IN \
                 (SELECT session_id FROM runtime_sessions ORDER BY session_id DESC LIMIT ?1)",
            )?
            .execute([KEPT])?;
        transaction.commit()?;
        Ok(SessionId(id))
    }

    /// Writes down which process the session's engine is.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn session_process(&mut self, id: SessionId, process: ProcessIdentity) -> Result<(), StoreError> {
        self.update_session(
            "UPDATE runtime_sessions SET pid = ?2, pid_start_ticks = ?3 WHERE session_id = ?1",
            params![id.0, process.pid, i64::try_from(process.start_ticks).unwrap_or(i64::MAX)],
        )
    }

    /// The session serves the public addresses now.
    ///
    /// # Errors
    /// When the database cannot be written, or another session is running.
    pub fn session_running(&mut self, id: SessionId) -> Result<(), StoreError> {
        self.update_session("UPDATE runtime_sessions SET status = 'running' WHERE session_id = ?1", params![id.0])
    }

    /// The session serves the public addresses, in place of the one that did. Its config is what is wanted, and
    /// the last one that was.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is changed then.
    pub fn hand_over(&mut self, id: SessionId) -> Result<(), StoreError> {
        let transaction = self.change()?;
        // One that has failed meanwhile stays so. One whose end could not be written when it came is no obstacle.
        transaction.execute(
            "UPDATE runtime_sessions SET status = 'stopping' WHERE status = 'running' AND session_id <> ?1 \
             AND machine_id = (SELECT machine_id FROM runtime_sessions WHERE session_id = ?1)",
            [id.0],
        )?;
        transaction.execute("UPDATE runtime_sessions SET status = 'running' WHERE session_id = ?1", [id.0])?;
        transaction.execute(
            "INSERT OR REPLACE INTO daemon_state (key, value) \
             SELECT fact.column1, config_id FROM runtime_sessions, (VALUES ('wanted'), ('last_config')) AS fact \
             WHERE session_id = ?1",
            [id.0],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// The session takes nothing new; `reason` says why it is ended.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn session_stopping(&mut self, id: SessionId, reason: Reason) -> Result<(), StoreError> {
        self.update_session(
            "UPDATE runtime_sessions SET status = 'stopping', stop_reason = ?2 WHERE session_id = ?1",
            params![id.0, reason.as_str()],
        )
    }

    /// The session's engine is gone as intended.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn session_stopped(&mut self, id: SessionId, reason: Reason, at: DateTime<Utc>) -> Result<(), StoreError> {
        self.update_session(
            "UPDATE runtime_sessions SET status = 'stopped', stopped_at = ?3, \
             stop_reason = coalesce(stop_reason, ?2) WHERE session_id = ?1",
            params![id.0, reason.as_str(), time_text(at)],
        )
    }

    /// The session ended by a fault.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn session_failed(
        &mut self,
        id: SessionId,
        reason: Reason,
        detail: &str,
        at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.update_session(
            "UPDATE runtime_sessions SET status = 'failed', failure_reason = ?2, failure_detail = ?3, stopped_at = ?4 \
             WHERE session_id = ?1",
            params![id.0, reason.as_str(), detail, time_text(at)],
        )
    }

    /// The session belongs to this daemon now.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn session_adopted(&mut self, id: SessionId, owner: Uuid) -> Result<(), StoreError> {
        self.update_session(
            "UPDATE runtime_sessions SET owner_instance_id = ?2 WHERE session_id = ?1",
            params![id.0, owner.to_string()],
        )
    }

    fn update_session(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        let transaction = self.change()?;
        transaction.prepare_cached(sql)?.execute(params)?;
        transaction.commit()?;
        Ok(())
    }

    /// The sessions of this machine that have not ended, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open_sessions(&self, machine_id: &str) -> Result<Vec<SessionRow>, StoreError> {
        let sql = format!(
            "{SELECT} WHERE status IN ('starting', 'running', 'stopping') AND machine_id = ?1 ORDER BY session_id"
        );
        self.connection.prepare(&sql)?.query_map([machine_id], read)?.map(|row| row?).collect()
    }

    /// One session.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn session(&self, id: SessionId) -> Result<Option<SessionRow>, StoreError> {
        let sql = format!("{SELECT} WHERE session_id = ?1");
        self.connection.prepare_cached(&sql)?.query_row([id.0], read).optional()?.transpose()
    }

    /// The last sessions, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sessions(&self, limit: u32) -> Result<Vec<SessionRow>, StoreError> {
        let sql = format!("{SELECT} ORDER BY session_id DESC LIMIT ?1");
        self.connection.prepare(&sql)?.query_map([limit], read)?.map(|row| row?).collect()
    }

    /// The config of the session that is running on this machine, as far as the database knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn active_config(&self, machine_id: &str) -> Result<Option<ConfigId>, StoreError> {
        let sql = "SELECT config_id FROM runtime_sessions WHERE status = 'running' AND machine_id = ?1";
        Ok(self.connection.prepare_cached(sql)?.query_row([machine_id], |row| row.get(0).map(ConfigId)).optional()?)
    }

    /// The last session that ended by a fault.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_failure(&self) -> Result<Option<LastFailure>, StoreError> {
        let sql = format!("{SELECT} WHERE status = 'failed' ORDER BY session_id DESC LIMIT 1");
        let row = self.connection.prepare_cached(&sql)?.query_row([], read).optional()?.transpose()?;
        Ok(row.and_then(|row| {
            let (reason, detail) = row.failure?;
            Some(LastFailure {
                at: row.stopped_at.unwrap_or(row.started_at),
                session_id: Some(row.session_id),
                config_id: row.config_id,
                reason,
                detail,
            })
        }))
    }
}
