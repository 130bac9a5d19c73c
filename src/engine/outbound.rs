//! The outbound of an engine's file: a config in the JSON that Xray and V2Ray both take.
//!
//! Both take `vnext` or `servers` with one entry and one user; V2Ray 4 knows no flat form.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Engine, Unsupported, stream, udp};
use crate::config::{Config, Protocol, Secret};

/// The longest text that Xray maps to a UUID.
const MAX_SHORT_ID: usize = 30;

/// The id as engines want it: a UUID, hyphenated.
///
/// A text of 1 to 30 bytes stands for a UUID (version 5, in the nil namespace), Xray's convention for memorable ids.
/// The mapping is done here, so that V2Ray, which knows nothing of it, can use such a node as well.
/// `None` for anything else; V2Ray would panic on some of it and silently cut the rest.
pub(super) fn user_id(id: &Secret) -> Option<Uuid> {
    match id.reveal() {
        text if (1..=MAX_SHORT_ID).contains(&text.len()) => Some(Uuid::new_v5(&Uuid::nil(), text.as_bytes())),
        text if text.len() == 32 || text.len() == 36 => Uuid::try_parse(text).ok(),
        _ => None,
    }
}

/// One outbound with the given tag.
///
/// # Errors
/// As of [`Engine::supports`].
pub(super) fn outbound(engine: &Engine, config: &Config, tag: &str) -> Result<Value, Unsupported> {
    let unfolded = engine.prepare(config)?;
    let config = unfolded.config.as_ref();
    let protocol = match &config.protocol {
        Protocol::Hysteria2(_) => "hysteria",
        other => other.name(),
    };
    let mut outbound = json!({ "tag": tag, "protocol": protocol, "settings": settings(config) });
    if !matches!(config.protocol, Protocol::Wireguard(_)) {
        outbound["streamSettings"] = stream::settings(engine, config, unfolded.upgrade);
    }
    Ok(outbound)
}

fn settings(config: &Config) -> Value {
    match &config.protocol {
        Protocol::Vless { uuid, encryption, flow } => {
            let mut user = user(uuid);
            user.insert("encryption".into(), encryption.reveal().into());
            if let Some(flow) = flow.as_deref().filter(|flow| !flow.is_empty()) {
                user.insert("flow".into(), flow.into());
            }
            vnext(config, user)
        }
        Protocol::Vmess { uuid, method, alter_id } => {
            let mut user = user(uuid);
            user.insert("security".into(), method.as_str().into());
            user.insert("alterId".into(), (*alter_id).into());
            vnext(config, user)
        }
        Protocol::Trojan { password } => servers(config, [("password", password.reveal().into())]),
        Protocol::Shadowsocks { method, password, .. } => {
            servers(config, [("method", method.as_str().into()), ("password", password.reveal().into())])
        }
        Protocol::Socks { username, password } | Protocol::Http { username, password } => {
            let login = username.is_some() || password.is_some();
            let user = login.then(|| {
                json!({
                    "user": username.as_deref().unwrap_or_default(),
                    "pass": password.as_ref().map_or("", Secret::reveal),
                })
            });
            servers(config, user.map(|user| ("users", json!([user]))))
        }
        Protocol::Hysteria2(_) => udp::hysteria(config),
        Protocol::Wireguard(node) => udp::wireguard(config, node),
        // No engine has it.
        Protocol::Tuic(_) => json!({}),
    }
}

fn user(id: &Secret) -> Map<String, Value> {
    let id = user_id(id).unwrap_or_default();
    Map::from_iter([("id".to_owned(), id.hyphenated().to_string().into())])
}

fn vnext(config: &Config, user: Map<String, Value>) -> Value {
    json!({ "vnext": [{ "address": config.address, "port": config.port, "users": [user] }] })
}

fn servers(config: &Config, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut server = Map::from_iter([
        ("address".to_owned(), config.address.as_str().into()),
        ("port".to_owned(), config.port.get().into()),
    ]);
    server.extend(fields.into_iter().map(|(key, value)| (key.to_owned(), value)));
    json!({ "servers": [server] })
}
