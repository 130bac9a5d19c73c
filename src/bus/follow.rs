//! From the daemon's events to PropertiesChanged and signals, in the order of the events.

use std::borrow::Cow;

use zbus::Connection;
use zbus::names::InterfaceName;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::Value;

use super::configs::Configs;
use super::rotation::{self, Rotation};
use super::runtime::{self, Runtime};
use super::view::{Present, Properties, changed};
use super::{PATH, Shared, values};
use crate::command::{Command, DaemonInfo, Outcome};
use crate::event::{Event, Status};
use crate::supervisor::{Handle, Subscription};

/// A subscription whose first event, the snapshot, is the present.
pub(super) async fn begin(handle: &Handle) -> Option<(DaemonInfo, Present, u64, Subscription)> {
    let Ok(Outcome::Info(info)) = handle.call(Command::DaemonPing {}).await else { return None };
    let mut events = handle.subscribe(None).await.ok()?;
    let first = events.next().await?;
    let Event::Snapshot(status) = first.event else { return None };
    let Ok(Outcome::Rotation(rotation)) = handle.call(Command::ProxyStatus {}).await else { return None };
    let Ok(Outcome::History(last)) = handle.call(Command::RotationHistory { limit: Some(1) }).await else {
        return None;
    };
    let present = Present { status, rotation: *rotation, decision: last.into_iter().next() };
    Some((info, present, first.seq, events))
}

/// Tells of every event until the daemon ends.
///
/// # Errors
/// When the bus does not take a signal.
pub(super) async fn follow(shared: &Shared, bus: &Connection, mut events: Subscription) -> zbus::Result<()> {
    while let Some(recorded) = events.next().await {
        let old = shared.view.read(Present::clone);
        let mut new = old.clone();
        if let Event::Lagged { .. } = recorded.event {
            // What the missed events said is in the next snapshot.
            match shared.handle.subscribe(None).await {
                Ok(again) => events = again,
                Err(_) => return Ok(()),
            }
        }
        apply(shared, &mut new, &recorded.event).await;
        shared.view.show(new.clone());
        tell_changes(shared, bus, &old, &new).await?;
        tell_event(bus, &recorded.event).await?;
        shared.view.told(recorded.seq);
    }
    Ok(())
}

/// Tells every property, to those who looked before the daemon was there.
pub(super) async fn tell_all(shared: &Shared, bus: &Connection) -> zbus::Result<()> {
    let present = shared.view.read(Present::clone);
    properties_changed(bus, runtime::INTERFACE, present.runtime()).await?;
    properties_changed(bus, rotation::INTERFACE, present.rotation()).await
}

async fn apply(shared: &Shared, present: &mut Present, event: &Event) {
    match event {
        Event::Snapshot(status) => present.status = status.clone(),
        Event::StateChanged { new, reason, session, .. } => {
            present.status.state = *new;
            present.status.reason = *reason;
            present.status.session.clone_from(session);
        }
        Event::HealthChanged { session_id, health, delay_ms, .. } => {
            if let Some(session) = present.status.session.as_mut().filter(|now| now.session_id == *session_id) {
                session.health = health.clone();
                session.delay_ms = *delay_ms;
            }
        }
        Event::Rotated { decision, .. } | Event::RotationDecided { decision } => {
            present.decision = Some(decision.as_ref().clone());
        }
        // The session's config may have another name now.
        Event::ConfigsChanged {} => rename(present, snapshot(&shared.handle).await),
        _ => {}
    }
    let rotates = matches!(
        event,
        Event::Snapshot(_)
            | Event::StateChanged { .. }
            | Event::Rotated { .. }
            | Event::RotationDecided { .. }
            | Event::RotationChanged(_)
            | Event::SettingsChanged {}
    );
    if rotates && let Ok(Outcome::Rotation(status)) = shared.handle.call(Command::ProxyStatus {}).await {
        present.set_rotation(*status);
    }
}

async fn snapshot(handle: &Handle) -> Option<Status> {
    match handle.subscribe(None).await.ok()?.next().await?.event {
        Event::Snapshot(status) => Some(status),
        _ => None,
    }
}

fn rename(present: &mut Present, status: Option<Status>) {
    let Some(new) = status.and_then(|status| status.session) else { return };
    if let Some(session) = present.status.session.as_mut().filter(|now| now.session_id == new.session_id) {
        session.name = new.name;
    }
}

async fn tell_changes(shared: &Shared, bus: &Connection, old: &Present, new: &Present) -> zbus::Result<()> {
    properties_changed(bus, runtime::INTERFACE, changed(&old.runtime(), new.runtime())).await?;
    let mut rotation = changed(&old.rotation(), new.rotation());
    if shared.view.is_set(new.rotation.enabled) {
        rotation.remove("Enabled");
    }
    properties_changed(bus, rotation::INTERFACE, rotation).await
}

async fn properties_changed(bus: &Connection, interface: &'static str, changed: Properties) -> zbus::Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let changed = changed.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    let interface = InterfaceName::from_static_str(interface)?;
    zbus::fdo::Properties::properties_changed(&emitter(bus)?, interface, changed, Cow::Borrowed(&[])).await
}

fn emitter(bus: &Connection) -> zbus::Result<SignalEmitter<'static>> {
    SignalEmitter::new(bus, PATH)
}

async fn tell_event(bus: &Connection, event: &Event) -> zbus::Result<()> {
    let emitter = emitter(bus)?;
    match event {
        Event::StateChanged { new, old, reason, .. } => {
            Runtime::entered(&emitter, new.number(), old.number(), reason.number()).await
        }
        Event::SessionFailed { session_id, reason, detail } => {
            Runtime::session_failed(&emitter, session_id.0, reason.number(), detail).await
        }
        Event::Rotated { old_config_id, new_config_id, decision } => {
            let old = old_config_id.map_or(0, |id| id.0);
            let trigger = decision.trigger.as_str();
            Rotation::rotated(&emitter, old, new_config_id.0, trigger, values::decision(decision)).await
        }
        Event::ConfigsChanged {} => Configs::changed(&emitter).await,
        _ => Ok(()),
    }
}
