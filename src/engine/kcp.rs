//! mKCP: one protocol on the wire, and three ways to say so.
//!
//! V2Ray and older Xray have `header` and `seed`. From 26.1.31 on Xray refuses both and wants the same two layers as
//! masks, the outer one first; from 26.7 on the masks have another name and the inner one comes first. What is
//! between is unknown in part and refused. A packet without a seed is scrambled all the same: saying nothing would
//! mean another protocol there.
//!
//! Source: V2Ray 4.34 and 5.22, Xray 25.12.8 and 26.3.27 (all run here, against each other), 26.7.28 (read).

use serde_json::{Map, Value, json};

use super::{Family, Lack, Version};
use crate::config::Secret;

/// The first Xray with masks: it refuses `header` and `seed`.
const MASKS: Version = Version::new(26, 1, 31);
/// Masks lose their names somewhere after 26.5.9; the order of the new ones is sure from [`LEGACY_MASK`] on.
const MASKS_END: Version = Version::new(26, 6, 0);
/// `mkcp-legacy`.
const LEGACY_MASK: Version = Version::new(26, 7, 0);

/// What packets may look like; V2Ray knows all but `dns`.
const HEADERS: [&str; 7] = ["none", "srtp", "utp", "wechat-video", "dtls", "wireguard", "dns"];

/// Whether the engine can run mKCP like this.
pub(super) fn check(
    family: Family,
    version: Version,
    header: &str,
    mtu: Option<u16>,
    tti: Option<u16>,
) -> Result<(), Lack> {
    check_header(family, header)?;
    if family == Family::Xray && (MASKS_END..LEGACY_MASK).contains(&version) {
        return Err(Lack::but("Xray 26.7 or newer", "the transport kcp"));
    }
    // What every version takes.
    if mtu.is_some_and(|mtu| !(576..=1460).contains(&mtu)) {
        return Err(Lack::none("kcp with an mtu that is not from 576 to 1460"));
    }
    if tti.is_some_and(|tti| !(10..=100).contains(&tti)) {
        return Err(Lack::none("kcp with a tti that is not from 10 to 100"));
    }
    Ok(())
}

/// Whether the engine can make packets look like this, for mKCP and for QUIC.
pub(super) fn check_header(family: Family, header: &str) -> Result<(), Lack> {
    match header {
        "dns" if family == Family::V2ray => Err(Lack::but("Xray", "packets that look like dns")),
        known if HEADERS.contains(&known) => Ok(()),
        other => Err(Lack::none(format!("packets that look like {other:?}"))),
    }
}

/// Writes `kcpSettings`, and `finalmask` where that has taken over.
pub(super) fn write(
    family: Family,
    version: Version,
    (header, seed): (&str, Option<&Secret>),
    (mtu, tti): (Option<u16>, Option<u16>),
    stream: &mut Map<String, Value>,
) {
    let seed = seed.map(Secret::reveal).filter(|seed| !seed.is_empty());
    let mut settings = Map::new();
    for (key, value) in [("mtu", mtu), ("tti", tti)] {
        if let Some(value) = value {
            settings.insert(key.into(), value.into());
        }
    }
    if family == Family::V2ray || version < MASKS {
        settings.insert("header".into(), json!({ "type": header }));
        if let Some(seed) = seed {
            settings.insert("seed".into(), seed.into());
        }
    } else {
        stream.insert("finalmask".into(), json!({ "udp": masks(version, header, seed) }));
    }
    stream.insert("kcpSettings".into(), settings.into());
}

fn masks(version: Version, header: &str, seed: Option<&str>) -> Vec<Value> {
    let header = match header {
        "none" => None,
        "wechat-video" => Some("wechat"),
        other => Some(other),
    };
    if version >= LEGACY_MASK {
        let cipher = seed.map_or_else(|| json!({}), |seed| json!({ "value": seed }));
        let layers = [Some(cipher), header.map(|header| json!({ "header": header }))];
        return layers
            .into_iter()
            .flatten()
            .map(|settings| json!({ "type": "mkcp-legacy", "settings": settings }))
            .collect();
    }
    let cipher = match seed {
        Some(seed) => json!({ "type": "mkcp-aes128gcm", "settings": { "password": seed } }),
        None => json!({ "type": "mkcp-original" }),
    };
    let header = header.map(|header| json!({ "type": format!("header-{header}") }));
    header.into_iter().chain([cipher]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn written(family: Family, version: Version, header: &str, seed: Option<&str>) -> Value {
        let mut stream = Map::new();
        let seed = seed.map(Secret::new);
        write(family, version, (header, seed.as_ref()), (Some(1200), None), &mut stream);
        stream.into()
    }

    #[test]
    fn each_version_has_its_way_to_say_it() {
        let plain = json!({ "mtu": 1200 });
        let old = json!({ "kcpSettings": { "mtu": 1200, "header": { "type": "wechat-video" }, "seed": "s" } });
        for (family, version) in [(Family::V2ray, Version::new(4, 34, 0)), (Family::Xray, Version::new(25, 12, 8))] {
            assert_eq!(written(family, version, "wechat-video", Some("s")), old);
        }
        assert_eq!(
            written(Family::Xray, Version::new(26, 3, 27), "wechat-video", Some("s")),
            json!({ "kcpSettings": plain, "finalmask": { "udp": [
                { "type": "header-wechat" }, { "type": "mkcp-aes128gcm", "settings": { "password": "s" } },
            ] } })
        );
        assert_eq!(
            written(Family::Xray, Version::new(26, 3, 27), "none", None),
            json!({ "kcpSettings": plain, "finalmask": { "udp": [{ "type": "mkcp-original" }] } })
        );
        assert_eq!(
            written(Family::Xray, Version::new(26, 7, 28), "dns", Some("s")),
            json!({ "kcpSettings": plain, "finalmask": { "udp": [
                { "type": "mkcp-legacy", "settings": { "value": "s" } },
                { "type": "mkcp-legacy", "settings": { "header": "dns" } },
            ] } })
        );
        assert_eq!(
            written(Family::Xray, Version::new(26, 7, 28), "none", None),
            json!({ "kcpSettings": plain, "finalmask": { "udp": [{ "type": "mkcp-legacy", "settings": {} }] } })
        );
    }

    #[test]
    fn what_an_engine_does_not_know_is_refused() {
        let xray = Version::new(26, 3, 27);
        check(Family::Xray, xray, "dns", Some(576), Some(100)).map_err(|lack| lack.feature).unwrap();
        for (family, version, header, mtu, tti) in [
            (Family::V2ray, Version::new(4, 34, 0), "dns", None, None),
            (Family::Xray, Version::new(26, 6, 27), "none", None, None),
            (Family::Xray, xray, "wechat", None, None),
            (Family::Xray, xray, "none", Some(575), None),
            (Family::Xray, xray, "none", None, Some(101)),
        ] {
            assert!(check(family, version, header, mtu, tti).is_err(), "{family} {version} {header}");
        }
    }
}
