//! The outer shape of a link: `scheme://userinfo@host:port/path?params#name`.
//!
//! A parser of its own because general ones decode `+`, drop tabs, or refuse what real links hold.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::error::{LinkError, Shown};
use super::{Place, text};

/// The longest word that is quoted where a credential may have got to.
const NAME_BYTES: usize = 32;

/// What follows `scheme://`, cut at the first `#` and then at the first `?`.
pub(super) struct Tail<'a> {
    /// Everything before `?` and `#`.
    pub(super) main: &'a str,
    /// The parameters.
    pub(super) params: Params<'a>,
    fragment: Option<&'a str>,
}

impl<'a> Tail<'a> {
    /// Cuts; every text has a tail.
    pub(super) fn split(rest: &'a str) -> Self {
        // A name may hold more `#`, a path parameter more `?`.
        let (front, fragment) = match rest.split_once('#') {
            Some((front, fragment)) => (front, Some(fragment)),
            None => (rest, None),
        };
        let (main, query) = front.split_once('?').unwrap_or((front, ""));
        Self { main, params: Params::from_query(query), fragment }
    }

    /// The parts of `main`; `userinfo_needed` says whether the scheme is nothing without them.
    pub(super) fn authority(&self, userinfo_needed: bool) -> Result<Authority<'a>, LinkError> {
        // A raw `?` in a password moves the true host into the query.
        if self.params.keys().any(|key| key.contains('@')) {
            return Err(ambiguous_at());
        }
        let authority = Authority::split(self.main, userinfo_needed)?;
        // So does a raw `#`, and a `?` with a `=` behind it; a name like `@channel` has no port.
        let mut behind = self.params.raw_values().chain(self.fragment);
        if authority.userinfo.is_none() && behind.any(|text| text.split('@').skip(1).any(begins_with_endpoint)) {
            return Err(ambiguous_at());
        }
        Ok(authority)
    }

    /// The text that [`Tail::main`] is base64 of. A `/` at its end may be one of its digits, or a path behind it.
    pub(super) fn decoded(&self) -> Option<String> {
        let whole = text::encoded_text(self.main);
        let before_path = self.main.trim_end_matches('/');
        if before_path.len() == self.main.len() || whole.as_deref().is_some_and(is_whole) {
            return whole;
        }
        let decoded = text::encoded_text(before_path);
        if decoded.as_deref().is_some_and(is_whole) { decoded } else { whole.or(decoded) }
    }

    /// Name, address and port; `default` is the scheme's own port.
    pub(super) fn place(&self, authority: &Authority<'_>, default: Option<NonZeroU16>) -> Result<Place, LinkError> {
        Ok(Place { name: self.name(), address: authority.address()?, port: authority.port(default)? })
    }

    /// The name after `#`, else the `remarks` that some clients write; empty if the link has neither.
    pub(super) fn name(&self) -> String {
        let remarks = || self.params.raw("remarks").unwrap_or_default();
        text::name_from_url(self.fragment.filter(|fragment| !fragment.is_empty()).unwrap_or_else(remarks))
    }
}

/// `userinfo@host:port`, each part as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// What stands before the last `@`, still percent-encoded.
    pub(super) userinfo: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
}

impl<'a> Authority<'a> {
    /// Finds the parts of a [`Tail::main`].
    ///
    /// The first `/` ends the authority; but a password or base64 with a raw `/` in it is recognised where nothing
    /// before that `/` could be a whole authority. Where a credential is needed and no `@` is there, the one `%40` is
    /// an `@` that was encoded once too often.
    fn split(main: &'a str, userinfo_needed: bool) -> Result<Self, LinkError> {
        if userinfo_needed
            && !main.contains('@')
            && let Some((userinfo, endpoint)) = main.split_once("%40")
            && !endpoint.contains("%40")
        {
            let endpoint = endpoint.split('/').next().unwrap_or_default();
            return Ok(Self { userinfo: Some(userinfo), ..Self::endpoint(endpoint) });
        }
        let front = main.split('/').next().unwrap_or_default();
        let complete = front.contains('@') || (!userinfo_needed && ends_in_port(front));
        let (authority, path) = if complete || !main.contains('@') {
            main.split_at(front.len())
        } else {
            let at = main.rfind('@').unwrap_or_default();
            let end = main.get(at..).and_then(|tail| tail.find('/')).map_or(main.len(), |slash| at + slash);
            main.split_at(end)
        };
        if path.contains('@') {
            return Err(ambiguous_at());
        }
        let (userinfo, endpoint) = match authority.rsplit_once('@') {
            Some((userinfo, endpoint)) => (Some(userinfo), endpoint),
            None => (None, authority),
        };
        Ok(Self { userinfo, ..Self::endpoint(endpoint) })
    }

    /// `host:port` alone, for links that were base64 up to here.
    pub(super) fn endpoint(endpoint: &'a str) -> Self {
        let (host, port) = split_endpoint(endpoint.trim());
        Self { userinfo: None, host: host.trim(), port: port.map(str::trim).filter(|port| !port.is_empty()) }
    }

    /// The node's address.
    pub(super) fn address(&self) -> Result<String, LinkError> {
        if self.host.is_empty() {
            return Err(LinkError::Missing { field: "host", expected: "a host name or an IP address" });
        }
        // Its last group may be meant as the port, so there is no one way to read it.
        if self.port.is_none() && self.host.parse::<Ipv6Addr>().is_ok() {
            let expected = "brackets around an IPv6 address, as in [2001:db8::1]:443";
            return Err(LinkError::Invalid { field: "host", value: self.shown(self.host), expected });
        }
        text::again(self.host, text::host).map_err(|expected| LinkError::Invalid {
            field: "host",
            value: self.shown(self.host),
            expected,
        })
    }

    /// What stands in the port's place, for a scheme that may have several there.
    pub(super) fn ports(&self) -> Option<&'a str> {
        self.port
    }

    /// The node's port, or the scheme's default.
    pub(super) fn port(&self, default: Option<NonZeroU16>) -> Result<NonZeroU16, LinkError> {
        match (self.port, default) {
            (Some(port), _) => text::port(port).map_err(|expected| LinkError::Invalid {
                field: "port",
                value: self.shown(port),
                expected,
            }),
            (None, Some(default)) => Ok(default),
            (None, None) => {
                Err(LinkError::Missing { field: "port", expected: "a number from 1 to 65535 after the host" })
            }
        }
    }

    /// Without an `@` what looks like a host may be a credential whose `@` got lost; with quotes it is a whole object.
    fn shown(&self, value: &str) -> Shown {
        shown(value, self.userinfo.is_none() || value.contains('"'))
    }
}

/// Two readers would take two different hosts out of such a link.
fn ambiguous_at() -> LinkError {
    let expected = "one @, right before the host (inside a credential @ is %40, / is %2F, ? is %3F)";
    LinkError::Invalid { field: "host", value: Shown::hidden(), expected }
}

/// Whether a port, or several as Hysteria has them, is at the end.
fn ends_in_port(text: &str) -> bool {
    let Some((_, ports)) = text.rsplit_once(':') else { return false };
    let mut ports = ports.split([',', '-']).map(str::trim).filter(|port| !port.is_empty()).peekable();
    ports.peek().is_some() && ports.all(|port| text::port(port).is_ok())
}

/// Whether what stands behind an `@` could be where a node is.
fn begins_with_endpoint(text: &str) -> bool {
    ends_in_port(text.split(['/', '?', '#']).next().unwrap_or_default())
}

/// Whether decoded text is an object, or ends where a node is.
fn is_whole(decoded: &str) -> bool {
    if decoded.trim_start().starts_with('{') {
        return serde_json::from_str::<serde::de::IgnoredAny>(decoded).is_ok();
    }
    let authority = decoded.rsplit_once('@').map(|(_, endpoint)| Authority::endpoint(endpoint));
    authority.is_some_and(|authority| authority.address().is_ok() && authority.port(None).is_ok())
}

/// Splits `host:port`. IPv6 without brackets is split only where there is one way to read it.
fn split_endpoint(endpoint: &str) -> (&str, Option<&str>) {
    if let Some(end) = endpoint.rfind(']') {
        let (host, tail) = endpoint.split_at(end + 1);
        return match tail.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if tail.is_empty() => (host, None),
            None => (endpoint, None),
        };
    }
    if endpoint.parse::<Ipv6Addr>().is_ok() {
        return (endpoint, None);
    }
    match endpoint.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (endpoint, None),
    }
}

/// The parameters of a link, from a query or from a JSON object.
#[derive(Clone, Default)]
pub(super) struct Params<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Clone)]
struct Entry<'a> {
    key: Cow<'a, str>,
    /// What errors call the field, where that is not the key it is looked up by.
    label: Option<&'static str>,
    value: Cow<'a, str>,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Encoded,
    Plain,
    /// A JSON object, where only text makes sense.
    Structure,
}

/// A parameter that is present and not empty.
#[derive(Debug)]
pub(super) struct Param {
    label: &'static str,
    /// The value, decoded and trimmed.
    pub(super) value: String,
    secret: bool,
}

impl Param {
    /// The error for a value that cannot be.
    pub(super) fn invalid(&self, expected: &'static str) -> LinkError {
        LinkError::Invalid { field: self.label, value: self.shown(), expected }
    }

    /// The error for a value that is known but cannot be done.
    pub(super) fn unsupported(&self, expected: &'static str) -> LinkError {
        LinkError::Unsupported { field: self.label, value: self.shown(), expected }
    }

    /// Not quoted in errors unless it looks like a name: it may be a credential that somebody put here.
    pub(super) fn name_or_secret(self) -> Self {
        let name = self.value.len() <= NAME_BYTES
            && self.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        Self { secret: self.secret || !name, ..self }
    }

    /// Applies one of the checks of [`text`]; a value that passes only when it is decoded once more was encoded once
    /// too often.
    pub(super) fn check<T>(&self, check: impl Fn(&str) -> Result<T, text::Expected>) -> Result<T, LinkError> {
        text::again(&self.value, check).map_err(|expected| self.invalid(expected))
    }

    /// Reads a whole number within `range`.
    pub(super) fn number(&self, range: RangeInclusive<u64>, expected: text::Expected) -> Result<u64, LinkError> {
        self.check(|value| match value.parse() {
            Ok(number) if range.contains(&number) && !value.starts_with('+') => Ok(number),
            _ => Err(expected),
        })
    }

    /// The value in lower case, for words whose case nobody means.
    pub(super) fn word(&self) -> String {
        let word = self.value.to_ascii_lowercase();
        text::decode(&word).map_or(word.clone(), Cow::into_owned)
    }

    fn shown(&self) -> Shown {
        shown(&self.value, self.secret)
    }
}

/// Quotes a value up to an `=`, encoded or not: behind it is another parameter, maybe a key, where a `?` or `&` got lost.
pub(super) fn shown(value: &str, secret: bool) -> Shown {
    let lower = value.to_ascii_lowercase();
    let sign = ["=", "%3d", "%253d"].into_iter().filter_map(|sign| lower.find(sign)).min();
    match sign.and_then(|at| value.get(..at)) {
        _ if secret => Shown::hidden(),
        Some(front) => Shown::new(&format!("{front}=…")),
        None => Shown::new(value),
    }
}

impl<'a> Params<'a> {
    /// Splits a query at `&`; `&amp;`, left over from a web page, is the same, and `&amp;amp;` from two of them.
    fn from_query(query: &'a str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let entries = pairs.map(|pair| {
            let pair = pair.trim_start_matches("amp;");
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Entry { key: Cow::Borrowed(key.trim()), label: None, value: Cow::Borrowed(value), form: Form::Encoded }
        });
        Self { entries: entries.collect() }
    }

    /// Adds a decoded value that the link calls `label`.
    pub(super) fn push(&mut self, key: impl Into<Cow<'a, str>>, label: Option<&'static str>, value: String) {
        self.entries.push(Entry { key: key.into(), label, value: Cow::Owned(value), form: Form::Plain });
    }

    /// Adds a value that is no text; it is an error only if somebody asks for it.
    pub(super) fn push_structure(&mut self, key: impl Into<Cow<'a, str>>, label: Option<&'static str>) {
        self.entries.push(Entry { key: key.into(), label, value: Cow::Borrowed("{…}"), form: Form::Structure });
    }

    /// Gives a parameter another key; errors go on calling it what the link does.
    pub(super) fn rename(&mut self, from: &'static str, to: &'static str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.key.eq_ignore_ascii_case(from)) {
            entry.key = Cow::Borrowed(to);
            entry.label = entry.label.or(Some(from));
        }
    }

    /// Forgets a parameter.
    pub(super) fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| !entry.key.eq_ignore_ascii_case(key));
    }

    /// Whether a parameter is there and says yes.
    pub(super) fn flag(&self, names: &[&'static str]) -> Result<bool, LinkError> {
        let flag = self.get(names)?.map(|param| {
            param.check(|value| match value.to_ascii_lowercase().as_str() {
                "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err("0 or 1"),
            })
        });
        Ok(flag.transpose()?.unwrap_or(false))
    }

    /// Takes `path;host` apart, as the first version of VMess links had it in `host`.
    pub(super) fn split_path_from_host(&mut self) {
        if self.raw("path").is_some_and(|path| !path.trim().is_empty()) {
            return;
        }
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key.eq_ignore_ascii_case("host")) else { return };
        if let Some((path, host)) = entry.value.split_once(';') {
            let (path, host) = (path.to_owned(), host.to_owned());
            entry.value = Cow::Owned(host);
            self.push("path", None, path);
        }
    }

    /// The name in a field of a JSON object; `None` if there is none.
    pub(super) fn name(&self, key: &str) -> Option<String> {
        self.raw(key).map(text::name).filter(|name| !name.is_empty())
    }

    /// All keys, as written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_ref())
    }

    /// All values, as written.
    fn raw_values(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.value.as_ref())
    }

    /// Refuses parameters that change what is spoken; to ignore one would be to connect as something else.
    pub(super) fn without(&self, names: &[&'static str], expected: &'static str) -> Result<(), LinkError> {
        for name in names {
            if let Some(param) = self.secret(&[name])?.filter(|param| param.word() != "none") {
                return Err(param.unsupported(expected));
            }
        }
        Ok(())
    }

    fn raw(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(key)).map(|entry| entry.value.as_ref())
    }

    /// The value of a parameter that goes by any of these names; `None` if it is absent or empty everywhere.
    pub(super) fn get(&self, names: &[&'static str]) -> Result<Option<Param>, LinkError> {
        self.find(names, false)
    }

    /// Like [`Params::get`], for a value that must not be quoted.
    pub(super) fn secret(&self, names: &[&'static str]) -> Result<Option<Param>, LinkError> {
        self.find(names, true)
    }

    /// Like [`Params::get`], for a parameter that must be there.
    pub(super) fn need(&self, name: &'static str, expected: &'static str) -> Result<Param, LinkError> {
        self.find(&[name], false)?.ok_or(LinkError::Missing { field: name, expected })
    }

    fn find(&self, names: &[&'static str], secret: bool) -> Result<Option<Param>, LinkError> {
        let mut found: Option<Param> = None;
        for entry in &self.entries {
            let Some(name) = names.iter().find(|name| entry.key.eq_ignore_ascii_case(name)) else { continue };
            let label = entry.label.unwrap_or(name);
            let raw = entry.value.trim();
            let decoded = match entry.form {
                Form::Encoded => text::decode(raw),
                Form::Plain => text::no_control(raw).map(|()| Cow::Borrowed(raw)),
                Form::Structure => Err("a string or a number"),
            };
            let value =
                decoded.map_err(|expected| LinkError::Invalid { field: label, value: shown(raw, secret), expected })?;
            let param = Param { label, value: value.trim().to_owned(), secret };
            match &found {
                _ if param.value.is_empty() => {}
                None => found = Some(param),
                Some(first) if first.value == param.value => {}
                Some(first) => {
                    return Err(LinkError::Conflict { field: label, first: first.shown(), second: param.shown() });
                }
            }
        }
        Ok(found)
    }
}

/// The parameters of a link that is being written.
#[derive(Default)]
pub(super) struct Query(String);

impl Query {
    /// Adds a parameter.
    pub(super) fn push(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&text::encode(value));
    }

    /// Adds a list with commas, if there is anything in it.
    pub(super) fn push_list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            self.push(key, &values.join(","));
        }
    }

    /// Adds a parameter if it has a value.
    pub(super) fn push_some(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(key, value);
        }
    }

    /// The query with its `?`, or nothing.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Decodes a credential from userinfo; a mistake in it is reported without any of it.
pub(super) fn credential(field: &'static str, raw: &str) -> Result<String, LinkError> {
    let decoded =
        text::decode(raw).map_err(|expected| LinkError::Invalid { field, value: Shown::hidden(), expected })?;
    Ok(decoded.into_owned())
}
