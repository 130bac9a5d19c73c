//! `config.toml`: types, defaults, validation. A wrong value is an error, an unknown key a warning.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::event::Address;

/// Ports below this need a privilege that a user's engine does not have, unless the machine says otherwise.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// Where the machine says so.
const UNPRIVILEGED_PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Every key of `config.toml`, for warnings that name the nearest known one. A test compares it with the types.
const KNOWN_KEYS: &[&str] = &[
    "runtime.engine",
    "runtime.autoconnect",
    "runtime.drain_secs",
    "runtime.socks.host",
    "runtime.socks.port",
    "runtime.socks.udp",
    "runtime.socks.username",
    "runtime.socks.password",
    "runtime.socks.allow_lan",
    "runtime.http.enabled",
    "runtime.http.host",
    "runtime.http.port",
    "runtime.health.interval_secs",
    "runtime.health.url",
    "runtime.health.fallback_url",
    "runtime.health.failure_threshold",
    "runtime.rotation.enabled",
    "runtime.rotation.interval_secs",
    "runtime.rotation.health_trigger_enabled",
    "runtime.rotation.cooldown_secs",
    "runtime.rotation.tolerance_ms",
    "runtime.rotation.max_candidates",
    "runtime.rotation.test_concurrency",
    "testing.url",
    "testing.timeout_ms",
    "subscriptions.update_hours",
    "subscriptions.user_agent",
    "desktop.system_proxy",
    "desktop.notify",
    "paths.xray",
    "paths.v2ray",
];

/// Why `config.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// A value is of the right type and out of range.
    #[error("{}: {key} {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key with its section.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Which engine to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// Xray where it is found, else V2Ray.
    #[default]
    Auto,
    /// Xray only.
    Xray,
    /// V2Ray only.
    V2ray,
}

/// All settings; every field has a default, so that an empty or missing file is a good one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The session.
    pub runtime: Runtime,
    /// `xrat test` and the tests of a rotation.
    pub testing: Testing,
    /// Subscriptions.
    pub subscriptions: Subscriptions,
    /// What the desktop is told.
    pub desktop: Desktop,
    /// Where the engines are.
    pub paths: EnginePaths,
}

/// `[runtime]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    /// Which engine to start.
    pub engine: EngineChoice,
    /// After a reboot, connect to what was wanted before.
    pub autoconnect: bool,
    /// How long an engine that was replaced may finish its connections, in seconds.
    pub drain_secs: u64,
    /// The public SOCKS address.
    pub socks: Socks,
    /// The public HTTP proxy address.
    pub http: Http,
    /// Checks of the running session.
    pub health: HealthSettings,
    /// Automatic rotation.
    pub rotation: Rotation,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            autoconnect: false,
            drain_secs: 3600,
            socks: Socks::default(),
            http: Http::default(),
            health: HealthSettings::default(),
            rotation: Rotation::default(),
        }
    }
}

/// `[runtime.socks]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Socks {
    /// IP address to listen on.
    pub host: IpAddr,
    /// Port to listen on.
    pub port: NonZeroU16,
    /// Whether UDP is carried.
    pub udp: bool,
    /// User name that programs must give; with `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password that programs must give; with `username`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Accept a host that other machines reach without user name and password.
    pub allow_lan: bool,
}

impl Default for Socks {
    fn default() -> Self {
        Self { host: LOCALHOST, port: port(18200), udp: true, username: None, password: None, allow_lan: false }
    }
}

impl Socks {
    /// User name and password, when both are set.
    pub fn auth(&self) -> Option<(String, Secret)> {
        Some((self.username.clone()?, self.password.clone()?))
    }
}

/// `[runtime.http]`; user name, password and `allow_lan` are those of `[runtime.socks]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Whether there is an HTTP proxy at all.
    pub enabled: bool,
    /// IP address to listen on.
    pub host: IpAddr,
    /// Port to listen on.
    pub port: NonZeroU16,
}

impl Default for Http {
    fn default() -> Self {
        Self { enabled: true, host: LOCALHOST, port: port(18201) }
    }
}

/// `[runtime.health]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSettings {
    /// Seconds between two checks.
    pub interval_secs: u64,
    /// What is fetched through the node; any answer with a status below 400 is a good one.
    pub url: String,
    /// Fetched when `url` failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_url: Option<String>,
    /// So many failures in a row make the health `failed`.
    pub failure_threshold: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { interval_secs: 15, url: GENERATE_204.into(), fallback_url: None, failure_threshold: 3 }
    }
}

/// `[runtime.rotation]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Rotate by the timer.
    pub enabled: bool,
    /// Seconds between two timer rotations.
    pub interval_secs: u64,
    /// Rotate away from a dead engine or node.
    pub health_trigger_enabled: bool,
    /// Seconds after an automatic rotation in which none follows.
    pub cooldown_secs: u64,
    /// A timer rotation stays unless another node is faster by this.
    pub tolerance_ms: u32,
    /// At most so many candidates are tested in one rotation.
    pub max_candidates: u32,
    /// Tests at once; 0 means 128.
    pub test_concurrency: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            enabled: false,
            interval_secs: 1800,
            health_trigger_enabled: true,
            cooldown_secs: 300,
            tolerance_ms: 50,
            max_candidates: 64,
            test_concurrency: 0,
        }
    }
}

/// `[testing]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Testing {
    /// What is fetched through each config.
    pub url: String,
    /// How long one fetch may take, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for Testing {
    fn default() -> Self {
        Self { url: GENERATE_204.into(), timeout_ms: 5000 }
    }
}

/// `[subscriptions]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscriptions {
    /// Hours between two updates; 0 means by hand.
    pub update_hours: u32,
    /// The User-Agent header of a fetch; providers choose their format by it.
    pub user_agent: String,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self { update_hours: 0, user_agent: "xrat".into() }
    }
}

/// `[desktop]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Desktop {
    /// Point the desktop's proxy settings at the session.
    pub system_proxy: bool,
    /// Which notifications are shown.
    pub notify: Vec<Notice>,
}

impl Default for Desktop {
    fn default() -> Self {
        use Notice::{Connected, Failed, Recovered, Rotated};
        Self { system_proxy: false, notify: vec![Connected, Rotated, Failed, Recovered] }
    }
}

/// A kind of notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A session began.
    Connected,
    /// Moved to another node.
    Rotated,
    /// The session is lost.
    Failed,
    /// It is back.
    Recovered,
}

/// `[paths]`: engines that are not in PATH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnginePaths {
    /// The `xray` binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xray: Option<PathBuf>,
    /// The `v2ray` binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v2ray: Option<PathBuf>,
}

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const GENERATE_204: &str = "https://www.gstatic.com/generate_204";

const fn port(number: u16) -> NonZeroU16 {
    match NonZeroU16::new(number) {
        Some(port) => port,
        None => NonZeroU16::MIN,
    }
}

impl Settings {
    /// Reads `config.toml`. A missing file gives the defaults. Also returns the warnings.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or has a value that is wrong; the message names file, line and key.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), SettingsError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((Self::default(), Vec::new())),
            Err(source) => Err(SettingsError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads the text of a `config.toml`; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<String>), SettingsError> {
        let syntax =
            |error: toml::de::Error| SettingsError::Syntax { path: path.to_owned(), message: place(text, &error) };
        let mut unknown = Vec::new();
        let deserializer = toml::Deserializer::parse(text).map_err(syntax)?;
        let settings: Self =
            serde_ignored::deserialize(deserializer, |key| unknown.push(key.to_string())).map_err(syntax)?;
        settings.validate().map_err(|(key, problem)| SettingsError::Value { path: path.to_owned(), key, problem })?;
        let warnings = unknown.iter().map(|key| format!("{}: {}", path.display(), unknown_key(key))).collect();
        Ok((settings, warnings))
    }

    /// The public SOCKS address.
    pub fn socks_address(&self) -> Address {
        Address { host: self.runtime.socks.host.to_string(), port: self.runtime.socks.port }
    }

    /// The public HTTP address, if it is enabled.
    pub fn http_address(&self) -> Option<Address> {
        let http = &self.runtime.http;
        http.enabled.then(|| Address { host: http.host.to_string(), port: http.port })
    }

    /// How long one test exchange may take.
    pub fn test_timeout(&self) -> Duration {
        Duration::from_millis(self.testing.timeout_ms)
    }

    fn validate(&self) -> Result<(), (&'static str, String)> {
        let (socks, http) = (&self.runtime.socks, &self.runtime.http);
        let first = std::fs::read_to_string(UNPRIVILEGED_PORT_START)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(FIRST_UNPRIVILEGED_PORT);
        for (key, port) in [("runtime.socks.port", socks.port), ("runtime.http.port", http.port)] {
            if port.get() < first {
                return Err((
                    key,
                    format!(
                        "is {port}, and the engine runs without the privilege that ports below {first} need: \
                         choose a higher one, or lower the sysctl net.ipv4.ip_unprivileged_port_start"
                    ),
                ));
            }
        }
        if http.enabled && http.port == socks.port {
            return Err(("runtime.http.port", format!("is {}, the port of runtime.socks: choose two", http.port)));
        }
        if socks.username.is_some() != socks.password.is_some() {
            return Err((
                "runtime.socks.username",
                "and runtime.socks.password go together: set both or neither".into(),
            ));
        }
        if [&socks.username.as_deref(), &socks.password.as_ref().map(Secret::reveal)]
            .iter()
            .any(|text| text.is_some_and(|text| text.is_empty() || text.len() > 255))
        {
            return Err(("runtime.socks.username", "and runtime.socks.password take 1 to 255 bytes each".into()));
        }
        for (key, host, on) in
            [("runtime.socks.host", socks.host, true), ("runtime.http.host", http.host, http.enabled)]
        {
            if on && !host.is_loopback() && socks.auth().is_none() && !socks.allow_lan {
                return Err((
                    key,
                    format!(
                        "is {host}, which other machines can reach: set runtime.socks.username and \
                         runtime.socks.password, or runtime.socks.allow_lan = true if an open proxy is meant"
                    ),
                ));
            }
        }
        let health = &self.runtime.health;
        let urls = [
            ("runtime.health.url", Some(&health.url)),
            ("runtime.health.fallback_url", health.fallback_url.as_ref()),
            ("testing.url", Some(&self.testing.url)),
        ];
        for (key, url) in urls {
            if url.is_some_and(|url| crate::net::url::Url::parse(url).is_err()) {
                return Err((key, "is not a URL of the form http://host/path or https://host/path".into()));
            }
        }
        for (key, value) in [
            ("runtime.health.interval_secs", health.interval_secs),
            ("runtime.health.failure_threshold", health.failure_threshold.into()),
            ("runtime.rotation.interval_secs", self.runtime.rotation.interval_secs),
            ("runtime.rotation.max_candidates", self.runtime.rotation.max_candidates.into()),
            ("testing.timeout_ms", self.testing.timeout_ms),
        ] {
            if value == 0 {
                return Err((key, "is 0: it must be at least 1".into()));
            }
        }
        if self.subscriptions.user_agent.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
            return Err(("subscriptions.user_agent", "may hold printable ASCII only".into()));
        }
        Ok(())
    }
}

/// The parser's message with line and column, without the excerpt: the line may hold a password.
fn place(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
            format!("line {line}, column {column}: {message}")
        }
        None => message.to_owned(),
    }
}

fn unknown_key(key: &str) -> String {
    if key == "server" || key.starts_with("server.") {
        return "[server] is ignored: xrat has no HTTP API; it is driven over its Unix socket and D-Bus".into();
    }
    let nearest = KNOWN_KEYS
        .iter()
        .flat_map(|known| std::iter::once(*known).chain(known.rsplit_once('.').map(|(section, _)| section)))
        .min_by_key(|known| strsim::damerau_levenshtein(known, key));
    match nearest {
        Some(nearest) => format!("unknown key `{key}` is ignored; did you mean `{nearest}`?"),
        None => format!("unknown key `{key}` is ignored"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
