//! Share links and the bodies of subscriptions, decoded into [`Config`] and written back. Pure: no I/O.
//!
//! One file a scheme. To add one: a module with `parse`, `build` and `write`, its line in [`parse`] and in [`write()`],
//! vectors in `tests/vectors`. What several schemes share is in `url` (the outer shape), `text` (checks of single values),
//! `transport` (with `xhttp` and `finalmask`) and `security`; `dialect` has what other clients write instead. Each `build`
//! takes the parameters of a URL, so that a VMess object and the nodes of `subscription` only name theirs like those.
//!
//! Two rules decide what is repaired and what is refused. A link that can be read in one way only is read in that way,
//! however sloppy its spelling. A link that could connect to another place, or with less protection than meant, is
//! refused with a sentence that names the field, its value (credentials are never shown) and what was expected.

use std::num::NonZeroU16;

use crate::config::{Config, Protocol, Security, Transport};

mod dialect;
mod error;
mod fields;
mod finalmask;
mod http;
mod hysteria2;
mod security;
mod shadowsocks;
mod socks;
pub mod subscription;
mod text;
mod transport;
mod trojan;
mod tuic;
mod url;
mod vless;
mod vmess;
mod wireguard;
mod xhttp;

pub use error::{LinkError, Shown};
pub use fields::{Fields, fields};
pub use text::is_unprintable;

/// The longest link that is read, in bytes. Real ones stay under 4 KiB, with post-quantum keys.
pub const MAX_LINK_BYTES: usize = 64 * 1024;

/// Schemes of proxy links anywhere, whether xrat reads them or not.
const KNOWN_SCHEMES: &[&str] = &[
    "vless",
    "vmess",
    "trojan",
    "ss",
    "socks",
    "socks4",
    "socks4a",
    "socks5",
    "socks5h",
    "http",
    "https",
    "hysteria",
    "hysteria2",
    "hysteria2+realm",
    "hy2",
    "tuic",
    "wireguard",
    "wg",
    "ssr",
    "trojan-go",
    "anytls",
    "naive",
    "snell",
    "juicity",
    "brook",
    "ssh",
];

const SCHEMES: &str = "vless, vmess, trojan, trojan-go, ss, hysteria2, hy2, tuic, wireguard, wg, socks, http or https";

/// Decodes one share link.
///
/// # Errors
/// Says in one sentence which field of the link stands in the way; never quotes a credential.
pub fn parse(link: &str) -> Result<Config, LinkError> {
    let link = trim(link);
    if link.len() > MAX_LINK_BYTES {
        return Err(LinkError::TooLong { length: link.len(), limit: MAX_LINK_BYTES });
    }
    let Some((scheme, rest)) = split_scheme(link) else {
        // A whole link that was percent-encoded, as a parameter of another address is.
        let decoded = text::decode(link).ok().filter(|decoded| split_scheme(decoded).is_some());
        return decoded.map_or(Err(LinkError::NotALink), |decoded| parse(&decoded));
    };
    match scheme.as_str() {
        "vless" => vless::parse(rest),
        "vmess" => vmess::parse(rest),
        "trojan" => trojan::parse(rest),
        "trojan-go" => trojan::parse_go(rest),
        "ss" => shadowsocks::parse(rest),
        "hysteria2" | "hy2" => hysteria2::parse(rest),
        "tuic" => tuic::parse(rest),
        "wireguard" | "wg" => wireguard::parse(rest),
        "socks" | "socks5" | "socks5h" => socks::parse(rest),
        "http" => http::parse(rest, false),
        "https" => http::parse(rest, true),
        _ => Err(LinkError::Unsupported { field: "scheme", value: Shown::new(&scheme), expected: SCHEMES }),
    }
}

/// Writes the standard link of a config, which [`parse`] reads back as an equal one.
///
/// That holds for every config that came out of [`parse`]. The link carries the credentials.
pub fn write(config: &Config) -> String {
    match &config.protocol {
        Protocol::Vless { uuid, encryption, flow } => vless::write(config, uuid, encryption, flow.as_deref()),
        Protocol::Vmess { uuid, method, alter_id } => vmess::write(config, uuid, method, *alter_id),
        Protocol::Trojan { password } => trojan::write(config, password),
        Protocol::Shadowsocks { method, password, plugin } => {
            shadowsocks::write(config, method, password, plugin.as_ref())
        }
        Protocol::Socks { username, password } => socks::write(config, username.as_deref(), password.as_ref()),
        Protocol::Hysteria2(node) => hysteria2::write(config, node),
        Protocol::Tuic(node) => tuic::write(config, node),
        Protocol::Wireguard(node) => wireguard::write(config, node),
        Protocol::Http { username, password } => http::write(config, username.as_deref(), password.as_ref()),
    }
}

/// Whether `text` is the `http(s)://` address of a subscription and not the link of an HTTP proxy.
///
/// A proxy is written with its port, without a path beyond `/`, and with no parameters but those of TLS.
pub fn looks_like_subscription_url(text: &str) -> bool {
    split_scheme(trim(text))
        .is_some_and(|(scheme, rest)| matches!(scheme.as_str(), "http" | "https") && http::is_page(rest))
}

/// The scheme in lower case and what follows its `://`.
pub(crate) fn split_scheme(link: &str) -> Option<(String, &str)> {
    let (scheme, rest) = link.split_once("://")?;
    let begins = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let token = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte));
    (begins && token).then(|| (scheme.to_ascii_lowercase(), rest))
}

/// Without white space, and without the byte order mark that files from Windows begin with.
fn trim(link: &str) -> &str {
    link.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

/// What every node has, whatever it was written in.
struct Place {
    /// May be empty.
    name: String,
    address: String,
    port: NonZeroU16,
}

impl Place {
    /// Puts a config together; a node without a name is called by its address.
    fn node(self, protocol: Protocol, transport: Transport, security: Security) -> Config {
        let Self { name, address, port } = self;
        let mut config = Config { name, address, port, protocol, transport, security };
        if config.name.is_empty() {
            // A host may be longer than names are.
            config.name = text::name(&config.endpoint());
        }
        config
    }
}
