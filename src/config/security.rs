//! What protects the transport: nothing, TLS or REALITY.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

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
    /// Server name, if the link has one; see [`Config::effective_sni`](super::Config::effective_sni).
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
    /// The node's keys for an encrypted client hello (`ech`, Xray only): see [`ech_config_list`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ech: Option<String>,
}

/// REALITY as share links describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reality {
    /// The borrowed server name, if the link has one; see [`Config::effective_sni`](super::Config::effective_sni).
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

/// An ECHConfigList in the base64 that engines read, if `text` is the base64 of one.
///
/// In the same place Xray also takes the address of a server to ask for the list, over DNS or HTTPS and past the node:
/// such a text is none. Source: RFC 9849, section 4 (the list is its length in 16 bits, then configurations of a
/// version and a length).
pub fn ech_config_list(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text).ok()?;
    let (length, mut rest) = bytes.split_first_chunk::<2>()?;
    if usize::from(u16::from_be_bytes(*length)) != rest.len() || rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (&[_, _, high, low], contents) = rest.split_first_chunk::<4>()?;
        rest = contents.get(usize::from(u16::from_be_bytes([high, low]))..)?;
    }
    Some(STANDARD.encode(bytes))
}
