//! Shadowsocks plugins in the engines' own words, where those put the same bytes on the wire.
//!
//! A plugin of a link is data and never a program that is run. Two of them are what engines do anyway: `obfs-local`
//! with `obfs=http` is a stream that begins like an HTTP request, and `v2ray-plugin` without multiplexing is a
//! WebSocket. Source: SIP003, `simple-obfs` 0.0.5 and `v2ray-plugin` 1.3.1 (both run here, `tests/plugins.rs`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Lack;
use crate::config::{Config, HttpHeader, Protocol, Security, Tls, Transport};

/// What `obfs-local` calls itself a visitor of, unless told.
const OBFS_HOST: &str = "cloudfront.net";
/// What `v2ray-plugin` calls itself a visitor of, unless told.
const V2RAY_PLUGIN_HOST: &str = "cloudfront.com";

/// A node without a plugin: what its plugin does is said by transport and security.
pub(super) struct Unfolded<'a> {
    /// The node.
    pub(super) config: Cow<'a, Config>,
    /// The HTTP header of its TCP stream asks for an upgrade, as `obfs-local` does and its server demands.
    pub(super) upgrade: bool,
}

/// Says in transport and security what the plugin of a config does, if it has one.
pub(super) fn unfold(config: &Config) -> Result<Unfolded<'_>, Lack> {
    let Protocol::Shadowsocks { method, password, plugin: Some(plugin) } = &config.protocol else {
        return Ok(Unfolded { config: Cow::Borrowed(config), upgrade: false });
    };
    let (name, options) = options(plugin.reveal());
    let lack = |what: &str| Lack::none(format!("the Shadowsocks plugin {name:?}{what}"));
    if config.security != Security::None || config.transport != (Transport::Tcp { http_header: None }) {
        return Err(lack(" over another transport"));
    }
    let (transport, security) = match name.as_str() {
        "obfs-local" | "simple-obfs" => match options.get("obfs").map(String::as_str) {
            Some("http") => (obfs_http(&options), Security::None),
            _ => return Err(lack(" without obfs=http")),
        },
        "v2ray-plugin" => v2ray_plugin(&options).map_err(lack)?,
        _ => return Err(lack("")),
    };
    let protocol = Protocol::Shadowsocks { method: method.clone(), password: password.clone(), plugin: None };
    let upgrade = matches!(transport, Transport::Tcp { .. });
    Ok(Unfolded { config: Cow::Owned(Config { protocol, transport, security, ..config.clone() }), upgrade })
}

fn obfs_http(options: &BTreeMap<String, String>) -> Transport {
    let host = option(options, "obfs-host").unwrap_or(OBFS_HOST);
    let path = option(options, "obfs-uri").unwrap_or("/");
    Transport::Tcp { http_header: Some(HttpHeader { hosts: vec![host.to_owned()], paths: vec![path.to_owned()] }) }
}

fn v2ray_plugin(options: &BTreeMap<String, String>) -> Result<(Transport, Security), &'static str> {
    if option(options, "mode").is_some_and(|mode| mode != "websocket") {
        return Err(" in another mode than websocket");
    }
    // Both sides must agree on it, and a server that multiplexes understands nothing else.
    if option(options, "mux") != Some("0") {
        return Err(" without mux=0");
    }
    // An authority of the link's own.
    if options.contains_key("cert") || options.contains_key("certRaw") {
        return Err(" with a certificate");
    }
    if options.contains_key("server") {
        return Err(" as a server");
    }
    let host = option(options, "host").unwrap_or(V2RAY_PLUGIN_HOST).to_owned();
    let path = option(options, "path").unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let security = match options.contains_key("tls") {
        true => Security::Tls(Tls { sni: Some(host.clone()), ..Tls::default() }),
        false => Security::None,
    };
    Ok((Transport::Ws { path, host: Some(host) }, security))
}

/// An option that says something.
fn option<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    options.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// `name;option=value;flag`, in which a backslash takes the meaning from `;`, `=` and itself.
fn options(text: &str) -> (String, BTreeMap<String, String>) {
    let mut parts = vec![(String::new(), None::<String>)];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let (character, plain) = match character {
            '\\' => match characters.next() {
                Some(escaped) => (escaped, true),
                None => break,
            },
            other => (other, false),
        };
        let Some((key, value)) = parts.last_mut() else { break };
        match (character, value) {
            (';', _) if !plain => parts.push((String::new(), None)),
            ('=', value @ None) if !plain => *value = Some(String::new()),
            (character, Some(value)) => value.push(character),
            (character, None) => key.push(character),
        }
    }
    let mut parts = parts.into_iter();
    let name = parts.next().map(|(name, _)| name).unwrap_or_default();
    (name, parts.map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_with_their_escapes() {
        let (name, options) = options(r"v2ray-plugin;tls;path=/a\;b\=c\\d;host=h.test;mux=0=1;");
        assert_eq!(name, "v2ray-plugin");
        let expected = [("", ""), ("host", "h.test"), ("mux", "0=1"), ("path", r"/a;b=c\d"), ("tls", "")];
        assert_eq!(options, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}
