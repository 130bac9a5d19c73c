//! Nodes in JSON: SIP008, sing-box, Xray and V2Ray, and Clash written as JSON.
//!
//! Lists are read an element at a time, so that a large document is in memory once, as the text it came as.

use std::fmt;
use std::ops::ControlFlow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::node::Node;
use super::strict::Strict;
use super::{Item, Place, Sink, clash, singbox, xray};
use crate::config::Config;
use crate::link::error::{LinkError, Shown};
use crate::link::url::Params;
use crate::link::{MAX_LINK_BYTES, shadowsocks};

/// What a configuration may hold nodes in.
#[derive(Deserialize)]
struct Document<'t> {
    /// SIP008.
    #[serde(borrow, default)]
    servers: Option<&'t RawValue>,
    /// sing-box, Xray, V2Ray.
    #[serde(borrow, default)]
    outbounds: Option<&'t RawValue>,
    /// sing-box.
    #[serde(borrow, default)]
    endpoints: Option<&'t RawValue>,
    /// Clash.
    #[serde(borrow, default)]
    proxies: Option<&'t RawValue>,
    /// The name that v2rayNG gives a whole Xray configuration.
    #[serde(default)]
    remarks: Option<Value>,
}

/// Reads every node of a document, or of a list of documents or nodes.
pub(super) fn each(text: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let mut reader = Reader { text, number: 0, found: false, sink };
    let flow = match text.trim_start().starts_with('[') {
        true => list(text, &mut |raw| reader.element(raw)),
        false => match serde_json::from_str(text) {
            Ok(document) => Ok(reader.document(&document)),
            Err(error) => Err(error.line()),
        },
    };
    let error = match flow {
        Ok(ControlFlow::Continue(())) if !reader.found => (1, LinkError::Body { format: "JSON without nodes" }),
        Ok(flow) => return flow,
        Err(line) => {
            let expected = "valid JSON; what comes after this line is lost";
            (line, LinkError::Invalid { field: "JSON", value: Shown::hidden(), expected })
        }
    };
    let (line, reason) = error;
    sink(Item { place: Place::Line(line), read: text.len(), outcome: Err(reason) })
}

struct Reader<'r, 's> {
    text: &'r str,
    number: usize,
    /// There was a place for nodes, with or without any.
    found: bool,
    sink: &'r mut Sink<'s>,
}

impl Reader<'_, '_> {
    fn document(&mut self, document: &Document<'_>) -> ControlFlow<()> {
        let remarks = document.remarks.as_ref().and_then(Value::as_str);
        let mut first = true;
        for nodes in [document.servers, document.outbounds, document.endpoints, document.proxies].into_iter().flatten()
        {
            self.found = true;
            let mut each = |raw: &RawValue| {
                // Of several nodes in one configuration only one can be called as the whole is.
                let name = remarks.filter(|_| first);
                let (flow, was_node) = self.node(raw, name);
                first &= !was_node;
                flow
            };
            match list(nodes.get(), &mut each) {
                Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                // It was parsed once, so that it is only no list.
                Ok(ControlFlow::Continue(())) | Err(_) => {}
            }
        }
        ControlFlow::Continue(())
    }

    /// An element of a list: a whole configuration, or a node.
    fn element(&mut self, raw: &RawValue) -> ControlFlow<()> {
        match serde_json::from_str::<Document<'_>>(raw.get()) {
            Ok(document) if document.outbounds.or(document.servers).or(document.proxies).is_some() => {
                self.document(&document)
            }
            _ => {
                self.found = true;
                self.node(raw, None).0
            }
        }
    }

    /// Whether it was a node stands beside.
    fn node(&mut self, raw: &RawValue, name: Option<&str>) -> (ControlFlow<()>, bool) {
        self.number += 1;
        let Some(outcome) = node(raw, name).transpose() else { return (ControlFlow::Continue(()), false) };
        let read = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let flow = (self.sink)(Item { place: Place::Node(self.number), read, outcome });
        (flow, true)
    }
}

/// One node, by the words that its program has.
fn node(raw: &RawValue, name: Option<&str>) -> Result<Option<Config>, LinkError> {
    let text = raw.get();
    if text.len() > MAX_LINK_BYTES {
        return Err(LinkError::TooLong { length: text.len(), limit: MAX_LINK_BYTES });
    }
    let expected = "an object with each key once";
    let invalid = || LinkError::Invalid { field: "node", value: Shown::hidden(), expected };
    let Strict(value) = serde_json::from_str(text).map_err(|_| invalid())?;
    match value {
        Value::Object(members) => {
            let node = Node(&members);
            let has = |key: &str| node.get(key).is_some();
            if has("protocol") {
                xray::config(node, name)
            } else if has("type") && has("port") && has("server") {
                clash::config(node)
            } else if has("type") {
                singbox::config(node)
            } else {
                sip008(node).map(Some)
            }
        }
        Value::String(link) => crate::link::parse(&link).map(Some),
        _ => Err(invalid()),
    }
}

/// A server of SIP008, shadowsocks.org's format for lists.
fn sip008(node: Node<'_>) -> Result<Config, LinkError> {
    let name = node.text("remarks")?;
    let place = node.place(name.as_deref(), "server", "server_port")?;
    let mut params = Params::default();
    if let Some(plugin) = node.text("plugin")? {
        let options = node.text("plugin_opts")?.map(|options| format!(";{options}")).unwrap_or_default();
        params.push("plugin", None, format!("{plugin}{options}"));
    }
    let method = node.need("method", "the name of a cipher")?;
    shadowsocks::build(place, &method, node.secret("password", "a password")?, &params)
}

/// Goes through a list; fails with the line where it is no list any more.
fn list(text: &str, each: &mut dyn FnMut(&RawValue) -> ControlFlow<()>) -> Result<ControlFlow<()>, usize> {
    let mut flow = ControlFlow::Continue(());
    let mut json = serde_json::Deserializer::from_str(text);
    match (Elements { each, flow: &mut flow }).deserialize(&mut json).and_then(|()| json.end()) {
        Err(error) if flow.is_continue() => Err(error.line()),
        _ => Ok(flow),
    }
}

struct Elements<'e> {
    each: &'e mut dyn FnMut(&RawValue) -> ControlFlow<()>,
    flow: &'e mut ControlFlow<()>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element::<&RawValue>()? {
            *self.flow = (self.each)(raw);
            if self.flow.is_break() {
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}
