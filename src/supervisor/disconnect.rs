//! The transition disconnect: ending a session's engine, and forgetting one that is dead.

use std::rc::Rc;

use chrono::Utc;

use super::context::Context;
use crate::engine::process::TERM_GRACE;
use crate::event::{Reason, SessionId};

/// Ends the engine of a session and closes its row. Must be driven to its end.
pub(super) async fn stop(context: Rc<Context>, session_id: SessionId, reason: Reason) {
    let written = context.store.run(move |store| store.session_stopping(session_id, reason)).await;
    if let Err(error) = written {
        // The user wants it ended: that the row says otherwise is mended by the next reconciliation.
        tracing::error!(%session_id, "the row is not marked as stopping: {error}");
    }
    let running = context.engines.borrow_mut().remove(&session_id);
    if let Some(running) = running {
        let exit = running.process.stop(TERM_GRACE).await;
        tracing::info!(%session_id, %reason, "session ended: the engine {exit}");
    }
    context.sweep(session_id);
    let at = Utc::now();
    if let Err(error) = context.store.run(move |store| store.session_stopped(session_id, reason, at)).await {
        tracing::error!(%session_id, "the row is not marked as stopped: {error}");
    }
}

/// Closes the row of a session whose engine is dead or of no use, and ends what is left of it. Must be driven to its end.
pub(super) async fn discard(context: Rc<Context>, session_id: SessionId, reason: Reason, detail: String) {
    tracing::warn!(%session_id, %reason, "session failed: {detail}");
    let at = Utc::now();
    context.write(move |store| store.session_failed(session_id, reason, &detail, at));
    if let Some(running) = context.engine(session_id)
        && !running.process.has_ended()
    {
        running.process.stop(TERM_GRACE).await;
    }
    // Not before: until it is gone its ports are this daemon's own, and the daemon's end waits for it.
    context.engines.borrow_mut().remove(&session_id);
    context.left(session_id);
    context.sweep(session_id);
}
