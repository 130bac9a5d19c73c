//! One GET over a stream that is already there: HTTP/1.1, TLS where the URL says so, a bound on the body.

use std::pin::pin;
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures::future::{Either, select};
use futures::io::{AsyncRead, AsyncWrite};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode, header};
use smol_hyper::rt::FuturesIo;

use super::tls::{self, TlsError};
use super::url::Url;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The connection broke or the answer was not HTTP.
    #[error("no HTTP answer: {}", root_cause(.0))]
    Http(#[from] hyper::Error),
    /// The URL cannot be written as a request.
    #[error("the URL cannot be sent: {0}")]
    Request(#[from] hyper::http::Error),
    /// The body is larger than the caller takes.
    #[error("the answer is larger than {} MiB", .0 >> 20)]
    TooLarge(usize),
}

/// hyper's own words hide the reason in their source.
fn root_cause(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as sent.
    pub body: Vec<u8>,
    /// From sending the request to the answer's head.
    pub delay: Duration,
}

/// Sends one GET for `url` over `stream` and reads the answer, at most `max_body` bytes of body.
///
/// No bound on time: give one from outside. Dropping the future closes the stream.
///
/// # Errors
/// See [`HttpError`].
pub async fn get<S>(stream: S, url: &Url, user_agent: &str, max_body: usize) -> Result<Response, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if url.tls {
        let stream = tls::connect(stream, &url.host).await?;
        exchange(stream, url, user_agent, max_body).await
    } else {
        exchange(stream, url, user_agent, max_body).await
    }
}

async fn exchange<S>(stream: S, url: &Url, user_agent: &str, max_body: usize) -> Result<Response, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::get(&url.target)
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, user_agent)
        .header(header::ACCEPT, "*/*")
        // No `Connection: close`: a server that closes first makes V2Ray lose short answers over WebSocket.
        .header(header::ACCEPT_ENCODING, "gzip");
    if let Some(user_info) = &url.user_info {
        let token = base64::prelude::BASE64_STANDARD.encode(user_info.reveal());
        request = request.header(header::AUTHORIZATION, format!("Basic {token}"));
    }
    let request = request.body(Empty::<Bytes>::new())?;

    let (mut sender, connection) = hyper::client::conn::http1::handshake(FuturesIo::new(stream)).await?;
    let answer = pin!(async {
        let started = Instant::now();
        let response = sender.send_request(request).await?;
        let delay = started.elapsed();
        let (head, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame?.into_data() {
                if body.len() + data.len() > max_body {
                    return Err(HttpError::TooLarge(max_body));
                }
                body.extend_from_slice(&data);
            }
        }
        Ok(Response { status: head.status, headers: head.headers, body, delay })
    });
    // The connection makes no progress unless polled; when it ends first, the answer is complete or will be an error.
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}
