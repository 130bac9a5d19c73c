//! A node as an object of some program's configuration, on its way into the parameters that links have.

use serde_json::{Map, Value};

use super::super::Place;
use super::super::error::{LinkError, Shown};
use super::super::text;
use super::super::url::Params;

/// An object whose members are asked for by name; errors call them by it.
#[derive(Clone, Copy)]
pub(super) struct Node<'v>(pub(super) &'v Map<String, Value>);

impl<'v> Node<'v> {
    /// A member that is there and not null.
    pub(super) fn get(self, key: &str) -> Option<&'v Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A member that is an object; any other has nothing to say.
    pub(super) fn node(self, key: &str) -> Option<Node<'v>> {
        self.get(key)?.as_object().map(Node)
    }

    /// A member that must be an object where it says anything: what is left out of it would be protection.
    pub(super) fn object(self, key: &'static str, expected: &'static str) -> Result<Option<Node<'v>>, LinkError> {
        match self.get(key) {
            Some(Value::Object(members)) => Ok(Some(Node(members))),
            Some(other) if self.flag(key).unwrap_or(true) => {
                let shown = text::scalar(other.clone()).unwrap_or_else(|| "[…]".to_owned());
                Err(invalid(key, &shown, expected))
            }
            _ => Ok(None),
        }
    }

    /// A member as text; empty ones are absent.
    pub(super) fn text(self, key: &'static str) -> Result<Option<String>, LinkError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = text::scalar(value.clone()).ok_or(LinkError::Invalid {
            field: key,
            value: Shown::new("{…}"),
            expected: "a string or a number",
        })?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// A member that must be there.
    pub(super) fn need(self, key: &'static str, expected: &'static str) -> Result<String, LinkError> {
        self.text(key)?.ok_or(LinkError::Missing { field: key, expected })
    }

    /// Whether a member says yes; an unknown word counts as no.
    pub(super) fn yes(self, key: &'static str) -> bool {
        self.flag(key).unwrap_or(false)
    }

    /// Whether a member says yes. An unknown word is an error: to take it for a no could turn protection off.
    pub(super) fn flag(self, key: &'static str) -> Result<bool, LinkError> {
        let Some(value) = self.get(key) else { return Ok(false) };
        let text = text::scalar(value.clone()).filter(|_| !value.is_array()).unwrap_or_else(|| "{…}".to_owned());
        match text.trim() {
            "" => Ok(false),
            word => text::flag(word).ok_or_else(|| invalid(key, &text, "true or false")),
        }
    }

    /// Moves members into parameters: pairs of the member's name and the parameter's.
    pub(super) fn put(self, params: &mut Params<'static>, names: &[(&'static str, &'static str)]) {
        for (from, to) in names {
            match self.get(from).map(|value| text::scalar(value.clone())) {
                None => {}
                Some(Some(text)) => params.push(*to, Some(from), text),
                Some(None) => params.push_structure(*to, Some(from)),
            }
        }
    }

    /// Name, address and port.
    pub(super) fn place(
        self,
        name: Option<&str>,
        server: &'static str,
        port: &'static str,
    ) -> Result<Place, LinkError> {
        let address = self.need(server, "a host name or an IP address")?;
        let number = self.need(port, "a number from 1 to 65535")?;
        Ok(Place {
            name: text::name(name.unwrap_or_default()),
            address: text::host(address.trim()).map_err(|expected| invalid(server, &address, expected))?,
            port: text::port(number.trim()).map_err(|expected| invalid(port, &number, expected))?,
        })
    }

    /// A credential, of which nothing is told.
    pub(super) fn secret(self, key: &'static str, expected: &'static str) -> Result<String, LinkError> {
        let secret = self.need(key, expected)?;
        if secret.chars().any(char::is_control) {
            return Err(LinkError::Invalid { field: key, value: Shown::hidden(), expected: "no control characters" });
        }
        Ok(secret)
    }

    /// The id of a VLESS or VMess user.
    pub(super) fn user_id(self, key: &'static str) -> Result<String, LinkError> {
        let id = self.need(key, "the user's id")?;
        text::user_id(id.trim()).map_err(|expected| LinkError::Invalid { field: key, value: Shown::hidden(), expected })
    }

    /// Refuses a node that has a member which changes what is spoken, or whom it is spoken to.
    pub(super) fn without(self, key: &'static str, expected: &'static str) -> Result<(), LinkError> {
        let nothing = |value: &Value| match value {
            Value::Bool(yes) => !yes,
            Value::String(text) => text.is_empty() || text == "false",
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => {
                members.is_empty() || members.contains_key("enabled") && Node(members).flag("enabled") == Ok(false)
            }
            _ => false,
        };
        match self.get(key).filter(|value| !nothing(value)) {
            Some(_) => Err(LinkError::Unsupported { field: key, value: Shown::hidden(), expected }),
            None => Ok(()),
        }
    }
}

/// The error for a value that cannot be.
pub(super) fn invalid(field: &'static str, value: &str, expected: &'static str) -> LinkError {
    LinkError::Invalid { field, value: Shown::new(value), expected }
}

/// An option of a plugin, with what separates options escaped (SIP003).
pub(super) fn plugin_option(name: &str, value: &str) -> String {
    let mut option = format!(";{name}=");
    for character in value.chars() {
        if matches!(character, ';' | '=' | '\\' | ':') {
            option.push('\\');
        }
        option.push(character);
    }
    option
}
