//! What carries the protocol: `type` (or `net`), and the parameters of each transport.
//!
//! Source: Xray's proposal for share links (discussion 716), v2rayN for what real links add to it.

use serde_json::json;

use super::error::LinkError;
use super::text::{self, Expected, list, rooted};
use super::url::{Params, Query};
use super::{finalmask, xhttp};
use crate::config::{HttpHeader, Secret, Transport};

const SUPPORTED: Expected = "tcp, ws, grpc, httpupgrade, xhttp, kcp, h2 or quic";
const PACKET_HEADERS: Expected = "none, srtp, utp, wechat-video, dtls, wireguard or dns";
/// The one header that early data travels in, with V2Ray and Xray.
const EARLY_DATA_HEADER: &str = "Sec-WebSocket-Protocol";

/// Reads the transport of a link; nothing said means TCP.
pub(super) fn read(params: &Params<'_>) -> Result<Transport, LinkError> {
    let kind = params.get(&["type"])?;
    let word = kind.as_ref().map_or_else(|| "tcp".to_owned(), |kind| kind.word());
    if !matches!(word.as_str(), "kcp" | "mkcp") {
        finalmask::refuse(params)?;
    }
    match (word.as_str(), kind) {
        ("tcp" | "raw", _) | (_, None) => tcp(params),
        ("ws" | "websocket", _) => {
            let (path, host) = request(params)?;
            Ok(Transport::Ws { path: early_data(path, params)?, host })
        }
        ("httpupgrade", _) => {
            let (path, host) = request(params)?;
            Ok(Transport::HttpUpgrade { path: early_data(path, params)?, host })
        }
        ("grpc" | "gun", _) => grpc(params),
        ("xhttp" | "splithttp", _) => {
            let (path, host) = request(params)?;
            let (mode, extra) = xhttp::read(params)?;
            Ok(Transport::Xhttp { path, host, mode, extra })
        }
        ("kcp" | "mkcp", _) => kcp(params),
        ("h2" | "http", _) => Ok(Transport::H2 { path: path(params)?, hosts: hosts(params)? }),
        ("quic", _) => quic(params),
        ("h3", Some(kind)) => Err(kind.unsupported(SUPPORTED)),
        (_, Some(kind)) => Err(kind.invalid(SUPPORTED)),
    }
}

/// Writes `type` and the parameters of the transport.
pub(super) fn write(transport: &Transport, query: &mut Query) {
    query.push("type", transport.name());
    match transport {
        Transport::Tcp { http_header: None } | Transport::Udp => {}
        Transport::Tcp { http_header: Some(header) } => {
            query.push("headerType", "http");
            query.push_list("host", &header.hosts);
            query.push_list("path", &header.paths);
        }
        Transport::Ws { path, host } | Transport::HttpUpgrade { path, host } => {
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
            query.push_list("host", hosts);
        }
        Transport::Quic { cipher, key, header } => {
            query.push("quicSecurity", cipher);
            query.push_some("key", key.as_ref().map(Secret::reveal));
            query.push("headerType", header);
        }
    }
}

fn tcp(params: &Params<'_>) -> Result<Transport, LinkError> {
    // Without the header `host` and `path` mean nothing, and many links carry them.
    let plain = Transport::Tcp { http_header: None };
    let Some(header) = params.get(&["headerType"])? else { return Ok(plain) };
    match header.word().as_str() {
        "none" => Ok(plain),
        "http" => {
            let paths =
                params.get(&["path"])?.map(|param| list(&param.value).map(rooted).collect()).unwrap_or_default();
            Ok(Transport::Tcp { http_header: Some(HttpHeader { hosts: hosts(params)?, paths }) })
        }
        _ => Err(header.invalid("none or http")),
    }
}

/// Path and Host of the transports that begin with an HTTP request.
fn request(params: &Params<'_>) -> Result<(String, Option<String>), LinkError> {
    Ok((path(params)?, params.get(&["host"])?.map(|param| param.check(text::host_header)).transpose()?))
}

fn path(params: &Params<'_>) -> Result<String, LinkError> {
    Ok(params.get(&["path"])?.map_or_else(|| "/".to_owned(), |param| rooted(&param.value)))
}

fn hosts(params: &Params<'_>) -> Result<Vec<String>, LinkError> {
    let hosts = |value: &str| list(value).map(text::host_header).collect();
    Ok(params.get(&["host"])?.map(|param| param.check(hosts)).transpose()?.unwrap_or_default())
}

/// The path with `ed` in it, which other programs write beside it: that is where Xray looks for it.
fn early_data(path: String, params: &Params<'_>) -> Result<String, LinkError> {
    let Some(bytes) = params.get(&["ed"])? else { return Ok(path) };
    let bytes = bytes.number(0..=u64::from(u16::MAX), "a number of bytes up to 65535")?;
    let said = path.split_once('?').is_some_and(|(_, query)| query.split('&').any(|pair| pair.starts_with("ed=")));
    if bytes == 0 || said {
        return Ok(path);
    }
    if let Some(header) = params.get(&["eh"])?.filter(|header| !header.value.eq_ignore_ascii_case(EARLY_DATA_HEADER)) {
        return Err(header.unsupported(EARLY_DATA_HEADER));
    }
    Ok(format!("{path}{}ed={bytes}", if path.contains('?') { '&' } else { '?' }))
}

fn grpc(params: &Params<'_>) -> Result<Transport, LinkError> {
    let service_name = params.get(&["serviceName"])?.map(|param| param.value).unwrap_or_default();
    let multi = match params.get(&["mode"])? {
        None => false,
        Some(mode) => match mode.word().as_str() {
            "gun" | "none" => false,
            "multi" => true,
            // The name goes out as it is, which is the same unless there is something to escape in it.
            "guna" if text::encode(&service_name) == service_name => false,
            "guna" => return Err(mode.unsupported("gun or multi, with a serviceName like this")),
            _ => return Err(mode.invalid("gun or multi")),
        },
    };
    let authority = params.get(&["authority"])?.map(|param| param.check(text::host_header)).transpose()?;
    Ok(Transport::Grpc { service_name, multi, authority })
}

fn kcp(params: &Params<'_>) -> Result<Transport, LinkError> {
    let number = |name, range, expected| -> Result<Option<u16>, LinkError> {
        let number = params.get(&[name])?.map(|param| param.number(range, expected)).transpose()?;
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    };
    let (mtu, tti) = (
        number("mtu", 576..=1460, "a number of bytes from 576 to 1460")?,
        number("tti", 10..=5000, "a number of milliseconds from 10 to 5000")?,
    );
    let (header, seed) = (packet_header(params)?, params.secret(&["seed"])?.map(|param| param.value));
    let (header, seed) = finalmask::kcp(params, header, seed)?;
    Ok(Transport::Kcp { header: header.unwrap_or("none").to_owned(), seed: seed.map(Secret::new), mtu, tti })
}

fn quic(params: &Params<'_>) -> Result<Transport, LinkError> {
    let cipher = match params.get(&["quicSecurity"])? {
        None => "none",
        Some(cipher) => match cipher.word().as_str() {
            "none" => "none",
            "aes-128-gcm" => "aes-128-gcm",
            "chacha20-poly1305" | "chacha20-ietf-poly1305" => "chacha20-poly1305",
            _ => return Err(cipher.invalid("none, aes-128-gcm or chacha20-poly1305")),
        },
    };
    // Without a cipher nothing is done with a key.
    let key = params.secret(&["key"])?.filter(|_| cipher != "none");
    Ok(Transport::Quic {
        cipher: cipher.to_owned(),
        key: key.map(|param| Secret::new(param.value)),
        header: packet_header(params)?.unwrap_or("none").to_owned(),
    })
}

fn packet_header(params: &Params<'_>) -> Result<Option<&'static str>, LinkError> {
    let Some(header) = params.get(&["headerType"])? else { return Ok(None) };
    let known = header_name(&header.word()).ok_or_else(|| header.invalid(PACKET_HEADERS))?;
    Ok(Some(known))
}

/// A disguise of packets by the name that links have for it.
pub(super) fn header_name(word: &str) -> Option<&'static str> {
    Some(match word {
        "none" => "none",
        "srtp" => "srtp",
        "utp" => "utp",
        "wechat-video" | "wechat" => "wechat-video",
        "dtls" => "dtls",
        "wireguard" => "wireguard",
        "dns" => "dns",
        _ => return None,
    })
}
