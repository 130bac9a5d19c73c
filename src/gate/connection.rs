//! One connection that landed on the gate: its request, the wait for an engine, the relay.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures::future::{Either, select};

use super::relay::{close_gently, relay};
use super::{Behind, Gate, HOLD, Refusal, http, socks};
use crate::engine::api::InboundKind;
use crate::engine::private;

/// A client that has not sent its request by then is cut off. Browsers open connections ahead of their need and keep
/// them for about a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two attempts to reach the engine that should be there. Its end is mostly noticed before the first.
const RETRY: Duration = Duration::from_millis(50);

/// What a client wants.
enum Request {
    Socks(socks::Destination),
    /// The head and what came with it, unchanged.
    Http(Vec<u8>),
}

/// Serves one connection to its end.
pub(super) async fn serve(gate: &Gate, client: Async<TcpStream>) {
    let _ = rustix::net::sockopt::set_tcp_nodelay(&client, true);
    // So that a client whose machine vanished is noticed at some time; the kernel's business, not a timer of ours.
    let _ = rustix::net::sockopt::set_socket_keepalive(&client, true);
    let request = {
        let reading = pin!(read_request(gate, &client));
        match select(reading, Timer::after(REQUEST_TIMEOUT)).await {
            Either::Left((request, _)) => request,
            Either::Right(_) => return,
        }
    };
    let request = match request {
        Ok(request) => request,
        Err(Refusal::Told) => return close_gently(&client).await,
        Err(Refusal::Broken) => return,
    };
    let Some(found) = find_engine(gate, &client, &request).await else { return };
    match found {
        Ok((engine, _counted)) => {
            let first = match &request {
                Request::Socks(_) => &[],
                Request::Http(head) => head.as_slice(),
            };
            if matches!(request, Request::Socks(_)) && socks::answer(&mut &client, true).await.is_err() {
                return;
            }
            relay(&client, &engine, first, &gate.scratch).await;
        }
        Err(why) => {
            gate.counts.refused.set(gate.counts.refused.get() + 1);
            let mut writer = &client;
            let told = match request {
                Request::Socks(_) => socks::answer(&mut writer, false).await,
                Request::Http(_) => http::unavailable(&mut writer, &why).await,
            };
            if told.is_ok() {
                close_gently(&client).await;
            }
        }
    }
}

async fn read_request(gate: &Gate, client: &Async<TcpStream>) -> Result<Request, Refusal> {
    let auth = gate.inbound.auth.as_ref();
    let mut stream = client;
    match gate.inbound.kind {
        InboundKind::Socks { .. } => socks::request(&mut stream, auth).await.map(Request::Socks),
        InboundKind::Http => http::request(&mut stream, auth).await.map(Request::Http),
    }
}

/// Waits for an engine that takes the request, at most [`HOLD`]. `None` when the client has gone, an error with the
/// words for it when it is refused.
async fn find_engine<'g>(
    gate: &'g Gate,
    client: &Async<TcpStream>,
    request: &Request,
) -> Option<Result<(Arc<Async<UnixStream>>, super::Relayed<'g>), String>> {
    let started = Instant::now();
    let mut held = None;
    loop {
        let (behind, changed) = gate.behind();
        let attempt = async {
            match behind {
                Behind::Refuse(why) => Err(why),
                Behind::Engine(path) => match reach(&path, request, started).await {
                    Ok(engine) => Ok((engine, gate.count_relay(&path))),
                    Err(why) => Err(why),
                },
                Behind::Hold => {
                    held.get_or_insert_with(|| gate.count_held());
                    Timer::at(started + HOLD).await;
                    Err(format!("no engine was there within {} s", HOLD.as_secs()))
                }
            }
        };
        let interrupted = async {
            let changed = pin!(changed.recv());
            match select(changed, pin!(gone(client))).await {
                Either::Left(_) => Some(()),
                Either::Right(_) => None,
            }
        };
        match select(pin!(attempt), pin!(interrupted)).await {
            Either::Left((found, _)) => return Some(found),
            // Nothing of the client's has been passed on yet: it can be asked for again, of whoever is there now.
            Either::Right((Some(()), _)) => {}
            Either::Right((None, _)) => return None,
        }
    }
}

/// A connection to the engine that is ready for what the client will send.
async fn reach(path: &Path, request: &Request, started: Instant) -> Result<Arc<Async<UnixStream>>, String> {
    let attempts = pin!(async {
        loop {
            let attempt = match request {
                Request::Socks(asked) => private::connect(path, &asked.host, asked.port).await,
                Request::Http(_) => async_net::unix::UnixStream::connect(path).await,
            };
            match attempt {
                Ok(stream) => return Ok(stream.into()),
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                    return Err(error.to_string());
                }
                // It has just ended, or has no room: soon it is known, or there is some.
                Err(_) => drop(Timer::after(RETRY).await),
            }
        }
    });
    match select(attempts, Timer::at(started + HOLD)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(format!("the engine did not answer within {} s", HOLD.as_secs())),
    }
}

/// Waits until the client has closed its connection, or for ever once it has sent more: then its end is out of sight.
///
/// A client that only says that it will send no more counts as gone too: while it waits for its answer a program
/// that does so has given up.
async fn gone(client: &Async<TcpStream>) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}
