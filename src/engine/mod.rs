//! The engines: which ones there are, what each can do, and how one is told what to do.
//!
//! An engine is Xray or V2Ray, a program that carries the traffic of one session. This room knows their languages:
//! their versions and capabilities (this file, `xray`, `v2ray`), the JSON they read at start ([`session_config`]), the
//! private proxy they offer to the daemon ([`private`]) and the API they are steered by while they run ([`api`]).
//!
//! # Capabilities decide
//!
//! V2Ray accepts what it does not know and ignores it: a node that needs REALITY would run without any TLS, in plain
//! text, and `-test` says "Configuration OK". So [`Engine::supports`] is asked before anything is generated, and
//! [`session_config`] asks it again: nothing outside an engine's capabilities can reach it.
//!
//! What is dropped on purpose, because nothing is less safe without it: the TLS fingerprint on V2Ray, and the hopping
//! between ports of Hysteria 2 on an Xray that has another word for it than those that were read. The connection is as
//! well encrypted and verified as before, and leads to the same server.

pub mod api;
mod batch;
pub mod discover;
mod grpc;
mod inbound;
mod kcp;
mod keys;
mod outbound;
mod plugin;
pub mod ports;
pub mod private;
pub mod process;
mod proto;
mod session;
mod sockets;
mod stream;
mod transport;
mod udp;
mod v2ray;
mod xhttp;
mod xray;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::{Config, Protocol, Transport};

use plugin::Unfolded;

pub use batch::{batch_config, outbound_tag, refused_tag, share_an_engine, takes_over};
pub use session::{OUTBOUND_TAG, SessionFiles, ready, session_config};

/// Whose program it is; decides the layout of files, command lines and API messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Xray-core, by XTLS.
    Xray,
    /// V2Ray, by v2fly: version 4 (Debian's package) and 5.
    V2ray,
}

impl Family {
    /// As in settings, in the database and in `PATH`: `xray` or `v2ray`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xray => "xray",
            Self::V2ray => "v2ray",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xray => "Xray",
            Self::V2ray => "V2Ray",
        })
    }
}

/// A version of an engine: `26.3.27`, `4.34.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number; for Xray the year since 2024.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number; 0 where there is none.
    pub patch: u32,
}

impl Version {
    /// The version `major.minor.patch`.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is not a version of two or three numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an engine's version (expected something like 26.3.27)")]
pub struct BadVersion(String);

impl FromStr for Version {
    type Err = BadVersion;

    /// Reads `a.b` or `a.b.c`; a suffix such as `-rc1` is ignored.
    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion(text.to_owned());
        let numbers = text.find(|c: char| !c.is_ascii_digit() && c != '.').map_or(text, |end| &text[..end]);
        let parts = numbers.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(|_| bad())?;
        match parts[..] {
            [major, minor] => Ok(Self::new(major, minor, 0)),
            [major, minor, patch] => Ok(Self::new(major, minor, patch)),
            _ => Err(bad()),
        }
    }
}

/// Finds family and version in what an engine prints for `version` (Xray, V2Ray 5) or `-version` (V2Ray 4).
///
/// `None` when no line begins like one of theirs: it is another program.
pub fn parse_version(output: &str) -> Option<(Family, Version)> {
    output.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let family = match words.next()? {
            "Xray" => Family::Xray,
            "V2Ray" => Family::V2ray,
            _ => return None,
        };
        Some((family, words.next()?.parse().ok()?))
    })
}

/// One installed engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Whose program it is.
    pub family: Family,
    /// Its version.
    pub version: Version,
    /// The program file.
    pub path: PathBuf,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.version)
    }
}

/// Something that a config needs and an engine does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{engine} cannot do {feature}; {}", way_out(*.needs))]
pub struct Unsupported {
    /// The engine that was asked, such as `V2Ray 4.34.0`.
    pub engine: String,
    /// What it cannot do, such as `REALITY`.
    pub feature: String,
    /// The engine that can, if one of those xrat knows can.
    pub needs: Option<&'static str>,
}

fn way_out(needs: Option<&'static str>) -> String {
    match needs {
        Some(engine) => format!("{engine} can (install it, or choose it with runtime.engine)"),
        None => "no engine that xrat knows can".to_owned(),
    }
}

/// A missing capability, before the engine's name is put to it.
struct Lack {
    feature: String,
    needs: Option<&'static str>,
}

impl Lack {
    /// Something another engine has.
    fn but(needs: &'static str, feature: impl Into<String>) -> Self {
        Self { feature: feature.into(), needs: Some(needs) }
    }

    /// Something no engine has.
    fn none(feature: impl Into<String>) -> Self {
        Self { feature: feature.into(), needs: None }
    }
}

impl Engine {
    /// As in settings, in the database and in `PATH`: `xray` or `v2ray`.
    pub fn name(&self) -> &'static str {
        self.family.name()
    }

    /// Whether this engine can run `config` with everything that the config asks for and that keeps it safe.
    ///
    /// # Errors
    /// [`Unsupported`] with the first thing it lacks and the engine that has it.
    pub fn supports(&self, config: &Config) -> Result<(), Unsupported> {
        self.prepare(config).map(drop)
    }

    /// The config in the words that this engine has for it. There is no other way to an outbound, so nothing can be
    /// generated that was not checked.
    fn prepare<'a>(&self, config: &'a Config) -> Result<Unfolded<'a>, Unsupported> {
        let check = || {
            let unfolded = plugin::unfold(config)?;
            common(&unfolded.config)?;
            match self.family {
                Family::Xray => xray::check(self.version, &unfolded.config)?,
                Family::V2ray => v2ray::check(self.version, &unfolded.config)?,
            }
            Ok(unfolded)
        };
        check().map_err(|lack| self.unsupported(lack))
    }

    /// Whether the engine can offer SOCKS on a Unix socket. Xray's SOCKS inbound cannot (its HTTP inbound can):
    /// it starts without a word and does not listen.
    pub fn private_socks(&self) -> bool {
        self.family == Family::V2ray
    }

    /// The arguments that make the engine run the configuration in `file` (JSON; the name must end in `.json`).
    pub fn run_args(&self, file: &Path) -> Vec<OsString> {
        match self.dialect() {
            Dialect::V2ray4 => args(&["-config"], file),
            Dialect::Xray | Dialect::V2ray5 => args(&["run", "-c"], file),
        }
    }

    /// The arguments that make the engine only check the configuration in `file`. What V2Ray 4 says then proves
    /// little: it accepts and ignores words it does not know.
    pub fn test_args(&self, file: &Path) -> Vec<OsString> {
        match self.dialect() {
            Dialect::V2ray4 => args(&["-test", "-config"], file),
            Dialect::V2ray5 => args(&["test", "-c"], file),
            Dialect::Xray => args(&["run", "-test", "-c"], file),
        }
    }

    fn dialect(&self) -> Dialect {
        match self.family {
            Family::Xray => Dialect::Xray,
            Family::V2ray if self.version.major < 5 => Dialect::V2ray4,
            Family::V2ray => Dialect::V2ray5,
        }
    }

    fn unsupported(&self, lack: Lack) -> Unsupported {
        Unsupported { engine: self.to_string(), feature: lack.feature, needs: lack.needs }
    }
}

/// Which command line and which API messages an engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Xray,
    V2ray4,
    V2ray5,
}

fn args(words: &[&str], file: &Path) -> Vec<OsString> {
    words.iter().map(OsString::from).chain([file.as_os_str().to_owned()]).collect()
}

/// What no engine does, or every engine refuses.
fn common(config: &Config) -> Result<(), Lack> {
    let brings_its_own = matches!(config.protocol, Protocol::Hysteria2(_) | Protocol::Tuic(_) | Protocol::Wireguard(_));
    if brings_its_own != matches!(config.transport, Transport::Udp) {
        return Err(Lack::none(format!("{} over {}", config.protocol.name(), config.transport.name())));
    }
    match &config.protocol {
        Protocol::Tuic(_) => Err(Lack::none("TUIC")),
        Protocol::Vless { uuid, .. } | Protocol::Vmess { uuid, .. } if outbound::user_id(uuid).is_none() => {
            Err(Lack::none("a user id that is neither a UUID nor a text of at most 30 bytes"))
        }
        Protocol::Vmess { method, .. } if !VMESS_METHODS.contains(&method.as_str()) => {
            Err(Lack::none(format!("the VMess cipher {method:?}")))
        }
        Protocol::Trojan { password } | Protocol::Shadowsocks { password, .. } if password.reveal().is_empty() => {
            Err(Lack::none(format!("{} with an empty password", config.protocol.name())))
        }
        _ => Ok(()),
    }
}

/// Every cipher that VMess has; an unknown one would silently become `auto`.
const VMESS_METHODS: [&str; 5] = ["auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero"];

#[cfg(test)]
mod tests;
