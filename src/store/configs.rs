//! The table `configs`: import, find, list, enable, rename, remove.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde_json::{Value, json};

use super::{Store, StoreError, SubscriptionId, TestRow, time_text, time_value};
use crate::config::{Config, ConfigId};

/// Why a config is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disabled {
    /// The user said so.
    User,
    /// No subscription has it any more.
    Gone,
}

/// One row of `configs` with its last test.
#[derive(Clone, Debug)]
pub struct ConfigRow {
    /// The key.
    pub config_id: ConfigId,
    /// The node; its `name` is the row's.
    pub config: Config,
    /// Why it is not used; none when it is.
    pub disabled: Option<Disabled>,
    /// When it was imported.
    pub added_at: DateTime<Utc>,
    /// Its last test.
    pub last_test: Option<TestRow>,
}

impl ConfigRow {
    /// What a list says of it to a program: nothing secret.
    pub fn summary(&self) -> Value {
        json!({
            "config_id": self.config_id,
            "name": self.config.name,
            "protocol": self.config.protocol.name(),
            "address": self.config.address,
            "port": self.config.port,
            "network": self.config.transport.name(),
            "security": self.config.security.name(),
            "enabled": self.disabled.is_none(),
            "disabled": self.disabled,
            "added_at": self.added_at,
            "last_test": self.last_test,
        })
    }
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Configs that are new.
    pub added: Vec<ConfigId>,
    /// Configs that were there already (or came twice).
    pub known: Vec<ConfigId>,
    /// Configs of the subscription that were disabled because it has them no more.
    pub gone: Vec<ConfigId>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// As imported.
    #[default]
    Id,
    /// By name, without regard to ASCII case.
    Name,
    /// Fastest first; failed and untested ones last.
    Delay,
}

/// Why an id or name does not mean one config.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Nothing matches.
    #[error("no config matches `{0}` (see 'xrat list')")]
    Missing(String),
    /// Several match.
    #[error("`{text}` matches {} configs: {}; give the number", matches.len(), list(matches))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// The matches.
        matches: Vec<(ConfigId, String)>,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// At most this many matches are spelled out.
const SHOWN_MATCHES: usize = 10;

fn list(matches: &[(ConfigId, String)]) -> String {
    let mut text: Vec<_> = matches.iter().take(SHOWN_MATCHES).map(|(id, name)| format!("{id} ({name})")).collect();
    if matches.len() > SHOWN_MATCHES {
        text.push(format!("and {} more", matches.len() - SHOWN_MATCHES));
    }
    text.join(", ")
}

const SELECT: &str = "SELECT c.config_id, c.name, c.node, c.disabled, c.added_at, t.at, t.delay_ms, t.failure \
     FROM configs c LEFT JOIN config_tests t ON t.test_id = \
     (SELECT max(test_id) FROM config_tests WHERE config_id = c.config_id)";

fn read(row: &Row<'_>) -> rusqlite::Result<Result<ConfigRow, StoreError>> {
    let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
    let (node, disabled, added_at): (String, Option<String>, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
    let test: (Option<String>, Option<u32>, Option<String>) = (row.get(5)?, row.get(6)?, row.get(7)?);
    Ok((|| {
        // serde's message could quote the node, credentials included: only the place is told.
        let mut config: Config = serde_json::from_str(&node).map_err(|error| {
            StoreError::Row(format!(
                "configs.node of config {id}, column {} (made by another version?)",
                error.column()
            ))
        })?;
        config.name = name;
        let disabled = match disabled.as_deref() {
            None => None,
            Some("gone") => Some(Disabled::Gone),
            Some(_) => Some(Disabled::User),
        };
        let last_test = match test {
            (Some(at), delay_ms, failure) => Some(TestRow { at: time_value(&at)?, delay_ms, failure }),
            _ => None,
        };
        Ok(ConfigRow { config_id: ConfigId(id), config, disabled, added_at: time_value(&added_at)?, last_test })
    })())
}

impl Store {
    /// Stores what `feed` adds, in one transaction; configs that are there already keep their name.
    ///
    /// With a subscription, its membership becomes exactly that: what it has no more is disabled unless another
    /// subscription has it or it is `keep` (the active one), and what was gone and is back is enabled again.
    ///
    /// # Errors
    /// What `feed` fails with, or the database. Nothing is stored then.
    pub fn import<E: From<StoreError>>(
        &mut self,
        subscription: Option<SubscriptionId>,
        keep: Option<ConfigId>,
        now: DateTime<Utc>,
        feed: impl FnOnce(&mut Importing<'_>) -> Result<(), E>,
    ) -> Result<Imported, E> {
        // 16 MiB of page cache make a large import 1.7 to 2 times faster; shrink_memory gives them back.
        self.connection.execute_batch("PRAGMA cache_size = -16384").map_err(StoreError::from)?;
        let result = self.import_now(subscription, keep, now, feed);
        self.connection.execute_batch("PRAGMA cache_size = -256; PRAGMA shrink_memory").map_err(StoreError::from)?;
        result
    }

    fn import_now<E: From<StoreError>>(
        &mut self,
        subscription: Option<SubscriptionId>,
        keep: Option<ConfigId>,
        now: DateTime<Utc>,
        feed: impl FnOnce(&mut Importing<'_>) -> Result<(), E>,
    ) -> Result<Imported, E> {
        let transaction = self.change()?;
        if let Some(id) = subscription {
            begin_update(&transaction, id)?;
        }
        let mut importing =
            Importing { transaction: &transaction, subscription, now: time_text(now), done: Imported::default() };
        feed(&mut importing)?;
        let mut done = importing.done;
        if subscription.is_some() {
            done.gone = end_update(&transaction, keep)?;
        }
        transaction.commit().map_err(StoreError::from)?;
        Ok(done)
    }

    /// One config.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn config(&self, id: ConfigId) -> Result<Option<ConfigRow>, StoreError> {
        self.connection
            .prepare_cached(&format!("{SELECT} WHERE c.config_id = ?1"))?
            .query_row([id.0], read)
            .optional()?
            .transpose()
    }

    /// The configs whose name, address or protocol contains `query` (without regard to ASCII case).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn configs(&self, query: Option<&str>, sort: Sort) -> Result<Vec<ConfigRow>, StoreError> {
        let order = match sort {
            Sort::Id => "c.config_id",
            Sort::Name => "c.name COLLATE NOCASE, c.config_id",
            Sort::Delay => "t.delay_ms IS NULL, t.delay_ms, t.failure IS NULL, c.config_id",
        };
        let sql = format!(
            "{SELECT} WHERE ?1 IS NULL OR instr(lower(c.name), ?1) OR instr(lower(c.address), ?1) \
             OR c.protocol = ?1 ORDER BY {order}"
        );
        let query = query.map(str::to_ascii_lowercase);
        self.connection.prepare(&sql)?.query_map([query], read)?.map(|row| row?).collect()
    }

    /// The one config that a number or a name means: the id, else the exact name, else the only name that contains it.
    ///
    /// # Errors
    /// [`FindError`], with the matches when there are several.
    pub fn find(&self, text: &str) -> Result<ConfigId, FindError> {
        let missing = || FindError::Missing(text.escape_debug().to_string());
        let by = |condition: &str, value: &str| -> Result<Vec<(ConfigId, String)>, StoreError> {
            let sql = format!("SELECT config_id, name FROM configs WHERE {condition} ORDER BY config_id");
            let mut statement = self.connection.prepare(&sql)?;
            let rows = statement.query_map([value], |row| Ok((ConfigId(row.get(0)?), row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        if text.is_empty() {
            return Err(missing());
        }
        if text.bytes().all(|b| b.is_ascii_digit())
            && let Some((id, _)) = by("config_id = CAST(?1 AS INTEGER)", text)?.first()
        {
            return Ok(*id);
        }
        let mut matches = by("name = ?1", text)?;
        if matches.is_empty() {
            matches = by("instr(lower(name), lower(?1))", text)?;
        }
        match matches.as_slice() {
            [] => Err(missing()),
            [(id, _)] => Ok(*id),
            _ => Err(FindError::Ambiguous { text: text.escape_debug().to_string(), matches }),
        }
    }

    /// Lets rotation use a config, or not. Whether the config exists.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_enabled(&mut self, id: ConfigId, enabled: bool) -> Result<bool, StoreError> {
        let disabled = (!enabled).then_some("user");
        self.alter("UPDATE configs SET disabled = ?2 WHERE config_id = ?1", params![id.0, disabled])
    }

    /// Gives a config another name. Whether the config exists.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn rename(&mut self, id: ConfigId, name: &str) -> Result<bool, StoreError> {
        self.alter("UPDATE configs SET name = ?2 WHERE config_id = ?1", params![id.0, name])
    }

    /// Removes a config with its tests; sessions that ran for it stay in the history. Whether it existed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn remove(&mut self, id: ConfigId) -> Result<bool, StoreError> {
        self.alter("DELETE FROM configs WHERE config_id = ?1", params![id.0])
    }

    fn alter(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<bool, StoreError> {
        let transaction = self.change()?;
        let rows = transaction.execute(sql, params)?;
        transaction.commit()?;
        Ok(rows > 0)
    }
}

/// An import that is going on; what was added is stored when it ends well.
pub struct Importing<'t> {
    transaction: &'t Transaction<'t>,
    subscription: Option<SubscriptionId>,
    now: String,
    done: Imported,
}

impl Importing<'_> {
    /// Adds a config.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn add(&mut self, config: &Config) -> Result<(), StoreError> {
        let (id, new) = insert(self.transaction, config, &self.now)?;
        if new {
            self.done.added.push(id);
        } else {
            self.done.known.push(id);
        }
        if let Some(SubscriptionId(subscription)) = self.subscription {
            self.transaction
                .prepare_cached("INSERT OR IGNORE INTO subscription_configs VALUES (?1, ?2)")?
                .execute([subscription, id.0])?;
        }
        // Whoever brings a node back, by subscription or by hand, wants it.
        if !new {
            self.transaction
                .prepare_cached("UPDATE configs SET disabled = NULL WHERE config_id = ?1 AND disabled = 'gone'")?
                .execute([id.0])?;
        }
        Ok(())
    }

    /// Whether nothing was added so far.
    pub fn is_empty(&self) -> bool {
        self.done.added.is_empty() && self.done.known.is_empty()
    }
}

/// Puts the membership of a subscription aside.
fn begin_update(transaction: &Transaction<'_>, SubscriptionId(id): SubscriptionId) -> Result<(), StoreError> {
    transaction.execute("CREATE TEMP TABLE IF NOT EXISTS before_update (config_id INTEGER PRIMARY KEY) STRICT", [])?;
    transaction.execute("DELETE FROM before_update", [])?;
    transaction.execute(
        "INSERT INTO before_update SELECT config_id FROM subscription_configs WHERE subscription_id = ?1",
        [id],
    )?;
    transaction.execute("DELETE FROM subscription_configs WHERE subscription_id = ?1", [id])?;
    Ok(())
}

/// Disables what is a member no more.
fn end_update(transaction: &Transaction<'_>, keep: Option<ConfigId>) -> Result<Vec<ConfigId>, StoreError> {
    let mut gone = transaction.prepare(
        "UPDATE configs SET disabled = 'gone' WHERE disabled IS NULL AND config_id IS NOT ?1 \
         AND config_id IN before_update \
         AND NOT EXISTS (SELECT 1 FROM subscription_configs s WHERE s.config_id = configs.config_id) \
         RETURNING config_id",
    )?;
    Ok(gone.query_map([keep.map(|id| id.0)], |row| row.get(0).map(ConfigId))?.collect::<Result<_, _>>()?)
}

fn insert(transaction: &Transaction<'_>, config: &Config, now: &str) -> Result<(ConfigId, bool), StoreError> {
    let identity = config.identity().to_string();
    let known = transaction
        .prepare_cached("SELECT config_id FROM configs WHERE identity = ?1")?
        .query_row([&identity], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok((ConfigId(id), false));
    }
    let node = serde_json::to_string(config).map_err(|error| StoreError::Row(error.to_string()))?;
    transaction
        .prepare_cached(
            "INSERT INTO configs (name, protocol, address, port, network, security, node, identity, added_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            config.name,
            config.protocol.name(),
            config.address,
            config.port.get(),
            config.transport.name(),
            config.security.name(),
            node,
            identity,
            now,
        ])?;
    Ok((ConfigId(transaction.last_insert_rowid()), true))
}
