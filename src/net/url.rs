//! http and https URLs, as far as one request needs them.

use std::fmt;

use hyper::Uri;

use crate::config::Secret;

/// Why a text is not a URL that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all, or with characters that must be percent-encoded.
    #[error("is not a URL (spaces and other than ASCII must be percent-encoded)")]
    Syntax,
    /// Another scheme.
    #[error("is not an http:// or https:// URL")]
    Scheme,
    /// No host.
    #[error("names no host")]
    Host,
}

/// A URL with what a request needs taken apart. `Display` gives scheme, host and port only: path, query and
/// user info of a subscription URL are credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// https.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port, the scheme's own when none was written.
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// `user:password` of the user info, percent-decoded.
    pub user_info: Option<Secret>,
}

impl Url {
    /// Takes an absolute http or https URL apart; a fragment is dropped.
    ///
    /// # Errors
    /// See [`UrlError`]; the text itself is not in it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let text = text.split('#').next().unwrap_or(text);
        let tls = match text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme),
        };
        let uri: Uri = text.parse().map_err(|_| UrlError::Syntax)?;
        let authority = uri.authority().ok_or(UrlError::Host)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(UrlError::Host);
        }
        let default_port = if tls { 443 } else { 80 };
        // http::Uri takes a port that is out of range for none at all.
        let after_host = authority.as_str().rsplit_once(authority.host()).map_or("", |(_, rest)| rest);
        let port = match after_host.strip_prefix(':') {
            None | Some("") => default_port,
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Syntax)?,
        };
        let user_info = authority.as_str().rsplit_once('@').map(|(user_info, _)| {
            Secret::new(percent_encoding::percent_decode_str(user_info).decode_utf8_lossy().into_owned())
        });
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
            target: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            user_info,
        })
    }

    /// The URL that a `Location` header means, seen from this one.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn join(&self, location: &str) -> Result<Self, UrlError> {
        let location = location.trim();
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme()));
        }
        let absolute = location.split_once(':').is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        });
        if absolute {
            return Self::parse(location);
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = match location.as_bytes().first() {
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{path}{location}"),
            _ => format!("{}/{location}", path.rsplit_once('/').map_or("", |(directory, _)| directory)),
        };
        let joined = Self::parse(&format!("{}://{}{target}", self.scheme(), self.authority()))?;
        Ok(Self { user_info: self.user_info.clone(), ..joined })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Host and port as a Host header writes them.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == (if self.tls { 443 } else { 80 }) { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn takes_urls_apart() {
        let parsed = url("HTTPS://user:p%40ss@Example.com:8443/sub?token=1#frag");
        assert!(parsed.tls);
        assert_eq!((parsed.host.as_str(), parsed.port, parsed.target.as_str()), ("example.com", 8443, "/sub?token=1"));
        assert_eq!(parsed.user_info.unwrap().reveal(), "user:p@ss");
        assert_eq!(url("http://[::1]:81").authority(), "[::1]:81");
        assert_eq!(url("http://h").target, "/");
    }

    #[test]
    fn shows_no_credential() {
        let shown = format!("{0} {0:?}", url("https://u:secret@h.example/secret?secret=secret"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn refuses_what_cannot_be_fetched() {
        for bad in
            ["", "h", "file:///etc/passwd", "ftp://h/", "http://", "http://h:0/", "http://h:99999/", "http://h/a b"]
        {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn joins_locations() {
        let base = url("https://h.example:8443/a/b?c");
        let joined = |location| {
            let url = base.join(location).unwrap();
            format!("{url}{}", url.target)
        };
        assert_eq!(joined("/x?y"), "https://h.example:8443/x?y");
        assert_eq!(joined("x"), "https://h.example:8443/a/x");
        assert_eq!(joined("?z"), "https://h.example:8443/a/b?z");
        assert_eq!(joined("//other/x"), "https://other/x");
        assert_eq!(joined("http://other/x"), "http://other/x");
        assert_eq!(base.join("file:///etc/passwd"), Err(UrlError::Scheme));
    }
}
