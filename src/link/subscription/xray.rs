//! The nodes of an Xray or V2Ray configuration (`outbounds`).
//!
//! Source: `infra/conf` of Xray 26 and the documentation of V2Ray 4. An outbound that needs more than links can say is
//! refused; `sockopt` without another outbound in it, and `mux`, are left out.

use serde_json::{Map, Value};

use super::super::error::{LinkError, Shown};
use super::super::socks::some;
use super::super::url::Params;
use super::super::{http, hysteria2, shadowsocks, socks, trojan, vless, vmess, wireguard};
use super::node::{Node, invalid};
use crate::config::Config;

const PROTOCOLS: &str = "vless, vmess, trojan, shadowsocks, socks, http, hysteria or wireguard";

/// Reads one outbound; none for what is no node. `name` is the whole configuration's.
pub(super) fn config(node: Node<'_>, name: Option<&str>) -> Result<Option<Config>, LinkError> {
    let protocol = node.need("protocol", PROTOCOLS)?.to_ascii_lowercase();
    if matches!(protocol.as_str(), "freedom" | "blackhole" | "dns" | "loopback") {
        return Ok(None);
    }
    let empty = Map::new();
    let stream = node.node("streamSettings").unwrap_or(Node(&empty));
    let chained = node.node("proxySettings").is_some_and(|chain| chain.get("tag").is_some())
        || stream.node("sockopt").is_some_and(|options| options.get("dialerProxy").is_some_and(|proxy| proxy != ""));
    if chained {
        let expected = "a node that is reached directly";
        return Err(LinkError::Unsupported { field: "dialerProxy", value: Shown::hidden(), expected });
    }
    let tag = node.text("tag")?;
    let name = name.or(tag.as_deref());
    let settings = node.node("settings").unwrap_or(Node(&empty));
    let server = one(settings, &["vnext", "servers"])?.unwrap_or(settings);
    let user = one(server, &["users"])?.unwrap_or(server);
    let mut params = Params::default();
    let place = || server.place(name, "address", "port");
    let config = match protocol.as_str() {
        "vless" => {
            stream_settings(stream, &mut params)?;
            user.put(&mut params, &[("flow", "flow"), ("encryption", "encryption")]);
            vless::build(place()?, user.user_id("id")?, &params)
        }
        "vmess" => {
            stream_settings(stream, &mut params)?;
            user.put(&mut params, &[("security", "encryption"), ("alterId", "aid")]);
            vmess::build(place()?, user.user_id("id")?, &params)
        }
        "trojan" => {
            stream_settings(stream, &mut params)?;
            server.put(&mut params, &[("flow", "flow")]);
            trojan::build(place()?, server.secret("password", "a password")?, &params)
        }
        "shadowsocks" => {
            stream_settings(stream, &mut params)?;
            let method = server.need("method", "the name of a cipher")?;
            shadowsocks::build(place()?, &method, server.secret("password", "a password")?, &params)
        }
        "socks" | "http" => {
            stream_settings(stream, &mut params)?;
            let text = |key| Ok::<_, LinkError>(user.text(key)?.as_deref().and_then(some));
            let (username, password) = (text("user")?, text("pass")?);
            let build = if protocol == "http" { http::build } else { socks::build };
            build(place()?, username, password, &params)
        }
        "hysteria" => {
            if let Some(version) = settings.text("version")?.filter(|version| version != "2") {
                return Err(LinkError::Unsupported { field: "version", value: Shown::new(&version), expected: "2" });
            }
            tls(stream, &mut params)?;
            masks(stream, &mut params);
            let auth = stream.node("hysteriaSettings").map_or(Ok(None), |hysteria| hysteria.text("auth"))?;
            hysteria2::build(place()?, None, auth.unwrap_or_default(), &params)
        }
        "wireguard" => return wireguard(settings, name).map(Some),
        other => {
            return Err(LinkError::Unsupported { field: "protocol", value: Shown::new(other), expected: PROTOCOLS });
        }
    };
    config.map(Some)
}

/// The only object of a list by one of these names; none when there is no such list.
fn one<'v>(node: Node<'v>, names: &[&'static str]) -> Result<Option<Node<'v>>, LinkError> {
    for name in names {
        match node.get(name).and_then(Value::as_array).map(Vec::as_slice) {
            None | Some([]) => {}
            Some([Value::Object(only)]) => return Ok(Some(Node(only))),
            Some(_) => return Err(invalid(name, "[…]", "one entry, which is an object")),
        }
    }
    Ok(None)
}

fn tls(stream: Node<'_>, params: &mut Params<'static>) -> Result<(), LinkError> {
    if let Some(tls) = stream.node("tlsSettings") {
        // Pins that are made in other ways; without them less would be verified than meant.
        tls.without("pinnedPeerCertificateChainSha256", "pinnedPeerCertSha256")?;
        tls.without("pinnedPeerCertificatePublicKeySha256", "pinnedPeerCertSha256")?;
        tls.put(
            params,
            &[
                ("serverName", "sni"),
                ("alpn", "alpn"),
                ("fingerprint", "fp"),
                ("allowInsecure", "allowInsecure"),
                ("pinnedPeerCertSha256", "pcs"),
                ("verifyPeerCertByName", "vcn"),
                ("echConfigList", "ech"),
            ],
        );
    }
    Ok(())
}

fn masks(stream: Node<'_>, params: &mut Params<'static>) {
    if let Some(mask) = stream.node("finalmask").filter(|mask| !mask.0.is_empty()) {
        params.push("fm", Some("finalmask"), Value::Object(mask.0.clone()).to_string());
    }
}

fn stream_settings(stream: Node<'_>, params: &mut Params<'static>) -> Result<(), LinkError> {
    let security = stream.text("security")?.unwrap_or_else(|| "none".to_owned());
    if security == "reality" {
        if let Some(reality) = stream.node("realitySettings") {
            reality.put(
                params,
                &[
                    ("serverName", "sni"),
                    ("fingerprint", "fp"),
                    ("publicKey", "pbk"),
                    ("password", "pbk"),
                    ("shortId", "sid"),
                    ("spiderX", "spx"),
                    ("mldsa65Verify", "pqv"),
                ],
            );
        }
    } else {
        tls(stream, params)?;
    }
    params.push("security", Some("security"), security);
    masks(stream, params);
    let network = match stream.text("network")? {
        Some(network) => network,
        None => stream.text("method")?.unwrap_or_else(|| "tcp".to_owned()),
    };
    let settings = |names: &[&str]| names.iter().find_map(|name| stream.node(name));
    let host_of = |node: Node<'_>, params: &mut Params<'static>| {
        if let Some(headers) = node.node("headers") {
            headers.put(params, &[("Host", "host"), ("host", "host")]);
        }
    };
    let found = match network.as_str() {
        "tcp" | "raw" => settings(&["tcpSettings", "rawSettings"]).and_then(|tcp| tcp.node("header")),
        "ws" | "websocket" => settings(&["wsSettings"]),
        "httpupgrade" => settings(&["httpupgradeSettings"]),
        "xhttp" | "splithttp" => settings(&["xhttpSettings", "splithttpSettings"]),
        "grpc" | "gun" => settings(&["grpcSettings", "gunSettings"]),
        "kcp" | "mkcp" => settings(&["kcpSettings"]),
        "h2" | "http" => settings(&["httpSettings"]),
        "quic" => settings(&["quicSettings"]),
        _ => None,
    };
    params.push("type", Some("network"), network.clone());
    let Some(node) = found else { return Ok(()) };
    match network.as_str() {
        "tcp" | "raw" => {
            node.put(params, &[("type", "headerType")]);
            if let Some(request) = node.node("request") {
                request.put(params, &[("path", "path")]);
                host_of(request, params);
            }
        }
        "grpc" | "gun" => {
            node.put(params, &[("serviceName", "serviceName"), ("authority", "authority")]);
            if node.yes("multiMode") {
                params.push("mode", Some("multiMode"), "multi".to_owned());
            }
        }
        "kcp" | "mkcp" | "quic" => {
            node.put(params, &[("mtu", "mtu"), ("tti", "tti"), ("seed", "seed")]);
            node.put(params, &[("security", "quicSecurity"), ("key", "key")]);
            if let Some(header) = node.node("header") {
                header.put(params, &[("type", "headerType")]);
            }
        }
        _ => {
            node.put(params, &[("path", "path"), ("host", "host"), ("mode", "mode"), ("maxEarlyData", "ed")]);
            host_of(node, params);
            // Since `extra` exists, what it may hold may also stand beside it.
            let extra = node.node("extra").unwrap_or(node);
            if network == "xhttp" || network == "splithttp" {
                params.push("extra", Some("extra"), Value::Object(extra.0.clone()).to_string());
            }
        }
    }
    Ok(())
}

fn wireguard(settings: Node<'_>, name: Option<&str>) -> Result<Config, LinkError> {
    let peer = one(settings, &["peers"])?.ok_or(LinkError::Missing { field: "peers", expected: "one peer" })?;
    let mut params = Params::default();
    settings.put(
        &mut params,
        &[("secretKey", "secretkey"), ("address", "address"), ("mtu", "mtu"), ("reserved", "reserved")],
    );
    peer.put(&mut params, &[("publicKey", "publickey"), ("preSharedKey", "presharedkey"), ("keepAlive", "keepalive")]);
    let endpoint = peer.need("endpoint", "host:port")?;
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(|| invalid("endpoint", &endpoint, "host:port"))?;
    let mut place = Map::new();
    place.insert("endpoint".to_owned(), host.into());
    place.insert("port".to_owned(), port.into());
    wireguard::build(Node(&place).place(name, "endpoint", "port")?, &params)
}
