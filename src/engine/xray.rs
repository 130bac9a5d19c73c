//! Xray: what its versions can do, and where its files differ from V2Ray's.
//!
//! Source: `infra/conf` of Xray-core 25.12.8 and 26.3.27 (run here) and 26.7.28 (read). Unlike V2Ray it refuses most of
//! what it does not know, but not unknown JSON keys: what an older version would overlook is gated by version here.

use serde_json::{Value, json};

use super::{Family, Lack, Version, kcp, keys, udp, xhttp};
use crate::config::{Config, Protocol, Reality, Security, Tls, Transport, ech_config_list};

/// From here `allowInsecure` ends the start: at once in 26.1.31, and from 2026-06-01 on in 26.2.6 and later.
const NO_ALLOW_INSECURE: Version = Version::new(26, 1, 31);
/// `pinnedPeerCertSha256` and `verifyPeerCertByName` in their present form.
const PINNED_CERTIFICATE: Version = Version::new(26, 2, 6);
/// `echConfigList` and `mldsa65Verify`: an older version overlooks them.
const ECH_AND_MLDSA: Version = Version::new(25, 8, 3);
/// VLESS's own encryption.
const VLESS_ENCRYPTION: Version = Version::new(25, 9, 5);
/// Shadowsocks without encryption is gone.
const NO_PLAIN_SHADOWSOCKS: Version = Version::new(26, 7, 0);
/// `wsSettings.host`; before, the Host header was one of the headers.
const WS_HOST: Version = Version::new(24, 12, 0);
/// HTTP upgrades and gRPC with an authority; they are somewhat older than that.
const HTTP_UPGRADE: Version = Version::new(24, 12, 31);
/// Bytes of an X25519 public key.
const X25519_BYTES: usize = 32;
/// Bytes of an ML-DSA-65 public key.
const MLDSA65_BYTES: usize = 1952;

/// Shadowsocks ciphers, all versions that matter.
const CIPHERS: [&str; 6] = [
    "aes-128-gcm",
    "aes-256-gcm",
    "chacha20-poly1305",
    "chacha20-ietf-poly1305",
    "xchacha20-poly1305",
    "xchacha20-ietf-poly1305",
];

/// Whether Xray of this version can run the config.
pub(super) fn check(version: Version, config: &Config) -> Result<(), Lack> {
    match &config.protocol {
        Protocol::Vless { encryption, flow, .. } => {
            let encrypted = encryption.reveal() != "none";
            if encrypted && version < VLESS_ENCRYPTION {
                return Err(Lack::but("Xray 25.9.5 or newer", "VLESS encryption"));
            }
            if encrypted && !keys::is_vless_encryption(encryption.reveal()) {
                return Err(Lack::none("VLESS encryption of this form"));
            }
            if let Some(flow) = flow.as_deref().filter(|flow| !flow.is_empty()) {
                vision(flow, encrypted, config)?;
            }
        }
        Protocol::Vmess { alter_id: 1.., .. } => {
            return Err(Lack::but("V2Ray", "VMess with an alterId other than 0"));
        }
        Protocol::Shadowsocks { method, password, .. } => cipher(version, method, password.reveal())?,
        Protocol::Hysteria2(node) => udp::check_hysteria(version, node, &config.security)?,
        Protocol::Wireguard(node) => udp::check_wireguard(version, node, &config.security)?,
        _ => {}
    }
    check_transport(version, &config.transport)?;
    match &config.security {
        Security::None => Ok(()),
        Security::Tls(tls) => check_tls(version, tls),
        Security::Reality(reality) => check_reality(version, reality, &config.transport),
    }
}

fn check_transport(version: Version, transport: &Transport) -> Result<(), Lack> {
    match transport {
        Transport::Tcp { .. } | Transport::Ws { .. } | Transport::Udp => Ok(()),
        Transport::Grpc { .. } | Transport::HttpUpgrade { .. } if version < HTTP_UPGRADE => {
            Err(Lack::but("Xray 24.12.31 or newer", format!("the transport {}", transport.name())))
        }
        Transport::Grpc { .. } | Transport::HttpUpgrade { .. } => Ok(()),
        Transport::Xhttp { mode, extra, .. } => xhttp::check(version, mode, extra),
        Transport::Kcp { header, mtu, tti, .. } => kcp::check(Family::Xray, version, header, *mtu, *tti),
        // Both are gone since 24.11.30.
        Transport::H2 { .. } | Transport::Quic { .. } => {
            Err(Lack::but("V2Ray", format!("the transport {}", transport.name())))
        }
    }
}

fn check_reality(version: Version, reality: &Reality, transport: &Transport) -> Result<(), Lack> {
    if !matches!(transport, Transport::Tcp { .. } | Transport::Grpc { .. } | Transport::Xhttp { .. }) {
        return Err(Lack::none(format!("REALITY over {}", transport.name())));
    }
    if reality.mldsa65_verify.is_some() && version < ECH_AND_MLDSA {
        return Err(Lack::but("Xray 25.8.3 or newer", "REALITY with an ML-DSA-65 key"));
    }
    // Go's own client hello cannot carry the handshake.
    if matches!(reality.fingerprint.to_ascii_lowercase().as_str(), "unsafe" | "hellogolang") {
        return Err(Lack::none(format!("REALITY with the fingerprint {:?}", reality.fingerprint)));
    }
    let key = keys::is_url_safe(&reality.public_key, X25519_BYTES);
    let second = reality.mldsa65_verify.as_deref().is_none_or(|key| keys::is_url_safe(key, MLDSA65_BYTES));
    if !(key && second && keys::is_short_id(&reality.short_id) && keys::is_path(&reality.spider_x)) {
        return Err(Lack::none("REALITY with such a key, short id or spider path"));
    }
    fingerprint(version, &reality.fingerprint)
}

/// Vision splices records of the TLS layer right below it; over anything else each connection would fail.
fn vision(flow: &str, encrypted: bool, config: &Config) -> Result<(), Lack> {
    if !matches!(flow, "xtls-rprx-vision" | "xtls-rprx-vision-udp443") {
        return Err(Lack::none(format!("the flow {flow:?}")));
    }
    let bare_tcp = matches!(config.transport, Transport::Tcp { http_header: None });
    let secure = !matches!(config.security, Security::None);
    if encrypted || (bare_tcp && secure) {
        Ok(())
    } else if bare_tcp {
        Err(Lack::none(format!("the flow {flow:?} without TLS or REALITY")))
    } else {
        Err(Lack::none(format!("the flow {flow:?} over anything but plain tcp")))
    }
}

fn cipher(version: Version, method: &str, password: &str) -> Result<(), Lack> {
    let lack = || format!("the Shadowsocks cipher {method:?}");
    let key_bytes = match method {
        "2022-blake3-aes-128-gcm" => 16,
        "2022-blake3-aes-256-gcm" | "2022-blake3-chacha20-poly1305" => 32,
        "none" | "plain" if version < NO_PLAIN_SHADOWSOCKS => return Ok(()),
        "none" | "plain" => return Err(Lack::but("V2Ray", lack())),
        _ if CIPHERS.contains(&method) => return Ok(()),
        _ => return Err(Lack::none(lack())),
    };
    // SIP023: several keys are a user's way through relays, with AES alone.
    let alone = !method.contains("aes");
    if !password.split(':').all(|key| keys::is_standard(key, key_bytes)) || alone && password.contains(':') {
        return Err(Lack::none(format!("{} with a password that is not base64 of {key_bytes} bytes", lack())));
    }
    Ok(())
}

fn check_tls(version: Version, tls: &Tls) -> Result<(), Lack> {
    let pinned = tls.pinned_sha256.is_some() || tls.verify_name.is_some();
    if pinned && version < PINNED_CERTIFICATE {
        return Err(Lack::but("Xray 26.2.6 or newer", "a pinned certificate"));
    }
    if tls.allow_insecure && tls.pinned_sha256.is_none() && version >= NO_ALLOW_INSECURE {
        return Err(Lack::but(
            "V2Ray",
            "TLS that does not verify the certificate (allowInsecure; ask for a link with pcs=)",
        ));
    }
    if tls.pinned_sha256.as_deref().is_some_and(|hashes| !keys::is_hashes(hashes)) {
        return Err(Lack::none("a pinned certificate (pcs) that is not SHA-256 in hex"));
    }
    if tls.ech.as_deref().is_some_and(|ech| ech_config_list(ech).is_none()) {
        return Err(Lack::none("an encrypted client hello (ech) whose keys are to be looked up past the node"));
    }
    if tls.ech.is_some() && version < ECH_AND_MLDSA {
        return Err(Lack::but("Xray 25.8.3 or newer", "an encrypted client hello (ech)"));
    }
    tls.fingerprint.as_deref().map_or(Ok(()), |name| fingerprint(version, name))
}

/// An unknown name makes Xray refuse the whole file.
fn fingerprint(version: Version, name: &str) -> Result<(), Lack> {
    match keys::is_fingerprint(version, name) {
        true => Ok(()),
        false => Err(Lack::none(format!("the fingerprint {name:?}"))),
    }
}

/// `wsSettings` with the Host header where this version looks for it.
pub(super) fn ws(version: Version, path: &str, host: &str) -> Value {
    if version < WS_HOST {
        json!({ "path": path, "headers": { "Host": host } })
    } else {
        json!({ "path": path, "host": host })
    }
}

/// What of TLS only Xray knows. A pin replaces `allowInsecure`, which newer versions refuse even beside one.
pub(super) fn tls(tls: &Tls, settings: &mut serde_json::Map<String, Value>) {
    if let Some(name) = &tls.fingerprint {
        settings.insert("fingerprint".into(), name.to_ascii_lowercase().into());
    }
    for (key, value) in [
        ("pinnedPeerCertSha256", &tls.pinned_sha256),
        ("verifyPeerCertByName", &tls.verify_name),
        ("echConfigList", &tls.ech),
    ] {
        if let Some(value) = value {
            settings.insert(key.into(), value.as_str().into());
        }
    }
    if tls.pinned_sha256.is_some() {
        settings.remove("allowInsecure");
    }
}

/// Makes an inbound listen on a Unix socket that only this user may open.
pub(super) fn listen(path: &str, inbound: &mut serde_json::Map<String, Value>) {
    inbound.insert("listen".into(), format!("{path},0600").into());
}
