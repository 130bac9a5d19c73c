//! The tables `daemon_state` and `engines`: small facts that outlive a process.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{Store, StoreError};
use crate::config::ConfigId;

const WANTED: &str = "wanted";
const LAST_CONFIG: &str = "last_config";
const BOOT: &str = "boot_id";
const CLEAN: &str = "clean";

/// What is known of the daemon before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The boot it ran in; none when this is the first.
    pub boot_id: Option<String>,
    /// Whether it ended because somebody asked it to.
    pub clean: bool,
}

impl Store {
    /// The config the user asked for last; none after a disconnect.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn wanted(&self) -> Result<Option<ConfigId>, StoreError> {
        Ok(self.fact(WANTED)?.and_then(|text| text.parse().ok()).map(ConfigId))
    }

    /// Remembers what the user asked for.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_wanted(&mut self, id: Option<ConfigId>) -> Result<(), StoreError> {
        self.set_fact(WANTED, id.map(|id| id.to_string()).as_deref())
    }

    /// The config that a session served last, also after a disconnect; it may be gone meanwhile.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_config(&self) -> Result<Option<ConfigId>, StoreError> {
        Ok(self.fact(LAST_CONFIG)?.and_then(|text| text.parse().ok()).map(ConfigId))
    }

    /// Writes down that a daemon begins in this boot; returns what is known of the one before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn begin_daemon(&mut self, boot_id: &str) -> Result<Before, StoreError> {
        let before = Before { boot_id: self.fact(BOOT)?, clean: self.fact(CLEAN)?.is_some() };
        // In one: after a reboot's new boot id alone, a crash would read as a clean end.
        let transaction = self.change()?;
        write(&transaction, BOOT, Some(boot_id))?;
        write(&transaction, CLEAN, None)?;
        transaction.commit()?;
        Ok(before)
    }

    /// Writes down that the daemon ends because somebody asked it to.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_clean(&mut self) -> Result<(), StoreError> {
        self.set_fact(CLEAN, Some("1"))
    }

    pub(super) fn fact(&self, key: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM daemon_state WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }

    pub(super) fn set_fact(&mut self, key: &str, value: Option<&str>) -> Result<(), StoreError> {
        let transaction = self.change()?;
        write(&transaction, key, value)?;
        transaction.commit()?;
        Ok(())
    }

    /// What the engine at `path` printed when it was asked for its version, if it still is the same file.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn engine_output(&self, path: &str, size: u64, mtime: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT output FROM engines WHERE path = ?1 AND size = ?2 AND mtime = ?3")?;
        Ok(statement.query_row(params![path, size_value(size), mtime], |row| row.get(0)).optional()?)
    }

    /// Remembers what the engine at `path` printed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_engine_output(&mut self, path: &str, size: u64, mtime: &str, output: &str) -> Result<(), StoreError> {
        let transaction = self.change()?;
        transaction.execute(
            "INSERT OR REPLACE INTO engines (path, size, mtime, output) VALUES (?1, ?2, ?3, ?4)",
            params![path, size_value(size), mtime, output],
        )?;
        transaction.commit()?;
        Ok(())
    }
}

fn write(transaction: &Transaction<'_>, key: &str, value: Option<&str>) -> Result<(), StoreError> {
    match value {
        Some(value) => {
            transaction.execute("INSERT OR REPLACE INTO daemon_state (key, value) VALUES (?1, ?2)", [key, value])?
        }
        None => transaction.execute("DELETE FROM daemon_state WHERE key = ?1", [key])?,
    };
    Ok(())
}

fn size_value(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
