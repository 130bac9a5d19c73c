//! The decoded view of a link for people and scripts: what `xrat parse --json` prints.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, Protocol, Secret, Security, Transport};

/// The fields of a link by flat names; what the link does not have is absent.
///
/// It shows credentials, as they were pasted by the one who asks; hence no `Debug`, so that no log can show them.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fields {
    /// `vless`, `vmess`, `trojan`, `shadowsocks`, …
    pub protocol: &'static str,
    /// Host name or IP address, IPv6 without brackets.
    pub address: String,
    /// The node's port.
    pub port: u16,
    /// The id of a VLESS, VMess or TUIC user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The password of Trojan, Shadowsocks, SOCKS, HTTP or TUIC, and what Hysteria 2 authenticates with.
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
    /// The Host header or gRPC's authority, if the link has one; several are comma-separated.
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
    /// The public key of REALITY or of a WireGuard node.
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
    /// VLESS encryption, if it is not `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// VMess's alterId, if it is not 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alter_id: Option<u16>,
    /// What packets (`srtp`, `dtls`, …) or the stream (`http`) are disguised as, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_type: Option<String>,
    /// mKCP's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// The second encryption of V2Ray's QUIC, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic_security: Option<String>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `gun` or `multi` with gRPC; XHTTP's mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// What XHTTP's requests look like.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
    /// Largest packet in bytes, of mKCP or WireGuard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// mKCP's milliseconds between transmissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tti: Option<u16>,
    /// Where REALITY's spider starts, if not at `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spider_x: Option<String>,
    /// REALITY's ML-DSA-65 verification key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mldsa65_verify: Option<String>,
    /// The certificate is not verified.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure: bool,
    /// SHA-256 of the pinned certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned_sha256: Option<String>,
    /// The certificate is verified for this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_name: Option<String>,
    /// Encrypted client hello configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ech: Option<String>,
    /// All ports that Hysteria 2 hops between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Seconds between two hops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_secs: Option<u32>,
    /// What disguises Hysteria 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obfs: Option<String>,
    /// The password of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obfs_password: Option<String>,
    /// TUIC's congestion control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion_control: Option<String>,
    /// How TUIC carries UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_relay_mode: Option<String>,
    /// No server name in TUIC's client hello.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disable_sni: bool,
    /// WireGuard: this side's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// WireGuard: the key both sides share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<String>,
    /// WireGuard: addresses inside the tunnel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// WireGuard: the three reserved bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<u8>,
    /// WireGuard: seconds between packets that keep the way open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_secs: Option<u16>,
    /// The node's name.
    pub name: String,
}

/// Flattens a config, credentials included.
pub fn fields(config: &Config) -> Fields {
    let mut fields = Fields {
        protocol: config.protocol.name(),
        address: config.address.clone(),
        port: config.port.get(),
        network: config.transport.name(),
        security: config.security.name(),
        name: config.name.clone(),
        ..Fields::default()
    };
    fields.add_protocol(&config.protocol);
    fields.add_transport(&config.transport);
    fields.add_security(&config.security);
    fields
}

impl Fields {
    /// Every credential among them.
    pub fn secrets(&mut self) -> impl Iterator<Item = &mut String> {
        let headers = self.extra.get_mut("headers").and_then(Value::as_object_mut);
        let headers = headers.into_iter().flat_map(|headers| headers.values_mut()).filter_map(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        });
        // A user name is often a token.
        [
            &mut self.uuid,
            &mut self.password,
            &mut self.username,
            &mut self.plugin,
            &mut self.encryption,
            &mut self.seed,
            &mut self.key,
            &mut self.obfs_password,
            &mut self.secret_key,
            &mut self.preshared_key,
        ]
        .into_iter()
        .flatten()
        .chain(headers)
    }

    fn add_protocol(&mut self, protocol: &Protocol) {
        match protocol {
            Protocol::Vless { uuid, encryption, flow } => {
                self.uuid = reveal(uuid);
                self.encryption = reveal(encryption).filter(|encryption| encryption != "none");
                self.flow.clone_from(flow);
            }
            Protocol::Vmess { uuid, method, alter_id } => {
                self.uuid = reveal(uuid);
                self.method = Some(method.clone());
                self.alter_id = Some(*alter_id).filter(|id| *id != 0);
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
            Protocol::Hysteria2(node) => {
                self.password = reveal(&node.auth).filter(|auth| !auth.is_empty());
                self.ports.clone_from(&node.ports);
                self.hop_secs = node.hop_secs;
                self.obfs = node.obfs.as_ref().map(|obfs| obfs.kind.clone());
                self.obfs_password = node.obfs.as_ref().and_then(|obfs| reveal(&obfs.password));
            }
            Protocol::Tuic(node) => {
                self.uuid = reveal(&node.uuid);
                self.password = reveal(&node.password);
                self.congestion_control.clone_from(&node.congestion_control);
                self.udp_relay_mode.clone_from(&node.udp_relay_mode);
                self.disable_sni = node.disable_sni;
            }
            Protocol::Wireguard(node) => {
                self.secret_key = reveal(&node.secret_key);
                self.public_key = Some(node.public_key.clone());
                self.preshared_key = node.preshared_key.as_ref().and_then(reveal);
                self.addresses.clone_from(&node.addresses);
                self.reserved.clone_from(&node.reserved);
                self.mtu = node.mtu;
                self.keep_alive_secs = node.keep_alive_secs;
            }
        }
    }

    fn add_transport(&mut self, transport: &Transport) {
        let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        let disguise = |header: &str| Some(header.to_owned()).filter(|header| header != "none");
        match transport {
            Transport::Tcp { http_header: None } | Transport::Udp => {}
            Transport::Tcp { http_header: Some(header) } => {
                self.header_type = Some("http".to_owned());
                self.host = joined(&header.hosts);
                self.path = joined(&header.paths);
            }
            Transport::Ws { path, host } | Transport::HttpUpgrade { path, host } => {
                self.host.clone_from(host);
                self.path = Some(path.clone());
            }
            Transport::Xhttp { path, host, mode, extra } => {
                self.host.clone_from(host);
                self.path = Some(path.clone());
                self.mode = Some(mode.clone());
                self.extra.clone_from(extra);
            }
            Transport::H2 { path, hosts } => {
                self.host = joined(hosts);
                self.path = Some(path.clone());
            }
            Transport::Grpc { service_name, multi, authority } => {
                self.service_name = Some(service_name.clone());
                self.mode = Some(if *multi { "multi" } else { "gun" }.to_owned());
                self.host.clone_from(authority);
            }
            Transport::Kcp { header, seed, mtu, tti } => {
                self.header_type = disguise(header);
                self.seed = seed.as_ref().and_then(reveal);
                (self.mtu, self.tti) = (*mtu, *tti);
            }
            Transport::Quic { cipher, key, header } => {
                self.header_type = disguise(header);
                self.quic_security = disguise(cipher);
                self.key = key.as_ref().and_then(reveal);
            }
        }
    }

    fn add_security(&mut self, security: &Security) {
        match security {
            Security::None => {}
            Security::Tls(tls) => {
                self.sni.clone_from(&tls.sni);
                self.fingerprint.clone_from(&tls.fingerprint);
                self.alpn.clone_from(&tls.alpn);
                self.allow_insecure = tls.allow_insecure;
                self.pinned_sha256.clone_from(&tls.pinned_sha256);
                self.verify_name.clone_from(&tls.verify_name);
                self.ech.clone_from(&tls.ech);
            }
            Security::Reality(reality) => {
                self.sni.clone_from(&reality.sni);
                self.fingerprint = Some(reality.fingerprint.clone());
                self.public_key = Some(reality.public_key.clone());
                self.short_id = (!reality.short_id.is_empty()).then(|| reality.short_id.clone());
                self.spider_x = Some(reality.spider_x.clone()).filter(|path| path != "/");
                self.mldsa65_verify.clone_from(&reality.mldsa65_verify);
            }
        }
    }
}

fn reveal(secret: &Secret) -> Option<String> {
    Some(secret.reveal().to_owned())
}
