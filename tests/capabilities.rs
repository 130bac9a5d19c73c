//! Random configs over the whole model: what xrat says an engine can do, the engine's own check accepts, and for what it
//! says an engine cannot do, nothing is generated.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lab::random::Random;
use lab::scratch::Scratch;
use lab::vectors::{expand, tables};
use lab::{Kind, engine, nodes, rounds};
use serde_json::{Value, json};
use xrat::config::{
    Config, ConfigId, HttpHeader, Hysteria2, Obfs, Protocol, Reality, Secret, Security, Tls, Transport, Tuic, Wireguard,
};
use xrat::engine::{Engine, SessionFiles, batch_config, refused_tag, session_config};

/// Configs in one file: what a batch of tests may well have.
const BATCH: usize = 400;

/// Texts that somebody could have put anywhere.
const ODD: [&str; 8] = ["", " ", "a b", "ü\"\\", "%zz", "a\u{1}b", "../..", "{\"a\":1}"];

/// Makes configs of which most are good.
struct Maker(Random);

impl Maker {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.0.below(of.len() as u64)).unwrap()]
    }

    /// Once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.0.below(times) == 0
    }

    /// One of these, and now and then something odd.
    fn text(&mut self, of: &[&str]) -> String {
        if self.once_in(15) { self.pick(&ODD).to_owned() } else { self.pick(of).to_owned() }
    }

    fn maybe(&mut self, of: &[&str]) -> Option<String> {
        (!self.once_in(3)).then(|| self.text(of))
    }

    fn secret(&mut self, of: &[&str]) -> Secret {
        Secret::new(self.text(of))
    }

    /// Base64 of so many bytes, or of one fewer.
    fn key(&mut self, bytes: usize) -> String {
        let length = if self.once_in(15) { bytes - 1 } else { bytes };
        let bytes: Vec<_> = (0..length).map(|_| u8::try_from(self.0.below(256)).unwrap()).collect();
        STANDARD.encode(bytes)
    }

    fn url_key(&mut self, bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(STANDARD.decode(self.key(bytes)).unwrap())
    }

    fn config(&mut self) -> Config {
        let protocol = self.protocol();
        let own = matches!(protocol, Protocol::Hysteria2(_) | Protocol::Tuic(_) | Protocol::Wireguard(_));
        let transport = if own && !self.once_in(10) { Transport::Udp } else { self.transport() };
        let security = match protocol {
            Protocol::Hysteria2(_) if !self.once_in(10) => Security::Tls(self.tls()),
            Protocol::Wireguard(_) if !self.once_in(10) => Security::None,
            _ => self.security(),
        };
        let addresses = ["node.test", "192.0.2.1", "2001:db8::1", "xn--nxasmq6b.test"];
        Config {
            name: "any".into(),
            address: self.pick(&addresses).to_owned(),
            port: NonZeroU16::new(self.pick(&[1, 443, 65535])).unwrap(),
            protocol,
            transport,
            security,
        }
    }

    fn uuid(&mut self) -> Secret {
        self.secret(&["b831381d-6324-4d53-ad4f-8cda48b30811", "B831381D63244D53AD4F8CDA48B30811", "short"])
    }

    fn protocol(&mut self) -> Protocol {
        let passwords = ["password", "p@ss:w/rd ü+\"'\\", "x"];
        match self.0.below(12) {
            0..=2 => Protocol::Vless {
                uuid: self.uuid(),
                encryption: Secret::new(self.encryption()),
                flow: if self.once_in(3) { self.maybe(&["xtls-rprx-vision", "xtls-rprx-vision-udp443"]) } else { None },
            },
            3 => Protocol::Vmess {
                uuid: self.uuid(),
                method: self.text(&["auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero"]),
                alter_id: self.pick(&[0, 0, 0, 64]),
            },
            4 => Protocol::Trojan { password: self.secret(&passwords) },
            5 | 6 => self.shadowsocks(),
            7 => Protocol::Socks { username: self.maybe(&["user"]), password: self.maybe(&passwords).map(Secret::new) },
            8 => Protocol::Http { username: self.maybe(&["user"]), password: self.maybe(&passwords).map(Secret::new) },
            9 => Protocol::Hysteria2(Hysteria2 {
                auth: self.secret(&["user:password", "auth"]),
                ports: self.maybe(&["443", "443,5000-6000", "1-65535", "0", "70000"]),
                hop_secs: self.pick(&[None, Some(0), Some(30), Some(u32::MAX)]),
                obfs: self
                    .maybe(&["salamander", "salamander", "salamander", "gecko"])
                    .map(|kind| Obfs { kind, password: self.secret(&["secret", "s ecret", "abc"]) }),
            }),
            10 => Protocol::Wireguard(self.wireguard()),
            _ => Protocol::Tuic(Tuic {
                uuid: self.uuid(),
                password: self.secret(&passwords),
                congestion_control: self.maybe(&["bbr"]),
                udp_relay_mode: None,
                disable_sni: false,
            }),
        }
    }

    fn encryption(&mut self) -> String {
        if !self.once_in(4) {
            return "none".into();
        }
        let words = self.text(&["native.0rtt", "xorpub.1rtt", "random.0rtt", "native.600s"]);
        let padding = self.text(&["", "", "100-111-1111.", "100-111-1111.75-0-111.50-0-3333.", "1-2-3.", "100."]);
        let keys = match self.0.below(4) {
            0 => URL_SAFE_NO_PAD.encode([0; 1184]),
            1 => format!("{}.{}", self.url_key(32), self.url_key(32)),
            2 if self.once_in(3) => self.url_key(1184),
            _ => self.url_key(32),
        };
        format!("mlkem768x25519plus.{words}.{padding}{keys}")
    }

    fn shadowsocks(&mut self) -> Protocol {
        let method = self.text(&[
            "aes-128-gcm",
            "aes-256-gcm",
            "chacha20-poly1305",
            "chacha20-ietf-poly1305",
            "xchacha20-poly1305",
            "xchacha20-ietf-poly1305",
            "2022-blake3-aes-128-gcm",
            "2022-blake3-aes-256-gcm",
            "2022-blake3-chacha20-poly1305",
            "none",
            "plain",
            "rc4-md5",
            "aes-256-cfb",
        ]);
        let bytes = if method == "2022-blake3-aes-128-gcm" { 16 } else { 32 };
        let password = match self.0.below(3) {
            0 => format!("{}:{}", self.key(bytes), self.key(bytes)),
            _ => self.key(bytes),
        };
        let plugin = self.once_in(4).then(|| {
            Secret::new(self.text(&[
                "obfs-local;obfs=http",
                "obfs-local;obfs=http;obfs-host=h.test;obfs-uri=/a b",
                "obfs-local;obfs=tls;obfs-host=h.test",
                "simple-obfs;obfs=http;obfs-host=ü\"",
                "v2ray-plugin;mux=0",
                "v2ray-plugin;tls;host=h.test;path=/p?ed=2048;mux=0",
                "v2ray-plugin;tls;host=h.test",
                "v2ray-plugin;mode=quic;mux=0",
                "shadow-tls;host=h.test",
            ]))
        });
        Protocol::Shadowsocks { method, password: Secret::new(password), plugin }
    }

    fn wireguard(&mut self) -> Wireguard {
        let addresses = [&["10.0.0.2/32"][..], &["10.0.0.2/24", "fd00::2/64"], &["172.16.0.2"], &[], &["10.0.0.2/33"]];
        Wireguard {
            secret_key: Secret::new(self.key(32)),
            public_key: self.key(32),
            preshared_key: self.once_in(2).then(|| Secret::new(self.key(32))),
            addresses: self.pick(&addresses).iter().map(|text| (*text).to_owned()).collect(),
            reserved: self.pick(&[&[][..], &[1, 2, 3], &[0, 255, 7], &[1]]).to_vec(),
            mtu: self.pick(&[None, Some(1280), Some(1420), Some(65535), Some(0)]),
            keep_alive_secs: self.pick(&[None, Some(25), Some(0)]),
        }
    }

    fn transport(&mut self) -> Transport {
        let paths = ["/", "/path", "/p?ed=2048", "/a b/ü", "/%41"];
        let hosts = ["host.test", "host.test:8443", "[::1]:80"];
        let headers = ["none", "srtp", "utp", "wechat-video", "dtls", "wireguard", "dns"];
        match self.0.below(12) {
            0 | 1 => Transport::Tcp { http_header: None },
            2 => Transport::Tcp {
                http_header: Some(HttpHeader {
                    hosts: self.maybe(&hosts).into_iter().collect(),
                    paths: self.maybe(&paths).into_iter().collect(),
                }),
            },
            3 => Transport::Ws { path: self.text(&paths), host: self.maybe(&hosts) },
            4 => Transport::HttpUpgrade { path: self.text(&paths), host: self.maybe(&hosts) },
            5 | 6 => Transport::Xhttp {
                path: self.text(&paths),
                host: self.maybe(&hosts),
                mode: self.text(&["auto", "packet-up", "packet-up", "stream-up", "stream-one"]),
                extra: self.extra(),
            },
            7 => Transport::Grpc {
                service_name: self.text(&["name", "a.b-c", "/a/b|c", "/", "a/b"]),
                multi: self.once_in(3),
                authority: if self.once_in(3) { self.maybe(&hosts) } else { None },
            },
            8 | 9 => Transport::Kcp {
                header: self.text(&headers),
                seed: self.maybe(&["seed", "s ee/d"]).map(Secret::new),
                mtu: self.pick(&[None, None, Some(576), Some(1460), Some(0), Some(1461)]),
                tti: self.pick(&[None, None, Some(10), Some(100), Some(0), Some(5000)]),
            },
            10 => Transport::H2 { path: self.text(&paths), hosts: self.maybe(&hosts).into_iter().collect() },
            _ => match self.once_in(8) {
                true => Transport::Udp,
                false => Transport::Quic {
                    cipher: self.text(&["none", "aes-128-gcm", "chacha20-poly1305"]),
                    key: self.maybe(&["key"]).map(Secret::new),
                    header: self.text(&headers),
                },
            },
        }
    }

    fn extra(&mut self) -> BTreeMap<String, Value> {
        let values = [
            ("xPaddingBytes", json!("100-1000")),
            ("xPaddingBytes", json!(0)),
            ("noGRPCHeader", json!(true)),
            ("noSSEHeader", json!("yes")),
            ("scMaxEachPostBytes", json!("10000-1000000")),
            ("scMaxEachPostBytes", json!(-1)),
            ("scMinPostsIntervalMs", json!(30)),
            ("scMaxBufferedPosts", json!(30)),
            ("scStreamUpServerSecs", json!("20-80")),
            ("xmux", json!({ "maxConcurrency": "16-32", "hMaxRequestTimes": "600-900", "hKeepAlivePeriod": 0 })),
            ("xmux", json!({ "maxConcurrency": 1, "maxConnections": 2 })),
            ("headers", json!({ "X-A": "b" })),
            ("headers", json!({ "host": "b" })),
            ("xPaddingObfsMode", json!(true)),
            ("xPaddingKey", json!("key")),
            ("xPaddingHeader", json!("X-Pad")),
            ("xPaddingPlacement", json!("cookie")),
            ("xPaddingPlacement", json!("elsewhere")),
            ("xPaddingMethod", json!("tokenish")),
            ("uplinkHTTPMethod", json!("PUT")),
            ("uplinkHTTPMethod", json!("GET")),
            ("sessionPlacement", json!("query")),
            ("sessionIDKey", json!("X-S")),
            ("seqPlacement", json!("header")),
            ("seqKey", json!("X-N")),
            ("uplinkDataPlacement", json!("cookie")),
            ("uplinkDataKey", json!("data")),
            ("uplinkChunkSize", json!("100-200")),
            ("serverMaxHeaderBytes", json!(8192)),
            ("downloadSettings", json!({ "address": "other.test", "port": 443 })),
        ];
        let count = self.pick(&[0, 0, 1, 1, 2, 4]);
        (0..count)
            .map(|_| {
                let (key, value) = &values[usize::try_from(self.0.below(values.len() as u64)).unwrap()];
                ((*key).to_owned(), value.clone())
            })
            .collect()
    }

    fn security(&mut self) -> Security {
        match self.0.below(5) {
            0 | 1 => Security::None,
            2 | 3 => Security::Tls(self.tls()),
            _ => Security::Reality(Reality {
                sni: self.maybe(&["sni.test"]),
                fingerprint: self.text(&["chrome", "Firefox", "random", "hellochrome_131", "hellogolang", "netscape"]),
                public_key: self.url_key(32),
                short_id: self.text(&["", "0123abcd", "0123456789ABCDEF", "012"]),
                spider_x: self.text(&["/", "/a?p=1-2", "/%zz", "//host"]),
                mldsa65_verify: self.once_in(6).then(|| self.url_key(1952)),
            }),
        }
    }

    fn tls(&mut self) -> Tls {
        let alpn = [&[][..], &["h2"], &["h2", "http/1.1"], &["http/1.1"], &["h3"]];
        Tls {
            sni: self.maybe(&["sni.test", "192.0.2.1"]),
            alpn: self.pick(&alpn).iter().map(|name| (*name).to_owned()).collect(),
            fingerprint: if self.once_in(3) { self.maybe(&["chrome", "QQ", "unsafe", "hellofoo"]) } else { None },
            allow_insecure: self.once_in(8),
            pinned_sha256: self
                .once_in(6)
                .then(|| self.text(&["ab", &"ab".repeat(32), &format!("{0},{0}", "0F".repeat(32))])),
            verify_name: self.once_in(6).then(|| self.text(&["a.test", "a.test,b.test"])),
            ech: self.once_in(8).then(|| {
                self.text(&[
                    "AEH+DQA9AQAgACAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwAEAAEAAQAOcHVibGljLmV4YW1wbGUAAA==",
                    "https://1.1.1.1/dns-query",
                ])
            }),
        }
    }
}

/// The engine's own check of these configs: the one it stumbles over, with its words.
fn stumbles(engine: &Engine, configs: &[(ConfigId, &Config)], dir: &Path) -> Option<(ConfigId, String)> {
    let file = batch_config(engine, configs.iter().copied(), &dir.join("http.sock")).unwrap();
    let path = dir.join("check.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let output = Command::new(&engine.path).args(engine.test_args(&path)).output().unwrap();
    if output.status.success() {
        return None;
    }
    let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let [one] = configs else {
        let (left, right) = configs.split_at(configs.len() / 2);
        let named = refused_tag(&words).and_then(|id| configs.iter().find(|(known, _)| *known == id));
        let named = named.map(|(id, _)| (*id, words.clone()));
        let halves = || stumbles(engine, left, dir).or_else(|| stumbles(engine, right, dir));
        return Some(named.or_else(halves).unwrap_or((ConfigId(0), words)));
    };
    Some((one.0, words))
}

/// The engine's own check finds nothing.
fn accepts(engine: &Engine, configs: &[(ConfigId, &Config)], dir: &Path) {
    if let Some((id, words)) = stumbles(engine, configs, dir) {
        let culprit = configs.iter().find(|(known, _)| *known == id).map(|(_, config)| serde_json::to_string(config));
        // Before its last words it warns of much.
        panic!("{engine} refuses {culprit:?}: {}", words.trim_end().lines().last().unwrap_or_default());
    }
}

/// What kind of node it is, to see that each kind was met.
fn kind(config: &Config) -> [String; 2] {
    [config.protocol.name().to_owned(), format!("{}-{}", config.transport.name(), config.security.name())]
}

fn claims_hold(program: &Path, batches: usize) -> BTreeSet<String> {
    let engine = nodes::version(program).expect("an engine has a version");
    let dir = Scratch::new();
    let mut maker = Maker(Random::new());
    let sockets = SessionFiles { socks: None, http: "/run/h".into(), api: "/run/a".into() };
    let mut kinds = BTreeSet::new();
    for _ in 0..batches {
        let configs: Vec<_> = (0..BATCH).map(|_| maker.config()).collect();
        let (able, unable): (Vec<_>, Vec<_>) = configs.iter().partition(|config| engine.supports(config).is_ok());
        for config in unable {
            assert!(session_config(&engine, config, &sockets).is_err(), "{engine}: {config:?}");
            assert!(batch_config(&engine, [(ConfigId(1), config)], Path::new("/run/h")).is_err(), "{config:?}");
        }
        let able: Vec<_> = able.into_iter().zip(1..).map(|(config, id)| (ConfigId(id), config)).collect();
        accepts(&engine, &able, dir.path());
        kinds.extend(able.iter().flat_map(|(_, config)| kind(config)));
    }
    kinds
}

/// Every link of the tables that can be read, in one file for each engine.
#[test]
fn links_of_the_tables_are_accepted() {
    let links = tables().into_iter().flat_map(|(_, rows)| rows).map(|row| expand(&row.link));
    let configs: Vec<_> = links.filter_map(|link| xrat::link::parse(&link).ok()).collect();
    for kind in Kind::ALL {
        let Some(program) = engine(kind.name()) else { continue };
        let engine = nodes::version(&program).expect("an engine has a version");
        let able = configs.iter().filter(|config| engine.supports(config).is_ok());
        let able: Vec<_> = able.zip(1..).map(|(config, id)| (ConfigId(id), config)).collect();
        assert!(2 * able.len() > configs.len(), "{engine} carries {} of {}", able.len(), configs.len());
        accepts(&engine, &able, Scratch::new().path());
    }
}

#[test]
fn xrays_own_check_accepts_what_is_claimed() {
    let Some(program) = engine(Kind::Xray.name()) else { return };
    let kinds = claims_hold(&program, rounds(4, 60));
    for wanted in ["hysteria2", "wireguard", "grpc-reality", "xhttp-reality", "kcp-none", "httpupgrade-tls", "udp-tls"]
    {
        assert!(kinds.contains(wanted), "{wanted} was not met: {kinds:?}");
    }
}

#[test]
fn v2rays_own_check_accepts_what_is_claimed() {
    let Some(program) = engine(Kind::V2ray.name()) else { return };
    let kinds = claims_hold(&program, rounds(4, 60));
    for wanted in ["kcp-none", "kcp-tls", "h2-tls", "quic-none", "ws-tls", "shadowsocks"] {
        assert!(kinds.contains(wanted), "{wanted} was not met: {kinds:?}");
    }
}

#[test]
#[ignore = "for a night: takes engines that scripts/other-engines builds"]
fn other_versions_own_check_accepts_what_is_claimed() {
    let programs = std::env::var_os("XRAT_OTHER_ENGINES").unwrap_or_default();
    for program in std::env::split_paths(&programs).filter(|program| program.is_file()) {
        claims_hold(&program, rounds(4, 60));
    }
}
