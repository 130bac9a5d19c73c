//! The decoded view of a link for people and scripts: what `xrat parse --json` prints.

use serde::Serialize;

use crate::config::{Config, Protocol, Secret, Security, Transport};

/// The fields of a link by flat names; what the link does not have is absent.
///
/// It shows credentials, as they were pasted by the one who asks; hence no `Debug`, so that no log can show them.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Fields {
    /// `vless`, `vmess`, `trojan`, `shadowsocks`, …
    pub protocol: &'static str,
    /// Host name or IP address, IPv6 without brackets.
    pub address: String,
    /// The node's port.
    pub port: u16,
    /// The id of a VLESS or VMess user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The password of Trojan, Shadowsocks, SOCKS or HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The user name of SOCKS or HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The cipher of Shadowsocks or VMess.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The transport: `tcp`, `ws`, `grpc`, …
    pub network: &'static str,
    /// `none`, `tls` or `reality`.
    pub security: &'static str,
    /// The server name, if the link has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The Host header, if the link has one; several are comma-separated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The request path of the transport; several are comma-separated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// VLESS flow control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// The client hello to imitate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// REALITY's public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// REALITY's short id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_id: Option<String>,
    /// ALPN protocols in order of preference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// gRPC's service name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The SIP003 plugin of Shadowsocks with its options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The node's name.
    pub name: String,
}

/// Flattens a config, credentials included.
pub fn fields(config: &Config) -> Fields {
    let mut fields = Fields {
        protocol: config.protocol.name(),
        address: config.address.clone(),
        port: config.port.get(),
        uuid: None,
        password: None,
        username: None,
        method: None,
        network: config.transport.name(),
        security: config.security.name(),
        sni: None,
        host: None,
        path: None,
        flow: None,
        fingerprint: None,
        public_key: None,
        short_id: None,
        alpn: Vec::new(),
        service_name: None,
        plugin: None,
        name: config.name.clone(),
    };
    fields.add_protocol(&config.protocol);
    fields.add_transport(&config.transport);
    fields.add_security(&config.security);
    fields
}

impl Fields {
    fn add_protocol(&mut self, protocol: &Protocol) {
        let reveal = |secret: &Secret| Some(secret.reveal().to_owned());
        match protocol {
            Protocol::Vless { uuid, encryption: _, flow } => {
                self.uuid = reveal(uuid);
                self.flow.clone_from(flow);
            }
            Protocol::Vmess { uuid, method, alter_id: _ } => {
                self.uuid = reveal(uuid);
                self.method = Some(method.clone());
            }
            Protocol::Trojan { password } => self.password = reveal(password),
            Protocol::Shadowsocks { method, password, plugin } => {
                self.method = Some(method.clone());
                self.password = reveal(password);
                self.plugin = plugin.as_ref().and_then(reveal);
            }
            Protocol::Socks { username, password } | Protocol::Http { username, password } => {
                self.username.clone_from(username);
                self.password = password.as_ref().and_then(reveal);
            }
            Protocol::Hysteria2(node) => self.password = reveal(&node.auth),
            Protocol::Tuic(node) => {
                self.uuid = reveal(&node.uuid);
                self.password = reveal(&node.password);
            }
            Protocol::Wireguard(node) => self.public_key = Some(node.public_key.clone()),
        }
    }

    fn add_transport(&mut self, transport: &Transport) {
        let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        match transport {
            Transport::Tcp { http_header: None } => {}
            Transport::Tcp { http_header: Some(header) } => {
                self.host = joined(&header.hosts);
                self.path = joined(&header.paths);
            }
            Transport::Ws { path, host }
            | Transport::HttpUpgrade { path, host }
            | Transport::Xhttp { path, host, .. } => {
                self.host.clone_from(host);
                self.path = Some(path.clone());
            }
            Transport::H2 { path, hosts } => {
                self.host = joined(hosts);
                self.path = Some(path.clone());
            }
            Transport::Grpc { service_name, authority, .. } => {
                self.service_name = Some(service_name.clone());
                self.host.clone_from(authority);
            }
            Transport::Kcp { .. } | Transport::Quic { .. } | Transport::Udp => {}
        }
    }

    fn add_security(&mut self, security: &Security) {
        match security {
            Security::None => {}
            Security::Tls(tls) => {
                self.sni.clone_from(&tls.sni);
                self.fingerprint.clone_from(&tls.fingerprint);
                self.alpn.clone_from(&tls.alpn);
            }
            Security::Reality(reality) => {
                self.sni.clone_from(&reality.sni);
                self.fingerprint = Some(reality.fingerprint.clone());
                self.public_key = Some(reality.public_key.clone());
                self.short_id = (!reality.short_id.is_empty()).then(|| reality.short_id.clone());
            }
        }
    }
}
