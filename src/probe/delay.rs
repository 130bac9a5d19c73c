//! One HTTP exchange through an engine: the only proof that a node works.

use std::path::Path;
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};

use crate::engine::private;
use crate::net::http::{self, HttpError};
use crate::net::url::Url;

/// A page that answers a probe with more than this is cut off; `generate_204` answers with nothing.
const MAX_BODY: usize = 1 << 20;
/// What the probe calls itself: nothing a node or site could tell xrat by.
const USER_AGENT: &str = "Mozilla/5.0";

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The engine did not take the request.
    #[error("the engine refused the connection: {0}")]
    Engine(std::io::Error),
    /// The node or the site behind it.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The site answered with an error, which the node may have made up.
    #[error("{url} answered {status}")]
    Status {
        /// Scheme, host and port.
        url: String,
        /// The status line.
        status: hyper::StatusCode,
    },
    /// Nothing within the time given.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// Fetches `url` through the engine behind the private socket at `path`, over a new connection, within `timeout`.
///
/// Returns the time from the request to the first byte of the answer. Any status below 400 is a good answer.
/// Dropping the future closes the connection.
///
/// # Errors
/// See [`ProbeError`].
pub async fn exchange(path: &Path, url: &Url, timeout: Duration) -> Result<Duration, ProbeError> {
    exchange_as(path, None, url, timeout).await
}

/// As [`exchange`], as a user of [`crate::engine::batch_config`].
///
/// # Errors
/// See [`ProbeError`].
pub async fn exchange_as(
    path: &Path,
    user: Option<&str>,
    url: &Url,
    timeout: Duration,
) -> Result<Duration, ProbeError> {
    let work = async {
        let stream = private::connect_as(path, user, &url.host, url.port).await.map_err(ProbeError::Engine)?;
        let response = http::get(stream, url, USER_AGENT, MAX_BODY).await?;
        if response.status.is_client_error() || response.status.is_server_error() {
            return Err(ProbeError::Status { url: url.to_string(), status: response.status });
        }
        Ok(response.delay)
    };
    match select(std::pin::pin!(work), Timer::after(timeout)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(ProbeError::TimedOut(timeout)),
    }
}
