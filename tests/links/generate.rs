//! Configs made by chance: what is written of one is read as the same one, for every scheme.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use xrat::config::{
    Config, HttpHeader, Hysteria2, Obfs, Protocol, Reality, Secret, Security, Tls, Transport, Tuic, Wireguard,
};
use xrat::link;

use crate::damage::below;
use crate::lab::{self, random::Random};

/// What names, passwords and paths are made of: all that means something in some part of a link, and more.
const LETTERS: &[&str] = &[
    "a", "Z", "0", "9", "-", "_", ".", "~", "%", "@", ":", "/", "?", "#", "&", "=", "+", "[", "]", "\"", "\\", "'",
    "{", "}", "<", ">", ";", "|", "!", "$", "(", ")", "*", "^", "`", " ", "é", "ß", "я", "香", "🇳🇱", "%25", "%2F",
    "&amp;", "://", "==",
];

struct Maker(Random);

impl Maker {
    fn below(&mut self, limit: usize) -> usize {
        below(&mut self.0, limit)
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 0
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| make(self))
    }

    fn one(&mut self, words: &[&str]) -> String {
        words[self.below(words.len())].to_owned()
    }

    /// Text without white space at its ends, which no link keeps.
    fn text(&mut self) -> String {
        let text: String = (0..=self.below(12)).map(|_| LETTERS[self.below(LETTERS.len())]).collect();
        let text = text.trim();
        if text.is_empty() { "x".to_owned() } else { text.to_owned() }
    }

    fn secret(&mut self) -> Secret {
        Secret::new(self.text())
    }

    fn path(&mut self) -> String {
        format!("/{}", self.text())
    }

    fn host(&mut self) -> String {
        self.one(&["example.com", "a-b_c.xn--p1ai", "localhost", "192.0.2.7", "2001:db8::1", "x.y.z.example"])
    }

    fn host_header(&mut self) -> String {
        self.one(&["example.com", "cdn.example.org:8443", "192.0.2.7", "[2001:db8::1]", "[2001:db8::1]:80"])
    }

    fn list<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.below(3)).map(|_| make(self)).collect()
    }

    fn key(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| u8::try_from(self.below(256)).unwrap())
    }

    fn uuid(&mut self) -> String {
        let bytes = self.key();
        uuid::Uuid::from_slice(&bytes[..16]).unwrap().to_string()
    }

    fn user_id(&mut self) -> Secret {
        let short: String = self.text().split_whitespace().collect();
        let fits = (1..=30).contains(&short.len());
        Secret::new(if fits && self.yes() { short } else { self.uuid() })
    }

    fn packets(&mut self) -> String {
        self.one(&["none", "srtp", "utp", "wechat-video", "dtls", "wireguard", "dns"])
    }

    fn extra(&mut self) -> BTreeMap<String, Value> {
        let all = [
            ("headers", json!({"Accept": "*/*", "User-Agent": "x y"})),
            ("noGRPCHeader", json!(true)),
            ("scMaxEachPostBytes", json!("10000-1000000")),
            ("xPaddingBytes", json!(100)),
            ("xPaddingPlacement", json!("cookie")),
            ("sessionKey", json!("sid")),
            ("xmux", json!({"maxConcurrency": "16-32", "hKeepAlivePeriod": -1})),
        ];
        all.into_iter().filter(|_| self.yes()).map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn transport(&mut self) -> Transport {
        match self.below(9) {
            0 => Transport::Tcp { http_header: None },
            1 => Transport::Tcp {
                http_header: Some(HttpHeader {
                    hosts: self.list(Self::host_header),
                    paths: self.list(|maker| maker.path().replace(',', "")),
                }),
            },
            2 => Transport::Ws { path: self.path(), host: self.maybe(Self::host_header) },
            3 => Transport::HttpUpgrade { path: self.path(), host: self.maybe(Self::host_header) },
            4 => Transport::Xhttp {
                path: self.path(),
                host: self.maybe(Self::host_header),
                mode: self.one(&["auto", "packet-up", "stream-up", "stream-one"]),
                extra: self.extra(),
            },
            5 => Transport::Grpc {
                service_name: self.maybe(Self::text).unwrap_or_default(),
                multi: self.yes(),
                authority: self.maybe(Self::host_header),
            },
            6 => Transport::Kcp {
                header: self.packets(),
                seed: self.maybe(Self::secret),
                mtu: self.maybe(|maker| u16::try_from(576 + maker.below(885)).unwrap()),
                tti: self.maybe(|maker| u16::try_from(10 + maker.below(4991)).unwrap()),
            },
            7 => Transport::H2 { path: self.path(), hosts: self.list(Self::host_header) },
            _ => {
                let cipher = self.one(&["none", "aes-128-gcm", "chacha20-poly1305"]);
                let key = self.maybe(Self::secret).filter(|_| cipher != "none");
                Transport::Quic { cipher, key, header: self.packets() }
            }
        }
    }

    fn tls(&mut self) -> Tls {
        Tls {
            sni: self.maybe(Self::host),
            alpn: self.list(|maker| maker.one(&["h3", "h2", "http/1.1"])),
            fingerprint: self.maybe(|maker| maker.one(&["chrome", "firefox", "random", "hellochrome_120"])),
            allow_insecure: self.yes(),
            pinned_sha256: self.maybe(|maker| {
                let hash: String = maker.key().iter().map(|byte| format!("{byte:02x}")).collect();
                if maker.yes() { format!("{hash},{hash}") } else { hash }
            }),
            verify_name: self.maybe(|_| "a.example,b.example".to_owned()),
            ech: self.maybe(|maker| {
                // A list of one configuration of a version nobody knows, with a key for its contents.
                STANDARD.encode([&[0, 36, 0, 1, 0, 32][..], &maker.key()].concat())
            }),
        }
    }

    fn reality(&mut self) -> Reality {
        Reality {
            sni: self.maybe(Self::host),
            fingerprint: self.one(&["chrome", "safari"]),
            public_key: URL_SAFE_NO_PAD.encode(self.key()),
            short_id: self.one(&["", "00", "6ba85179e30d4fc2"]),
            spider_x: self.maybe(Self::path).unwrap_or_else(|| "/".to_owned()),
            mldsa65_verify: (self.below(8) == 0).then(|| URL_SAFE_NO_PAD.encode([7; 1952])),
        }
    }

    fn security(&mut self, transport: &Transport, reality: bool) -> Security {
        let carries = matches!(transport, Transport::Tcp { .. } | Transport::Grpc { .. } | Transport::Xhttp { .. });
        match self.below(3) {
            0 => Security::None,
            1 if carries && reality => Security::Reality(self.reality()),
            _ => Security::Tls(self.tls()),
        }
    }

    fn user(&mut self) -> (Option<String>, Option<Secret>) {
        (self.maybe(Self::text), self.maybe(Self::secret))
    }

    fn config(&mut self, scheme: &str) -> Config {
        let plain = Transport::Tcp { http_header: None };
        let free = self.transport();
        let (protocol, transport, security) = match scheme {
            "vless" => {
                let security = self.security(&free, true);
                let encrypted = self.below(4) == 0;
                let key = URL_SAFE_NO_PAD.encode(self.key());
                let encryption =
                    if encrypted { format!("mlkem768x25519plus.native.0rtt.{key}") } else { "none".to_owned() };
                let possible = encrypted || matches!(free, Transport::Tcp { .. }) && security != Security::None;
                let flow = self.maybe(|maker| maker.one(&["xtls-rprx-vision", "xtls-rprx-vision-udp443"]));
                let (uuid, encryption) = (self.user_id(), Secret::new(encryption));
                (Protocol::Vless { uuid, encryption, flow: flow.filter(|_| possible) }, free, security)
            }
            "vmess" => {
                let method = self.one(&["auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero"]);
                let alter_id = u16::try_from(self.below(3)).unwrap();
                let security = self.security(&free, false);
                (Protocol::Vmess { uuid: self.user_id(), method, alter_id }, free, security)
            }
            "trojan" => {
                let security = self.security(&free, true);
                (Protocol::Trojan { password: self.secret() }, free, security)
            }
            "ss" => {
                let security = self.security(&free, false);
                let (method, password) = if self.yes() {
                    let key = STANDARD.encode(self.key());
                    ("2022-blake3-aes-256-gcm", if self.yes() { format!("{key}:{key}") } else { key })
                } else {
                    ("chacha20-ietf-poly1305", self.text())
                };
                let plugin = self.maybe(|maker| {
                    let options = maker.text();
                    Secret::new(format!("obfs-local;{options}"))
                });
                let (method, password) = (method.to_owned(), Secret::new(password));
                (Protocol::Shadowsocks { method, password, plugin }, free, security)
            }
            "hysteria2" => {
                let ports = self.maybe(|maker| maker.one(&["443-444", "443,5000-6000", "443,443"]));
                let node = Hysteria2 {
                    auth: Secret::new(self.maybe(Self::text).unwrap_or_default()),
                    hop_secs: self
                        .maybe(|maker| 5 + u32::try_from(maker.below(100)).unwrap())
                        .filter(|_| ports.is_some()),
                    ports,
                    obfs: self
                        .maybe(|maker| Obfs { kind: maker.one(&["salamander", "gecko"]), password: maker.secret() }),
                };
                (Protocol::Hysteria2(node), Transport::Udp, Security::Tls(self.tls()))
            }
            "tuic" => {
                let node = Tuic {
                    uuid: Secret::new(self.uuid()),
                    password: self.secret(),
                    congestion_control: self.maybe(|maker| maker.one(&["cubic", "new_reno", "bbr"])),
                    udp_relay_mode: self.maybe(|maker| maker.one(&["native", "quic"])),
                    disable_sni: self.yes(),
                };
                (Protocol::Tuic(node), Transport::Udp, Security::Tls(self.tls()))
            }
            "wireguard" => {
                let node = Wireguard {
                    secret_key: Secret::new(STANDARD.encode(self.key())),
                    public_key: STANDARD.encode(self.key()),
                    preshared_key: self.maybe(|maker| Secret::new(STANDARD.encode(maker.key()))),
                    addresses: vec![self.one(&["10.0.0.2/32", "172.16.0.2/24"]), "fd00::2/128".to_owned()],
                    reserved: self.maybe(|_| vec![1, 0, 255]).unwrap_or_default(),
                    mtu: self.maybe(|_| 1280),
                    keep_alive_secs: self.maybe(|_| 25),
                };
                (Protocol::Wireguard(node), Transport::Udp, Security::None)
            }
            "socks" => {
                let (username, password) = self.user();
                let security = self.security(&plain, false);
                (Protocol::Socks { username, password }, plain, security)
            }
            _ => {
                let (username, password) = self.user();
                let security = self.security(&plain, false);
                (Protocol::Http { username, password }, plain, security)
            }
        };
        let port = match &protocol {
            Protocol::Hysteria2(Hysteria2 { ports: Some(_), .. }) => 443,
            _ => u16::try_from(1 + self.below(65535)).unwrap(),
        };
        let port = NonZeroU16::new(port).unwrap();
        Config { name: self.text(), address: self.host(), port, protocol, transport, security }
    }
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let rounds = lab::rounds(2_000, 100_000);
    let mut maker = Maker(Random::new());
    for scheme in ["vless", "vmess", "trojan", "ss", "hysteria2", "tuic", "wireguard", "socks", "http"] {
        for _ in 0..rounds {
            let config = maker.config(scheme);
            let written = link::write(&config);
            assert!(written.starts_with(scheme), "{written}");
            assert_eq!(link::parse(&written).as_ref(), Ok(&config), "{written}");
        }
    }
}
