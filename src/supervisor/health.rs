//! What is asked of a running session: an exchange through its node, its ports, its counters, its log's size.

use std::num::NonZeroU16;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};

use super::context::Context;
use crate::engine::ports::{self, Kind, Owner};
use crate::event::{SessionId, Traffic};
use crate::net::url::Url;
use crate::probe::delay;
use crate::settings::Settings;

/// A status request is not held up longer than this by an engine that hangs.
const TRAFFIC_TIMEOUT: Duration = Duration::from_millis(250);
/// An engine's log is emptied when it is larger.
const MAX_LOG: u64 = 10 << 20;

/// One exchange through a session: its delay in milliseconds, or what failed. Safe to drop.
pub(super) async fn exchange(context: Rc<Context>, session_id: SessionId) -> Result<u32, String> {
    let running = context.engine(session_id).ok_or_else(|| "the session has ended".to_owned())?;
    prove(&context.settings(), &running.files.http).await
}

/// One exchange through the engine behind a private socket, with the second URL if the first fails. Safe to drop.
pub(super) async fn prove(settings: &Settings, socket: &Path) -> Result<u32, String> {
    let health = &settings.runtime.health;
    let timeout = settings.test_timeout();
    let mut result = Err("no URL to fetch".to_owned());
    for url in [Some(&health.url), health.fallback_url.as_ref()].into_iter().flatten() {
        result = match Url::parse(url) {
            Ok(url) => delay::exchange(socket, &url, timeout).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if result.is_ok() {
            break;
        }
    }
    result.map(|delay| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX))
}

/// What is wrong with the public ports of a session; none when its engine listens on all of them.
pub(super) async fn port_lost(context: Rc<Context>, session_id: SessionId) -> Option<String> {
    let running = context.engine(session_id)?;
    let (pid, addresses) = (running.process.identity().pid, running.addresses());
    smol::unblock(move || {
        let serves = |owner: &Owner| matches!(owner, Owner::Process { pid: other, .. } if *other == pid);
        addresses.into_iter().find_map(|address| {
            let port = NonZeroU16::new(address.port())?;
            let owners = ports::owners(address.ip(), port, Kind::Tcp);
            (!owners.iter().any(serves)).then(|| format!("the engine does not listen on {address} any more"))
        })
    })
    .await
}

/// The bytes a session has carried; none when its engine does not answer in time. Safe to drop.
pub(super) async fn traffic(context: Rc<Context>, session_id: SessionId) -> Option<Traffic> {
    let running = context.engine(session_id)?;
    match select(std::pin::pin!(running.api.traffic()), Timer::after(TRAFFIC_TIMEOUT)).await {
        Either::Left((Ok(traffic), _)) => {
            Some(Traffic { uplink_bytes: traffic.uplink, downlink_bytes: traffic.downlink })
        }
        Either::Left((Err(error), _)) => {
            tracing::debug!(%session_id, "no counters: {error}");
            None
        }
        Either::Right(_) => None,
    }
}

/// Empties the logs of running engines that have grown too large. They are open for appending: writing goes on.
pub(super) fn trim_logs(context: &Context) {
    for session_id in context.engines.borrow().keys() {
        let path = context.paths.session_log(*session_id);
        let large = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG);
        if large && let Err(error) = std::fs::OpenOptions::new().write(true).truncate(true).open(&path) {
            tracing::warn!("cannot empty {}: {error}", path.display());
        }
    }
}
