//! V2Ray: what it can do, and where its files differ from Xray's.
//!
//! Source: V2Ray 4.34.0, Debian's package, and 5.22.0 (both run here). It ignores what it does not know, so everything
//! a link may ask for and it lacks is refused by name.

use serde_json::{Value, json};

use super::{Family, Lack, Version, kcp};
use crate::config::{Config, Protocol, Security, Transport};

/// Older ones lack VLESS or Trojan, or have them in another form.
const OLDEST: Version = Version::new(4, 34, 0);
/// The VMess cipher `zero`; before, it silently became `auto`.
const VMESS_ZERO: Version = Version::new(5, 0, 0);

/// gRPC.
const GRPC: Version = Version::new(5, 0, 0);

/// What QUIC may be encrypted with once more.
const QUIC_CIPHERS: [&str; 3] = ["none", "aes-128-gcm", "chacha20-poly1305"];
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
        Protocol::Hysteria2(_) => return Err(Lack::but("Xray", "Hysteria 2")),
        Protocol::Wireguard(_) => return Err(Lack::but("Xray", "WireGuard")),
        _ => {}
    }
    check_transport(version, config)?;
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

fn check_transport(version: Version, config: &Config) -> Result<(), Lack> {
    let lack = |needs| Err(Lack::but(needs, format!("the transport {}", config.transport.name())));
    match &config.transport {
        Transport::Tcp { .. } | Transport::Ws { .. } | Transport::Udp => Ok(()),
        Transport::HttpUpgrade { .. } | Transport::Xhttp { .. } => lack("Xray"),
        Transport::Grpc { .. } if version < GRPC => lack("Xray, or V2Ray 5,"),
        Transport::Grpc { multi: true, .. } => Err(Lack::but("Xray", "grpc in mode multi")),
        Transport::Grpc { authority: Some(_), .. } => Err(Lack::but("Xray", "grpc with an authority")),
        // It puts the name into the path as it is; Xray escapes it, and takes a slash in front for a path of one's own.
        Transport::Grpc { service_name, .. } if !service_name.bytes().all(is_unreserved) => {
            Err(Lack::but("Xray", "grpc with such a serviceName"))
        }
        Transport::Grpc { .. } => Ok(()),
        Transport::Kcp { header, mtu, tti, .. } => kcp::check(Family::V2ray, version, header, *mtu, *tti),
        // It would fail on each connection.
        Transport::H2 { .. } if !matches!(config.security, Security::Tls(_)) => Err(Lack::none("h2 without TLS")),
        Transport::H2 { .. } => Ok(()),
        Transport::Quic { cipher, .. } if !QUIC_CIPHERS.contains(&cipher.as_str()) => {
            Err(Lack::none(format!("the QUIC cipher {cipher:?}")))
        }
        Transport::Quic { header, .. } => kcp::check_header(Family::V2ray, header),
    }
}

/// What no URL escapes.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
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
