//! The API of a running engine: add and remove a public inbound, read the traffic counters.
//!
//! gRPC over the private Unix socket that [`super::session_config`] set up. An [`Api`] is an address and nothing more:
//! each call has a connection of its own (0.7 ms), so there is nothing to keep alive, to close or to find broken.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;

use super::proto::{
    AddInboundRequest, Empty, InboundHandlerConfig, QueryStatsRequest, QueryStatsResponse, RemoveInboundRequest,
};
use super::{Dialect, Engine, OUTBOUND_TAG, grpc};
use crate::config::Secret;

/// Where one engine can be told things. Cheap to make and to clone.
#[derive(Clone, Debug)]
pub struct Api {
    dialect: Dialect,
    socket: PathBuf,
}

/// A port that programs of this user connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicInbound {
    /// Its name in the engine, unique there.
    pub tag: String,
    /// What it speaks.
    pub kind: InboundKind,
    /// The address it listens on, and the one that UDP associations are told to send to.
    pub host: IpAddr,
    /// The port; for UDP as well.
    pub port: NonZeroU16,
    /// User name and password that it asks for.
    pub auth: Option<(String, Secret)>,
}

impl PublicInbound {
    /// Address and port together.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port.get())
    }
}

/// What a public inbound speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundKind {
    /// SOCKS 4, 4a and 5.
    Socks {
        /// Whether UDP associations are served.
        udp: bool,
    },
    /// HTTP proxy, CONNECT included.
    Http,
}

impl fmt::Display for InboundKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socks { .. } => "SOCKS",
            Self::Http => "HTTP",
        })
    }
}

/// Bytes that went through the session's outbound since the engine started: what is inside TLS, with the headers of
/// the node's protocol. Xray does not count what a connection sends first, together with that header, nor what it
/// splices (Vision) before the connection ends: figures for people, not for accounting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Towards the node.
    pub uplink: u64,
    /// From the node.
    pub downlink: u64,
}

/// Why an engine's API did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens: the engine is not ready, or is gone.
    #[error("no engine answers at {}: {source}", socket.display())]
    Connect {
        /// The API's socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The engine did not answer in time: it hangs or is stopped. It may carry the call out later.
    #[error("the engine at {} did not answer {method} within {} ms", socket.display(), after.as_millis())]
    Timeout {
        /// The API's socket.
        socket: PathBuf,
        /// `package.Service/Method`.
        method: String,
        /// How long it had.
        after: Duration,
    },
    /// The connection broke, or what came back is not gRPC.
    #[error("the engine at {} broke off {method}: {source}", socket.display())]
    Broken {
        /// The API's socket.
        socket: PathBuf,
        /// `package.Service/Method`.
        method: String,
        /// What went wrong on the connection.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine knows no such method: its API is off, or it is of another family than assumed.
    #[error("the engine's API has no {method}: {message}")]
    Unimplemented {
        /// `package.Service/Method`.
        method: String,
        /// The engine's words.
        message: String,
    },
    /// The engine refused; for an inbound most often because the address is taken.
    #[error("the engine refused {method}: {message} (gRPC code {code})")]
    Refused {
        /// `package.Service/Method`.
        method: String,
        /// The gRPC status code.
        code: u32,
        /// The engine's words.
        message: String,
    },
}

/// How engines call an inbound that they do not have.
const NO_SUCH_INBOUND: &str = "not enough information";
/// How Xray calls an inbound that it has already.
const EXISTING_TAG: &str = "existing tag found";

impl Api {
    /// The API of `engine`, which listens (or will) at `socket`.
    pub fn new(engine: &Engine, socket: impl Into<PathBuf>) -> Self {
        Self { dialect: engine.dialect(), socket: socket.into() }
    }

    /// Opens a public port. It accepts connections when this returns.
    ///
    /// The tag must not be in use: Xray refuses a second one, but V2Ray opens another listener beside the first, which
    /// nothing can close any more. If in doubt, [`Api::remove_inbound`] first.
    ///
    /// Takes at most 2 s. Dropping the future leaves open whether the port was opened.
    ///
    /// # Errors
    /// [`ApiError::Refused`] with the engine's words, for example when the address is taken. Nothing is left behind
    /// then: what the engine had opened of the inbound (TCP, and then UDP was taken) is closed again.
    pub async fn add_inbound(&self, inbound: &PublicInbound) -> Result<(), ApiError> {
        let accounts = inbound.auth.iter().map(|(user, password)| (user.clone(), password.reveal().to_owned()));
        let accounts: BTreeMap<_, _> = accounts.collect();
        let request = AddInboundRequest {
            inbound: Some(InboundHandlerConfig {
                tag: inbound.tag.clone(),
                receiver_settings: Some(self.dialect.receiver(inbound.host, inbound.port.get())),
                proxy_settings: Some(match inbound.kind {
                    InboundKind::Socks { udp } => self.dialect.socks(inbound.host, udp, accounts),
                    InboundKind::Http => self.dialect.http(accounts),
                }),
            }),
        };
        match self.call("app.proxyman.command.HandlerService/AddInbound", &request).await {
            Ok(Empty {}) => Ok(()),
            Err(error) => {
                // Both engines keep the tag, and listeners that did open, of an inbound that could not start.
                if let ApiError::Refused { message, .. } = &error
                    && !message.contains(EXISTING_TAG)
                {
                    // The first error is the one to tell; an engine that is gone has nothing left to close.
                    let _ = self.remove_inbound(&inbound.tag).await;
                }
                Err(error)
            }
        }
    }

    /// Closes a public port. Its open connections go on. A tag that the engine does not have is success.
    ///
    /// A connection that waits to be accepted at this moment is reset. Takes at most 2 s. Dropping the future leaves
    /// open whether the port was closed.
    ///
    /// # Errors
    /// [`ApiError`], never for an unknown tag.
    pub async fn remove_inbound(&self, tag: &str) -> Result<(), ApiError> {
        let request = RemoveInboundRequest { tag: tag.to_owned() };
        match self.call("app.proxyman.command.HandlerService/RemoveInbound", &request).await {
            Ok(Empty {}) => Ok(()),
            Err(ApiError::Refused { code: grpc::UNKNOWN, message, .. }) if message.contains(NO_SUCH_INBOUND) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What went through the session's outbound so far. Takes at most 2 s; dropping the future has no effect.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn traffic(&self) -> Result<Traffic, ApiError> {
        let prefix = format!("outbound>>>{OUTBOUND_TAG}>>>traffic>>>");
        let request = QueryStatsRequest { pattern: prefix.clone() };
        let answer: QueryStatsResponse = self.call("app.stats.command.StatsService/QueryStats", &request).await?;
        let counter = |name: &str| {
            let stat = answer.stat.iter().find(|stat| stat.name.strip_prefix(prefix.as_str()) == Some(name));
            stat.map_or(0, |stat| u64::try_from(stat.value).unwrap_or(0))
        };
        Ok(Traffic { uplink: counter("uplink"), downlink: counter("downlink") })
    }

    async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, ApiError> {
        let method = format!("{}.{method}", self.dialect.package());
        grpc::call(&self.socket, &method, request).await.map_err(|error| match error {
            ApiError::Refused { code: grpc::UNIMPLEMENTED, method, message } => {
                ApiError::Unimplemented { method, message }
            }
            other => other,
        })
    }
}
