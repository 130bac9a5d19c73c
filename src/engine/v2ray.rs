//! V2Ray: what it can do, and where its files differ from Xray's.
//!
//! Source: V2Ray 4.34.0, Debian's package (run here). It ignores what it does not know, so everything a link may ask
//! for and it lacks is refused by name. Version 5 is held to the same list; what it has in addition is not used.

use serde_json::{Value, json};

use super::{Lack, Version};
use crate::config::{Config, Protocol, Security};

/// Older ones lack VLESS or Trojan, or have them in another form.
const OLDEST: Version = Version::new(4, 34, 0);
/// The VMess cipher `zero`; before, it silently became `auto`.
const VMESS_ZERO: Version = Version::new(5, 0, 0);

/// Shadowsocks ciphers.
const CIPHERS: [&str; 6] =
    ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305", "chacha20-ietf-poly1305", "none", "plain"];

/// Whether V2Ray of this version can run the config.
pub(super) fn check(version: Version, config: &Config) -> Result<(), Lack> {
    if version < OLDEST {
        return Err(Lack::but("V2Ray 4.34 or newer", "what xrat needs of an engine"));
    }
    match &config.protocol {
        Protocol::Vless { flow: Some(flow), .. } if !flow.is_empty() => {
            return Err(Lack::but("Xray", format!("the flow {flow:?}")));
        }
        Protocol::Vless { encryption, .. } if encryption.reveal() != "none" => {
            return Err(Lack::but("Xray", "VLESS encryption"));
        }
        Protocol::Vmess { method, .. } if method == "zero" && version < VMESS_ZERO => {
            return Err(Lack::but("Xray", "the VMess cipher \"zero\""));
        }
        Protocol::Shadowsocks { method, .. } if !CIPHERS.contains(&method.as_str()) => {
            return Err(Lack::but("Xray", format!("the Shadowsocks cipher {method:?}")));
        }
        _ => {}
    }
    match &config.security {
        Security::None => Ok(()),
        Security::Reality(_) => Err(Lack::but("Xray", "REALITY")),
        Security::Tls(tls) if tls.pinned_sha256.is_some() => Err(Lack::but("Xray", "a pinned certificate (pcs)")),
        Security::Tls(tls) if tls.verify_name.is_some() => {
            Err(Lack::but("Xray", "a certificate verified for another name (vcn)"))
        }
        Security::Tls(tls) if tls.ech.is_some() => Err(Lack::but("Xray", "an encrypted client hello (ech)")),
        Security::Tls(_) => Ok(()),
    }
}

/// `wsSettings`; the Host header is one of the headers.
pub(super) fn ws(path: &str, host: &str) -> Value {
    json!({ "path": path, "headers": { "Host": host } })
}

/// Makes an inbound listen on a Unix socket. The mode is the umask's: the directory must be closed to others.
///
/// `listen` and `port` are demanded by the parser and used by nothing.
pub(super) fn listen(path: &str, inbound: &mut serde_json::Map<String, Value>) {
    inbound.insert("listen".into(), "127.0.0.1".into());
    inbound.insert("port".into(), 1.into());
    inbound.insert("streamSettings".into(), json!({ "network": "domainsocket", "dsSettings": { "path": path } }));
}
