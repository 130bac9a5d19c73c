//! A reader of the daemon's event stream, as a program would write one.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::PATIENCE;

/// An open stream of events.
pub struct Events {
    reader: BufReader<UnixStream>,
    /// The daemon's answer to the request: an envelope.
    pub answer: Value,
}

impl Events {
    /// Subscribes after an event seen before (instance and seq), or from now on, and reads the envelope.
    ///
    /// # Errors
    /// When nobody listens, or the first line is no JSON.
    pub fn subscribe(socket: &Path, since: Option<(&str, u64)>) -> Result<Self> {
        let payload = since.map_or(Value::Null, |(instance, seq)| json!({"instance_id": instance, "seq": seq}));
        let request = json!({"protocol_version": 1, "request": {"type": "EventSubscribe", "payload": payload}});
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.to_string().as_bytes())?;
        let mut events = Self { reader: BufReader::new(stream), answer: Value::Null };
        events.answer = events.line()?;
        Ok(events)
    }

    /// The next event.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`], or the daemon has ended.
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.line().unwrap_or_else(|error| panic!("no further event: {error}"))
    }

    /// The first event from here on for which `wanted` holds; those before it are gone.
    ///
    /// # Panics
    /// When it does not come, with what came instead.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            match self.line() {
                Ok(event) if wanted(&event) => return event,
                Ok(event) => seen.push(event.to_string()),
                Err(error) => panic!("waited in vain for {what} ({error}); came instead:\n{}", seen.join("\n")),
            }
        }
    }

    /// Waits until a state is entered; gives that event.
    ///
    /// # Panics
    /// As [`Events::until`].
    #[track_caller]
    pub fn until_state(&mut self, state: &str) -> Value {
        self.until(&format!("the state {state}"), |event| event["type"] == "StateChanged" && event["new"] == state)
    }

    /// Closes the sending direction.
    pub fn half_close(&self) {
        self.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// How long a read waits; [`PATIENCE`] at first.
    pub fn set_timeout(&self, timeout: Duration) {
        self.reader.get_ref().set_read_timeout(Some(timeout)).unwrap();
    }

    /// The next line as JSON.
    ///
    /// # Errors
    /// When none comes, the daemon has closed the stream, or it is no JSON.
    pub fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(|error| std::io::Error::other(format!("{error} in {line:?}")))
    }
}
