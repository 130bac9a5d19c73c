//! The whole file of a session's engine.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Engine, Family, Lack, Unsupported, inbound, outbound};
use crate::config::Config;

/// The tag of the one outbound; traffic is counted under it.
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

/// The JSON of a session: no public inbound yet, private ones on Unix sockets, one outbound and no other way out.
///
/// The value holds credentials: write it to a file of mode 0600 and remove that once the engine is ready. The access log
/// is off: engines otherwise write every destination to standard output.
///
/// # Errors
/// [`Unsupported`] as of [`Engine::supports`], and when a socket path cannot be told to this engine.
pub fn session_config(engine: &Engine, config: &Config, sockets: &SessionFiles) -> Result<Value, Unsupported> {
    engine.supports(config)?;
    let mut inbounds = Vec::new();
    if let Some(socks) = &sockets.socks {
        if !engine.private_socks() {
            return Err(engine.unsupported(Lack::but("V2Ray", "SOCKS on a Unix socket")));
        }
        inbounds.push(inbound::private_socks(engine, socket(engine, socks)?));
    }
    inbounds.push(inbound::private_http(engine, socket(engine, &sockets.http)?));
    inbounds.push(inbound::api(engine, API_INBOUND_TAG, socket(engine, &sockets.api)?));
    Ok(json!({
        "log": { "access": "none", "loglevel": "warning" },
        "api": { "tag": API_TAG, "services": ["HandlerService", "StatsService"] },
        "stats": {},
        "policy": { "system": { "statsOutboundUplink": true, "statsOutboundDownlink": true } },
        "inbounds": inbounds,
        "outbounds": [outbound::outbound(engine, config, OUTBOUND_TAG)],
        // Everything without a rule takes the first outbound, so also what public inbounds bring later.
        "routing": {
            "domainStrategy": "AsIs",
            "rules": [{ "type": "field", "inboundTag": [API_INBOUND_TAG], "outboundTag": API_TAG }],
        },
    }))
}

fn socket<'a>(engine: &Engine, path: &'a Path) -> Result<&'a str, Unsupported> {
    path.to_str()
        .filter(|text| engine.family != Family::Xray || !text.contains(','))
        .ok_or_else(|| engine.unsupported(Lack::none(format!("a Unix socket at {}", path.display()))))
}
