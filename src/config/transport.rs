//! What carries the protocol between client and node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Secret;

/// What carries the protocol between client and node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Transport {
    /// Plain TCP (`raw` in newer Xray).
    Tcp {
        /// Disguise as an HTTP/1.1 request (`headerType=http`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http_header: Option<HttpHeader>,
    },
    /// WebSocket.
    Ws {
        /// Request path with its query; begins with `/`. Early data (`?ed=2048`) stays in it.
        path: String,
        /// The Host header, if the link has one; see [`Config::effective_host`](super::Config::effective_host).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// gRPC over HTTP/2.
    Grpc {
        /// The service's name, or a path of one's own (`/a/b|c`); may be empty.
        service_name: String,
        /// Several streams in one message (`mode=multi`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        multi: bool,
        /// The `:authority` of the requests, if the link has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<String>,
    },
    /// A bare HTTP/1.1 upgrade (Xray only).
    #[serde(rename = "httpupgrade")]
    HttpUpgrade {
        /// Request path with its query; begins with `/`.
        path: String,
        /// The Host header, if the link has one; see [`Config::effective_host`](super::Config::effective_host).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// XHTTP, `splithttp` in its first versions (Xray only).
    Xhttp {
        /// Request path; begins with `/`.
        path: String,
        /// The Host header, if the link has one; see [`Config::effective_host`](super::Config::effective_host).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// `auto`, `packet-up`, `stream-up` or `stream-one`.
        mode: String,
        /// What of the link's `extra` is known to change the form of the requests alone. Nothing in here names a host,
        /// a file or an option of sockets.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        extra: BTreeMap<String, Value>,
    },
    /// mKCP, over UDP.
    Kcp {
        /// What packets are disguised as: `none`, `srtp`, `utp`, `wechat-video`, `dtls`, `wireguard` or `dns`.
        header: String,
        /// What packets are scrambled with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<Secret>,
        /// Largest packet in bytes, if the link says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<u16>,
        /// Milliseconds between transmissions, if the link says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tti: Option<u16>,
    },
    /// HTTP/2 (V2Ray, and Xray of long ago).
    H2 {
        /// Request path; begins with `/`.
        path: String,
        /// Host headers to choose from; may be empty.
        #[serde(default)]
        hosts: Vec<String>,
    },
    /// QUIC as V2Ray has it.
    Quic {
        /// `none`, `aes-128-gcm` or `chacha20-poly1305`: a second layer of encryption.
        cipher: String,
        /// The key of that layer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Secret>,
        /// What packets are disguised as, with the words of mKCP.
        header: String,
    },
    /// UDP that the protocol itself fills: Hysteria 2, TUIC and WireGuard.
    Udp,
}

impl Transport {
    /// The transport's name, `network` in JSON and, but for `udp`, in engine files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Ws { .. } => "ws",
            Self::Grpc { .. } => "grpc",
            Self::HttpUpgrade { .. } => "httpupgrade",
            Self::Xhttp { .. } => "xhttp",
            Self::Kcp { .. } => "kcp",
            Self::H2 { .. } => "h2",
            Self::Quic { .. } => "quic",
            Self::Udp => "udp",
        }
    }

    /// The one Host header that the link gives, where the transport has one host: `None` inside for a link without.
    pub(super) fn host(&self) -> Option<Option<&str>> {
        match self {
            Self::Ws { host, .. } | Self::HttpUpgrade { host, .. } | Self::Xhttp { host, .. } => Some(host.as_deref()),
            _ => None,
        }
    }

    /// The values of headers that the link adds to requests.
    pub(super) fn headers(&self) -> impl Iterator<Item = &str> {
        let extra = match self {
            Self::Xhttp { extra, .. } => extra.get("headers"),
            _ => None,
        };
        extra.and_then(Value::as_object).into_iter().flat_map(|headers| headers.values().filter_map(Value::as_str))
    }

    /// What in here must not be seen, for [`super::Config::masked`].
    pub(super) fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Kcp { seed, .. } => seed.as_ref(),
            Self::Quic { key, .. } => key.as_ref(),
            _ => None,
        }
    }
}

/// The HTTP/1.1 request that a TCP stream pretends to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpHeader {
    /// Host headers to choose from; may be empty.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Paths to choose from; empty means `/`.
    #[serde(default)]
    pub paths: Vec<String>,
}
