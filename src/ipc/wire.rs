//! The envelope and the framing of the socket protocol, without a socket.
//!
//! ```
//! use xrat::ipc::wire;
//! let request = br#"{"protocol_version":1,"request":{"type":"DaemonPing"}}"#;
//! assert_eq!(wire::parse_request(request).unwrap().name(), "DaemonPing");
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::command::{Command, Failure, Outcome, PROTOCOL_VERSION};

/// A request is at most this long, in bytes.
pub const MAX_REQUEST: usize = 64 << 10;

/// A wrong value is repeated up to so many characters.
const MAX_SHOWN: usize = 40;

/// A line from the daemon: the answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The protocol the daemon speaks.
    pub protocol_version: u32,
    /// Whether it was done.
    pub ok: bool,
    /// 200, 400, 404, 409 or 500.
    pub code: u16,
    /// `success`, or one sentence a person can act on.
    pub message: String,
    /// What was asked for, or details of the failure, or null.
    pub payload: Value,
}

impl Answer {
    /// The answer for what a command gave.
    pub fn new(result: Result<Outcome, Failure>) -> Self {
        match result {
            Ok(outcome) => match serde_json::to_value(outcome) {
                Ok(payload) => Self::success(payload),
                Err(error) => Self::failure(&Failure::Internal(format!("the answer cannot be written: {error}"))),
            },
            Err(failure) => Self::failure(&failure),
        }
    }

    /// Done.
    pub fn success(payload: Value) -> Self {
        Self { protocol_version: PROTOCOL_VERSION, ok: true, code: 200, message: "success".into(), payload }
    }

    /// Not done.
    pub fn failure(failure: &Failure) -> Self {
        let (code, payload) = match failure {
            Failure::BadRequest(_) => (400, Value::Null),
            Failure::NotFound(_) => (404, Value::Null),
            Failure::Conflict { details, .. } => (409, details.clone()),
            Failure::Internal(_) => (500, Value::Null),
        };
        Self { protocol_version: PROTOCOL_VERSION, ok: false, code, message: failure.to_string(), payload }
    }

    /// The answer as one line, its end included.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The request for a command, as a client sends it.
pub fn request_line(command: &Command) -> Vec<u8> {
    let mut line = json!({ "protocol_version": PROTOCOL_VERSION, "request": command }).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Reads a complete request.
///
/// # Errors
/// [`Failure::BadRequest`] that says what is wrong and where.
pub fn parse_request(bytes: &[u8]) -> Result<Command, Failure> {
    let bad = |message: String| Failure::BadRequest(message);
    let mut envelope: Value =
        serde_json::from_slice(bytes).map_err(|error| bad(format!("the request is not JSON: {error}")))?;
    let version = envelope.get("protocol_version").ok_or_else(|| bad("missing field `protocol_version`".into()))?;
    if version.as_u64() != Some(u64::from(PROTOCOL_VERSION)) {
        let shown: String = version.to_string().chars().take(MAX_SHOWN).collect();
        return Err(bad(format!(
            "protocol version {shown} is not spoken here: this daemon speaks version {PROTOCOL_VERSION}"
        )));
    }
    let request = envelope.get_mut("request").ok_or_else(|| bad("missing field `request`".into()))?;
    let payload = request.get_mut("payload").map(Value::take);
    let kind = request.get("type").ok_or_else(|| bad("missing field `request.type`".into()))?;
    let kind = kind.as_str().ok_or_else(|| bad("`request.type` must be a string".into()))?;
    Command::from_parts(kind, payload)
}

/// Finds the end of a JSON object that arrives in pieces. It only counts braces outside of strings: whether what is
/// between them is JSON is found out when the object is whole.
#[derive(Clone, Debug, Default)]
pub struct Framing {
    depth: usize,
    in_string: bool,
    escaped: bool,
    started: bool,
}

/// Where a request stands after a piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    More,
    /// It ended with the byte before this place in the piece.
    Done(usize),
    /// It begins with something that is neither white space nor `{`.
    NotAnObject,
}

impl Framing {
    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Progress {
        for (place, byte) in piece.iter().enumerate() {
            if !self.started {
                match byte {
                    b' ' | b'\t' | b'\r' | b'\n' => continue,
                    b'{' => self.started = true,
                    _ => return Progress::NotAnObject,
                }
            }
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' => self.depth += 1,
                b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Progress::Done(place + 1);
                    }
                }
                _ => {}
            }
        }
        Progress::More
    }

    /// Whether anything but white space has come yet.
    pub fn started(&self) -> bool {
        self.started
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const PING: &str = r#"{"protocol_version":1,"request":{"type":"DaemonPing","payload":{"a":"}\"{\\"}}}"#;

    #[test]
    fn a_request_ends_where_its_object_closes_however_it_is_cut() {
        for text in
            [PING.to_owned(), format!(" \r\n\t{PING}"), serde_json::to_string_pretty(&json!({"a": {}})).unwrap()]
        {
            for cut in 0..text.len() {
                let (one, two) = text.as_bytes().split_at(cut);
                let mut framing = Framing::default();
                assert_eq!(framing.feed(one), Progress::More, "{cut}");
                assert_eq!(framing.feed(two), Progress::Done(two.len()), "{cut}");
            }
        }
        assert_eq!(Framing::default().feed(b"{}{}"), Progress::Done(2));
    }

    #[test]
    fn what_is_no_object_is_known_by_its_first_byte() {
        for text in ["x", "[1]", "\"{\"", " \n1", "}"] {
            assert_eq!(Framing::default().feed(text.as_bytes()), Progress::NotAnObject, "{text}");
        }
    }

    #[test]
    fn each_failure_has_its_code() {
        let code = |failure| Answer::failure(&failure).code;
        assert_eq!(code(Failure::BadRequest(String::new())), 400);
        assert_eq!(code(Failure::NotFound(String::new())), 404);
        assert_eq!(code(Failure::conflict("")), 409);
        assert_eq!(code(Failure::Internal(String::new())), 500);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |text: &str| parse_request(text.as_bytes()).unwrap_err().to_string();
        assert!(message("{").starts_with("the request is not JSON"));
        assert!(message("{}").contains("`protocol_version`"));
        assert!(message(r#"{"protocol_version":2}"#).contains("version 2"));
        assert!(message(r#"{"protocol_version":2}"#).contains("speaks version 1"));
        assert!(message(r#"{"protocol_version":"1"}"#).contains("speaks version 1"));
        assert!(message(r#"{"protocol_version":1}"#).contains("`request`"));
        assert!(message(r#"{"protocol_version":1,"request":{}}"#).contains("`request.type`"));
        assert!(message(r#"{"protocol_version":1,"request":[]}"#).contains("`request.type`"));
        assert!(message(r#"{"protocol_version":1,"request":{"type":3}}"#).contains("string"));
    }

    #[test]
    fn what_a_client_writes_the_server_reads() {
        let command = Command::RuntimeConnect { config_id: crate::config::ConfigId(42) };
        assert_eq!(parse_request(&request_line(&command)).unwrap(), command);
    }

    #[test]
    fn no_prefix_of_a_request_is_a_request() {
        for end in 0..PING.len() {
            assert!(parse_request(&PING.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
