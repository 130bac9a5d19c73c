//! The nodes themselves: a config for the client beside the inbound for the server, one kind after the other.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xrat::config::{Config, Hysteria2, Obfs, Protocol, Reality, Secret, Security, Tls, Transport, Wireguard};

use super::super::engines::Kind;
use super::super::origin::Origin;
use super::super::ports;
use super::super::server::{PATH, printed_pair};
use super::super::tls::{Authority, NODE_NAME};
use super::Node;

/// What is the same for all nodes of a server.
pub(super) struct Maker<'a> {
    pub(super) program: &'a Path,
    /// Xray 26 and newer: mKCP's looks are masks, Hysteria 2 has an inbound.
    pub(super) masks: bool,
    pub(super) authority: &'a Authority,
    pub(super) origin: &'a Origin,
    pub(super) uuid: String,
    pub(super) password: String,
    pub(super) nodes: Vec<Node>,
}

/// Plain TLS for the lab's certificate.
fn tls() -> Security {
    Security::Tls(Tls { sni: Some(NODE_NAME.into()), ..Tls::default() })
}

fn tls_with_alpn(name: &str) -> Security {
    Security::Tls(Tls { sni: Some(NODE_NAME.into()), alpn: vec![name.into()], ..Tls::default() })
}

fn xhttp(mode: &str, extra: &Value) -> Transport {
    let extra: BTreeMap<String, Value> = serde_json::from_value(extra.clone()).unwrap();
    Transport::Xhttp { path: PATH.into(), host: None, mode: mode.into(), extra }
}

fn grpc(service_name: &str, multi: bool, authority: Option<&str>) -> Transport {
    Transport::Grpc { service_name: service_name.into(), multi, authority: authority.map(str::to_owned) }
}

fn kcp(header: &str, seed: Option<&str>) -> Transport {
    Transport::Kcp { header: header.into(), seed: seed.map(Secret::new), mtu: None, tti: Some(20) }
}

fn tcp() -> Transport {
    Transport::Tcp { http_header: None }
}

impl Maker<'_> {
    /// All nodes that a server of this kind can have.
    pub(super) fn make(mut self, kind: Kind, has_grpc: bool) -> Vec<Node> {
        self.common();
        match kind {
            Kind::Xray => self.xray(),
            Kind::V2ray => self.v2ray(),
        }
        if has_grpc {
            self.grpc(kind);
        }
        self.nodes
    }

    fn vless(&self) -> Protocol {
        self.vless_with("none", None)
    }

    fn vless_with(&self, encryption: &str, flow: Option<&str>) -> Protocol {
        Protocol::Vless {
            uuid: Secret::new(&self.uuid),
            encryption: Secret::new(encryption),
            flow: flow.map(str::to_owned),
        }
    }

    fn vmess(&self) -> Protocol {
        Protocol::Vmess { uuid: Secret::new(&self.uuid), method: "auto".into(), alter_id: 0 }
    }

    fn trojan(&self) -> Protocol {
        Protocol::Trojan { password: Secret::new(&self.password) }
    }

    /// A node whose inbound has these settings and this stream.
    fn add(&mut self, name: &str, node: (Protocol, Transport, Security), settings: Value, stream: Value) {
        let port = ports::take();
        let (protocol, transport, security) = node;
        let inbound_protocol = match &protocol {
            Protocol::Hysteria2(_) => "hysteria",
            other => other.name(),
        };
        let mut inbound = json!({
            "listen": "127.0.0.1", "port": port.number(), "protocol": inbound_protocol, "settings": settings,
        });
        if !stream.is_null() {
            inbound["streamSettings"] = stream;
        }
        let config = Config {
            name: name.to_owned(),
            address: "127.0.0.1".into(),
            port: NonZeroU16::new(port.number()).unwrap(),
            protocol,
            transport,
            security,
        };
        self.nodes.push(Node { name: name.to_owned(), config, inbound, port });
    }

    /// A VLESS, VMess or Trojan node over a stream; `own` is what the server's side of the transport is.
    fn over(&mut self, name: &str, node: (Protocol, Transport, Security), own: Value) {
        let settings = match &node.0 {
            Protocol::Vless { flow, .. } => {
                let mut client = json!({ "id": self.uuid });
                if flow.is_some() {
                    client["flow"] = json!("xtls-rprx-vision");
                }
                json!({ "clients": [client], "decryption": "none" })
            }
            Protocol::Vmess { .. } => json!({ "clients": [{ "id": self.uuid }] }),
            _ => json!({ "clients": [{ "password": self.password }] }),
        };
        let stream = self.secured(&node.2, node.1.name(), own);
        self.add(name, node, settings, stream);
    }

    /// The stream of an inbound with this security.
    fn secured(&self, security: &Security, network: &str, mut own: Value) -> Value {
        own["network"] = network.into();
        own["security"] = security.name().into();
        if let Security::Tls(tls) = security {
            own["tlsSettings"] = json!({ "certificates": [{
                "certificateFile": self.authority.certificate_file(), "keyFile": self.authority.key_file(),
            }] });
            // Otherwise it speaks HTTP/1.1 and HTTP/2, whatever its clients are told to offer.
            if tls.alpn == ["h3"] {
                own["tlsSettings"]["alpn"] = json!(["h3"]);
            }
        }
        own
    }

    /// mKCP, which both kinds have.
    fn common(&mut self) {
        let headers = ["none", "srtp", "utp", "wechat-video", "dtls", "wireguard"];
        for (header, seed) in headers.into_iter().flat_map(|header| [(header, None), (header, Some("s ee/d"))]) {
            let own = if !self.masks {
                let mut settings = json!({ "header": { "type": header } });
                if let Some(seed) = seed {
                    settings["seed"] = seed.into();
                }
                json!({ "kcpSettings": settings })
            } else {
                let cipher = match seed {
                    Some(seed) => json!({ "type": "mkcp-aes128gcm", "settings": { "password": seed } }),
                    None => json!({ "type": "mkcp-original" }),
                };
                let name = header.trim_end_matches("-video");
                let header = (header != "none").then(|| json!({ "type": format!("header-{name}") }));
                json!({ "finalmask": { "udp": header.into_iter().chain([cipher]).collect::<Vec<_>>() } })
            };
            let name = format!("vless-kcp-{header}{}", if seed.is_some() { "-seed" } else { "" });
            self.over(&name, (self.vless(), kcp(header, seed), Security::None), own.clone());
            if header == "none" && seed.is_some() {
                self.over("trojan-kcp-tls", (self.trojan(), kcp(header, seed), tls()), own);
            }
        }
    }

    /// What V2Ray alone has.
    fn v2ray(&mut self) {
        for (name, protocol) in [("vless-h2-tls", self.vless()), ("vmess-h2-tls", self.vmess())] {
            let transport = Transport::H2 { path: PATH.into(), hosts: Vec::new() };
            let own = json!({ "httpSettings": { "path": PATH, "host": [NODE_NAME] } });
            self.over(name, (protocol, transport, tls()), own);
        }
        for (cipher, header, security) in [
            ("none", "none", Security::None),
            ("aes-128-gcm", "srtp", Security::None),
            ("chacha20-poly1305", "wechat-video", tls()),
        ] {
            let key = (cipher != "none").then_some("k ey");
            let transport = Transport::Quic { cipher: cipher.into(), key: key.map(Secret::new), header: header.into() };
            let own = json!({ "quicSettings": { "security": cipher, "key": key.unwrap_or_default(), "header": { "type": header } } });
            let name = format!("vless-quic-{cipher}-{}", security.name());
            self.over(&name, (self.vless(), transport, security), own);
        }
    }

    /// gRPC as V2Ray 5 and Xray have it, and as Xray alone does.
    fn grpc(&mut self, kind: Kind) {
        let own = |name: &str| json!({ "grpcSettings": { "serviceName": name } });
        self.over("vless-grpc-none", (self.vless(), grpc("lab", false, None), Security::None), own("lab"));
        self.over("trojan-grpc-tls", (self.trojan(), grpc("lab", false, None), tls()), own("lab"));
        self.over("vmess-grpc-unnamed-tls", (self.vmess(), grpc("", false, None), tls_with_alpn("http/1.1")), own(""));
        if kind == Kind::V2ray {
            return;
        }
        self.over("vless-grpc-multi-tls", (self.vless(), grpc("la b", true, None), tls()), own("la b"));
        let authority = grpc("lab", false, Some("other.test"));
        self.over("vless-grpc-authority-tls", (self.vless(), authority, tls()), own("lab"));
        let path = "/my own/path/one|many";
        self.over("vless-grpc-path-tls", (self.vless(), grpc("/my own/path/one", false, None), tls()), own(path));
        self.over("vless-grpc-path-multi-tls", (self.vless(), grpc("/my own/path/many", true, None), tls()), own(path));
    }

    /// What Xray alone has.
    fn xray(&mut self) {
        self.upgrades();
        self.xhttp();
        self.reality();
        self.vless_encryption();
        self.shadowsocks();
        self.hysteria();
        self.wireguard();
        let dns = json!({ "finalmask": { "udp": [{ "type": "header-dns" }, { "type": "mkcp-original" }] } });
        if self.masks {
            self.over("vless-kcp-dns", (self.vless(), kcp("dns", None), Security::None), dns);
        }
        let vision = self.vless_with("none", Some("xtls-rprx-vision-udp443"));
        self.over("vless-tcp-tls-vision-udp443", (vision, tcp(), tls()), json!({}));
    }

    fn upgrades(&mut self) {
        let own = json!({ "httpupgradeSettings": { "path": PATH } });
        let transport =
            |host: Option<&str>| Transport::HttpUpgrade { path: PATH.into(), host: host.map(str::to_owned) };
        self.over("vless-httpupgrade-none", (self.vless(), transport(None), Security::None), own.clone());
        self.over("trojan-httpupgrade-tls", (self.trojan(), transport(Some(NODE_NAME)), tls()), own.clone());
        let early = Transport::HttpUpgrade { path: format!("{PATH}?ed=2048"), host: None };
        self.over("vmess-httpupgrade-early-tls", (self.vmess(), early, tls_with_alpn("h2")), own);
    }

    fn xhttp(&mut self) {
        let own = || json!({ "xhttpSettings": { "path": PATH } });
        for mode in ["auto", "packet-up", "stream-up", "stream-one"] {
            for security in [Security::None, tls()] {
                let name = format!("vless-xhttp-{mode}-{}", security.name());
                self.over(&name, (self.vless(), xhttp(mode, &json!({})), security), own());
            }
        }
        for version in ["http/1.1", "h3"] {
            let name = format!("vless-xhttp-auto-tls-{}", version.replace('/', ""));
            self.over(&name, (self.vless(), xhttp("auto", &json!({})), tls_with_alpn(version)), own());
        }
        // A browser's client hello offers h2 whatever the link says, so this takes a server without.
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name.ends_with("-http1.1")) {
            node.inbound["streamSettings"]["tlsSettings"]["alpn"] = json!(["http/1.1"]);
        }
        let plain = json!({
            "xPaddingBytes": "100-200", "noGRPCHeader": true, "scMaxEachPostBytes": "20000-30000",
            "scMinPostsIntervalMs": 1, "xmux": { "maxConcurrency": "2-4", "hMaxRequestTimes": "10-20" },
            "headers": { "X-Lab": "1" },
        });
        let transport = xhttp("packet-up", &plain);
        let mut server = json!({ "xhttpSettings": { "path": PATH, "xPaddingBytes": "100-200" } });
        self.over("vless-xhttp-extra-tls", (self.vless(), transport, tls()), server.clone());
        if self.masks {
            let places = json!({
                "xPaddingObfsMode": true, "xPaddingPlacement": "cookie", "xPaddingKey": "pad", "xPaddingMethod": "tokenish",
                "sessionIDPlacement": "header", "sessionIDKey": "X-Sess", "seqPlacement": "query", "seqKey": "n",
            });
            let transport = xhttp("packet-up", &places);
            server["xhttpSettings"] = json!({ "path": PATH, "extra": {
                "xPaddingObfsMode": true, "xPaddingPlacement": "cookie", "xPaddingKey": "pad", "xPaddingMethod": "tokenish",
                "sessionPlacement": "header", "sessionKey": "X-Sess", "seqPlacement": "query", "seqKey": "n",
            } });
            self.over("vless-xhttp-places-tls", (self.vless(), transport, tls()), server);
        }
    }

    fn reality(&mut self) {
        let (private, public) = printed_pair(self.program, "x25519");
        let security = Security::Reality(Reality {
            sni: Some(NODE_NAME.into()),
            fingerprint: "chrome".into(),
            public_key: public,
            short_id: "0123abcd".into(),
            spider_x: "/".into(),
            mldsa65_verify: None,
        });
        let server = json!({
            "dest": self.origin.https().to_string(), "serverNames": [NODE_NAME],
            "privateKey": private, "shortIds": ["0123abcd"],
        });
        for (name, transport) in [
            ("vless-grpc-reality", grpc("lab", false, None)),
            ("vless-xhttp-auto-reality", xhttp("auto", &json!({}))),
            ("vless-xhttp-packet-up-reality", xhttp("packet-up", &json!({}))),
        ] {
            let own = json!({
                "realitySettings": server, "grpcSettings": { "serviceName": "lab" }, "xhttpSettings": { "path": PATH },
            });
            self.over(name, (self.vless(), transport, security.clone()), own);
        }
    }

    fn vless_encryption(&mut self) {
        let (decryption, encryption) = printed_pair(self.program, "vlessenc");
        let padded = encryption.replacen(".0rtt.", ".1rtt.100-111-1111.75-0-111.50-0-3333.", 1);
        for (name, encryption, flow, transport) in [
            ("vless-encrypted-tcp", &encryption, None, tcp()),
            ("vless-encrypted-padded-tcp", &padded, None, tcp()),
            ("vless-encrypted-tcp-vision", &encryption, Some("xtls-rprx-vision"), tcp()),
            ("vless-encrypted-xhttp-vision", &encryption, Some("xtls-rprx-vision"), xhttp("auto", &json!({}))),
        ] {
            let mut client = json!({ "id": self.uuid });
            if let Some(flow) = flow {
                client["flow"] = flow.into();
            }
            let settings = json!({ "clients": [client], "decryption": decryption });
            let stream = json!({ "network": transport.name(), "xhttpSettings": { "path": PATH } });
            self.add(name, (self.vless_with(encryption, flow), transport, Security::None), settings, stream);
        }
    }

    fn shadowsocks(&mut self) {
        let node = |method: &str, password: &str| {
            let password = Secret::new(password);
            (Protocol::Shadowsocks { method: method.into(), password, plugin: None }, tcp(), Security::None)
        };
        let key = |bytes: usize| STANDARD.encode(&uuid::Uuid::new_v4().simple().to_string().as_bytes()[..bytes]);
        for (method, bytes) in
            [("2022-blake3-aes-128-gcm", 16), ("2022-blake3-aes-256-gcm", 32), ("2022-blake3-chacha20-poly1305", 32)]
        {
            let own = key(bytes);
            let settings = json!({ "method": method, "password": own, "network": "tcp,udp" });
            self.add(&format!("shadowsocks-{method}"), node(method, &own), settings, Value::Null);
        }
        for (method, bytes) in [("2022-blake3-aes-128-gcm", 16), ("2022-blake3-aes-256-gcm", 32)] {
            let (server, user) = (key(bytes), key(bytes));
            let settings = json!({
                "method": method, "password": server, "clients": [{ "password": user }], "network": "tcp,udp",
            });
            let name = format!("shadowsocks-{method}-user");
            self.add(&name, node(method, &format!("{server}:{user}")), settings, Value::Null);
        }
        let method = "xchacha20-ietf-poly1305";
        let settings = json!({ "method": method, "password": self.password, "network": "tcp,udp" });
        self.add(&format!("shadowsocks-{method}"), node(method, &self.password), settings, Value::Null);
    }

    fn hysteria(&mut self) {
        if !self.masks {
            return;
        }
        for (name, obfs, hops) in [
            ("hysteria2", None, false),
            ("hysteria2-salamander", Some("s ecret"), false),
            ("hysteria2-hops", None, true),
            ("hysteria2-salamander-hops", Some("s ecret"), true),
        ] {
            let node = Hysteria2 {
                auth: Secret::new("user:pa ss"),
                ports: None,
                hop_secs: hops.then_some(5),
                obfs: obfs.map(|password| Obfs { kind: "salamander".into(), password: Secret::new(password) }),
            };
            let mut own = json!({ "hysteriaSettings": { "version": 2, "auth": "user:pa ss" } });
            if let Some(password) = obfs {
                own["finalmask"] = json!({ "udp": [{ "type": "salamander", "settings": { "password": password } }] });
            }
            let mut stream = self.secured(&tls_with_alpn("h3"), "hysteria", own);
            stream["hysteriaSettings"]["udpIdleTimeout"] = 60.into();
            let settings = json!({ "version": 2, "clients": [{ "auth": "user:pa ss" }] });
            self.add(name, (Protocol::Hysteria2(node), Transport::Udp, tls()), settings, stream);
            if hops && let Some(added) = self.nodes.last_mut() {
                // The way there and back to one port: many would take a firewall's help.
                let port = added.config.port;
                let Protocol::Hysteria2(node) = &mut added.config.protocol else { continue };
                node.ports = Some(format!("{port}-{port}"));
            }
        }
    }

    fn wireguard(&mut self) {
        for (name, shared, reserved) in
            [("wireguard", false, Vec::new()), ("wireguard-shared-reserved", true, vec![1, 2, 3])]
        {
            let (server_private, server_public) = printed_pair(self.program, "wg");
            let (client_private, client_public) = printed_pair(self.program, "wg");
            let shared = shared.then(|| printed_pair(self.program, "wg").0);
            let node = Wireguard {
                secret_key: Secret::new(client_private),
                public_key: server_public,
                preshared_key: shared.clone().map(Secret::new),
                addresses: vec!["10.77.0.2/24".into(), "fd77::2/64".into()],
                reserved,
                mtu: Some(1300),
                keep_alive_secs: Some(25),
            };
            let mut peer = json!({ "publicKey": client_public, "allowedIPs": ["10.77.0.2/32", "fd77::2/128"] });
            if let Some(shared) = shared {
                peer["preSharedKey"] = shared.into();
            }
            let settings = json!({
                "secretKey": server_private, "address": ["10.77.0.1/32", "fd77::1/128"], "peers": [peer], "mtu": 1300,
            });
            let node = (Protocol::Wireguard(node), Transport::Udp, Security::None);
            self.add(name, node, settings, Value::Null);
        }
    }
}
