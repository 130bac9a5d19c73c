//! The table `config_tests`: what each test of a config measured.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::{Store, StoreError, time_text};
use crate::config::ConfigId;

/// So many tests are kept of each config.
const KEPT: u32 = 20;

/// One test of a config.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TestRow {
    /// When.
    pub at: DateTime<Utc>,
    /// From request to first byte of the answer, in milliseconds; none when it failed.
    pub delay_ms: Option<u32>,
    /// What failed.
    pub failure: Option<String>,
}

impl Store {
    /// Adds a test of each config and forgets all but the last 20 of each. Tests of removed configs are dropped.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is added then.
    pub fn add_tests(&mut self, tests: &[(ConfigId, TestRow)]) -> Result<(), StoreError> {
        let transaction = self.change()?;
        for (id, test) in tests {
            transaction
                .prepare_cached(
                    "INSERT INTO config_tests (config_id, at, delay_ms, failure) \
                     SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM configs WHERE config_id = ?1)",
                )?
                .execute(params![id.0, time_text(test.at), test.delay_ms, test.failure])?;
            transaction
                .prepare_cached(
                    "DELETE FROM config_tests WHERE config_id = ?1 AND test_id NOT IN \
                     (SELECT test_id FROM config_tests WHERE config_id = ?1 ORDER BY test_id DESC LIMIT ?2)",
                )?
                .execute(params![id.0, KEPT])?;
        }
        transaction.commit()?;
        Ok(())
    }
}
