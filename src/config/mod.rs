//! The stored proxy node: one `Config` in the words of share links, whatever link it came from.

use std::fmt;
use std::num::NonZeroU16;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod protocol;
mod security;
mod transport;

pub use protocol::{Hysteria2, Obfs, Protocol, Tuic, Wireguard};
pub use security::{Reality, Security, Tls, ech_config_list};
pub use transport::{HttpHeader, Transport};

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

/// From this length on a user name or a header is taken for a credential.
const TOKEN_BYTES: usize = 8;

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
            Transport::Tcp { http_header: Some(header) } if header.paths.is_empty() => {
                header.paths.push("/".to_owned());
            }
            Transport::Ws { host: written, .. }
            | Transport::HttpUpgrade { host: written, .. }
            | Transport::Xhttp { host: written, .. } => *written = host,
            _ => {}
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

    /// The server name that the TLS or REALITY handshake asks for: the link's own, else the transport's Host without
    /// its port, else the node's address (which may be an IP address). `None` without TLS.
    pub fn effective_sni(&self) -> Option<&str> {
        let written = self.written_sni()?;
        Some(written.or_else(|| self.host().map(without_port)).unwrap_or(&self.address))
    }

    /// The Host header of WebSocket, HTTP upgrade and XHTTP: the link's own, else the server name, else the node's
    /// address (IPv6 without brackets). `None` for other transports.
    pub fn effective_host(&self) -> Option<&str> {
        let written = self.transport.host()?;
        Some(written.or_else(|| self.written_sni().flatten()).unwrap_or(&self.address))
    }

    /// The server name in the link; the outer `None` means that there is no handshake to name one in.
    fn written_sni(&self) -> Option<Option<&str>> {
        match &self.security {
            Security::None => None,
            Security::Tls(tls) => Some(tls.sni.as_deref()),
            Security::Reality(reality) => Some(reality.sni.as_deref()),
        }
    }

    fn host(&self) -> Option<&str> {
        self.transport.host().flatten()
    }

    /// `text` with every credential of this node replaced by `***`, as it is and as JSON and
    /// addresses write it: for words of an engine that may quote its file.
    pub fn masked(&self, text: &str) -> String {
        let secrets = self.protocol.secrets().into_iter().chain(self.transport.secret()).map(Secret::reveal);
        // Only where they are long: a short one is a word, and the text would lose it everywhere.
        let tokens = self.protocol.username().into_iter().chain(self.transport.headers());
        let secrets = secrets.chain(tokens.filter(|token| token.len() >= TOKEN_BYTES));
        secrets.filter(|secret| !secret.is_empty() && *secret != "none").fold(text.to_owned(), |text, secret| {
            let json = serde_json::Value::from(secret).to_string();
            let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
            text.replace(&json[1..json.len() - 1], "***").replace(&encoded, "***").replace(secret, "***")
        })
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
