//! What carries the protocol: `type` (or `net`), and the parameters of each transport.

use serde_json::json;

use super::error::LinkError;
use super::security::rooted;
use super::text::{self, Expected};
use super::url::{Params, Query};
use crate::config::{HttpHeader, Secret, Transport};

const SUPPORTED: Expected = "tcp or ws";

/// Reads the transport of a link; nothing said means TCP.
pub(super) fn read(params: &Params<'_>) -> Result<Transport, LinkError> {
    let Some(kind) = params.get(&["type"])? else { return tcp(params) };
    match kind.word().as_str() {
        "tcp" | "raw" => tcp(params),
        "ws" | "websocket" => ws(params),
        "grpc" | "gun" | "httpupgrade" | "xhttp" | "splithttp" | "kcp" | "mkcp" | "h2" | "h3" | "http" | "quic" => {
            Err(kind.unsupported(SUPPORTED))
        }
        _ => Err(kind.invalid(SUPPORTED)),
    }
}

/// Writes `type` and the parameters of the transport.
pub(super) fn write(transport: &Transport, query: &mut Query) {
    query.push("type", transport.name());
    match transport {
        Transport::Tcp { http_header: None } => {}
        Transport::Tcp { http_header: Some(header) } => {
            query.push("headerType", "http");
            if !header.hosts.is_empty() {
                query.push("host", &header.hosts.join(","));
            }
            if !header.paths.is_empty() {
                query.push("path", &header.paths.join(","));
            }
        }
        Transport::Ws { path, host } => {
            query.push("path", path);
            query.push_some("host", host.as_deref());
        }
        Transport::HttpUpgrade { path, host } => {
            query.push("path", path);
            query.push_some("host", host.as_deref());
        }
        Transport::Xhttp { path, host, mode, extra } => {
            query.push("path", path);
            query.push_some("host", host.as_deref());
            query.push("mode", mode);
            if !extra.is_empty() {
                query.push("extra", &json!(extra).to_string());
            }
        }
        Transport::Grpc { service_name, multi, authority } => {
            query.push("serviceName", service_name);
            query.push("mode", if *multi { "multi" } else { "gun" });
            query.push_some("authority", authority.as_deref());
        }
        Transport::Kcp { header, seed, mtu, tti } => {
            query.push("headerType", header);
            query.push_some("seed", seed.as_ref().map(Secret::reveal));
            query.push_some("mtu", mtu.map(|mtu| mtu.to_string()).as_deref());
            query.push_some("tti", tti.map(|tti| tti.to_string()).as_deref());
        }
        Transport::H2 { path, hosts } => {
            query.push("path", path);
            if !hosts.is_empty() {
                query.push("host", &hosts.join(","));
            }
        }
        Transport::Quic { cipher, key, header } => {
            query.push("quicSecurity", cipher);
            query.push_some("key", key.as_ref().map(Secret::reveal));
            query.push("headerType", header);
        }
        Transport::Udp => {}
    }
}

fn tcp(params: &Params<'_>) -> Result<Transport, LinkError> {
    // Without the header `host` and `path` mean nothing, and many links carry them.
    let plain = Transport::Tcp { http_header: None };
    let Some(header) = params.get(&["headerType"])? else { return Ok(plain) };
    match header.word().as_str() {
        "none" => Ok(plain),
        "http" => {
            let hosts = params.get(&["host"])?.map(|param| param.check(hosts)).transpose()?.unwrap_or_default();
            let paths =
                params.get(&["path"])?.map(|param| list(&param.value).map(rooted).collect()).unwrap_or_default();
            Ok(Transport::Tcp { http_header: Some(HttpHeader { hosts, paths }) })
        }
        _ => Err(header.invalid("none or http")),
    }
}

fn ws(params: &Params<'_>) -> Result<Transport, LinkError> {
    Ok(Transport::Ws {
        // Early data (`?ed=2048`) is part of the path, for the engine to take out.
        path: params.get(&["path"])?.map_or_else(|| "/".to_owned(), |param| rooted(&param.value)),
        host: params.get(&["host"])?.map(|param| param.check(text::host_header)).transpose()?,
    })
}

fn hosts(value: &str) -> Result<Vec<String>, Expected> {
    list(value).map(text::host_header).collect()
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}
