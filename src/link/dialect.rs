//! What other clients write in place of a scheme's own form: Shadowrocket's and Quantumult's links.
//!
//! There are no specifications; this is what Sub-Store and v2rayN's users have seen of them.

use serde_json::Value;

use super::error::{LinkError, Shown};
use super::url::{Authority, Params, Tail};
use super::{Place, text};

/// Longer than any cipher's name.
const CIPHER_BYTES: usize = 24;

/// A link in the words of a URL.
pub(super) struct Link<'a> {
    pub(super) place: Place,
    pub(super) uuid: String,
    pub(super) params: Params<'a>,
}

/// `base64(method:uuid@host:port)?remarks=…&obfs=websocket&obfsParam=…&path=…&tls=1&peer=…`; none if it is not that.
pub(super) fn shadowrocket<'a>(tail: &Tail<'a>) -> Result<Option<Link<'a>>, LinkError> {
    if tail.main.contains('@') {
        return Ok(None);
    }
    let decoded = tail.decoded();
    let Some((user, endpoint)) = decoded.as_deref().and_then(|decoded| decoded.rsplit_once('@')) else {
        return Ok(None);
    };
    let Some((method, uuid)) = user.split_once(':') else { return Ok(None) };
    let place = tail.place(&Authority::endpoint(endpoint), None)?;
    let mut params = tail.params.clone();
    // With VLESS the method is `auto` or `none`, and says nothing.
    if !matches!(method.trim(), "" | "auto" | "none") || params.get(&["alterId", "aid"])?.is_some() {
        params.push("encryption", Some("method"), cipher(method)?);
    }
    let kind = match params.get(&["obfs"])? {
        None => None,
        Some(obfs) => match obfs.word().as_str() {
            "none" | "tcp" => None,
            "websocket" | "ws" => Some("ws"),
            "http" => {
                params.push("headerType", Some("obfs"), "http".to_owned());
                Some("tcp")
            }
            "mkcp" | "kcp" => Some("kcp"),
            "grpc" => Some("grpc"),
            "h2" => Some("h2"),
            "quic" => Some("quic"),
            "httpupgrade" => Some("httpupgrade"),
            "xhttp" => Some("xhttp"),
            _ => return Err(obfs.invalid("none, websocket, http, mkcp, grpc, h2, quic, httpupgrade or xhttp")),
        },
    };
    if let Some(kind) = kind {
        params.push("type", Some("obfs"), kind.to_owned());
    }
    if kind == Some("grpc") {
        params.rename("path", "serviceName");
    }
    obfs_param(&mut params, kind)?;
    if params.flag(&["tls"])? {
        let reality = params.secret(&["pbk"])?.is_some();
        params.push("security", Some("tls"), if reality { "reality" } else { "tls" }.to_owned());
    }
    if let Some(xtls) = params.get(&["xtls"])? {
        match xtls.value.as_str() {
            "0" => {}
            "2" => params.push("flow", Some("xtls"), "xtls-rprx-vision".to_owned()),
            _ => return Err(xtls.unsupported("0, or 2 for vision")),
        }
    }
    Ok(Some(Link { place, uuid: user_id(uuid)?, params }))
}

/// `obfsParam` is a host, or an object of headers; with mKCP it holds header and seed.
fn obfs_param(params: &mut Params<'_>, kind: Option<&str>) -> Result<(), LinkError> {
    const LABEL: Option<&str> = Some("obfsParam");
    let Some(param) = params.secret(&["obfsParam"])? else { return Ok(()) };
    let object = serde_json::from_str::<Value>(&param.value).ok().filter(Value::is_object);
    let text = |key: &str| object.as_ref()?.get(key)?.as_str().map(str::to_owned);
    match (kind, &object) {
        (Some("kcp"), Some(_)) => {
            for (key, meant) in [("header", "headerType"), ("seed", "seed")] {
                if let Some(value) = text(key) {
                    params.push(meant, LABEL, value);
                }
            }
        }
        (Some("kcp"), None) => params.push("seed", LABEL, param.value),
        (None | Some("grpc" | "quic"), _) => {}
        (_, Some(_)) => {
            if let Some(host) = text("Host").or_else(|| text("host")) {
                params.push("host", LABEL, host);
            }
        }
        (_, None) => params.push("host", LABEL, param.value),
    }
    Ok(())
}

/// `name = vmess, host, port, method, "uuid", over-tls=true, obfs=ws, …`; none if it is not that.
pub(super) fn quantumult(decoded: &str) -> Result<Option<Link<'static>>, LinkError> {
    let items = split(decoded);
    let [first, host, port, method, uuid, rest @ ..] = items.as_slice() else { return Ok(None) };
    let Some((name, kind)) = first.rsplit_once('=') else { return Ok(None) };
    if !kind.trim().eq_ignore_ascii_case("vmess") {
        return Ok(None);
    }
    let place = Place {
        name: text::name(name),
        address: text::host(host).map_err(|expected| invalid("host", host, expected))?,
        port: text::port(port).map_err(|expected| invalid("port", port, expected))?,
    };
    let mut given = Params::default();
    for item in rest {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        given.push(key.trim().to_owned(), None, unquoted(value).to_owned());
    }
    let mut params = Params::default();
    params.push("encryption", Some("method"), cipher(method)?);
    let mut take = |from: &'static str, to: &'static str| -> Result<(), LinkError> {
        if let Some(param) = given.get(&[from])? {
            params.push(to, Some(from), param.value);
        }
        Ok(())
    };
    take("tls-host", "sni")?;
    take("obfs-path", "path")?;
    take("alter-id", "aid")?;
    let mut tls = given.flag(&["over-tls"])?;
    if let Some(obfs) = given.get(&["obfs"])? {
        match obfs.word().as_str() {
            "none" => {}
            "ws" => params.push("type", Some("obfs"), "ws".to_owned()),
            "wss" => {
                params.push("type", Some("obfs"), "ws".to_owned());
                tls = true;
            }
            "http" => {
                params.push("type", Some("obfs"), "tcp".to_owned());
                params.push("headerType", Some("obfs"), "http".to_owned());
            }
            _ => return Err(obfs.invalid("ws, wss, http or none")),
        }
    }
    if let Some(headers) = given.get(&["obfs-header"])? {
        // Its own spelling of a line's end, because the whole text is one line.
        let lines = headers.value.replace("[Rr][Nn]", "\n");
        let host = lines.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == "Host");
        if let Some((_, host)) = host {
            params.push("host", Some("obfs-header"), host.trim().to_owned());
        }
    }
    params.push("security", Some("over-tls"), if tls { "tls" } else { "none" }.to_owned());
    if given.get(&["certificate"])?.is_some_and(|certificate| certificate.value == "0") {
        params.push("allowInsecure", Some("certificate"), "1".to_owned());
    }
    Ok(Some(Link { place, uuid: user_id(uuid)?, params }))
}

fn invalid(field: &'static str, value: &str, expected: text::Expected) -> LinkError {
    LinkError::Invalid { field, value: Shown::new(value), expected }
}

/// The items between commas that are not within quotes.
fn split(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let items = text.split(|character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    items.map(|item| unquoted(item.trim())).collect()
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

/// The name of a cipher; what is no name may have a part of the id in it, and is not shown.
fn cipher(method: &str) -> Result<String, LinkError> {
    let method = method.trim();
    if method.len() <= CIPHER_BYTES && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    {
        return Ok(method.to_owned());
    }
    Err(LinkError::Invalid { field: "method", value: Shown::hidden(), expected: "the name of a cipher, such as auto" })
}

fn user_id(text: &str) -> Result<String, LinkError> {
    text::user_id(text.trim()).map_err(|expected| LinkError::Invalid {
        field: "uuid",
        value: Shown::hidden(),
        expected,
    })
}
