//! Keeps the item on the panel up to date. Here alone a panel that hangs is waited for.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use ksni::{Handle, TrayMethods};

use crate::item::{Asked, Item};
use crate::model::Model;

/// While a test runs a label changes with each result; no eye is faster than this.
const PROGRESS_PAUSE: Duration = Duration::from_millis(250);
/// A panel that is just starting may refuse, or be gone in the middle of the question.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RETRIES: u32 = 6;

/// What is to be shown.
#[derive(Clone)]
pub(crate) struct Panel {
    model: Rc<RefCell<Model>>,
    poke: Sender<()>,
}

impl Panel {
    /// A panel that shows nothing yet, and the other end for [`run`].
    pub(crate) fn new() -> (Self, Shown) {
        let (poke, poked) = async_channel::bounded(1);
        let model = Rc::<RefCell<Model>>::default();
        (Self { model: Rc::clone(&model), poke }, Shown { model, poked })
    }

    /// Shows this from now on, as soon as the panel takes it; what it did not take in time is skipped.
    pub(crate) fn show(&self, model: &Model) {
        if *self.model.borrow() != *model {
            *self.model.borrow_mut() = model.clone();
            // Full: it is on its way.
            let _ = self.poke.try_send(());
        }
    }
}

/// What is to be shown, for [`run`].
pub(crate) struct Shown {
    model: Rc<RefCell<Model>>,
    poked: Receiver<()>,
}

/// Ends ksni's service, with its connection, when this does.
struct Service(Handle<Item>);

impl Drop for Service {
    fn drop(&mut self) {
        // The order is given at once; there is nothing to wait for.
        drop(self.0.shutdown());
    }
}

/// Puts the item on the panel, also on one that comes later or again, and keeps it right.
///
/// # Errors
/// When a panel refuses the item for good, or ksni's service has ended.
pub(crate) async fn run(shown: Shown, asked: Sender<Asked>) -> Result<(), ksni::Error> {
    let service = Service(register(&shown, &asked).await?);
    while shown.poked.recv().await.is_ok() {
        let model = shown.model.borrow().clone();
        let testing = model.test.is_some();
        if service.0.update(|item| item.model = model).await.is_none() {
            break;
        }
        if testing {
            Timer::after(PROGRESS_PAUSE).await;
        }
    }
    Ok(())
}

async fn register(shown: &Shown, asked: &Sender<Asked>) -> Result<Handle<Item>, ksni::Error> {
    let mut failures = 0;
    loop {
        let item = Item { model: shown.model.borrow().clone(), asked: asked.clone() };
        // Without a panel it waits for one.
        match item.assume_sni_available(true).spawn().await {
            Ok(handle) => return Ok(handle),
            Err(error) if failures >= RETRIES => return Err(error),
            Err(_) => failures += 1,
        }
        Timer::after(RETRY_PAUSE).await;
    }
}
