//! The daemon's answers as `a{sv}`: the members of their JSON with D-Bus types.
//!
//! Text is `s`, an integer `x`, a truth `b`, an object `a{sv}`, a list `av`; what is null is left out. Three things are
//! not as in JSON: state, reason and health are their numbers (`u`), as in properties and signals; a list of objects is
//! `aa{sv}` and a list of ids `ax`, also when it is empty.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value as Json;
use zbus::zvariant::{Array, OwnedValue, Signature, Value};

use crate::command::{Decision, RotationStatus};
use crate::event::{LastFailure, Session, Status};

/// An `a{sv}`.
pub(super) type Dict = HashMap<String, OwnedValue>;

/// What `GetStatus` answers.
pub(super) fn status(status: &Status) -> Dict {
    let mut dict = dict(status);
    put(&mut dict, "state", status.state.number());
    put(&mut dict, "reason", status.reason.number());
    if let Some(session) = &status.session {
        put(&mut dict, "session", self::session(session));
    }
    if let Some(failure) = &status.last_failure {
        put(&mut dict, "last_failure", last_failure(failure));
    }
    dict
}

/// A session.
pub(super) fn session(session: &Session) -> Dict {
    let mut health = dict(&session.health);
    put(&mut health, "status", session.health.status.number());
    let mut dict = dict(session);
    put(&mut dict, "health", health);
    dict
}

fn last_failure(failure: &LastFailure) -> Dict {
    let mut dict = dict(failure);
    put(&mut dict, "reason", failure.reason.number());
    dict
}

/// The rotation's status.
pub(super) fn rotation(status: &RotationStatus) -> Dict {
    dict(status)
}

/// A decision with its candidates.
pub(super) fn decision(decision: &Decision) -> Dict {
    let candidates: Vec<Dict> = decision.candidates.iter().map(dict).collect();
    let mut dict = dict(decision);
    put(&mut dict, "candidates", candidates);
    dict
}

/// The members of what serializes as an object.
pub(super) fn dict(object: &impl Serialize) -> Dict {
    match serde_json::to_value(object) {
        Ok(Json::Object(members)) => from_members(members),
        // Only what this program serializes itself comes here, and that never fails.
        _ => Dict::new(),
    }
}

/// Adds or replaces a member.
pub(super) fn put<'v>(dict: &mut Dict, name: &str, value: impl Into<Value<'v>>) {
    // Fails for file descriptors only, of which none can be duplicated at the limit; there are none here.
    if let Ok(value) = value.into().try_into_owned() {
        dict.insert(name.to_owned(), value);
    }
}

fn from_members(members: serde_json::Map<String, Json>) -> Dict {
    let mut dict = Dict::new();
    for (name, value) in members {
        if let Some(value) = from_json(value) {
            put(&mut dict, &name, value);
        }
    }
    dict
}

fn from_json(json: Json) -> Option<Value<'static>> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(value) => value.into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => value.into(),
            (None, Some(value)) => value.into(),
            (None, None) => number.as_f64()?.into(),
        },
        Json::String(text) => text.into(),
        Json::Array(values) => {
            let mut array = Array::new(&Signature::Variant);
            for value in values.into_iter().filter_map(from_json) {
                // Any value is a variant.
                array.append(Value::Value(Box::new(value))).ok()?;
            }
            array.into()
        }
        Json::Object(members) => from_members(members).into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_becomes_dbus_types_and_null_is_left_out() {
        let dict = dict(&json!({"s": "a", "x": -1, "t": u64::MAX, "b": true, "n": null, "o": {"i": 1}, "l": ["a", 1]}));
        let signature = |name: &str| dict.get(name).map(|value| value.value_signature().to_string());
        let found: Vec<_> = ["s", "x", "t", "b", "n", "o", "l"].iter().map(|name| signature(name)).collect();
        let wanted = [Some("s"), Some("x"), Some("t"), Some("b"), None, Some("a{sv}"), Some("av")];
        assert_eq!(found, wanted.map(|text| text.map(str::to_owned)));
    }
}
