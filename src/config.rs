//! The stored proxy node: one `Config` in the words of share links, whatever link it came from.

use std::fmt;
use std::num::NonZeroU16;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The key of a row of `configs`. Never reused, also not after the row was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigId(pub i64);

impl ConfigId {
    /// No config: where a request has it, the daemon chooses one.
    pub const NONE: Self = Self(0);
}

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
        /// The Host header, if the link has one; see [`Config::effective_host`].
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
    /// Server name, if the link has one; see [`Config::effective_sni`].
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
    /// The borrowed server name, if the link has one; see [`Config::effective_sni`].
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
    ///
    /// A value that is written out counts the same as the default it repeats. The id of a node never changes: it is
    /// what ties a stored config to its link.
    pub fn identity(&self) -> Uuid {
        // A struct of strings, numbers and enums always serializes; the fallback keeps this total.
        let canonical = serde_json::to_vec(&self.canonical()).unwrap_or_default();
        Uuid::new_v5(&IDENTITY, &canonical)
    }

    /// The config without a name and with every default written out.
    fn canonical(&self) -> Self {
        let sni = self.effective_sni().map(str::to_owned);
        let host = self.effective_host().map(str::to_owned);
        let mut config = Self { name: String::new(), ..self.clone() };
        match &mut config.security {
            Security::None => {}
            Security::Tls(tls) => tls.sni = sni,
            Security::Reality(reality) => reality.sni = sni,
        }
        match &mut config.transport {
            Transport::Tcp { http_header: None } => {}
            Transport::Tcp { http_header: Some(header) } => {
                if header.paths.is_empty() {
                    header.paths.push("/".to_owned());
                }
            }
            Transport::Ws { host: written, .. } => *written = host,
        }
        if let Protocol::Shadowsocks { method, .. } = &mut config.protocol {
            // Two names of one cipher, and of no cipher at all.
            match method.as_str() {
                "chacha20-poly1305" => *method = "chacha20-ietf-poly1305".to_owned(),
                "xchacha20-poly1305" => *method = "xchacha20-ietf-poly1305".to_owned(),
                "plain" => *method = "none".to_owned(),
                _ => {}
            }
        }
        config
    }

    /// The server name that the TLS or REALITY handshake asks for: the link's own, else the WebSocket host without
    /// its port, else the node's address (which may be an IP address). `None` without TLS.
    pub fn effective_sni(&self) -> Option<&str> {
        let written = self.written_sni()?;
        Some(written.or_else(|| self.ws_host().map(without_port)).unwrap_or(&self.address))
    }

    /// The Host header of the WebSocket request: the link's own, else the server name, else the node's address
    /// (IPv6 without brackets). `None` for other transports.
    pub fn effective_host(&self) -> Option<&str> {
        if !matches!(self.transport, Transport::Ws { .. }) {
            return None;
        }
        Some(self.ws_host().or_else(|| self.written_sni().flatten()).unwrap_or(&self.address))
    }

    /// The server name in the link; the outer `None` means that there is no handshake to name one in.
    fn written_sni(&self) -> Option<Option<&str>> {
        match &self.security {
            Security::None => None,
            Security::Tls(tls) => Some(tls.sni.as_deref()),
            Security::Reality(reality) => Some(reality.sni.as_deref()),
        }
    }

    fn ws_host(&self) -> Option<&str> {
        match &self.transport {
            Transport::Ws { host, .. } => host.as_deref(),
            Transport::Tcp { .. } => None,
        }
    }

    /// `text` with every credential of this node replaced by `***`, as it is and as JSON and
    /// addresses write it: for words of an engine that may quote its file.
    pub fn masked(&self, text: &str) -> String {
        let secrets: Vec<&str> = match &self.protocol {
            Protocol::Vless { uuid, encryption, .. } => vec![uuid.reveal(), encryption.reveal()],
            Protocol::Vmess { uuid, .. } => vec![uuid.reveal()],
            Protocol::Trojan { password } => vec![password.reveal()],
            Protocol::Shadowsocks { password, plugin, .. } => {
                std::iter::once(password).chain(plugin).map(Secret::reveal).collect()
            }
            Protocol::Socks { password, .. } | Protocol::Http { password, .. } => {
                password.iter().map(Secret::reveal).collect()
            }
        };
        secrets.into_iter().filter(|secret| !secret.is_empty() && *secret != "none").fold(
            text.to_owned(),
            |text, secret| {
                let json = serde_json::Value::from(secret).to_string();
                let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
                text.replace(&json[1..json.len() - 1], "***").replace(&encoded, "***").replace(secret, "***")
            },
        )
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

/// A Host header without its port, and an IPv6 address without brackets.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn vless_ws(host: Option<&str>, sni: Option<&str>) -> Config {
        Config {
            name: "any".to_owned(),
            address: "192.0.2.7".to_owned(),
            port: NonZeroU16::new(443).unwrap(),
            protocol: Protocol::Vless {
                uuid: Secret::new("b831381d-6324-4d53-ad4f-8cda48b30811"),
                encryption: Secret::new("none"),
                flow: None,
            },
            transport: Transport::Ws { path: "/".to_owned(), host: host.map(str::to_owned) },
            security: Security::Tls(Tls { sni: sni.map(str::to_owned), ..Tls::default() }),
        }
    }

    fn shadowsocks(method: &str) -> Config {
        Config {
            protocol: Protocol::Shadowsocks {
                method: method.to_owned(),
                password: Secret::new("password"),
                plugin: None,
            },
            transport: Transport::Tcp { http_header: None },
            security: Security::None,
            ..vless_ws(None, None)
        }
    }

    /// A change of these values would disconnect every stored config from its link: it is never right.
    #[test]
    fn identities_are_pinned() {
        let pinned = [
            (vless_ws(None, None), "3a73fb8a-48aa-55b3-b755-e2f0169ff448"),
            (shadowsocks("aes-256-gcm"), "3d7eb84a-0520-574d-84ce-a236c1f5e166"),
        ];
        for (config, identity) in pinned {
            assert_eq!(config.identity().to_string(), identity);
        }
    }

    #[test]
    fn a_written_default_is_no_difference() {
        let address = Some("192.0.2.7");
        let plain = vless_ws(None, None).identity();
        for config in [vless_ws(address, None), vless_ws(None, address), vless_ws(address, address)] {
            assert_eq!(config.identity(), plain);
        }
        let named = Some("example.com");
        assert_eq!(vless_ws(named, None).identity(), vless_ws(None, named).identity());
        assert_ne!(vless_ws(named, None).identity(), plain);
        assert_eq!(shadowsocks("chacha20-poly1305").identity(), shadowsocks("chacha20-ietf-poly1305").identity());
        let renamed = Config { name: "other".to_owned(), ..vless_ws(None, None) };
        assert_eq!(renamed.identity(), plain);
    }

    #[test]
    fn server_name_and_host_stand_in_for_each_other() {
        for (host, sni, effective_host, effective_sni) in [
            (None, None, "192.0.2.7", "192.0.2.7"),
            (Some("a.example:8443"), None, "a.example:8443", "a.example"),
            (Some("[::1]:8443"), None, "[::1]:8443", "::1"),
            (None, Some("b.example"), "b.example", "b.example"),
            (Some("a.example"), Some("b.example"), "a.example", "b.example"),
        ] {
            let config = vless_ws(host, sni);
            assert_eq!(config.effective_host(), Some(effective_host));
            assert_eq!(config.effective_sni(), Some(effective_sni));
        }
        assert_eq!(shadowsocks("none").effective_host(), None);
        assert_eq!(shadowsocks("none").effective_sni(), None);
    }

    #[test]
    fn debug_shows_no_credential() {
        let shown = format!("{:?}{:?}", vless_ws(None, None), shadowsocks("none"));
        assert!(!shown.contains("b831381d") && !shown.contains("password\""), "{shown}");
    }
}
