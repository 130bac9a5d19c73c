//! The options of a call, an `a{sv}`: each is taken out by its name, and what is left over is refused.

use zbus::zvariant::Value;

use super::errors::Error;
use super::values::Dict;

/// The options of a call, an `a{sv}`, each taken out by its name.
pub(super) struct Options(Dict);

impl Options {
    /// Takes what the caller sent.
    pub(super) fn new(options: Dict) -> Self {
        Self(options)
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        match String::try_from(value) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::BadRequest(format!("the option `{name}` must be a string"))),
        }
    }

    /// Yes or no.
    pub(super) fn truth(&mut self, name: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        match bool::try_from(value) {
            Ok(truth) => Ok(Some(truth)),
            Err(_) => Err(Error::BadRequest(format!("the option `{name}` must be a boolean"))),
        }
    }

    /// A number that is not negative, of any integer type.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        let number = match *value {
            Value::U8(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::U64(number) => Some(number),
            Value::I16(number) => number.try_into().ok(),
            Value::I32(number) => number.try_into().ok(),
            Value::I64(number) => number.try_into().ok(),
            _ => None,
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(Error::BadRequest(format!("the option `{name}` must be a number that is not negative"))),
        }
    }

    /// Refuses what is left: a misspelled option must not be ignored.
    pub(super) fn end(self, known: &str) -> Result<(), Error> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::BadRequest(format!("unknown option `{}`; there is {known}", name.escape_debug()))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::bus::values::dict;
    use serde_json::json;

    #[test]
    fn unknown_and_wrong_options_are_named() {
        let given = dict(&json!({"sort": 1, "limit": 3, "enabled": true, "sotr": "x", "tros": 1}));
        let mut options = Options::new(given);
        assert_eq!(options.number("limit").unwrap(), Some(3));
        assert_eq!(options.truth("enabled").unwrap(), Some(true));
        assert!(options.truth("sotr").unwrap_err().to_string().contains("boolean"));
        assert!(options.text("sort").unwrap_err().to_string().contains("sort"));
        assert!(options.end("sort").unwrap_err().to_string().contains("tros"));
    }
}
