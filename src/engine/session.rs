//! The whole file of a session's engine, and whether an engine that was started with it is ready.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::api::Api;
use super::{Engine, Family, Lack, Unsupported, inbound, outbound, private, udp};
use crate::config::{Config, Protocol};

/// The tag of the outbound to the node; traffic is counted under it.
pub const OUTBOUND_TAG: &str = "proxy";
const API_TAG: &str = "api";
const API_INBOUND_TAG: &str = "private-api";

/// Where the engine puts its private Unix sockets: in a directory that only this user can enter.
///
/// The engine creates each, beside it `<path>.lock`, and removes both when it ends by itself. Paths must be UTF-8,
/// at most 107 bytes (the kernel's limit) and, for Xray, without a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFiles {
    /// SOCKS. Only where [`Engine::private_socks`] says yes.
    pub socks: Option<PathBuf>,
    /// HTTP CONNECT, what [`super::private`] uses with every engine.
    pub http: PathBuf,
    /// The API, for [`super::api::Api`].
    pub api: PathBuf,
}

/// The JSON of a session: no public inbound yet, private ones on Unix sockets, and the node as the only way out.
///
/// The value holds credentials: write it to a file of mode 0600 and remove that once the engine is ready. The access
/// log is off: engines otherwise write every destination to standard output.
///
/// # Errors
/// [`Unsupported`] as of [`Engine::supports`], and when a socket path cannot be told to this engine.
pub fn session_config(engine: &Engine, config: &Config, sockets: &SessionFiles) -> Result<Value, Unsupported> {
    let node = outbound::outbound(engine, config, OUTBOUND_TAG)?;
    let mut inbounds = Vec::new();
    if let Some(socks) = &sockets.socks {
        if !engine.private_socks() {
            return Err(engine.unsupported(Lack::but("V2Ray", "SOCKS on a Unix socket")));
        }
        inbounds.push(inbound::private_socks(engine, socket(engine, socks)?));
    }
    inbounds.push(inbound::private_http(engine, socket(engine, &sockets.http)?));
    inbounds.push(inbound::api(engine, API_INBOUND_TAG, socket(engine, &sockets.api)?));
    let mut file = json!({
        "log": { "access": "none", "loglevel": "warning" },
        "api": { "tag": API_TAG, "services": ["HandlerService", "StatsService"] },
        "stats": {},
        "policy": { "system": { "statsOutboundUplink": true, "statsOutboundDownlink": true } },
        "inbounds": inbounds,
        // The first outbound takes what no rule sends elsewhere, and in V2Ray also what a rule sends to a tag that does
        // not exist: the API's, while the engine starts. Were the node first, it would get what is meant for the API.
        "outbounds": [
            { "tag": "closed", "protocol": "blackhole" },
            node,
        ],
        "routing": {
            "domainStrategy": "AsIs",
            "rules": [
                { "type": "field", "inboundTag": [API_INBOUND_TAG], "outboundTag": API_TAG },
                { "type": "field", "network": "tcp,udp", "outboundTag": OUTBOUND_TAG },
            ],
        },
    });
    if matches!(config.protocol, Protocol::Wireguard(_)) {
        file["dns"] = udp::wireguard_dns(config);
    }
    Ok(file)
}

/// One attempt to find the engine ready: its private proxy answers, and so does its API, which comes up a little later.
///
/// Only then is it safe to call the API for anything else: a call before may be reset. Nothing reaches the node. The
/// caller repeats it every few milliseconds until its own deadline, and stops when the process ends; one attempt takes
/// at most 2 s once the proxy answers. Dropping the future only closes connections.
///
/// # Errors
/// Of the part that did not answer; after the deadline the last one tells why.
pub async fn ready(engine: &Engine, sockets: &SessionFiles) -> io::Result<()> {
    private::ready(&sockets.http).await?;
    Api::new(engine, sockets.api.clone()).traffic().await.map(drop).map_err(io::Error::other)
}

pub(super) fn socket<'a>(engine: &Engine, path: &'a Path) -> Result<&'a str, Unsupported> {
    path.to_str()
        .filter(|text| engine.family != Family::Xray || !text.contains(','))
        .ok_or_else(|| engine.unsupported(Lack::none(format!("a Unix socket at {}", path.display()))))
}
