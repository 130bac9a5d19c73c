//! One gRPC call over a Unix socket: HTTP/2, a message there, a message back, a status.
//!
//! Source: "gRPC over HTTP2" (`PROTOCOL-HTTP2.md` of the gRPC project). No compression, no streaming.

use std::future::Future;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

use async_io::Timer;
use async_net::unix::UnixStream;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::{Request, client::conn::http2};
use percent_encoding::percent_decode;
use prost::Message;
use smol::LocalExecutor;
use smol_hyper::rt::FuturesIo;

use super::api::ApiError;

/// A call takes 0.3 ms. An engine that is this late hangs or is stopped, and waiting longer would hold up a transition.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers are a few counters; one of this size is not an answer.
const MAX_ANSWER: usize = 1024 * 1024;
/// Before each message: one byte "not compressed" and its length in four.
const PREFIX: usize = 5;

/// gRPC's code for "I know no such service or method".
pub(super) const UNIMPLEMENTED: u32 = 12;
/// gRPC's code for an error of no other kind, which is what engines' own errors arrive as.
pub(super) const UNKNOWN: u32 = 2;

/// hyper wants to spawn the work of a connection; it runs on the call's own executor and ends with it.
///
/// Weak, because a task holds a clone of this: with a strong one the executor would keep itself alive.
#[derive(Clone)]
struct Spawner(Weak<LocalExecutor<'static>>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

/// Calls `method` (`package.Service/Method`) on the server at `socket`, over a connection of its own.
///
/// Dropping the future closes the connection; the engine may or may not have carried out the call.
pub(super) async fn call<A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> Result<A, ApiError> {
    let executor = Rc::new(LocalExecutor::new());
    let spawner = Spawner(Rc::downgrade(&executor));
    let late = async {
        Timer::after(CALL_TIMEOUT).await;
        Err(ApiError::Timeout { socket: socket.to_owned(), method: method.to_owned(), after: CALL_TIMEOUT })
    };
    smol::future::or(executor.run(exchange(socket, method, request, spawner)), late).await
}

async fn exchange<A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
    spawner: Spawner,
) -> Result<A, ApiError> {
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| ApiError::Broken {
        socket: socket.to_owned(),
        method: method.to_owned(),
        source,
    };
    let stream =
        UnixStream::connect(socket).await.map_err(|source| ApiError::Connect { socket: socket.to_owned(), source })?;
    let (mut sender, connection) =
        http2::handshake(spawner.clone(), FuturesIo::new(stream)).await.map_err(|error| broken(error.into()))?;
    hyper::rt::Executor::execute(&spawner, async {
        // How the connection ended shows in the answer, or in its absence.
        let _ = connection.await;
    });

    let body = Full::new(Bytes::from(frame(request)));
    let request = Request::post(format!("http://localhost/{method}"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(body)
        .map_err(|error| broken(error.into()))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
    // An answer that is an error alone has its status here, and no trailers.
    let head = answer.headers().clone();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(broken)?;
    let status = body.trailers().and_then(status).or_else(|| status(&head));
    let content = body.to_bytes();
    match status {
        Some((0, _)) => message(&content).ok_or_else(|| broken("the answer is no message".into())),
        Some((code, message)) => Err(ApiError::Refused { method: method.to_owned(), code, message }),
        None => Err(broken("the answer has no grpc-status".into())),
    }
}

fn frame(message: &impl Message) -> Vec<u8> {
    let content = message.encode_to_vec();
    // Requests are a few hundred bytes; the saturation is for the type alone.
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &content].concat()
}

fn message<A: Message + Default>(body: &[u8]) -> Option<A> {
    let (prefix, content) = body.split_at_checked(PREFIX)?;
    let [0, length @ ..] = prefix else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    A::decode(content.get(..usize::try_from(length).ok()?)?).ok()
}

/// `grpc-status` and `grpc-message`, which is percent-encoded UTF-8.
fn status(headers: &HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").map_or(&[][..], HeaderValue::as_bytes);
    Some((code, percent_decode(message).decode_utf8_lossy().into_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::engine::proto::{Empty, RemoveInboundRequest};

    #[test]
    fn a_message_survives_its_frame() {
        let request = RemoveInboundRequest { tag: "public-socks".into() };
        let framed = frame(&request);
        assert_eq!(framed[..PREFIX], [0, 0, 0, 0, 14]);
        assert_eq!(message::<RemoveInboundRequest>(&framed), Some(request));
        assert_eq!(message::<RemoveInboundRequest>(&framed[..10]), None, "cut short");
        assert_eq!(message::<Empty>(&[1, 0, 0, 0, 0]), None, "compressed");
        assert_eq!(message::<Empty>(&[0, 0]), None);
    }

    #[test]
    fn the_status_message_is_percent_encoded() {
        let mut headers = HeaderMap::new();
        assert_eq!(status(&headers), None);
        headers.insert("grpc-status", HeaderValue::from_static("2"));
        headers.insert("grpc-message", HeaderValue::from_static("bind: 100%25 taken"));
        assert_eq!(status(&headers), Some((2, "bind: 100% taken".to_owned())));
    }
}
