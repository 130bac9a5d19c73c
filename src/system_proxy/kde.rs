//! KDE's settings: `kioslaverc`, by the tools `kreadconfig` and `kwriteconfig`, and KIO's signal.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};

use super::journal::Lock;
use super::tool::{Tool, ToolError, found, shortened};
use super::{Desktop, DesktopName, Present, Servers, SystemProxyError};

/// The newest first; both generations have the same file in the same place.
const TOOLS: [(&str, &str); 2] = [("kreadconfig6", "kwriteconfig6"), ("kreadconfig5", "kwriteconfig5")];
const GROUP: &str = "Proxy Settings";
const KEYS: [&str; 4] = ["httpProxy", "httpsProxy", "socksProxy", "ProxyType"];
/// What is printed for a key that is not there: no value that anybody could have typed.
const UNSET: &str = "\u{1}";
/// `ProxyType`: the servers of this file, and not those of a script or of the environment.
const MANUAL: &str = "1";
/// A bus that takes longer than this to take a signal is stuck.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// KDE's settings.
pub(super) struct Kde<'l> {
    read: Tool<'l>,
    write: Tool<'l>,
    /// The user's own file. By its path and not by its name, because by that the tools would mix in the system's.
    file: PathBuf,
    name: String,
}

impl<'l> Kde<'l> {
    /// The settings, if the tools are there; else what is missing.
    pub(super) fn find(lock: &'l Lock) -> Present<Self> {
        let missing =
            || Present::Missing("the pair of programs kreadconfig6 and kwriteconfig6 (or that of KDE 5)".to_owned());
        let Some((read, write)) =
            TOOLS.into_iter().find(|(read, write)| found(read).is_some() && found(write).is_some())
        else {
            return missing();
        };
        let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let Some(config) = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config"))) else {
            return Present::Missing("a home directory".to_owned());
        };
        let file = config.join("kioslaverc");
        let Some(name) = file.to_str().map(str::to_owned) else {
            return Present::Missing("a home directory whose path is UTF-8".to_owned());
        };
        let tool = |program| Tool { program, lock };
        Present::Here(Self { read: tool(read), write: tool(write), file, name })
    }
}

impl Desktop for Kde<'_> {
    fn name(&self) -> DesktopName {
        DesktopName::Kde
    }

    fn ours(&self, servers: &Servers) -> Vec<(&'static str, String)> {
        // A space before the port is how KDE's own settings dialog writes it.
        let url = |scheme: &str, server: Option<SocketAddr>| match server {
            Some(SocketAddr::V4(server)) => format!("{scheme}://{} {}", server.ip(), server.port()),
            Some(SocketAddr::V6(server)) => format!("{scheme}://[{}] {}", server.ip(), server.port()),
            None => String::new(),
        };
        let values = [
            url("http", servers.http),
            url("http", servers.http),
            url("socks", Some(servers.socks)),
            MANUAL.to_owned(),
        ];
        KEYS.into_iter().zip(values).collect()
    }

    fn read(&self) -> Result<HashMap<String, String>, SystemProxyError> {
        let mut all = HashMap::new();
        for key in KEYS {
            let arguments = ["--file", &self.name, "--group", GROUP, "--key", key, "--default", UNSET];
            let output = self.read.run(&arguments, &[])?.stdout;
            let value = output
                .strip_suffix('\n')
                .ok_or_else(|| ToolError::Answer { what: format!("{} --key {key}", self.read.program) })?;
            if value != UNSET {
                all.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(all)
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<String, SystemProxyError> {
        let place = ["--file", &self.name, "--group", GROUP, "--key", key];
        let output = match value {
            Some(value) => self.write.run(&place, &["--", value])?,
            None => self.write.run(&[&place[..], &["--delete"]].concat(), &[])?,
        };
        Ok(shortened(&output.stderr))
    }

    fn tell(&self) {
        let told = async {
            match select(std::pin::pin!(tell()), Timer::after(TELL_TIMEOUT)).await {
                Either::Left((result, _)) => result.map_err(|error| error.to_string()),
                Either::Right(_) => Err("the session bus does not answer".to_owned()),
            }
        };
        if let Err(error) = async_io::block_on(told) {
            tracing::debug!("KDE programs that run notice the proxy when they are started again: {error}");
        }
    }

    fn place(&self) -> &Path {
        &self.file
    }
}

/// The signal by which KDE's own dialog has KIO read the file again (`KSaveIOConfig::updateRunningWorkers`).
async fn tell() -> zbus::Result<()> {
    let bus = zbus::Connection::session().await?;
    // For all protocols.
    let protocol = "";
    let (path, interface) = ("/KIO/Scheduler", "org.kde.KIO.Scheduler");
    bus.emit_signal(None::<()>, path, interface, "reparseSlaveConfiguration", &(protocol,)).await?;
    bus.close().await
}
