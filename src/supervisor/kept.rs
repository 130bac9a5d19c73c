//! What the daemon before left in the database.

use super::context::Context;
use crate::config::ConfigId;
use crate::event::{LastFailure, Reason};
use crate::store::{RotationFacts, StoreError};

/// What the database says of before.
pub(super) struct Kept {
    pub(super) last_failure: Option<LastFailure>,
    pub(super) wanted: Option<(ConfigId, Reason)>,
    pub(super) rotation: RotationFacts,
    pub(super) last_decision_id: i64,
}

/// Reads what the database says of before, and the config that is to be connected now: after a crash within one boot
/// what was wanted; after a reboot only if the settings say so; after an end that the user asked for, nothing.
pub(super) async fn read(context: &Context) -> Result<Kept, StoreError> {
    let boot_id = context.boot_id.clone();
    let autoconnect = context.settings().runtime.autoconnect;
    context
        .store
        .run(move |store| {
            let before = store.begin_daemon(&boot_id)?;
            let wanted = store.wanted()?.and_then(|config_id| {
                let same_boot = before.boot_id.as_deref() == Some(boot_id.as_str());
                match (same_boot, before.clean) {
                    (true, false) => Some((config_id, Reason::EngineExited)),
                    (true, true) => None,
                    (false, _) => autoconnect.then_some((config_id, Reason::Autoconnect)),
                }
            });
            Ok(Kept {
                last_failure: store.last_failure()?,
                wanted,
                rotation: store.rotation()?,
                last_decision_id: store.last_decision_id()?,
            })
        })
        .await
}
