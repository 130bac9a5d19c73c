//! The `proxies` of a YAML document, one at a time.
//!
//! Built on events, so that a document is never in memory as a whole, and so that anchors, aliases and depth have bounds:
//! a few lines of YAML can otherwise stand for gigabytes.

use std::collections::HashMap;
use std::ops::ControlFlow;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::{Map, Value};

use super::node::Node;
use super::{Item, Place, Sink, clash};
use crate::link::error::{LinkError, Shown};

/// Lists within lists; nodes need five.
const DEPTH: usize = 32;
/// Values in one node; real ones have less than a hundred.
const NODE_VALUES: usize = 2_000;
/// Values that anchors keep and aliases repeat, in a whole document.
const ALIAS_VALUES: usize = 100_000;

/// The keys that nodes stand under, the second in the first versions of Clash.
const KEYS: &[&str] = &["proxies", "Proxy"];

/// Whether a text has such a key at the beginning of a line.
pub(super) fn is_clash(text: &[u8]) -> bool {
    let begins = |line: &[u8]| {
        KEYS.iter().any(|key| line.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.starts_with(b":")))
    };
    text.split(|byte| *byte == b'\n').any(begins)
}

/// Reads every node; a mistake in the YAML itself ends it, and costs what comes after.
pub(super) fn each(text: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        line: 1,
        at: 0,
        left: 0,
        repeats: ALIAS_VALUES,
    };
    match reader.document(sink) {
        Ok(flow) => flow,
        Err(Broken(expected)) => {
            let outcome = Err(LinkError::Invalid { field: "YAML", value: Shown::hidden(), expected });
            sink(Item { place: Place::Line(reader.line), read: reader.at, outcome })
        }
    }
}

/// What the document should have been.
struct Broken(&'static str);

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Value>,
    line: usize,
    at: usize,
    /// Values that this node may still have.
    left: usize,
    /// Values that may still be kept for aliases or repeated by them.
    repeats: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Event<'t>, Broken> {
        match self.parser.next_event() {
            Some(Ok((event, Span { start, .. }))) => {
                (self.line, self.at) = (start.line(), start.index());
                Ok(event)
            }
            Some(Err(error)) => {
                self.line = error.marker().line();
                Err(Broken("valid YAML; what comes after this line is lost"))
            }
            None => Ok(Event::StreamEnd),
        }
    }

    fn document(&mut self, sink: &mut Sink<'_>) -> Result<ControlFlow<()>, Broken> {
        loop {
            let event = self.next()?;
            if event == Event::StreamEnd {
                return Ok(ControlFlow::Continue(()));
            }
            if matches!(event, Event::MappingStart(..)) && self.top(sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// The members of the document; only those with nodes are read, anchors are kept wherever they are.
    fn top(&mut self, sink: &mut Sink<'_>) -> Result<ControlFlow<()>, Broken> {
        loop {
            let nodes = match self.next()? {
                Event::MappingEnd | Event::StreamEnd => return Ok(ControlFlow::Continue(())),
                Event::Scalar(key, ..) => KEYS.contains(&key.as_ref()),
                other => {
                    self.skip(other)?;
                    false
                }
            };
            match self.next()? {
                Event::SequenceStart(..) if nodes => {
                    if self.nodes(sink)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                other => self.skip(other)?,
            }
        }
    }

    fn nodes(&mut self, sink: &mut Sink<'_>) -> Result<ControlFlow<()>, Broken> {
        loop {
            let event = self.next()?;
            if matches!(event, Event::SequenceEnd | Event::StreamEnd) {
                return Ok(ControlFlow::Continue(()));
            }
            let (place, read) = (Place::Line(self.line), self.at);
            self.left = NODE_VALUES;
            let outcome = match self.value(event, 0)? {
                Value::Object(node) => clash::config(Node(&node)),
                Value::String(link) => crate::link::parse(&link).map(Some),
                _ => Err(LinkError::Invalid { field: "node", value: Shown::hidden(), expected: "a mapping" }),
            };
            if let Some(outcome) = outcome.transpose()
                && sink(Item { place, read, outcome }).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// Passes over a value, but for the anchors in it.
    fn skip(&mut self, event: Event<'t>) -> Result<(), Broken> {
        let mut depth = 0_usize;
        let mut event = event;
        loop {
            match event {
                Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                    if anchor > 0 =>
                {
                    self.left = NODE_VALUES;
                    self.value(event, 0)?;
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
                Event::StreamEnd => return Ok(()),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
            event = self.next()?;
        }
    }

    /// A value as JSON has it; every scalar but null stays the text it is, because `0123` may be a password.
    fn value(&mut self, event: Event<'t>, depth: usize) -> Result<Value, Broken> {
        self.left = self.left.checked_sub(1).ok_or(Broken("nodes with less in them"))?;
        if depth > DEPTH {
            return Err(Broken("less depth"));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().unwrap_or_default();
                let size = size(&value);
                self.left = self.left.checked_sub(size).ok_or(Broken("nodes with less in them"))?;
                self.spend(size)?;
                return Ok(value);
            }
            Event::Scalar(text, style, anchor, _) => {
                let null = style == ScalarStyle::Plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                (if null { Value::Null } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break,
                        Event::StreamEnd => return Err(Broken("an end of the list")),
                        event => items.push(self.value(event, depth + 1)?),
                    }
                }
                (Value::Array(items), anchor)
            }
            Event::MappingStart(anchor, _) => (Value::Object(self.mapping(depth)?), anchor),
            _ => return Err(Broken("a value")),
        };
        if anchor > 0 {
            self.spend(size(&value))?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Map<String, Value>, Broken> {
        let (mut members, mut merged) = (Map::new(), Vec::new());
        loop {
            let key = match self.next()? {
                Event::MappingEnd => break,
                Event::StreamEnd => return Err(Broken("an end of the mapping")),
                Event::Scalar(key, ..) => Some(key.into_owned()),
                other => {
                    self.value(other, depth + 1)?;
                    None
                }
            };
            let event = self.next()?;
            let value = self.value(event, depth + 1)?;
            match (key, value) {
                (Some(key), value) if key != "<<" => {
                    // Which of two is meant is a guess.
                    let twice = members.insert(key, value);
                    twice.map_or(Ok(()), |_| Err(Broken("each key once in a node")))?;
                }
                (Some(_), Value::Object(other)) => merged.push(other),
                (Some(_), Value::Array(others)) => {
                    merged.extend(others.into_iter().filter_map(|other| match other {
                        Value::Object(other) => Some(other),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        for (key, value) in merged.into_iter().flatten() {
            members.entry(key).or_insert(value);
        }
        Ok(members)
    }

    fn spend(&mut self, values: usize) -> Result<(), Broken> {
        self.repeats = self.repeats.checked_sub(values).ok_or(Broken("fewer anchors and aliases"))?;
        Ok(())
    }
}

/// How many values there are in one, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum(),
        _ => 0,
    }
}
