//! What the properties show: the state as of the last event that was told on the bus.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use futures::channel::oneshot;
use zbus::zvariant::{OwnedValue, Value};

use super::values::{self, Dict};
use crate::command::{Decision, RotationStatus};
use crate::event::{Health, Status};

/// Everything that properties are made of, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) status: Status,
    pub(super) rotation: RotationStatus,
    pub(super) decision: Option<Decision>,
}

/// Properties with their values.
pub(super) type Properties = HashMap<&'static str, OwnedValue>;

impl Present {
    /// Why the state was entered, with it.
    pub(super) fn state_reason(&self) -> (u32, u32) {
        (self.status.state.number(), self.status.reason.number())
    }

    /// The session without its traffic, which has a property of its own; empty when there is none.
    pub(super) fn session(&self) -> Dict {
        let mut session = self.status.session.as_ref().map(values::session).unwrap_or_default();
        session.remove("traffic");
        session
    }

    /// The session's health.
    pub(super) fn health(&self) -> u32 {
        self.status.session.as_ref().map_or(Health::Unknown, |session| session.health.status).number()
    }

    /// When the timer rotates next.
    pub(super) fn next_at(&self) -> i64 {
        seconds(self.rotation.next_timer_at)
    }

    /// Until when no automatic rotation follows; 0 once that is over, of which no event tells.
    pub(super) fn cooldown_until(&self) -> i64 {
        seconds(self.rotation.cooldown_until.filter(|until| *until > Utc::now()))
    }

    /// The last decision; empty before the first.
    pub(super) fn last_decision(&self) -> Dict {
        self.decision.as_ref().map(values::decision).unwrap_or_default()
    }

    /// Those of the interface Runtime whose changes are told.
    pub(super) fn runtime(&self) -> Properties {
        properties([
            ("State", self.status.state.number().into()),
            ("StateReason", self.state_reason().into()),
            ("Session", self.session().into()),
            ("Health", self.health().into()),
        ])
    }

    /// Those of the interface Rotation.
    pub(super) fn rotation(&self) -> Properties {
        properties([
            ("Enabled", self.rotation.enabled.into()),
            ("NextAt", self.next_at().into()),
            ("CooldownUntil", self.cooldown_until().into()),
            ("LastDecision", self.last_decision().into()),
        ])
    }

    /// Takes the rotation's new status. A time that only seems to have moved, because the clock was read again, stays.
    pub(super) fn set_rotation(&mut self, new: RotationStatus) {
        let steady = |old: Option<DateTime<Utc>>, new: Option<DateTime<Utc>>| match (old, new) {
            (Some(old), Some(new)) if (new - old).num_milliseconds().abs() < 1000 => Some(old),
            _ => new,
        };
        let next_timer_at = steady(self.rotation.next_timer_at, new.next_timer_at);
        let cooldown_until = steady(self.rotation.cooldown_until, new.cooldown_until);
        self.rotation = RotationStatus { next_timer_at, cooldown_until, ..new };
    }
}

fn properties<const N: usize>(all: [(&'static str, Value<'_>); N]) -> Properties {
    all.into_iter().filter_map(|(name, value)| Some((name, value.try_into_owned().ok()?))).collect()
}

/// Those of `new` that are not the same in `old`.
pub(super) fn changed(old: &Properties, new: Properties) -> Properties {
    new.into_iter().filter(|(name, value)| old.get(name) != Some(value)).collect()
}

fn seconds(at: Option<DateTime<Utc>>) -> i64 {
    at.map_or(0, |at| at.timestamp())
}

/// The present, for all who read it, and how far it is told.
pub(super) struct View(Mutex<Inner>);

struct Inner {
    present: Present,
    told: u64,
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    /// Values of `Enabled` that a setter is about to tell.
    setting: Vec<bool>,
}

impl View {
    /// Shows `present`, as of event `seq`.
    pub(super) fn new(present: Present, seq: u64) -> Self {
        Self(Mutex::new(Inner { present, told: seq, waiting: Vec::new(), setting: Vec::new() }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads something of it.
    pub(super) fn read<T>(&self, what: impl FnOnce(&Present) -> T) -> T {
        what(&self.inner().present)
    }

    /// Shows something else; to be told now.
    pub(super) fn show(&self, present: Present) {
        self.inner().present = present;
    }

    /// Everything up to event `seq` is told.
    pub(super) fn told(&self, seq: u64) {
        let mut inner = self.inner();
        inner.told = seq;
        for (wanted, waiter) in std::mem::take(&mut inner.waiting) {
            if wanted > seq {
                inner.waiting.push((wanted, waiter));
            } else {
                // Who does not wait any more needs no word.
                let _ = waiter.send(());
            }
        }
    }

    /// Waits until everything up to event `seq` is told.
    pub(super) async fn reached(&self, seq: u64) {
        let reached = {
            let mut inner = self.inner();
            if inner.told >= seq {
                return;
            }
            let (waiter, reached) = oneshot::channel();
            inner.waiting.push((seq, waiter));
            reached
        };
        // The sender is dropped with the connection, when there is nobody left to answer.
        let _ = reached.await;
    }

    /// While the result lives a setter is about to tell this value of `Enabled` itself.
    pub(super) fn setting(&self, enabled: bool) -> Setting<'_> {
        self.inner().setting.push(enabled);
        Setting { view: self, enabled }
    }

    /// Whether a setter is about to tell this value of `Enabled`.
    pub(super) fn is_set(&self, enabled: bool) -> bool {
        self.inner().setting.contains(&enabled)
    }
}

/// See [`View::setting`].
pub(super) struct Setting<'v> {
    view: &'v View,
    enabled: bool,
}

impl Drop for Setting<'_> {
    fn drop(&mut self) {
        let mut inner = self.view.inner();
        if let Some(place) = inner.setting.iter().position(|enabled| *enabled == self.enabled) {
            inner.setting.swap_remove(place);
        }
    }
}
