//! The variables that a daemon of the lab and its commands have.

use std::ffi::OsString;
use std::path::Path;

use super::process::OWNER_VARIABLE;

/// A home, a runtime directory and no session bus of the person who runs the tests, and no proxy of theirs.
pub(super) fn environment(home: &Path) -> Vec<(OsString, Option<OsString>)> {
    let mut variables: Vec<(OsString, Option<OsString>)> = vec![
        (OWNER_VARIABLE.into(), Some(home.into())),
        ("HOME".into(), Some(home.join("h").into())),
        ("XDG_RUNTIME_DIR".into(), Some(home.join("x").into())),
    ];
    let removed = [
        "DBUS_SESSION_BUS_ADDRESS",
        "XRAT_PATH",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
        "all_proxy",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "ALL_PROXY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ];
    variables.extend(removed.map(|name| (name.into(), None)));
    variables
}
