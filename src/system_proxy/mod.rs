//! The system proxy: the proxy settings of the user's desktop point at the session, and get their own values back.
//!
//! `change` is what happens to the settings of a desktop, `gsettings` and `kde` are the two desktops there are, by way
//! of their own tools (`tool`). `journal` is the file that knows the user's values from before the first change until
//! they are back, so that no crash can lose them. [`Keeper`] follows the session for the daemon, `orphan` finds out
//! whether settings point to something that is no more.
//!
//! Everything in here blocks: the daemon calls it where blocking is allowed, and the command line as it is.

mod change;
mod gsettings;
mod journal;
mod kde;
mod keeper;
mod orphan;
mod tool;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::change::{Asked, Look, Points, Report, Summary, look, point, restore, summary, switch};
pub use self::keeper::Keeper;
pub use self::orphan::is_orphaned;
pub use self::tool::ToolError;
use crate::event::{Session, State, Status};
use crate::settings::Settings;

/// Why the desktop's settings are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum SystemProxyError {
    /// A machine without a desktop.
    #[error("no desktop here has proxy settings to change: {missing}")]
    NoDesktop {
        /// What each desktop lacks.
        missing: String,
    },
    /// Settings that no desktop can have.
    #[error(
        "runtime.socks has a username and a password, and a desktop's proxy settings have no place for them: \
         remove both from config.toml to use the system proxy"
    )]
    Credentials,
    /// The journal or its lock.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A journal that makes no sense.
    #[error(
        "{} cannot be used: {problem}. It has the desktop's own values; to go on without them, move it away",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; no value.
        problem: String,
    },
    /// Somebody else changes the settings, and does not end.
    #[error(
        "another xrat is changing the desktop's settings, or a program it has started hangs: \
         'fuser {}' tells which; end it and try again",
        path.display()
    )]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// A desktop's tool.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The tool said that all is well, and it is not.
    #[error("the settings of {desktop} do not keep what they are told ({key} in {place}){said}")]
    NotKept {
        /// The desktop.
        desktop: DesktopName,
        /// The key.
        key: String,
        /// Where it is kept.
        place: String,
        /// What the tool said all the same, or nothing.
        said: String,
    },
    /// There are values of ours in the settings of a desktop that cannot be changed any more.
    #[error("the settings of {desktop} cannot get their own values back: {missing} is missing")]
    Gone {
        /// The desktop.
        desktop: DesktopName,
        /// What it lacks.
        missing: String,
    },
}

/// A desktop with proxy settings of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesktopName {
    /// GNOME, and all who ask GSettings.
    Gnome,
    /// KDE.
    Kde,
}

impl std::fmt::Display for DesktopName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Gnome => "GNOME",
            Self::Kde => "KDE",
        })
    }
}

/// Where the settings are to point to: addresses that a program of this machine can connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    /// The SOCKS proxy.
    pub socks: SocketAddr,
    /// The HTTP proxy, if there is one.
    pub http: Option<SocketAddr>,
}

impl Servers {
    /// The public addresses that the settings of xrat name.
    ///
    /// # Errors
    /// When programs have to give a user name and a password there.
    pub fn of_settings(settings: &Settings) -> Result<Self, SystemProxyError> {
        let (socks, http) = (&settings.runtime.socks, &settings.runtime.http);
        if socks.auth().is_some() {
            return Err(SystemProxyError::Credentials);
        }
        let socks = reachable(socks.host, socks.port.get());
        Ok(Self { socks, http: http.enabled.then(|| reachable(http.host, http.port.get())) })
    }

    /// The public addresses of a session; none when they are no IP addresses, which those of a session always are.
    pub fn of_session(session: &Session) -> Option<Self> {
        let address = |address: &crate::event::Address| Some(reachable(address.host.parse().ok()?, address.port.get()));
        let http = match &session.http {
            Some(http) => Some(address(http)?),
            None => None,
        };
        Some(Self { socks: address(&session.socks)?, http })
    }

    /// Where the settings should point to in a state of the daemon; none when there should be no proxy.
    ///
    /// # Errors
    /// As [`Servers::of_settings`].
    pub fn of_status(status: &Status, settings: &Settings) -> Result<Option<Self>, SystemProxyError> {
        match (status.state, &status.session) {
            (State::Connected | State::Replacing, Some(session)) => {
                // Whether a session wants credentials is not told; it began with these settings.
                Self::of_settings(settings)?;
                Ok(Self::of_session(session))
            }
            (State::Recovering | State::Failed, _) => Self::of_settings(settings).map(Some),
            _ => Ok(None),
        }
    }
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SOCKS)", self.socks)?;
        match self.http {
            Some(http) => write!(f, ", {http} (HTTP)"),
            None => Ok(()),
        }
    }
}

/// "Everywhere" is no address to connect to.
fn reachable(host: IpAddr, port: u16) -> SocketAddr {
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, port)
}

/// Whether a desktop can be told about a proxy on this machine.
enum Present<T> {
    /// It can.
    Here(T),
    /// It is not there: what it lacks.
    Missing(String),
    /// It is there and does not work.
    Broken(SystemProxyError),
}

/// The proxy settings of a desktop.
trait Desktop {
    /// Which one it is.
    fn name(&self) -> DesktopName;

    /// The keys that xrat changes, with its own values, in the order in which they are to be written.
    fn ours(&self, servers: &Servers) -> Vec<(&'static str, String)>;

    /// What the user has now, of these keys. One that is missing is not set.
    fn read(&self) -> Result<HashMap<String, String>, SystemProxyError>;

    /// Sets a key, or takes it away; gives what the tool complained about nevertheless.
    fn write(&self, key: &str, value: Option<&str>) -> Result<String, SystemProxyError>;

    /// Has running programs look again. What goes wrong is of no consequence: the next ones look anyway.
    fn tell(&self);

    /// Where the settings are kept, for messages.
    fn place(&self) -> &Path;
}
