//! The public addresses: which engine serves them, and the gates beside it.

use std::net::SocketAddr;
use std::rc::Rc;

use chrono::Utc;
use smol::Task;

use super::context::{Context, Running};
use super::machine::StartFailure;
use super::start::{Failed, internal, public_inbounds};
use crate::command::Failure;
use crate::engine::api::PublicInbound;
use crate::engine::process::TERM_GRACE;
use crate::event::{Reason, SessionId};
use crate::gate::{Behind, Gate, Handover, Member, settle};

/// An open gate, and the task that serves it: dropping both closes the listener.
pub(super) struct OpenGate {
    pub(super) gate: Rc<Gate>,
    _task: Task<()>,
}

impl Running {
    /// The public addresses of this engine.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.inbounds.iter().map(PublicInbound::address).collect()
    }
}

impl Context {
    fn gate_at(&self, address: SocketAddr) -> Option<Rc<Gate>> {
        self.gates.borrow().iter().find(|open| open.gate.address() == address).map(|open| Rc::clone(&open.gate))
    }

    /// Opens gates for `inbounds` where there are none. `before` is the engine that may have the addresses already.
    pub(super) async fn open_gates(
        &self,
        inbounds: &[PublicInbound],
        before: Option<(SessionId, &Running)>,
        behind: &Behind,
    ) -> std::io::Result<()> {
        for inbound in inbounds {
            let address = inbound.address();
            if self.gates.borrow().iter().any(|open| open.gate.inbound() == inbound) {
                continue;
            }
            // One with other credentials is of settings that hold no more.
            self.gates.borrow_mut().retain(|open| open.gate.address() != address);
            let gate = match before.filter(|(_, running)| running.addresses().contains(&address)) {
                Some((session_id, running)) => {
                    let engines = [(session_id, running.process.identity().pid)];
                    Gate::adopt(inbound.clone(), &engines, session_id, behind.clone()).await?
                }
                None => self.bind_gate(inbound.clone(), behind.clone())?,
            };
            self.add_gate(gate);
        }
        Ok(())
    }

    /// The listeners that a restart in place hands over.
    pub(super) fn hand_over(&self) -> Vec<Handover> {
        let gates = self.gates.borrow();
        let listeners = gates.iter().map(|open| open.gate.hand_over());
        listeners.filter_map(|listener| listener.ok().flatten()).collect()
    }

    /// A gate on an address where no engine is: with the listener that was handed over, or a new one.
    fn bind_gate(&self, inbound: PublicInbound, behind: Behind) -> std::io::Result<Gate> {
        let mut handed = self.handed.borrow_mut();
        let place = handed.iter().position(|handover| handover.address() == inbound.address());
        if let Some(handover) = place.map(|place| handed.swap_remove(place))
            && let Ok(gate) = Gate::inherit(handover, inbound.clone(), behind.clone())
        {
            return Ok(gate);
        }
        Gate::bind(inbound, behind)
    }

    /// Serves a gate from now on, until it is closed.
    pub(super) fn add_gate(&self, gate: Gate) {
        let gate = Rc::new(gate);
        let served = Rc::clone(&gate);
        let task = self.executor.spawn(async move { served.serve().await });
        self.gates.borrow_mut().push(OpenGate { gate, _task: task });
    }

    /// What is done with connections for which there is no engine. Opens the gates if they are not.
    pub(super) fn without_engine(&self, behind: &Behind) {
        if self.gates.borrow().is_empty() {
            for inbound in public_inbounds(&self.settings()) {
                let address = inbound.address();
                match self.bind_gate(inbound, behind.clone()) {
                    Ok(gate) => self.add_gate(gate),
                    Err(error) => tracing::error!("{address} refuses connections until there is a session: {error}"),
                }
            }
        }
        for open in self.gates.borrow().iter() {
            open.gate.set_behind(behind.clone());
            if let Err(error) = open.gate.steer_to(Member::Gate) {
                tracing::error!("{}: {error}", open.gate.address());
            }
        }
    }

    /// An engine's listeners are gone.
    pub(super) fn left(&self, session_id: SessionId) {
        for open in self.gates.borrow().iter() {
            if let Err(error) = open.gate.left(session_id) {
                tracing::error!("{}: {error}", open.gate.address());
            }
        }
    }

    /// Connections that gates relay to an engine: they end with it, and nobody else counts them.
    pub(super) fn relays_to(&self, running: &Running) -> usize {
        self.gates.borrow().iter().map(|open| open.gate.relays_to(&running.files.http)).sum()
    }
}

/// Lets a started engine serve the public addresses, in place of `old` (docs of [`crate::gate`]). Must be driven to its
/// end: when it fails, the engine is gone and the old one serves on.
pub(super) async fn go_public(
    context: Rc<Context>,
    session_id: SessionId,
    old: Option<SessionId>,
) -> Result<(), StartFailure> {
    let Some(running) = context.engine(session_id) else {
        let failure = Failure::Internal("the engine is gone".to_owned());
        return Err(StartFailure { session_id: Some(session_id), reason: Reason::InternalError, failure });
    };
    match serve(&context, session_id, &running, old).await {
        Ok(()) => Ok(()),
        Err((reason, failure)) => {
            for inbound in &running.inbounds {
                // An engine that does not answer loses its listeners when it is ended.
                let _ = running.api.remove_inbound(&inbound.tag).await;
            }
            context.engines.borrow_mut().remove(&session_id);
            running.process.stop(TERM_GRACE).await;
            context.left(session_id);
            context.sweep(session_id);
            if let Some(old) = old.and_then(|old| context.engine(old)) {
                // Those that only new settings had.
                let addresses = old.addresses();
                context.gates.borrow_mut().retain(|open| addresses.contains(&open.gate.address()));
            }
            let (detail, at) = (failure.to_string(), Utc::now());
            context.write(move |store| store.session_failed(session_id, reason, &detail, at));
            Err(StartFailure { session_id: Some(session_id), reason, failure })
        }
    }
}

async fn serve(
    context: &Rc<Context>,
    session_id: SessionId,
    running: &Running,
    old: Option<SessionId>,
) -> Result<(), Failed> {
    let before = old.and_then(|old| Some((old, context.engine(old)?)));
    let beside = before.as_ref().map(|(old, running)| (*old, &**running));
    context.open_gates(&running.inbounds, beside, &Behind::Hold).await.map_err(|error| {
        (Reason::AddressInUse, Failure::Internal(format!("the public addresses cannot be opened: {error}")))
    })?;
    for inbound in &running.inbounds {
        running.api.add_inbound(inbound).await.map_err(|error| {
            let message = format!("the engine does not serve {}: {error}", inbound.address());
            (Reason::EngineNotReady, Failure::Internal(message))
        })?;
        if let Some(gate) = context.gate_at(inbound.address()) {
            gate.joined(session_id);
        }
    }
    commit(context, session_id).await?;
    steer(context, session_id, running)?;
    if let Some((old, before)) = before {
        let addresses = before.addresses();
        settle(before.process.identity().pid, &addresses).await;
        for inbound in &before.inbounds {
            if let Err(error) = before.api.remove_inbound(&inbound.tag).await
                && !before.process.has_ended()
            {
                // It hangs and keeps its place beside the others, without anything steered to it, until it is ended.
                tracing::warn!(session_id = %old, "its address {} stays open: {error}", inbound.address());
            } else if let Some(gate) = context.gate_at(inbound.address())
                && let Err(error) = gate.left(old)
            {
                tracing::error!("{}: {error}", inbound.address());
            }
        }
        // If the old engine died in between, connections are held since.
        if let Err((_, failure)) = steer(context, session_id, running) {
            tracing::error!(%session_id, "connections may be held: {failure}");
        }
    }
    // Addresses that only the settings before had.
    let addresses = running.addresses();
    context.gates.borrow_mut().retain(|open| addresses.contains(&open.gate.address()));
    Ok(())
}

/// Has an engine get what is new.
fn steer(context: &Context, session_id: SessionId, running: &Running) -> Result<(), Failed> {
    for inbound in &running.inbounds {
        let Some(gate) = context.gate_at(inbound.address()) else { continue };
        gate.set_behind(Behind::Engine(running.files.http.clone()));
        gate.steer_to(Member::Engine(session_id)).map_err(internal)?;
    }
    Ok(())
}

/// One transaction: at no moment are there two running rows, or none.
async fn commit(context: &Context, session_id: SessionId) -> Result<(), Failed> {
    let done = context.store.run(move |store| store.hand_over(session_id));
    done.await.map_err(internal)
}
