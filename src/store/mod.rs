//! The SQLite database: opening, migrating, and one file a table.
//!
//! Everything here blocks; the daemon calls it through [`Shared`], the command line directly. Each change is one
//! `BEGIN IMMEDIATE` transaction, because daemon and command line write the same file.

mod configs;
mod decisions;
mod sessions;
mod state;
mod subscriptions;
mod tests_table;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

pub use configs::{ConfigRow, Disabled, FindError, Imported, Importing, Sort};
pub use decisions::{CandidateRow, RotationFacts};
pub use sessions::{NewSession, ProcessIdentity, SessionRow};
pub use state::Before;
pub use subscriptions::{SubscriptionId, SubscriptionRow};
pub use tests_table::TestRow;

/// "xrat" as a big-endian number: `file` and `PRAGMA application_id` tell whose database this is.
const APPLICATION_ID: i32 = 0x7872_6174;
/// The schema's steps, in order; a database's `user_version` says how many it has seen.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_first.sql"), include_str!("migrations/0002_decisions.sql")];
/// How long a change waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// File systems on which WAL's shared memory does not work between machines: NFS, SMB, SMB2, CIFS, 9p, AFS.
const NETWORK_FILE_SYSTEMS: &[i64] = &[0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x5346_414f];

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened or created.
    #[error("cannot open the database {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a database, or damaged.
    #[error(
        "the database {} is damaged ({detail}). Nothing was changed. To begin with an empty one: mv {0} {0}.damaged",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// It belongs to another program.
    #[error("{} is a database of another program; give another --root", .0.display())]
    Foreign(PathBuf),
    /// A newer xrat made it.
    #[error("the database {} was made by a newer xrat (schema {found}, this one knows {known}): update xrat", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// The newest this program knows.
        known: usize,
    },
    /// The file or its directory, where SQLite keeps its journal, cannot be written.
    #[error("the database {} cannot be written ({detail}): make it and its directory writable (chmod u+w)", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// Another process holds it.
    #[error("the database is locked by another program for more than {} s; try again", BUSY_TIMEOUT.as_secs())]
    Locked,
    /// The disk is full.
    #[error("the disk is full: the database was not changed")]
    Full,
    /// A row that this program did not write.
    #[error("the database has a row that cannot be read: {0}")]
    Row(String),
    /// Anything else SQLite says.
    #[error("database: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the database, makes it (0600) when it is missing, and brings its schema up to date.
    ///
    /// An older schema is copied to `<path>.v<N>` first.
    ///
    /// # Errors
    /// See [`StoreError`]; the file is unchanged then.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(open)?;
        let network = rustix::fs::fstatfs(&file)
            .is_ok_and(|stat| NETWORK_FILE_SYSTEMS.iter().any(|magic| i128::from(stat.f_type) == i128::from(*magic)));
        drop(file);
        Self::prepare(path, network).map_err(|error| match error {
            StoreError::Sqlite(error)
                if matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) =>
            {
                StoreError::Damaged { path: path.to_owned(), detail: error.to_string() }
            }
            StoreError::Sqlite(error)
                if matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)) =>
            {
                StoreError::ReadOnly { path: path.to_owned(), detail: error.to_string() }
            }
            other => other,
        })
    }

    fn prepare(path: &Path, network: bool) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(32);
        // 256 KiB of page cache: the daemon reads a handful of rows a day.
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA cache_size = -256; PRAGMA synchronous = NORMAL;")?;
        let (application, version) = Self::marks(&connection)?;
        if application != 0 && application != APPLICATION_ID {
            return Err(StoreError::Foreign(path.to_owned()));
        }
        if version > MIGRATIONS.len() {
            return Err(StoreError::Newer { path: path.to_owned(), found: version, known: MIGRATIONS.len() });
        }
        let journal = if network { "DELETE" } else { "WAL" };
        connection.pragma_update_and_check(None, "journal_mode", journal, |_| Ok(()))?;
        if version < MIGRATIONS.len() {
            migrate(&mut connection, path)?;
        }
        Ok(Self { connection })
    }

    fn marks(connection: &Connection) -> Result<(i32, usize), StoreError> {
        let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((application, usize::try_from(version).unwrap_or(usize::MAX)))
    }

    /// Gives the memory of a large import back.
    pub fn shrink_memory(&self) {
        // Only an optimization: a failure changes nothing.
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }

    fn change(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let (_, version) = Store::marks(connection)?;
    if version > 0 {
        let mut copy = path.as_os_str().to_owned();
        copy.push(format!(".v{version}"));
        let copy = PathBuf::from(copy);
        if !copy.exists() {
            connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
        }
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read again inside the transaction: another process may have migrated meanwhile.
    let (_, version) = Store::marks(&transaction)?;
    for step in MIGRATIONS.get(version..).unwrap_or_default() {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    transaction.commit()?;
    Ok(())
}

/// A store for async code: each call runs on the blocking pool, one at a time.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Store>>);

impl Shared {
    /// Shares a store.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Runs `work` on the blocking pool. Dropping the future does not undo or stop work that has begun.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    {
        let store = Arc::clone(&self.0);
        // A panic in earlier work rolled its transaction back when it unwound: the store is as good as before.
        smol::unblock(move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

/// The form of every time in the database: RFC 3339, UTC, milliseconds; it sorts as text.
fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn time_value(text: &str) -> Result<DateTime<Utc>, StoreError> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .map_err(|_| StoreError::Row(format!("`{text}` is not a time")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
