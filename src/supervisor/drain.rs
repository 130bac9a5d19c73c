//! Replaced engines: they finish the connections they have, take nothing new, and end.

use std::rc::Rc;
use std::time::Duration;

use async_io::Timer;
use chrono::Utc;
use futures::channel::oneshot;
use futures::{FutureExt, pin_mut, select_biased};

use super::context::Context;
use crate::engine::ports;
use crate::engine::process::TERM_GRACE;
use crate::event::{Reason, SessionId};

/// So many replaced engines drain at once; the oldest ends first.
pub(super) const MAX_DRAINS: usize = 3;
/// Between two looks at the connections that are left.
const LOOK: Duration = Duration::from_secs(1);

/// Lets a replaced engine finish, for at most `limit`; when the other end of `cut` is dropped it ends at once. Returns how
/// many connections were cut. A `fault` is why it was replaced. Must be driven to its end.
pub(super) async fn drain(
    context: Rc<Context>,
    session_id: SessionId,
    limit: Duration,
    reason: Reason,
    fault: Option<String>,
    cut: oneshot::Receiver<()>,
) -> u32 {
    let Some(running) = context.engine(session_id) else { return 0 };
    let (pid, addresses) = (running.process.identity().pid, running.addresses());
    let count = || {
        let addresses = addresses.clone();
        let relayed = context.relays_to(&running);
        async move { relayed + smol::unblock(move || ports::established(pid, &addresses)).await }
    };
    if !limit.is_zero() {
        let empty = async {
            while count().await > 0 {
                Timer::after(LOOK).await;
            }
        }
        .fuse();
        let exited = running.process.exited().fuse();
        let late = Timer::after(limit).fuse();
        let cut = cut.fuse();
        pin_mut!(empty, exited, late, cut);
        select_biased! {
            _ = exited => {}
            () = empty => {}
            _ = late => tracing::info!(%session_id, "the drain's time is over"),
            _ = cut => {}
        }
    }
    let cut_connections = if running.process.has_ended() { 0 } else { count().await };
    let exit = running.process.stop(TERM_GRACE).await;
    // Not before: the daemon's end waits for the engines it knows.
    context.engines.borrow_mut().remove(&session_id);
    // One that did not listen to it when it was to leave the public addresses.
    context.left(session_id);
    tracing::info!(%session_id, %reason, cut_connections, "replaced engine {exit}");
    context.sweep(session_id);
    let at = Utc::now();
    context.write(move |store| match fault {
        Some(fault) => store.session_failed(session_id, Reason::ExchangeFailed, &fault, at),
        None => store.session_stopped(session_id, reason, at),
    });
    u32::try_from(cut_connections).unwrap_or(u32::MAX)
}
