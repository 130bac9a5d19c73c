//! `fm`: the masks that newer Xray puts around a whole stream, as a JSON object.
//!
//! Source: `infra/conf` of Xray 26.3 (`header-…`, `mkcp-original`, `mkcp-aes128gcm`, `salamander`) and 26.7
//! (`mkcp-legacy`). Those that say what a link could always say are read; with any other the server would not understand
//! a byte, so that such a link is refused.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::error::LinkError;
use super::text;
use super::transport::header_name;
use super::url::{Param, Params};

const KCP: &str = "the masks that stand for a header and a seed of kcp";
const HYSTERIA: &str = "the mask salamander, and udpHop";

/// Refuses a link with masks, for transports that have none xrat could say in its own words.
pub(super) fn refuse(params: &Params<'_>) -> Result<(), LinkError> {
    match params.secret(&["fm"])? {
        Some(mask) => Err(mask.unsupported("a link without finalmask")),
        None => Ok(()),
    }
}

/// Header and seed of mKCP, from its own parameters or from masks: on the wire the header comes first, then what hides
/// the rest, which mKCP has always had.
pub(super) fn kcp(
    params: &Params<'_>,
    header: Option<&'static str>,
    seed: Option<String>,
) -> Result<(Option<&'static str>, Option<String>), LinkError> {
    let Some(mask) = params.secret(&["fm"])? else { return Ok((header, seed)) };
    let object = object(&mask, KCP)?;
    let udp = only(&object, &["udp"]).and_then(|_| object.get("udp")?.as_array());
    let masks: Option<Vec<Kcp>> = udp.and_then(|masks| masks.iter().map(kcp_mask).collect());
    let (masked_header, masked_seed) = match masks.as_deref() {
        Some([Kcp::Hide(seed)]) => (None, seed.clone()),
        Some([Kcp::Header(header), Kcp::Hide(seed)]) => (Some(*header), seed.clone()),
        _ => return Err(mask.unsupported(KCP)),
    };
    // Both ways at once is fine as long as they agree.
    let other_header = header.is_some_and(|header| header != masked_header.unwrap_or("none"));
    if other_header || seed.is_some() && seed != masked_seed {
        return Err(mask.invalid("the same header and seed as in headerType and seed"));
    }
    Ok((masked_header, masked_seed))
}

/// Whether a text can stand in a link as a parameter.
fn fits(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && text::no_control(text).is_ok()
}

enum Kcp {
    Header(&'static str),
    Hide(Option<String>),
}

fn kcp_mask(mask: &Value) -> Option<Kcp> {
    let (kind, settings) = kind(mask)?;
    let text = |key: &str| settings.get(key).and_then(Value::as_str).filter(|text| fits(text)).map(str::to_owned);
    // Said, and nothing that can be kept.
    let lost = |key: &str| settings.get(key).is_some_and(|value| value != "") && text(key).is_none();
    match kind {
        "mkcp-original" if settings.is_empty() => Some(Kcp::Hide(None)),
        "mkcp-aes128gcm" => only(settings, &["password"]).and_then(|_| Some(Kcp::Hide(Some(text("password")?)))),
        "mkcp-legacy" => match (only(settings, &["header", "value"])?, text("header"), text("value")) {
            _ if lost("header") || lost("value") => None,
            (_, None, seed) => Some(Kcp::Hide(seed)),
            (_, Some(header), None) => Some(Kcp::Header(header_name(&header)?)),
            _ => None,
        },
        header if settings.is_empty() => {
            header.strip_prefix("header-").and_then(header_name).filter(|name| *name != "none").map(Kcp::Header)
        }
        _ => None,
    }
}

/// What masks say of Hysteria 2.
#[derive(Default)]
pub(super) struct HysteriaMask {
    /// The password of salamander.
    pub(super) salamander: Option<String>,
    /// All ports.
    pub(super) ports: Option<String>,
    /// Seconds between hops.
    pub(super) hop: Option<String>,
}

/// Reads the masks of a Hysteria 2 link.
pub(super) fn hysteria(params: &Params<'_>) -> Result<HysteriaMask, LinkError> {
    let Some(mask) = params.secret(&["fm"])? else { return Ok(HysteriaMask::default()) };
    let object = object(&mask, HYSTERIA)?;
    hysteria_mask(&object).ok_or_else(|| mask.unsupported(HYSTERIA))
}

fn hysteria_mask(object: &Map<String, Value>) -> Option<HysteriaMask> {
    only(object, &["udp", "quicParams"])?;
    let mut found = HysteriaMask::default();
    match object.get("udp").map(|udp| udp.as_array().map(Vec::as_slice)) {
        None | Some(Some([])) => {}
        Some(Some([mask])) => {
            let (kind, settings) = kind(mask)?;
            let password = settings.get("password").and_then(Value::as_str).filter(|password| fits(password));
            found.salamander = Some(password.filter(|_| kind == "salamander")?.to_owned());
        }
        Some(_) => return None,
    }
    if let Some(quic) = object.get("quicParams") {
        let hop = only(quic.as_object()?, &["udpHop"])?.get("udpHop")?.as_object()?;
        let text = |key: &str| match hop.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        only(hop, &["ports", "interval"])?;
        (found.ports, found.hop) = (text("ports"), text("interval"));
    }
    Some(found)
}

fn object(mask: &Param, expected: &'static str) -> Result<Map<String, Value>, LinkError> {
    serde_json::from_str(&mask.value).map_err(|_| mask.unsupported(expected))
}

/// Type and settings of one mask; no settings are empty ones.
fn kind(mask: &Value) -> Option<(&str, &Map<String, Value>)> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    let mask = only(mask.as_object()?, &["type", "settings"])?;
    let settings = match mask.get("settings") {
        None | Some(Value::Null) => &*NONE,
        Some(settings) => settings.as_object()?,
    };
    Some((mask.get("type")?.as_str()?, settings))
}

/// The object, if it has no other keys.
fn only<'a>(object: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Map<String, Value>> {
    object.keys().all(|key| keys.contains(&key.as_str())).then_some(object)
}
