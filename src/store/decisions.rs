//! The table `decisions`: what the rotation scheduler decided and why; and its state between two daemons.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, time_text};
use crate::command::{Decision, DecisionOutcome, Trigger};
use crate::config::ConfigId;
use chrono::{DateTime, Utc};

/// So many decisions are kept.
const KEPT: u32 = 1000;
const ROTATION: &str = "rotation";

/// The rotation's state as it is kept between two daemons. Deadlines are kept twice: by the clock that sleeps with the
/// machine's boot, which nobody sets, and by the wall clock for after a reboot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RotationFacts {
    /// What the user said last; none: as the settings say.
    pub enabled: Option<bool>,
    /// The boot that the `_boot_ms` deadlines are of.
    pub boot_id: String,
    /// End of the cooldown on CLOCK_BOOTTIME.
    pub cooldown_until_boot_ms: Option<u64>,
    /// End of the cooldown on the wall clock.
    pub cooldown_until: Option<DateTime<Utc>>,
    /// Next timer rotation on CLOCK_BOOTTIME.
    pub next_timer_boot_ms: Option<u64>,
    /// Next timer rotation on the wall clock.
    pub next_timer_at: Option<DateTime<Utc>>,
    /// When the session last moved.
    pub last_rotation_at: Option<DateTime<Utc>>,
    /// Why the scheduler last ran.
    pub last_trigger: Option<Trigger>,
    /// How that ended.
    pub last_result: Option<DecisionOutcome>,
}

/// A config that rotation may choose, with what its last tests showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateRow {
    /// The config.
    pub config_id: ConfigId,
    /// Its address, to tell hosts apart.
    pub host: String,
    /// Its last test.
    pub tested_at: Option<DateTime<Utc>>,
    /// The last test's delay, if it succeeded.
    pub delay_ms: Option<u32>,
    /// How many of its last ten tests failed.
    pub failures: u32,
}

impl Store {
    /// Adds a decision and forgets the oldest past 1,000.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn add_decision(&mut self, decision: &Decision) -> Result<(), StoreError> {
        let text = serde_json::to_string(decision).map_err(|error| StoreError::Row(error.to_string()))?;
        let outcome = serde_json::to_value(decision.outcome).unwrap_or_default();
        let transaction = self.change()?;
        transaction.execute(
            "INSERT OR REPLACE INTO decisions VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                decision.decision_id,
                time_text(decision.at),
                decision.trigger.as_str(),
                outcome.as_str().unwrap_or_default(),
                text
            ],
        )?;
        transaction
            .execute("DELETE FROM decisions WHERE decision_id <= ?1", [decision.decision_id - i64::from(KEPT)])?;
        transaction.commit()?;
        Ok(())
    }

    /// The last decisions, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn decisions(&self, limit: u32) -> Result<Vec<Decision>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT decision FROM decisions ORDER BY decision_id DESC LIMIT ?1")?;
        let rows = statement.query_map([limit], |row| row.get::<_, String>(0))?;
        rows.map(|row| {
            serde_json::from_str(&row?).map_err(|error| StoreError::Row(format!("decisions.decision: {error}")))
        })
        .collect()
    }

    /// The id of the last decision; 0 before the first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_decision_id(&self) -> Result<i64, StoreError> {
        Ok(self.connection.query_row("SELECT coalesce(max(decision_id), 0) FROM decisions", [], |row| row.get(0))?)
    }

    /// The rotation's state as the daemon before left it; defaults when there is none or it cannot be read.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn rotation(&self) -> Result<RotationFacts, StoreError> {
        Ok(self.fact(ROTATION)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// Remembers the rotation's state.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_rotation(&mut self, facts: &RotationFacts) -> Result<(), StoreError> {
        let text = serde_json::to_string(facts).map_err(|error| StoreError::Row(error.to_string()))?;
        self.set_fact(ROTATION, Some(&text))
    }

    /// All enabled configs with what their last tests showed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn candidates(&self) -> Result<Vec<CandidateRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT c.config_id, c.address, t.at, t.delay_ms, \
             (SELECT count(*) FROM (SELECT failure FROM config_tests WHERE config_id = c.config_id \
              ORDER BY test_id DESC LIMIT 10) WHERE failure IS NOT NULL) \
             FROM configs c LEFT JOIN config_tests t ON t.test_id = \
             (SELECT max(test_id) FROM config_tests WHERE config_id = c.config_id) \
             WHERE c.disabled IS NULL ORDER BY c.config_id",
        )?;
        let rows = statement.query_map([], |row| {
            let at: Option<String> = row.get(2)?;
            Ok(CandidateRow {
                config_id: ConfigId(row.get(0)?),
                host: row.get(1)?,
                tested_at: at.as_deref().and_then(|at| super::time_value(at).ok()),
                delay_ms: row.get(3)?,
                failures: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
