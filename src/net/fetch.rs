//! Fetching a subscription: redirects, compression, and bounds on both size and time.

use std::io::Read;
use std::time::Duration;

use async_io::Timer;
use async_net::TcpStream;
use futures::future::{Either, select};
use hyper::header;

use super::http::{self, HttpError, Response};
use super::socks::{self, SocksError};
use super::url::{Url, UrlError};
use crate::config::Secret;
use crate::event::Address;

/// The largest body that is taken, before and after decompression.
pub const MAX_BODY: usize = 16 << 20;
/// The longest that a fetch may take, redirects included.
pub const MAX_TIME: Duration = Duration::from_secs(30);
/// So many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// Why nothing was fetched. Names hosts only: paths and queries of subscription URLs are credentials.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none.
    #[error("the URL {0}")]
    Url(#[from] UrlError),
    /// The host cannot be reached.
    #[error("cannot connect to {host}: {source}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The SOCKS proxy on the way.
    #[error(transparent)]
    Socks(#[from] SocksError),
    /// The exchange.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer other than 200.
    #[error("{host} answered {status}")]
    Status {
        /// Host and port.
        host: String,
        /// The status line.
        status: hyper::StatusCode,
    },
    /// A redirect that leads nowhere good.
    #[error("{host} redirects {problem}")]
    Redirect {
        /// Host and port.
        host: String,
        /// Where to, in words.
        problem: &'static str,
    },
    /// A body that cannot be decompressed.
    #[error("the answer's compression {0}")]
    Encoding(&'static str),
    /// It took longer than [`MAX_TIME`].
    #[error("no complete answer within {} s", MAX_TIME.as_secs())]
    TimedOut,
}

/// The way to the host.
#[derive(Clone, Debug)]
pub enum Route {
    /// The machine's own network.
    Direct,
    /// The running session.
    Socks {
        /// Its public SOCKS address.
        address: Address,
        /// Its credentials, if it wants some.
        auth: Option<(String, Secret)>,
    },
}

/// Fetches `url` within [`MAX_TIME`] and [`MAX_BODY`]. Dropping the future ends the fetch.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(url: &Url, route: &Route, user_agent: &str) -> Result<Vec<u8>, FetchError> {
    let work = std::pin::pin!(follow(url, route, user_agent));
    match select(work, Timer::after(MAX_TIME)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(FetchError::TimedOut),
    }
}

async fn follow(url: &Url, route: &Route, user_agent: &str) -> Result<Vec<u8>, FetchError> {
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = once(&url, route, user_agent).await?;
        if response.status.is_success() {
            return decompress(response);
        }
        let host = url.to_string();
        if !response.status.is_redirection() {
            return Err(FetchError::Status { host, status: response.status });
        }
        let refuse = |problem| FetchError::Redirect { host: host.clone(), problem };
        let location = response.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next =
            url.join(location.ok_or_else(|| refuse("without saying where to"))?).map_err(|error| match error {
                UrlError::Scheme => refuse("to something that is neither http nor https"),
                UrlError::Syntax | UrlError::Host => refuse("to something that is not a URL"),
            })?;
        if is_local(&next.host) && !is_local(&url.host) {
            return Err(refuse("to this machine's own address"));
        }
        if url.tls && !next.tls {
            return Err(refuse("from https to http"));
        }
        url = next;
    }
    Err(FetchError::Redirect { host: url.to_string(), problem: "more than five times" })
}

/// Loopback and unspecified addresses: a provider has no business sending its users there, and they mean another
/// machine when a proxy resolves them.
pub fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback() || ip.is_unspecified())
}

async fn once(url: &Url, route: &Route, user_agent: &str) -> Result<Response, FetchError> {
    let dial = |host: String, port: u16| async move {
        TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|source| FetchError::Connect { host: format!("{host}:{port}"), source })
    };
    let stream = match route {
        Route::Direct => dial(url.host.clone(), url.port).await?,
        Route::Socks { address, auth } => {
            let mut stream = dial(address.host.clone(), address.port.get()).await?;
            socks::greet(&mut stream, auth.as_ref().map(|(user, password)| (user.as_str(), password))).await?;
            socks::connect(&mut stream, &url.host, url.port).await?;
            stream
        }
    };
    Ok(http::get(stream, url, user_agent, MAX_BODY).await?)
}

/// Undoes one gzip, bounded: a few kilobytes of zeros can unfold to gigabytes.
fn decompress(response: Response) -> Result<Vec<u8>, FetchError> {
    let encoding = response.headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    match encoding.as_deref() {
        None | Some(b"" | b"identity") => Ok(response.body),
        Some(b"gzip" | b"x-gzip") => {
            let mut body = Vec::new();
            let limit = u64::try_from(MAX_BODY).unwrap_or(u64::MAX) + 1;
            flate2::read::MultiGzDecoder::new(response.body.as_slice())
                .take(limit)
                .read_to_end(&mut body)
                .map_err(|_| FetchError::Encoding("is damaged"))?;
            if body.len() > MAX_BODY { Err(HttpError::TooLarge(MAX_BODY).into()) } else { Ok(body) }
        }
        Some(_) => Err(FetchError::Encoding("is one that was not asked for (only gzip is)")),
    }
}
