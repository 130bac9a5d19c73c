//! The stored proxy node: one `Config` in the words of share links, whatever link it came from.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The key of a row of `configs`. Never reused, also not after the row was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigId(pub i64);

impl fmt::Display for ConfigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A credential. `Debug` prints `***`, so that no log or error can carry it; `Display` is missing on purpose.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The credential itself, for the engine's file and for `show --reveal`.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One proxy node, decoded from a share link and independent of any engine.
///
/// Two links that mean the same node give equal configs but for `name`; see [`Config::identity`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What people call the node; never empty (a link without a name gets `address:port`).
    pub name: String,
    /// Host name (lower case, ASCII) or IP address; IPv6 without brackets.
    pub address: String,
    /// The node's port.
    pub port: NonZeroU16,
    /// What is spoken to the node, with its credentials.
    pub protocol: Protocol,
    /// What carries the protocol.
    pub transport: Transport,
    /// What protects the transport.
    pub security: Security,
}

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
        }
    }
}

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
        /// The Host header, where it differs from SNI and address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
}

impl Transport {
    /// The transport's name, `network` in JSON and engine files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Ws { .. } => "ws",
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

/// What protects the transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Security {
    /// Nothing (the protocol may have its own encryption).
    None,
    /// TLS.
    Tls(Tls),
    /// REALITY (Xray only).
    Reality(Reality),
}

impl Security {
    /// The name as in share links: `none`, `tls` or `reality`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tls(_) => "tls",
            Self::Reality(_) => "reality",
        }
    }
}

/// TLS as share links describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Server name; absent means the transport's host or the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// ALPN protocols in order of preference; empty means the engine's default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// Client hello to imitate (uTLS, Xray only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The link asks not to verify the certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure: bool,
    /// SHA-256 of the pinned certificate, hex, comma-separated (`pcs`, Xray only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_sha256: Option<String>,
    /// The certificate is verified for this name instead (`vcn`, Xray only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_name: Option<String>,
    /// Encrypted client hello configuration (`ech`, Xray only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ech: Option<String>,
}

/// REALITY as share links describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reality {
    /// The borrowed server name; absent means the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Client hello to imitate; `chrome` unless the link says otherwise.
    pub fingerprint: String,
    /// The server's public key: 32 bytes in unpadded URL-safe base64.
    pub public_key: String,
    /// Up to 16 hex digits, an even number of them; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub short_id: String,
    /// Where the spider starts; begins with `/`.
    pub spider_x: String,
    /// ML-DSA-65 verification key (`pqv`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mldsa65_verify: Option<String>,
}

/// Namespace of [`Config::identity`]; changing it would make every stored config a stranger to its own link.
const IDENTITY: Uuid = Uuid::from_u128(0x6c1d_1d0a_9a53_4b0e_8f6b_7d2c_3a55_e0f1);

impl Config {
    /// A stable id of what the node *is*: equal for every spelling of its link, and independent of its name.
    pub fn identity(&self) -> Uuid {
        let nameless = Self { name: String::new(), ..self.clone() };
        // A struct of strings, numbers and enums always serializes; the fallback keeps this total.
        let canonical = serde_json::to_vec(&nameless).unwrap_or_default();
        Uuid::new_v5(&IDENTITY, &canonical)
    }

    /// The server name that TLS or REALITY asks for: the link's SNI, else the WebSocket host, else the address.
    /// `None` without such a layer.
    pub fn effective_sni(&self) -> Option<&str> {
        let sni = match &self.security {
            Security::None => return None,
            Security::Tls(tls) => tls.sni.as_deref(),
            Security::Reality(reality) => reality.sni.as_deref(),
        };
        let host = match &self.transport {
            Transport::Ws { host, .. } => host.as_deref(),
            Transport::Tcp { .. } => None,
        };
        Some(sni.or(host).unwrap_or(&self.address))
    }

    /// The Host header of a WebSocket: the link's host, else its SNI, else the address. `None` for other transports.
    pub fn effective_host(&self) -> Option<&str> {
        let Transport::Ws { host, .. } = &self.transport else {
            return None;
        };
        let sni = match &self.security {
            Security::None => None,
            Security::Tls(tls) => tls.sni.as_deref(),
            Security::Reality(reality) => reality.sni.as_deref(),
        };
        Some(host.as_deref().or(sni).unwrap_or(&self.address))
    }

    /// `address:port`, IPv6 in brackets.
    pub fn endpoint(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn server_name_and_host_fall_back_on_each_other_and_on_the_address() {
        let names = |sni: Option<&str>, host: Option<&str>| {
            let config = Config {
                name: "n".into(),
                address: "node.test".into(),
                port: NonZeroU16::MIN,
                protocol: Protocol::Trojan { password: Secret::new("p") },
                transport: Transport::Ws { path: "/".into(), host: host.map(str::to_owned) },
                security: Security::Tls(Tls { sni: sni.map(str::to_owned), ..Tls::default() }),
            };
            let owned = |name: Option<&str>| name.unwrap().to_owned();
            (owned(config.effective_sni()), owned(config.effective_host()))
        };
        let pair = |sni: &str, host: &str| (sni.to_owned(), host.to_owned());
        assert_eq!(names(Some("s"), Some("h")), pair("s", "h"));
        assert_eq!(names(Some("s"), None), pair("s", "s"));
        assert_eq!(names(None, Some("h")), pair("h", "h"));
        assert_eq!(names(None, None), pair("node.test", "node.test"));
        let bare = Config {
            name: "n".into(),
            address: "node.test".into(),
            port: NonZeroU16::MIN,
            protocol: Protocol::Trojan { password: Secret::new("p") },
            transport: Transport::Tcp { http_header: None },
            security: Security::None,
        };
        assert_eq!((bare.effective_sni(), bare.effective_host()), (None, None));
    }
}
