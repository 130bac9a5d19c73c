//! What is spoken to a node, with its credentials.

use serde::{Deserialize, Serialize};

use super::Secret;

/// The proxy protocol and its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Protocol {
    /// VLESS.
    Vless {
        /// The user's id: a UUID (lower case, dashes) or the short text Xray maps to one.
        uuid: Secret,
        /// `none`, or the client half of VLESS encryption in newer Xray.
        encryption: Secret,
        /// Flow control, for example `xtls-rprx-vision`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flow: Option<String>,
    },
    /// VMess.
    Vmess {
        /// The user's id.
        uuid: Secret,
        /// `auto`, `aes-128-gcm`, `chacha20-poly1305`, `none` or `zero`.
        method: String,
        /// 0 for the AEAD header; anything else is the retired MD5 form.
        #[serde(default)]
        alter_id: u16,
    },
    /// Trojan.
    Trojan {
        /// The password as the server stores it.
        password: Secret,
    },
    /// Shadowsocks.
    Shadowsocks {
        /// The cipher, lower case.
        method: String,
        /// The password; for 2022 ciphers one or more base64 keys joined by `:`.
        password: Secret,
        /// SIP003 plugin with its options as written (`name;opt=value`). Data, never executed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plugin: Option<Secret>,
    },
    /// SOCKS5.
    Socks {
        /// User name, if the proxy wants one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<String>,
        /// Password, if the proxy wants one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<Secret>,
    },
    /// Hysteria 2, over QUIC of its own.
    Hysteria2(Hysteria2),
    /// TUIC 5, over QUIC of its own. No engine that xrat knows carries it.
    Tuic(Tuic),
    /// WireGuard, with the node as its only peer.
    Wireguard(Wireguard),
    /// HTTP CONNECT.
    Http {
        /// User name, if the proxy wants one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<String>,
        /// Password, if the proxy wants one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<Secret>,
    },
}

impl Protocol {
    /// The protocol's name as in the database, in JSON and in engine files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vless { .. } => "vless",
            Self::Vmess { .. } => "vmess",
            Self::Trojan { .. } => "trojan",
            Self::Shadowsocks { .. } => "shadowsocks",
            Self::Socks { .. } => "socks",
            Self::Http { .. } => "http",
            Self::Hysteria2(_) => "hysteria2",
            Self::Tuic(_) => "tuic",
            Self::Wireguard(_) => "wireguard",
        }
    }

    /// The user name of a proxy, which is often a token.
    pub(super) fn username(&self) -> Option<&str> {
        match self {
            Self::Socks { username, .. } | Self::Http { username, .. } => username.as_deref(),
            _ => None,
        }
    }

    /// Everything in here that must not be seen, for [`super::Config::masked`].
    pub(super) fn secrets(&self) -> Vec<&Secret> {
        match self {
            Self::Vless { uuid, encryption, .. } => vec![uuid, encryption],
            Self::Vmess { uuid, .. } => vec![uuid],
            Self::Trojan { password } => vec![password],
            Self::Shadowsocks { password, plugin, .. } => std::iter::once(password).chain(plugin).collect(),
            Self::Socks { password, .. } | Self::Http { password, .. } => password.iter().collect(),
            Self::Hysteria2(node) => {
                std::iter::once(&node.auth).chain(node.obfs.as_ref().map(|obfs| &obfs.password)).collect()
            }
            Self::Tuic(node) => vec![&node.uuid, &node.password],
            Self::Wireguard(node) => std::iter::once(&node.secret_key).chain(&node.preshared_key).collect(),
        }
    }
}

/// Hysteria 2. The config's port is the first one of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hysteria2 {
    /// What the server asks for before anything else; `user:password` is one text here.
    pub auth: Secret,
    /// All ports to hop between, such as `443,5000-6000`; `None` for the config's port alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Seconds between two hops, if the link says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop_secs: Option<u32>,
    /// What disguises the packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obfs: Option<Obfs>,
}

/// The disguise of Hysteria 2's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obfs {
    /// `salamander` or `gecko`.
    pub kind: String,
    /// The password that both sides scramble with.
    pub password: Secret,
}

/// TUIC 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuic {
    /// The user's id.
    pub uuid: Secret,
    /// The user's password.
    pub password: Secret,
    /// `cubic`, `new_reno` or `bbr`, if the link says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_control: Option<String>,
    /// `native` or `quic`, if the link says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_relay_mode: Option<String>,
    /// No server name in the client hello.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_sni: bool,
}

/// WireGuard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wireguard {
    /// This side's private key: 32 bytes in standard base64, as all keys here.
    pub secret_key: Secret,
    /// The node's public key.
    pub public_key: String,
    /// The key both sides share, if the node wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<Secret>,
    /// This side's addresses inside the tunnel, with their prefix length.
    pub addresses: Vec<String>,
    /// The three reserved bytes that some nodes tell their users apart by; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<u8>,
    /// Largest packet inside the tunnel in bytes, if the link says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Seconds between packets that keep the way open, if the link says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_secs: Option<u16>,
}
