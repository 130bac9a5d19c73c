//! `http://` and `https://` as proxies: `user:pass@host:port`, the second with TLS between client and proxy.

use super::error::LinkError;
use super::url::{Params, Query, Tail};
use super::{Place, security, socks, text};
use crate::config::{Config, Protocol, Secret, Security};

/// The parameters a proxy's link may have; any other makes it the address of a page.
const PARAMETERS: &[&str] =
    &["sni", "peer", "alpn", "fp", "allowInsecure", "insecure", "allow_insecure", "pcs", "vcn", "ech", "remarks"];

/// Whether an `http(s)://` address is a page that holds a subscription rather than a proxy.
///
/// A proxy has a port, no path beyond `/`, and no parameters but those of TLS.
pub(super) fn is_page(rest: &str) -> bool {
    let tail = Tail::split(rest);
    let (authority, path) = tail.main.split_once('/').unwrap_or((tail.main, ""));
    let endpoint = authority.rsplit_once('@').map_or(authority, |(_, endpoint)| endpoint);
    let port = endpoint.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.contains(']'));
    let foreign = |key: &str| !PARAMETERS.iter().any(|known| known.eq_ignore_ascii_case(key));
    // A raw `/` in a password is no path: such a link is refused with its own reason.
    !port || (!path.is_empty() && !path.contains('@')) || tail.params.keys().any(foreign)
}

/// Reads what follows `http://` or `https://`.
pub(super) fn parse(rest: &str, tls: bool) -> Result<Config, LinkError> {
    if is_page(rest) {
        return Err(LinkError::SubscriptionUrl);
    }
    let mut tail = Tail::split(rest);
    let authority = tail.authority(false)?;
    let (username, password) = socks::user_and_password(&authority)?;
    let place = tail.place(&authority, None)?;
    tail.params.push("security", Some("scheme"), if tls { "tls" } else { "none" }.to_owned());
    build(place, username, password, &tail.params)
}

/// Puts a node together.
pub(super) fn build(
    place: Place,
    username: Option<String>,
    password: Option<String>,
    params: &Params<'_>,
) -> Result<Config, LinkError> {
    let (username, password) = socks::user(username, password)?;
    let (transport, security) = socks::plain_tcp(params)?;
    Ok(place.node(Protocol::Http { username, password }, transport, security))
}

/// Writes what [`parse`] reads.
pub(super) fn write(config: &Config, username: Option<&str>, password: Option<&Secret>) -> String {
    let mut query = Query::default();
    let scheme = match &config.security {
        Security::Tls(tls) => {
            security::write_tls(tls, &mut query);
            "https"
        }
        Security::None | Security::Reality(_) => "http",
    };
    let userinfo = socks::write_userinfo(username, password);
    format!("{scheme}://{userinfo}{}{}#{}", config.endpoint(), query.as_str(), text::encode(&config.name))
}
