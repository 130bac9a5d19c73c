//! The proxy server: one engine with an inbound for every protocol, transport and security, and their share links.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::engines::Kind;
use super::origin::Origin;
use super::ports::{self, Port};
use super::process::{Guard, OWNER_VARIABLE};
use super::scratch::Scratch;
use super::tls::{Authority, NODE_NAME, TRUST_VARIABLE};
use super::wait_for;

/// The path of every websocket and HTTP-header inbound.
pub const PATH: &str = "/lab";

/// A kind of node: what its inbound and its link are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// `vless`, `vmess`, `trojan`, `shadowsocks`, `socks` or `http`.
    pub protocol: &'static str,
    /// `tcp` or `ws`.
    pub network: &'static str,
    /// Whether TCP wears an HTTP header.
    pub http_header: bool,
    /// `none`, `tls` or `reality`.
    pub security: &'static str,
    /// The Shadowsocks cipher, else empty.
    pub cipher: &'static str,
    /// Whether a SOCKS or HTTP node wants a user name and password.
    pub login: bool,
    /// Whether the flow is `xtls-rprx-vision`.
    pub vision: bool,
}

impl Default for Spec {
    /// VLESS over nothing but TCP.
    fn default() -> Self {
        Self::PLAIN
    }
}

impl Spec {
    const PLAIN: Self = Self {
        protocol: "vless",
        network: "tcp",
        http_header: false,
        security: "none",
        cipher: "",
        login: false,
        vision: false,
    };

    /// Its name, made of its parts: `vless-tcp-none`, `vmess-tcp-http-tls`, `shadowsocks-aes-128-gcm-tcp-none`.
    pub fn name(&self) -> String {
        let mut parts = vec![self.protocol];
        if !self.cipher.is_empty() {
            parts.push(self.cipher);
        }
        if self.login {
            parts.push("login");
        }
        parts.push(self.network);
        if self.http_header {
            parts.push("http");
        }
        parts.push(self.security);
        if self.vision {
            parts.push("vision");
        }
        parts.join("-")
    }

    /// What a client needs that only Xray has.
    pub fn needs(&self) -> Vec<&'static str> {
        let mut needs = Vec::new();
        if self.security == "reality" {
            needs.push("reality");
        }
        if self.vision {
            needs.push("vision");
        }
        if self.cipher.starts_with("2022-") {
            needs.push("2022");
        }
        needs
    }

    /// All that a server of this kind has.
    fn all(kind: Kind) -> Vec<Self> {
        let mut specs = Vec::new();
        for protocol in ["vless", "vmess", "trojan"] {
            for security in ["none", "tls"] {
                for (network, http_header) in [("tcp", false), ("tcp", true), ("ws", false)] {
                    specs.push(Self { protocol, network, http_header, security, ..Self::PLAIN });
                }
            }
        }
        let shadowsocks = Self { protocol: "shadowsocks", ..Self::PLAIN };
        for cipher in ["aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305"] {
            specs.push(Self { cipher, ..shadowsocks });
        }
        for (network, security) in [("tcp", "tls"), ("ws", "none"), ("ws", "tls")] {
            specs.push(Self { cipher: "aes-256-gcm", network, security, ..shadowsocks });
        }
        for protocol in ["socks", "http"] {
            for (login, security) in [(false, "none"), (true, "none"), (true, "tls")] {
                specs.push(Self { protocol, login, security, ..Self::PLAIN });
            }
        }
        if kind == Kind::Xray {
            specs.push(Self { cipher: "2022-blake3-aes-128-gcm", ..shadowsocks });
            for (security, vision) in [("reality", false), ("reality", true), ("tls", true)] {
                specs.push(Self { security, vision, ..Self::PLAIN });
            }
        }
        specs
    }
}

/// A share link as a user would paste it.
#[derive(Debug, Clone)]
pub struct LabLink {
    /// The node's name, in the link as well.
    pub name: String,
    /// The link.
    pub link: String,
    /// The port the link leads to: the server's, or a relay's.
    pub port: u16,
    /// What an engine must have for it beyond what both have: of `reality`, `vision`, `2022`.
    pub needs: Vec<&'static str>,
    /// What kind of node it is.
    pub spec: Spec,
}

impl LabLink {
    /// Whether a client engine of this kind can use it.
    pub fn suits(&self, client: Kind) -> bool {
        client == Kind::Xray || self.needs.is_empty()
    }
}

/// What a client must know; made anew for each server.
#[derive(Clone)]
pub struct Secrets {
    /// Of vless and vmess users.
    pub uuid: String,
    /// Of everything else; it has characters that links must escape.
    pub password: String,
    /// The user name of SOCKS and HTTP nodes.
    pub user: String,
    /// The base64 key of the 2022 cipher.
    pub key_2022: String,
    /// REALITY's public key, empty on a V2Ray server.
    pub reality_public: String,
    /// REALITY's short id.
    pub short_id: String,
    reality_private: String,
}

impl Secrets {
    fn new(kind: Kind, program: &Path) -> Self {
        let (reality_private, reality_public) = match kind {
            Kind::Xray => reality_keys(program),
            Kind::V2ray => Default::default(),
        };
        let random = uuid::Uuid::new_v4();
        Self {
            uuid: random.to_string(),
            password: format!("p@ss:w/rd ü+{}", &random.simple().to_string()[..8]),
            user: "lab-user".into(),
            key_2022: STANDARD.encode(uuid::Uuid::new_v4().as_bytes()),
            reality_public,
            reality_private,
            short_id: "0123abcd".into(),
        }
    }
}

/// A running proxy server. It is killed on drop.
pub struct Server {
    kind: Kind,
    nodes: Vec<(Spec, Port)>,
    secrets: Secrets,
    guard: Guard,
    dir: Scratch,
}

impl Server {
    /// Starts `program` with every inbound it can have, and waits until all of them listen.
    ///
    /// `origin` lends its HTTPS face to REALITY, which shows it to strangers.
    pub fn start(kind: Kind, program: &Path, authority: &Authority, origin: &Origin) -> Self {
        let secrets = Secrets::new(kind, program);
        let nodes: Vec<_> = Spec::all(kind).into_iter().map(|spec| (spec, ports::take())).collect();
        let inbounds: Vec<_> =
            nodes.iter().map(|(spec, port)| inbound(spec, port.number(), &secrets, authority, origin)).collect();
        let freedom = match kind {
            Kind::V2ray => json!({}),
            // Newer ones keep visitors away from private addresses unless told otherwise; older ones do not know the key.
            Kind::Xray => json!({"finalRules": [{"action": "allow"}]}),
        };
        let config = json!({
            "log": {"loglevel": "warning", "access": "none"},
            "inbounds": inbounds,
            "outbounds": [{"protocol": "freedom", "settings": freedom}],
        });
        let (guard, dir) = run_engine(kind, program, &config, authority);
        let mut server = Self { kind, nodes, secrets, guard, dir };
        server.wait_until_ready();
        server
    }

    /// Which engine it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What its clients must know.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The links of all its nodes.
    pub fn links(&self) -> Vec<LabLink> {
        self.links_through(|_, port| port)
    }

    /// The links of all its nodes, each led to the port that `through` gives for its name and own port.
    pub fn links_through(&self, mut through: impl FnMut(&str, u16) -> u16) -> Vec<LabLink> {
        self.nodes
            .iter()
            .map(|(spec, port)| {
                let name = spec.name();
                let port = through(&name, port.number());
                LabLink { link: link(spec, &name, port, &self.secrets), needs: spec.needs(), spec: *spec, name, port }
            })
            .collect()
    }

    /// The link of one node.
    ///
    /// # Panics
    /// Without such a node; the message lists those there are.
    pub fn link(&self, name: &str) -> LabLink {
        self.link_through(name, self.port_of(name))
    }

    /// The link of one node, led to another port: a relay's.
    ///
    /// # Panics
    /// As [`Server::link`].
    pub fn link_through(&self, name: &str, port: u16) -> LabLink {
        let own = self.port_of(name);
        let mut links = self.links_through(
            |candidate, own_port| {
                if candidate == name && own_port == own { port } else { own_port }
            },
        );
        links.retain(|link| link.name == name);
        links.remove(0)
    }

    /// The port of one node.
    ///
    /// # Panics
    /// As [`Server::link`].
    pub fn port_of(&self, name: &str) -> u16 {
        let found = self.nodes.iter().find(|(spec, _)| spec.name() == name);
        let Some((_, port)) = found else {
            let names: Vec<_> = self.nodes.iter().map(|(spec, _)| spec.name()).collect();
            panic!("no node {name} among {}", names.join(", "));
        };
        port.number()
    }

    /// The engine's process.
    pub fn guard(&mut self) -> &mut Guard {
        &mut self.guard
    }

    fn wait_until_ready(&mut self) {
        for (spec, port) in &self.nodes {
            let what = format!("inbound {} listens", spec.name());
            wait_for(&what, || {
                if let Some(status) = self.guard.exited() {
                    let log = std::fs::read_to_string(self.dir.path().join("log"));
                    panic!("the server ended with {status}:\n{}", log.unwrap_or_default());
                }
                TcpStream::connect(port.addr()).ok()
            });
        }
    }
}

/// Runs an engine with a configuration, its output in the file `log` of the directory that comes back. Nothing is
/// waited for.
pub fn run_engine(kind: Kind, program: &Path, config: &Value, authority: &Authority) -> (Guard, Scratch) {
    let dir = Scratch::new();
    let file: PathBuf = dir.file("config.json", config.to_string());
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let guard = Guard::spawn(program, |command| {
        command
            .args(kind.run_arguments(program, &file))
            .env(TRUST_VARIABLE, authority.file())
            .env(OWNER_VARIABLE, dir.path())
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
    });
    (guard, dir)
}

fn inbound(spec: &Spec, port: u16, secrets: &Secrets, authority: &Authority, origin: &Origin) -> Value {
    let account = json!({"user": secrets.user, "pass": secrets.password});
    let settings = match spec.protocol {
        "vless" => {
            let mut client = json!({"id": secrets.uuid});
            if spec.vision {
                client["flow"] = json!("xtls-rprx-vision");
            }
            json!({"clients": [client], "decryption": "none"})
        }
        "vmess" => json!({"clients": [{"id": secrets.uuid}]}),
        "trojan" => json!({"clients": [{"password": secrets.password}]}),
        "shadowsocks" => json!({
            "method": spec.cipher, "password": shadowsocks_password(spec, secrets), "network": "tcp,udp",
        }),
        "socks" if spec.login => {
            json!({"auth": "password", "accounts": [account], "udp": true, "ip": "127.0.0.1"})
        }
        "socks" => json!({"auth": "noauth", "udp": true, "ip": "127.0.0.1"}),
        "http" if spec.login => json!({"accounts": [account]}),
        _ => json!({}),
    };
    let mut stream = json!({"network": spec.network, "security": spec.security});
    if spec.network == "ws" {
        stream["wsSettings"] = json!({"path": PATH});
    }
    if spec.http_header {
        stream["tcpSettings"] = json!({"header": {"type": "http", "request": {"path": [PATH]}}});
    }
    match spec.security {
        "tls" => {
            stream["tlsSettings"] = json!({"certificates": [{
                "certificateFile": authority.certificate_file(), "keyFile": authority.key_file(),
            }]});
            if spec.protocol == "http" {
                // Left to itself the listener agrees to h2, which the HTTP inbound then does not speak.
                stream["tlsSettings"]["alpn"] = json!(["http/1.1"]);
            }
        }
        "reality" => {
            stream["realitySettings"] = json!({
                "dest": origin.https().to_string(), "serverNames": [NODE_NAME],
                "privateKey": secrets.reality_private, "shortIds": [secrets.short_id],
            });
        }
        _ => {}
    }
    json!({
        "listen": "127.0.0.1", "port": port, "protocol": spec.protocol,
        "settings": settings, "streamSettings": stream,
    })
}

fn link(spec: &Spec, name: &str, port: u16, secrets: &Secrets) -> String {
    let password = escape(&secrets.password);
    let uuid = &secrets.uuid;
    let query = query(spec, secrets);
    match spec.protocol {
        "vless" => format!("vless://{uuid}@127.0.0.1:{port}?encryption=none&{query}#{name}"),
        "vmess" => {
            let mut node = json!({
                "v": "2", "ps": name, "add": "127.0.0.1", "port": port.to_string(), "id": uuid, "aid": "0",
                "scy": "auto", "net": spec.network, "type": "none", "host": "", "path": "", "tls": "",
            });
            if spec.http_header {
                node["type"] = json!("http");
            }
            if spec.http_header || spec.network == "ws" {
                node["host"] = json!(NODE_NAME);
                node["path"] = json!(PATH);
            }
            if spec.security == "tls" {
                node["tls"] = json!("tls");
                node["sni"] = json!(NODE_NAME);
            }
            format!("vmess://{}", STANDARD.encode(node.to_string()))
        }
        "trojan" => format!("trojan://{password}@127.0.0.1:{port}?{query}#{name}"),
        "shadowsocks" => {
            let secret = shadowsocks_password(spec, secrets);
            let user = if spec.cipher.starts_with("2022-") {
                format!("{}:{}", spec.cipher, escape(secret))
            } else {
                URL_SAFE_NO_PAD.encode(format!("{}:{secret}", spec.cipher))
            };
            if spec.network == "tcp" && spec.security == "none" {
                format!("ss://{user}@127.0.0.1:{port}#{name}")
            } else {
                format!("ss://{user}@127.0.0.1:{port}?{query}#{name}")
            }
        }
        "socks" => {
            let login = STANDARD.encode(format!("{}:{}", secrets.user, secrets.password));
            let login = if spec.login { format!("{login}@") } else { String::new() };
            let query = if spec.security == "none" { String::new() } else { format!("?{query}") };
            format!("socks://{login}127.0.0.1:{port}{query}#{name}")
        }
        "http" => {
            let login = if spec.login { format!("{}:{password}@", secrets.user) } else { String::new() };
            if spec.security == "tls" {
                format!("https://{login}127.0.0.1:{port}?sni={NODE_NAME}#{name}")
            } else {
                format!("http://{login}127.0.0.1:{port}#{name}")
            }
        }
        other => panic!("no link for {other}"),
    }
}

fn query(spec: &Spec, secrets: &Secrets) -> String {
    let mut query = format!("type={}&security={}", spec.network, spec.security);
    if spec.http_header {
        query.push_str("&headerType=http");
    }
    if spec.http_header || spec.network == "ws" {
        query.push_str(&format!("&host={NODE_NAME}&path={}", escape(PATH)));
    }
    if spec.security != "none" {
        query.push_str(&format!("&sni={NODE_NAME}"));
    }
    if spec.security == "reality" {
        query.push_str(&format!("&fp=chrome&pbk={}&sid={}", secrets.reality_public, secrets.short_id));
    }
    if spec.vision {
        query.push_str("&flow=xtls-rprx-vision");
    }
    query
}

/// The Shadowsocks password that goes with the cipher.
pub fn shadowsocks_password<'a>(spec: &Spec, secrets: &'a Secrets) -> &'a str {
    if spec.cipher.starts_with("2022-") { &secrets.key_2022 } else { &secrets.password }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A fresh private and public key, from `xray x25519`.
fn reality_keys(program: &Path) -> (String, String) {
    printed_pair(program, "x25519")
}

/// The first two values that a command of the engine prints, as of `x25519`, `wg` and `vlessenc`.
pub fn printed_pair(program: &Path, command: &str) -> (String, String) {
    let output = std::process::Command::new(program).arg(command).output().expect("xray runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let values = text.lines().filter_map(|line| line.split_once(": ")).filter(|(key, _)| *key != "Authentication");
    match values.map(|(_, value)| value.trim().replace('"', "")).collect::<Vec<_>>().as_slice() {
        [private, public, ..] => (private.clone(), public.clone()),
        _ => panic!("xray {command} printed {text:?}"),
    }
}
