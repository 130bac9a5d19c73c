//! GNOME's settings, by its tool `gsettings`: what GTK programs, browsers and many others ask for a proxy.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::journal::Lock;
use super::tool::{Output, Tool, ToolError, shortened};
use super::{Desktop, DesktopName, Present, Servers, SystemProxyError};
use crate::paths::Paths;

const PROGRAM: &str = "gsettings";
/// The schema of the keys; those of one kind of proxy are in a child of that name.
const SCHEMA: &str = "org.gnome.system.proxy";
/// `gsettings` has no word for "did the user set this?": it gives the default as if it were a value. So values are read
/// through a schema of our own for the same place, whose defaults are nobody's values (`user-values.gschema.xml`).
const USER_VALUES: &[u8] = include_bytes!("gschemas.compiled");
const USER_VALUES_AT: &str = "org.xrat.UserValues:/system/proxy/";
/// How each line of the answer begins.
const USER_VALUES_PREFIX: &str = "org.xrat.UserValues";
/// The defaults of that schema, as `gsettings` prints them.
const UNSET: [&str; 2] = ["'\\u0001'", "-1"];

/// GNOME's settings.
pub(super) struct Gsettings<'l> {
    tool: Tool<'l>,
    /// Has [`USER_VALUES`] in it, under the only name that `gsettings` looks for.
    schemas: PathBuf,
}

impl<'l> Gsettings<'l> {
    /// The settings, if tool and schema are there; else what is missing.
    pub(super) fn find(paths: &Paths, lock: &'l Lock) -> Present<Self> {
        if super::tool::found(PROGRAM).is_none() {
            return Present::Missing("the program gsettings".to_owned());
        }
        let tool = Tool { program: PROGRAM, lock };
        match tool.run(&["list-keys", SCHEMA], &[]) {
            Ok(_) => {}
            Err(ToolError::Failed { .. }) => {
                return Present::Missing(format!("the schema {SCHEMA} (package gsettings-desktop-schemas)"));
            }
            Err(error) => return Present::Broken(error.into()),
        }
        let schemas = paths.runtime();
        let file = schemas.join("gschemas.compiled");
        match std::fs::write(&file, USER_VALUES) {
            Ok(()) => Present::Here(Self { tool, schemas }),
            Err(source) => Present::Broken(SystemProxyError::File { path: file, source }),
        }
    }
}

impl Drop for Gsettings<'_> {
    fn drop(&mut self) {
        // What stays is in nobody's way, and is written again the next time.
        let _ = std::fs::remove_file(self.schemas.join("gschemas.compiled"));
    }
}

impl Desktop for Gsettings<'_> {
    fn name(&self) -> DesktopName {
        DesktopName::Gnome
    }

    fn ours(&self, servers: &Servers) -> Vec<(&'static str, String)> {
        // In the text form of GVariant, as the tool prints and takes them. IP addresses need no escapes.
        let host = |server: Option<std::net::SocketAddr>| match server {
            Some(server) => format!("'{}'", server.ip()),
            None => "''".to_owned(),
        };
        let port = |server: Option<std::net::SocketAddr>| server.map_or(0, |server| server.port()).to_string();
        let (http, socks) = (servers.http, Some(servers.socks));
        vec![
            ("http.host", host(http)),
            ("http.port", port(http)),
            ("https.host", host(http)),
            ("https.port", port(http)),
            ("socks.host", host(socks)),
            ("socks.port", port(socks)),
            // The last: from here on the others matter.
            ("mode", "'manual'".to_owned()),
        ]
    }

    fn read(&self) -> Result<HashMap<String, String>, SystemProxyError> {
        let schemas = self.schemas.to_string_lossy();
        let arguments = ["--schemadir", &schemas, "list-recursively", USER_VALUES_AT];
        let Output { stdout, .. } = self.tool.run(&arguments, &[])?;
        let all = parse(&stdout).ok_or_else(|| ToolError::Answer { what: format!("{PROGRAM} list-recursively") })?;
        Ok(all.into_iter().filter(|(_, value)| !UNSET.contains(&value.as_str())).collect())
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<String, SystemProxyError> {
        let (schema, key) = match key.split_once('.') {
            Some((child, key)) => (format!("{SCHEMA}.{child}"), key),
            None => (SCHEMA.to_owned(), key),
        };
        let output = match value {
            Some(value) => self.tool.run(&["set", &schema, key], &[value])?,
            None => self.tool.run(&["reset", &schema, key], &[])?,
        };
        // It complains and succeeds where it has no place to write to.
        Ok(shortened(&output.stderr))
    }

    fn tell(&self) {
        // Programs that use the settings are told by what stores them.
    }

    fn place(&self) -> &Path {
        Path::new("dconf")
    }
}

/// The lines of `list-recursively` as keys and values: seven, or something is wrong.
fn parse(text: &str) -> Option<HashMap<String, String>> {
    let mut all = HashMap::new();
    for line in text.lines() {
        let (schema, rest) = line.split_once(' ')?;
        let (key, value) = rest.split_once(' ')?;
        let child = schema.strip_prefix(USER_VALUES_PREFIX)?.trim_start_matches('.').to_ascii_lowercase();
        let key = if child.is_empty() { key.to_owned() } else { format!("{child}.{key}") };
        all.insert(key, value.to_owned());
    }
    (all.len() == 7).then_some(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_seven_keys_or_none() {
        let text = "org.xrat.UserValues mode '\\u0001'\n\
                    org.xrat.UserValues.Http host \"it's one\"\n\
                    org.xrat.UserValues.Http port -1\n\
                    org.xrat.UserValues.Https host ''\n\
                    org.xrat.UserValues.Https port 0\n\
                    org.xrat.UserValues.Socks host 'a'\n\
                    org.xrat.UserValues.Socks port 1080\n";
        let all = parse(text).unwrap();
        assert_eq!((all["mode"].as_str(), all["http.host"].as_str()), ("'\\u0001'", "\"it's one\""));
        assert_eq!((all["https.port"].as_str(), all["socks.port"].as_str()), ("0", "1080"));
        assert!(parse(&text.replace("org.xrat.UserValues mode '\\u0001'\n", "")).is_none());
    }
}
