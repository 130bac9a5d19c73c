//! The table `subscriptions`: sources of configs that are fetched again.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, time_text, time_value};
use crate::config::{ConfigId, Secret};
use crate::net::url::Url;

/// The key of a row of `subscriptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubscriptionId(pub i64);

/// One row of `subscriptions`.
#[derive(Clone, Debug)]
pub struct SubscriptionRow {
    /// The key.
    pub subscription_id: SubscriptionId,
    /// Where it is fetched; a credential.
    pub url: Secret,
    /// How many configs it has.
    pub configs: u32,
    /// When it was first imported.
    pub added_at: DateTime<Utc>,
    /// The last update that succeeded.
    pub updated_at: Option<DateTime<Utc>>,
    /// What went wrong at the last update.
    pub last_error: Option<String>,
}

impl Store {
    /// All subscriptions, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn subscriptions(&self) -> Result<Vec<SubscriptionRow>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT subscription_id, url, added_at, updated_at, last_error, \
             (SELECT count(*) FROM subscription_configs c WHERE c.subscription_id = s.subscription_id) \
             FROM subscriptions s ORDER BY subscription_id",
        )?;
        let rows = statement.query_map([], |row| {
            let times: (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get::<_, String>(1)?, times, row.get(4)?, row.get(5)?))
        })?;
        rows.map(|row| {
            let (id, url, (added_at, updated_at), last_error, configs) = row?;
            Ok(SubscriptionRow {
                subscription_id: SubscriptionId(id),
                url: Secret::new(url),
                configs,
                added_at: time_value(&added_at)?,
                updated_at: updated_at.as_deref().map(time_value).transpose()?,
                last_error,
            })
        })
        .collect()
    }

    /// Scheme and host of the subscription that each config comes from, the oldest where several have it: what follows
    /// them in a subscription's address is a credential. Configs without a subscription are not in it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sources(&self) -> Result<HashMap<ConfigId, Arc<str>>, StoreError> {
        let hosts: HashMap<i64, Arc<str>> = self
            .subscriptions()?
            .iter()
            .filter_map(|row| {
                let url = Url::parse(row.url.reveal()).ok()?;
                Some((row.subscription_id.0, url.to_string().into()))
            })
            .collect();
        let mut statement = self
            .connection
            .prepare("SELECT config_id, min(subscription_id) FROM subscription_configs GROUP BY config_id")?;
        let rows = statement.query_map([], |row| Ok((row.get(0).map(ConfigId)?, row.get::<_, i64>(1)?)))?;
        let found = rows.filter_map(|row| match row {
            Ok((config, subscription)) => hosts.get(&subscription).map(|host| Ok((config, Arc::clone(host)))),
            Err(error) => Some(Err(error.into())),
        });
        found.collect()
    }

    /// The subscription with this URL, made when it is missing.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn subscribe(&mut self, url: &Secret, now: DateTime<Utc>) -> Result<SubscriptionId, StoreError> {
        let transaction = self.change()?;
        let known = transaction
            .query_row("SELECT subscription_id FROM subscriptions WHERE url = ?1", [url.reveal()], |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => {
                transaction.execute(
                    "INSERT INTO subscriptions (url, added_at) VALUES (?1, ?2)",
                    params![url.reveal(), time_text(now)],
                )?;
                transaction.last_insert_rowid()
            }
        };
        transaction.commit()?;
        Ok(SubscriptionId(id))
    }

    /// Writes down how an update went.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn subscription_updated(
        &mut self,
        id: SubscriptionId,
        result: Result<DateTime<Utc>, &str>,
    ) -> Result<(), StoreError> {
        let transaction = self.change()?;
        match result {
            Ok(at) => transaction.execute(
                "UPDATE subscriptions SET updated_at = ?2, last_error = NULL WHERE subscription_id = ?1",
                params![id.0, time_text(at)],
            )?,
            Err(error) => transaction
                .execute("UPDATE subscriptions SET last_error = ?2 WHERE subscription_id = ?1", params![id.0, error])?,
        };
        transaction.commit()?;
        Ok(())
    }

    /// Removes a subscription and the configs that only it had, but for `keep` (the active one).
    /// How many configs went, or none when there is no such subscription.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is removed then.
    pub fn unsubscribe(&mut self, id: SubscriptionId, keep: Option<ConfigId>) -> Result<Option<usize>, StoreError> {
        let transaction = self.change()?;
        let configs = transaction.execute(
            "DELETE FROM configs WHERE config_id IS NOT ?2 \
             AND config_id IN (SELECT config_id FROM subscription_configs WHERE subscription_id = ?1) \
             AND config_id NOT IN (SELECT config_id FROM subscription_configs WHERE subscription_id <> ?1)",
            params![id.0, keep.map(|id| id.0)],
        )?;
        let rows = transaction.execute("DELETE FROM subscriptions WHERE subscription_id = ?1", [id.0])?;
        transaction.commit()?;
        Ok((rows > 0).then_some(configs))
    }
}
