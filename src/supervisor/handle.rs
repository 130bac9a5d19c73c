//! The way in: transports ask, the loop answers.

use async_channel::Sender;
use futures::channel::oneshot;
use uuid::Uuid;

use super::events::Subscription;
use crate::command::{Command, Failure, Outcome};
use crate::event::BusPresence;

/// What transports hold: a way to ask the supervisor. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) calls: Sender<Call>,
}

pub(super) enum Call {
    Command(Command, oneshot::Sender<Result<Outcome, Failure>>),
    Subscribe(Option<(Uuid, u64)>, oneshot::Sender<Subscription>),
    OnBus(BusPresence),
}

impl Handle {
    /// Asks, and waits for the answer. Dropping the future cancels nothing: the command runs to its end.
    ///
    /// # Errors
    /// Those of the command; [`Failure::Internal`] when the daemon ends first.
    pub async fn call(&self, command: Command) -> Result<Outcome, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Call::Command(command, reply)).await?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Subscribes to events, after `since` (an instance and the last event seen) or from now on.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the daemon is ending.
    pub async fn subscribe(&self, since: Option<(Uuid, u64)>) -> Result<Subscription, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Call::Subscribe(since, reply)).await?;
        answer.await.map_err(|_| gone())
    }

    /// Tells what the daemon is on the session bus, for its status.
    pub async fn on_bus(&self, presence: BusPresence) {
        // A daemon that is ending has no status any more.
        let _ = self.send(Call::OnBus(presence)).await;
    }

    async fn send(&self, call: Call) -> Result<(), Failure> {
        self.calls.send(call).await.map_err(|_| gone())
    }
}

fn gone() -> Failure {
    Failure::Internal("the daemon ended before it could answer".into())
}
