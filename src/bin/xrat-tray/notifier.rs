//! Carries notifications out one after the other. Here alone a notification service that hangs is waited for.

use async_channel::{Receiver, Sender};
use zbus::{Connection, Message};

use crate::model::Action;
use crate::notices::Notice;
use crate::notifications::Notifications;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Order {
    /// Tell about the session.
    Show(Notice),
    /// What was told about the session is not true any more.
    Withdraw,
    /// Answer what the user asked for here.
    Answer { summary: String, body: String },
    /// A signal of the service.
    Signal(Message),
    /// Another service, or none.
    Gone,
}

/// Carries orders out until there are no more. What the user chooses in a notification goes to `chosen`.
pub(crate) async fn run(bus: &Connection, orders: Receiver<Order>, chosen: Sender<Action>) {
    let mut notifications = Notifications::default();
    // Said once for each service that cannot be had.
    let mut complained = false;
    while let Ok(order) = orders.recv().await {
        let done = match order {
            Order::Show(notice) => notifications.show(bus, &notice).await,
            Order::Answer { summary, body } => notifications.answer(bus, &summary, &body).await,
            Order::Withdraw => {
                notifications.withdraw(bus).await;
                continue;
            }
            Order::Signal(signal) => {
                if let Some(action) = notifications.hear(&signal) {
                    // Closed only while the tray ends.
                    let _ = chosen.try_send(action);
                }
                continue;
            }
            Order::Gone => {
                notifications.forget();
                continue;
            }
        };
        match done {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                eprintln!("xrat-tray: no notification could be shown ({error}); the icon and the menu go on");
                complained = true;
            }
            Err(_) => {}
        }
    }
}
