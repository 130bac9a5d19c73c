//! Share links against a table of vectors and against thousands of damaged ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use xrat::link;

/// A row of `vectors/links.json`. In a link, `<<text>>` stands for the base64 of the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    link: String,
    /// Expected fields; null for one that must be absent.
    #[serde(default)]
    fields: Map<String, Value>,
    /// Another link of the same node.
    same_as: Option<String>,
    /// A part of the expected error.
    error: Option<String>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("vectors/links.json")).unwrap()
}

fn expand(link: &str) -> String {
    match (link.find("<<"), link.rfind(">>")) {
        (Some(from), Some(to)) if from + 2 <= to => {
            format!("{}{}{}", &link[..from], STANDARD.encode(&link[from + 2..to]), &link[to + 2..])
        }
        _ => link.to_owned(),
    }
}

/// What must hold for whatever is given to the parser.
fn check_any(link: &str) {
    match link::parse(link) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "control character in {text:?}");
            assert!(text.chars().count() < 400, "{text}");
        }
        Ok(config) => {
            assert!(!config.name.is_empty() && !config.name.chars().any(char::is_control), "{:?}", config.name);
            let written = link::write(&config);
            assert_eq!(link::parse(&written).as_ref(), Ok(&config), "{written}");
            assert!(!format!("{config:?}").contains("S3cret"), "{config:?}");
        }
    }
}

#[test]
fn vectors_hold() {
    let vectors = vectors();
    let broken = vectors.iter().filter(|vector| vector.error.is_some()).count();
    assert!(vectors.len() >= 120 && broken * 3 >= vectors.len(), "{} vectors, {broken} broken", vectors.len());
    let mut failures = Vec::new();
    for vector in &vectors {
        let link = expand(&vector.link);
        check_any(&link);
        match (link::parse(&link), &vector.error) {
            (Err(error), Some(wanted)) if error.to_string().contains(wanted) => {}
            (Err(error), wanted) => failures.push(format!("{link}\n  gave the error {error}\n  instead of {wanted:?}")),
            (Ok(_), Some(wanted)) => failures.push(format!("{link}\n  passed, but should say {wanted:?}")),
            (Ok(config), None) => {
                let fields = serde_json::to_value(link::fields(&config)).unwrap();
                for (key, wanted) in &vector.fields {
                    let found = fields.get(key).unwrap_or(&Value::Null);
                    if found != wanted {
                        failures.push(format!("{link}\n  has {key} {found}, expected {wanted}"));
                    }
                }
                if let Some(other) = &vector.same_as {
                    let other = link::parse(&expand(other)).unwrap();
                    if other.identity() != config.identity() {
                        failures.push(format!("{link}\n  is {config:?}\n  and not {other:?}"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn different_nodes_have_different_identities() {
    let links = [
        "vless://alice@example.com:443?security=tls",
        "vless://alice@example.com:444?security=tls",
        "vless://alice@example.org:443?security=tls",
        "vless://Alice@example.com:443?security=tls",
        "vless://alice@example.com:443?security=none",
        "vless://alice@example.com:443?security=tls&sni=example.org",
        "vless://alice@example.com:443?security=tls&fp=chrome",
        "vless://alice@example.com:443?security=tls&alpn=h2",
        "vless://alice@example.com:443?security=tls&allowInsecure=1",
        "vless://alice@example.com:443?security=tls&flow=xtls-rprx-vision",
        "vless://alice@example.com:443?security=tls&type=ws",
        "vless://alice@example.com:443?security=tls&type=ws&path=/x",
        "vless://alice@example.com:443?security=tls&type=ws&host=example.org",
        "vless://alice@example.com:443?security=tls&type=tcp&headerType=http",
        "vmess://alice@example.com:443?security=tls",
        "vmess://alice@example.com:443?security=tls&aid=1",
        "vmess://alice@example.com:443?security=tls&encryption=none",
        "trojan://alice@example.com:443",
        "ss://aes-128-gcm:alice@example.com:443",
        "ss://aes-256-gcm:alice@example.com:443",
        "ss://aes-256-gcm:alice@example.com:443?plugin=obfs-local",
        "socks://alice@example.com:443",
        "http://alice@example.com:443",
        "https://alice@example.com:443",
    ];
    let mut identities: Vec<_> = links.iter().map(|link| link::parse(link).unwrap().identity()).collect();
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), links.len());
}

#[test]
fn pages_are_told_from_proxies() {
    for page in [
        "https://example.com",
        "https://example.com/",
        "HTTPS://example.com/sub",
        "http://example.com:8080/sub#name",
        "https://user:pass@example.com:8080/sub?x",
        "https://example.com:8080?token=x",
        "https://[::1]/",
        "https://[::1]",
    ] {
        assert!(link::looks_like_subscription_url(page), "{page}");
    }
    for proxy in [
        "https://example.com:443",
        " http://user:pass@example.com:8080/ ",
        "https://user:pass@[::1]:443?sni=example.com&amp;fp=chrome#name",
        "vless://alice@example.com:443/path?x=y",
        "ftp://example.com/x",
        "example.com/x",
    ] {
        assert!(!link::looks_like_subscription_url(proxy), "{proxy}");
    }
}

/// Marsaglia's xorshift64: a failure is repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

const SPICE: &[&str] = &[
    "%",
    "@",
    ":",
    "/",
    "?",
    "#",
    "&",
    "=",
    "[",
    "]",
    "+",
    ",",
    ";",
    " ",
    "\0",
    "\n",
    "\r",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{85}",
    "\u{202e}",
    "é",
    "🇳🇱",
    "%00",
    "%0A",
    "%1b",
    "%FF",
    "%25",
    "&amp;",
    "://",
    "{",
    "}",
    "\"",
    "\\",
    "99999",
    "0",
    "=",
    "-",
];

fn damage(random: &mut Random, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(3) {
        let at = random.below(chars.len() + 1);
        match random.below(6) {
            0 if at < chars.len() => drop(chars.remove(at)),
            1 => chars.truncate(at),
            2 => {
                let end = (at + random.below(12)).min(chars.len());
                let slice: Vec<char> = chars[at..end].to_vec();
                let to = random.below(chars.len() + 1);
                chars.splice(to..to, slice);
            }
            3 if at < chars.len() => {
                let other = random.below(chars.len());
                chars.swap(at, other);
            }
            4 if at < chars.len() => {
                let spice = SPICE[random.below(SPICE.len())].chars();
                chars.splice(at..=at, spice);
            }
            _ => {
                let spice = SPICE[random.below(SPICE.len())].chars();
                chars.splice(at..at, spice);
            }
        }
    }
    chars.into_iter().collect()
}

#[test]
fn damaged_links_never_break_the_promises() {
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    const ROUNDS: usize = 500;
    for (number, vector) in vectors().iter().enumerate() {
        let seed = SEED ^ (u64::try_from(number).unwrap() << 1 | 1);
        let mut random = Random(seed);
        for round in 0..ROUNDS {
            // Damage inside of base64 as well as outside.
            let link = match random.below(2) {
                0 => damage(&mut random, &expand(&vector.link)),
                _ => expand(&damage(&mut random, &vector.link)),
            };
            let outcome = std::panic::catch_unwind(|| check_any(&link));
            assert!(outcome.is_ok(), "vector {number}, seed {seed:#x}, round {round}: {link:?}");
        }
    }
}

#[test]
fn errors_never_quote_credentials() {
    const SEED: u64 = 0x5eed_0000_0000_0007;
    let links = [
        "vless://S3cretS3cret@example.com:443?security=tls&type=ws&path=/x#name",
        "vless://S3cretS3cret@example.com:443?encryption=S3cret&security=reality&pbk=S3cret",
        "vmess://S3cretS3cret@example.com:443?security=tls&encryption=auto#name",
        "vmess://<<{\"add\":\"example.com\",\"port\":443,\"id\":\"S3cretS3cret\",\"net\":\"ws\"}>>",
        "trojan://S3cretS3cret@example.com:443?security=tls&type=ws#name",
        "ss://aes-256-gcm:S3cretS3cret@example.com:8388#name",
        "ss://<<aes-256-gcm:S3cretS3cret>>@example.com:8388#name",
        "ss://<<aes-256-gcm:S3cretS3cret@example.com:8388>>#name",
        "socks://user:S3cretS3cret@example.com:1080#name",
        "https://user:S3cretS3cret@example.com:8443?sni=example.com#name",
    ];
    for link in links {
        let mut random = Random(SEED);
        for round in 0..4000 {
            let mut chars: Vec<char> = link.chars().collect();
            // One mistake of a person: a character lost, or one too many, in what is around the credential.
            let at = random.below(chars.len());
            match random.below(2) {
                0 => drop(chars.remove(at)),
                _ => drop(chars.splice(at..at, SPICE[random.below(SPICE.len())].chars()).count()),
            }
            let damaged: String = chars.into_iter().collect();
            if !damaged.contains("S3cretS3cret") {
                continue;
            }
            if let Err(error) = link::parse(&expand(&damaged)) {
                let told = format!("{error} {error:?}");
                assert!(!told.contains("S3cret"), "seed {SEED:#x}, round {round}: {damaged:?} gave {told}");
            }
        }
    }
}
