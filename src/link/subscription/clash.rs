//! The nodes of a Clash configuration (`proxies`), as Clash, mihomo and most providers write them.
//!
//! Source: mihomo's documentation of outbounds. Settings of the client itself (`udp`, `tfo`, `smux`, …) are left out.

use serde_json::{Value, json};

use super::super::error::{LinkError, Shown};
use super::super::socks::some;
use super::super::url::Params;
use super::super::{http, hysteria2, shadowsocks, socks, trojan, tuic, vless, vmess, wireguard};
use super::node::{Node, invalid, plugin_option};
use crate::config::Config;

const TYPES: &str = "ss, vmess, vless, trojan, hysteria2, tuic, wireguard, socks5 or http";
const TLS: &[(&str, &str)] = &[
    ("servername", "sni"),
    ("sni", "sni"),
    ("alpn", "alpn"),
    ("skip-cert-verify", "allowInsecure"),
    ("fingerprint", "pcs"),
];

/// Reads one of `proxies`; none for what is no node.
pub(super) fn config(node: Node<'_>) -> Result<Option<Config>, LinkError> {
    let kind = node.need("type", TYPES)?.to_ascii_lowercase();
    if matches!(kind.as_str(), "direct" | "reject" | "reject-drop" | "dns" | "pass" | "compatible") {
        return Ok(None);
    }
    node.without("dialer-proxy", "a node that is reached directly")?;
    let name = node.text("name")?;
    let name = name.as_deref();
    let mut params = Params::default();
    let place = || node.place(name, "server", "port");
    let config = match kind.as_str() {
        "ss" => {
            if let Some(plugin) = plugin(node)? {
                params.push("plugin", None, plugin);
            }
            let method = node.need("cipher", "the name of a cipher")?;
            shadowsocks::build(place()?, &method, node.secret("password", "a password")?, &params)
        }
        "vmess" => {
            stream(node, &mut params, false)?;
            node.put(&mut params, &[("cipher", "encryption"), ("alterId", "aid")]);
            vmess::build(place()?, node.user_id("uuid")?, &params)
        }
        "vless" => {
            stream(node, &mut params, false)?;
            node.put(&mut params, &[("flow", "flow"), ("encryption", "encryption")]);
            vless::build(place()?, node.user_id("uuid")?, &params)
        }
        "trojan" => {
            node.without("ss-opts", "trojan without a second encryption")?;
            stream(node, &mut params, true)?;
            trojan::build(place()?, node.secret("password", "a password")?, &params)
        }
        "hysteria2" => {
            tls(node, &mut params)?;
            node.put(
                &mut params,
                &[
                    ("ports", "mport"),
                    ("hop-interval", "hop-interval"),
                    ("obfs", "obfs"),
                    ("obfs-password", "obfs-password"),
                ],
            );
            let place = match node.get("port") {
                None => node.place(name, "server", "ports").or_else(|_| several(node, name))?,
                Some(_) => place()?,
            };
            hysteria2::build(place, None, node.text("password")?.unwrap_or_default(), &params)
        }
        "tuic" => {
            node.without("token", "uuid and password, as version 5 has them")?;
            tls(node, &mut params)?;
            node.put(
                &mut params,
                &[
                    ("congestion-controller", "congestion_control"),
                    ("udp-relay-mode", "udp_relay_mode"),
                    ("disable-sni", "disable_sni"),
                ],
            );
            let (uuid, password) = (node.secret("uuid", "a UUID")?, node.secret("password", "a password")?);
            tuic::build(place()?, &uuid, &password, &params)
        }
        "wireguard" => return wireguard(node, name).map(Some),
        "socks5" | "http" => {
            tls(node, &mut params)?;
            let user = |key| Ok::<_, LinkError>(node.text(key)?.as_deref().and_then(some));
            let (username, password) = (user("username")?, user("password")?);
            security(node, &mut params, false)?;
            let build = if kind == "http" { http::build } else { socks::build };
            build(place()?, username, password, &params)
        }
        other => {
            return Err(LinkError::Unsupported { field: "type", value: Shown::new(other), expected: TYPES });
        }
    };
    config.map(Some)
}

/// A Hysteria 2 node with `ports` alone: the list is read with the other parameters, its first port stands here.
fn several(node: Node<'_>, name: Option<&str>) -> Result<super::super::Place, LinkError> {
    let ports = node.need("ports", "a number from 1 to 65535")?;
    let first = ports.split([',', '-', '/']).next().unwrap_or_default().trim().to_owned();
    let mut members = node.0.clone();
    members.insert("port".to_owned(), json!(first));
    Node(&members).place(name, "server", "port")
}

fn tls(node: Node<'_>, params: &mut Params<'static>) -> Result<(), LinkError> {
    node.put(params, TLS);
    if node.get("client-fingerprint").is_some_and(|print| print != "none") {
        node.put(params, &[("client-fingerprint", "fp")]);
    }
    if let Some(ech) = node.node("ech-opts")
        && ech.flag("enable")?
    {
        ech.need("config", "the node's own keys: without them they would be looked up past the node")?;
        ech.put(params, &[("config", "ech")]);
    }
    Ok(())
}

/// Reads `tls` and `reality-opts`; `always` is for what is never without TLS.
fn security(node: Node<'_>, params: &mut Params<'static>, always: bool) -> Result<(), LinkError> {
    let tls = always || node.flag("tls")?;
    let security = match node.object("reality-opts", "an object with public-key")? {
        Some(reality) if tls => {
            reality.put(params, &[("public-key", "pbk"), ("short-id", "sid")]);
            "reality"
        }
        // REALITY is meant; what other clients make of it is plain text.
        Some(reality) if !reality.0.is_empty() => {
            return Err(LinkError::Missing { field: "tls", expected: "tls: true beside reality-opts" });
        }
        _ if tls => "tls",
        _ => "none",
    };
    params.push("security", Some("tls"), security.to_owned());
    Ok(())
}

/// What carries a node, and what protects that.
fn stream(node: Node<'_>, params: &mut Params<'static>, always: bool) -> Result<(), LinkError> {
    tls(node, params)?;
    security(node, params, always)?;
    let network = node.text("network")?.unwrap_or_else(|| "tcp".to_owned()).to_ascii_lowercase();
    let mut kind = network.clone();
    let host = |options: Node<'_>, params: &mut Params<'static>| {
        if let Some(headers) = options.node("headers") {
            headers.put(params, &[("Host", "host"), ("host", "host")]);
        }
    };
    match network.as_str() {
        "ws" => {
            if let Some(options) = node.node("ws-opts") {
                options.put(params, &[("path", "path"), ("max-early-data", "ed"), ("early-data-header-name", "eh")]);
                host(options, params);
                if options.flag("v2ray-http-upgrade")? {
                    "httpupgrade".clone_into(&mut kind);
                }
            }
            // The first words for the same.
            node.put(params, &[("ws-path", "path")]);
            if let Some(headers) = node.node("ws-headers") {
                headers.put(params, &[("Host", "host")]);
            }
        }
        "grpc" => {
            if let Some(options) = node.node("grpc-opts") {
                options.put(params, &[("grpc-service-name", "serviceName")]);
            }
        }
        "h2" => {
            if let Some(options) = node.node("h2-opts") {
                options.put(params, &[("host", "host"), ("path", "path")]);
            }
        }
        "http" => {
            "tcp".clone_into(&mut kind);
            params.push("headerType", Some("network"), "http".to_owned());
            if let Some(options) = node.node("http-opts") {
                options.put(params, &[("path", "path")]);
                host(options, params);
            }
        }
        "xhttp" => {
            if let Some(options) = node.node("xhttp-opts") {
                options.without("download-settings", "one server for both ways")?;
                options.put(params, &[("path", "path"), ("host", "host"), ("mode", "mode")]);
                let extra = [
                    ("headers", "headers"),
                    ("no-grpc-header", "noGRPCHeader"),
                    ("x-padding-bytes", "xPaddingBytes"),
                    ("sc-max-each-post-bytes", "scMaxEachPostBytes"),
                ];
                let extra = extra.into_iter().filter_map(|(from, to)| Some((to.to_owned(), plain(options.get(from)?))));
                params.push("extra", Some("xhttp-opts"), Value::Object(extra.collect()).to_string());
            }
        }
        _ => {}
    }
    params.push("type", Some("network"), kind);
    Ok(())
}

/// YAML is read as texts; a flag of JSON is one again.
fn plain(value: &Value) -> Value {
    match value.as_str() {
        Some("true") => json!(true),
        Some("false") => json!(false),
        _ => value.clone(),
    }
}

/// The plugin of a Shadowsocks node in the form of SIP003.
fn plugin(node: Node<'_>) -> Result<Option<String>, LinkError> {
    let Some(name) = node.text("plugin")? else { return Ok(None) };
    let options = node.node("plugin-opts");
    let text = |key| options.map_or(Ok(None), |options| options.text(key));
    let mut plugin = match name.as_str() {
        "obfs" => "obfs-local".to_owned(),
        other => other.to_owned(),
    };
    if name == "obfs" {
        for (from, to) in [("mode", "obfs"), ("host", "obfs-host")] {
            if let Some(value) = text(from)? {
                plugin.push_str(&plugin_option(to, &value));
            }
        }
        return Ok(Some(plugin));
    }
    for (key, value) in options.iter().flat_map(|options| options.0) {
        match super::super::text::scalar(value.clone()).as_deref() {
            Some("true") => plugin.push_str(&format!(";{key}")),
            Some("false" | "") | None => {}
            Some(value) => plugin.push_str(&plugin_option(key, value)),
        }
    }
    Ok(Some(plugin))
}

fn wireguard(node: Node<'_>, name: Option<&str>) -> Result<Config, LinkError> {
    node.without("amnezia-wg-option", "plain WireGuard")?;
    let peer = match node.get("peers").and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => node,
        Some([Value::Object(peer)]) => Node(peer),
        Some(_) => return Err(invalid("peers", "[…]", "one peer")),
    };
    let mut params = Params::default();
    node.put(&mut params, &[("private-key", "privatekey"), ("mtu", "mtu")]);
    node.put(&mut params, &[("persistent-keepalive", "keepalive")]);
    peer.put(&mut params, &[("public-key", "publickey"), ("pre-shared-key", "presharedkey"), ("reserved", "reserved")]);
    let addresses = [node.text("ip")?, node.text("ipv6")?].into_iter().flatten().collect::<Vec<_>>().join(",");
    params.push("address", Some("ip"), addresses);
    wireguard::build(peer.place(name, "server", "port")?, &params)
}
