//! The nodes of a sing-box configuration (`outbounds`, and `endpoints` for WireGuard).
//!
//! Source: sing-box's documentation of outbounds, endpoints, shared TLS and V2Ray transports.

use serde_json::Value;

use super::super::error::{LinkError, Shown};
use super::super::socks::some;
use super::super::url::Params;
use super::super::{http, hysteria2, shadowsocks, socks, trojan, tuic, vless, vmess, wireguard};
use super::node::{Node, invalid};
use crate::config::Config;

const TYPES: &str = "shadowsocks, vmess, vless, trojan, hysteria2, tuic, wireguard, socks or http";

/// Reads one outbound or endpoint; none for what is no node.
pub(super) fn config(node: Node<'_>) -> Result<Option<Config>, LinkError> {
    let kind = node.need("type", TYPES)?;
    if matches!(kind.as_str(), "direct" | "block" | "dns" | "selector" | "urltest") {
        return Ok(None);
    }
    node.without("detour", "a node that is reached directly")?;
    let name = node.text("tag")?;
    let name = name.as_deref();
    let mut params = Params::default();
    let place = || node.place(name, "server", "server_port");
    let config = match kind.as_str() {
        "shadowsocks" => {
            if let Some(plugin) = node.text("plugin")? {
                let options = node.text("plugin_opts")?.map(|options| format!(";{options}")).unwrap_or_default();
                params.push("plugin", None, format!("{plugin}{options}"));
            }
            let method = node.need("method", "the name of a cipher")?;
            shadowsocks::build(place()?, &method, node.secret("password", "a password")?, &params)
        }
        "vmess" => {
            stream(node, &mut params)?;
            node.put(&mut params, &[("security", "encryption"), ("alter_id", "aid")]);
            vmess::build(place()?, node.user_id("uuid")?, &params)
        }
        "vless" => {
            stream(node, &mut params)?;
            node.put(&mut params, &[("flow", "flow"), ("encryption", "encryption")]);
            vless::build(place()?, node.user_id("uuid")?, &params)
        }
        "trojan" => {
            stream(node, &mut params)?;
            trojan::build(place()?, node.secret("password", "a password")?, &params)
        }
        "hysteria2" => {
            tls(node, &mut params)?;
            node.put(&mut params, &[("server_ports", "mport"), ("hop_interval", "hop-interval")]);
            if let Some(obfs) = node.node("obfs") {
                obfs.put(&mut params, &[("type", "obfs"), ("password", "obfs-password")]);
            }
            let mut members = node.0.clone();
            // With several ports the single one may be missing; they are what counts then.
            members.entry("server_port").or_insert(443.into());
            let place = Node(&members).place(name, "server", "server_port")?;
            hysteria2::build(place, None, node.text("password")?.unwrap_or_default(), &params)
        }
        "tuic" => {
            tls(node, &mut params)?;
            node.put(
                &mut params,
                &[("congestion_control", "congestion_control"), ("udp_relay_mode", "udp_relay_mode")],
            );
            let (uuid, password) = (node.secret("uuid", "a UUID")?, node.secret("password", "a password")?);
            tuic::build(place()?, &uuid, &password, &params)
        }
        "wireguard" => return wireguard(node, name).map(Some),
        "socks" | "http" => {
            if let Some(version) = node.text("version")?.filter(|version| version != "5") {
                return Err(LinkError::Unsupported { field: "version", value: Shown::new(&version), expected: "5" });
            }
            let security = tls(node, &mut params)?;
            params.push("security", Some("tls"), security.to_owned());
            let user = |key| Ok::<_, LinkError>(node.text(key)?.as_deref().and_then(some));
            let (username, password) = (user("username")?, user("password")?);
            let build = if kind == "http" { http::build } else { socks::build };
            build(place()?, username, password, &params)
        }
        other => {
            return Err(LinkError::Unsupported { field: "type", value: Shown::new(other), expected: TYPES });
        }
    };
    config.map(Some)
}

/// Reads `tls` and says which security it is.
fn tls(node: Node<'_>, params: &mut Params<'static>) -> Result<&'static str, LinkError> {
    const OBJECT: &str = "an object in which enabled is true";
    let Some(tls) = node.object("tls", OBJECT)? else { return Ok("none") };
    let reality = match tls.object("reality", OBJECT)? {
        Some(reality) if reality.flag("enabled")? => Some(reality),
        _ => None,
    };
    if !tls.flag("enabled")? {
        // REALITY is meant, and without TLS there would be neither.
        let missing = LinkError::Missing { field: "tls.enabled", expected: "true, because tls.reality is enabled" };
        return reality.map_or(Ok("none"), |_| Err(missing));
    }
    tls.put(params, &[("server_name", "sni"), ("insecure", "allowInsecure"), ("alpn", "alpn")]);
    tls.put(params, &[("disable_sni", "disable_sni")]);
    // Without it less would be verified than meant.
    tls.without("certificate_public_key_sha256", "no pinned public key")?;
    if let Some(utls) = tls.node("utls").filter(|utls| utls.yes("enabled")) {
        utls.put(params, &[("fingerprint", "fp")]);
    }
    if let Some(ech) = tls.node("ech")
        && ech.flag("enabled")?
    {
        // Lines of PEM, or one text with them.
        let config = ech.need("config", "the configuration that TLS hides the name with")?;
        let base64: String = config
            .split(['\n', ','])
            .filter(|line| !line.trim_start().starts_with("-----"))
            .flat_map(str::split_whitespace)
            .collect();
        params.push("ech", Some("ech"), base64);
    }
    match reality {
        Some(reality) => {
            reality.put(params, &[("public_key", "pbk"), ("short_id", "sid")]);
            Ok("reality")
        }
        None => Ok("tls"),
    }
}

fn stream(node: Node<'_>, params: &mut Params<'static>) -> Result<(), LinkError> {
    let security = tls(node, params)?;
    params.push("security", Some("tls"), security.to_owned());
    let Some(transport) = node.node("transport") else { return Ok(()) };
    let kind = transport.need("type", "ws, grpc, http, httpupgrade or quic")?;
    let request = |names: &[(&'static str, &'static str)], params: &mut Params<'static>| {
        transport.put(params, names);
        if let Some(headers) = transport.node("headers") {
            headers.put(params, &[("Host", "host"), ("host", "host")]);
        }
    };
    let kind = match kind.as_str() {
        "ws" => {
            request(&[("path", "path"), ("max_early_data", "ed"), ("early_data_header_name", "eh")], params);
            "ws"
        }
        "httpupgrade" => {
            request(&[("path", "path"), ("host", "host")], params);
            "httpupgrade"
        }
        "grpc" => {
            transport.put(params, &[("service_name", "serviceName")]);
            "grpc"
        }
        "http" if security != "none" => {
            request(&[("path", "path"), ("host", "host")], params);
            "h2"
        }
        "http" => return Err(invalid("transport", "http", "tls with it: without, it is a protocol of sing-box's own")),
        "quic" => "quic",
        other => return Err(invalid("transport", other, "ws, grpc, http, httpupgrade or quic")),
    };
    params.push("type", Some("transport"), kind.to_owned());
    Ok(())
}

fn wireguard(node: Node<'_>, name: Option<&str>) -> Result<Config, LinkError> {
    let mut params = Params::default();
    node.put(&mut params, &[("private_key", "privatekey"), ("mtu", "mtu"), ("address", "address")]);
    node.put(&mut params, &[("local_address", "address")]);
    let (peer, server, port) = match node.get("peers").and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => (node, "server", "server_port"),
        // Endpoints and the outbounds before them have different words.
        Some([Value::Object(peer)]) if peer.contains_key("address") => (Node(peer), "address", "port"),
        Some([Value::Object(peer)]) => (Node(peer), "server", "server_port"),
        Some(_) => return Err(invalid("peers", "[…]", "one peer")),
    };
    let key = if peer.get("public_key").is_some() { "public_key" } else { "peer_public_key" };
    peer.put(
        &mut params,
        &[
            (key, "publickey"),
            ("pre_shared_key", "presharedkey"),
            ("reserved", "reserved"),
            ("persistent_keepalive_interval", "keepalive"),
        ],
    );
    wireguard::build(peer.place(name, server, port)?, &params)
}
