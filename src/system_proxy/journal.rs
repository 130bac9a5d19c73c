//! The journal: what the user's values were before, on disk before the first of them is changed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::tool::Leash;
use super::{DesktopName, Servers, SystemProxyError};
use crate::config::Secret;
use crate::paths::Paths;

/// Version of the file; another one is a newer xrat's.
const VERSION: u32 = 1;
/// Whoever has the lock takes less: a tool that hangs has 3 s, and is the last one of its desktop.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to get it.
const POLL: Duration = Duration::from_millis(10);

/// All that the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    /// What the user said last; none: what `config.toml` says.
    pub(super) switch: Option<bool>,
    /// What went wrong the last time.
    pub(super) problem: Option<String>,
    /// Desktops that have values of ours, or may have.
    pub(super) desktops: Vec<Kept>,
}

/// What is known of one desktop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) desktop: DesktopName,
    /// Where its settings point to, or were to point to.
    pub(super) servers: Servers,
    /// Every value was written, and read back.
    pub(super) complete: bool,
    /// In the order in which they are written.
    pub(super) values: Vec<Value>,
}

/// One key of a desktop's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Value {
    pub(super) key: String,
    /// The user's own; null: not set. It may have a password in it.
    pub(super) before: Option<Secret>,
    /// What xrat wrote: one; more while a change of addresses is under way; none when the user took the key back.
    pub(super) ours: Vec<String>,
}

impl Value {
    /// Whether `now` was written by xrat.
    pub(super) fn is_ours(&self, now: Option<&str>) -> bool {
        now.is_some_and(|now| self.ours.iter().any(|ours| ours == now))
    }
}

/// Held while the desktop's settings and the journal are changed; also by the tools that change them.
pub(super) struct Lock {
    file: File,
    journal: PathBuf,
    /// By which whoever has the lock ends a tool that runs under it.
    pub(super) leash: Leash,
}

impl Lock {
    /// Waits for the lock; blocks for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// When somebody has it for longer, or its file cannot be made.
    pub(super) fn take(paths: &Paths) -> Result<Self, SystemProxyError> {
        Self::take_with(paths, Leash::default())
    }

    /// As [`Lock::take`], for tools that somebody else may end.
    pub(super) fn take_with(paths: &Paths, leash: Leash) -> Result<Self, SystemProxyError> {
        let path = paths.system_proxy_lock();
        let failed = |source| SystemProxyError::File { path: path.clone(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file =
            options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(&path).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file, journal: paths.system_proxy(), leash }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(Errno::WOULDBLOCK) => return Err(SystemProxyError::Busy { path }),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// The lock as somebody's standard input, which reads as empty.
    pub(super) fn share(&self) -> io::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }

    /// What the journal says.
    ///
    /// # Errors
    /// As [`read`].
    pub(super) fn read(&self) -> Result<State, SystemProxyError> {
        read(&self.journal)
    }

    /// Makes the journal say something else: afterwards it is on disk, before it is as it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, state: &State) -> Result<(), SystemProxyError> {
        let state = State { version: VERSION, ..state.clone() };
        let write = || {
            let mut text = serde_json::to_vec_pretty(&state)?;
            text.push(b'\n');
            let new = self.journal.with_extension("json.new");
            // Left by a killed process: whoever writes has the lock.
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.journal)?;
            File::open(self.journal.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        write().map_err(|source| SystemProxyError::File { path: self.journal.clone(), source })
    }
}

/// What the journal says; nothing when there is none. Without a lock it may be a moment old.
///
/// # Errors
/// When it cannot be read, is damaged, or is a newer xrat's. It is never thrown away: it is all that knows the user's
/// own values.
pub(super) fn read(path: &Path) -> Result<State, SystemProxyError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(source) => return Err(SystemProxyError::File { path: path.to_owned(), source }),
    };
    let damaged = |problem: String| SystemProxyError::Damaged { path: path.to_owned(), problem };
    // The error's own words might have a value in them.
    let state: State = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("line {}, column {} makes no sense", error.line(), error.column())))?;
    if state.version != VERSION {
        return Err(damaged(format!("it has version {}, and this xrat knows {VERSION}", state.version)));
    }
    Ok(state)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_and_nobody_else_can() {
        let root = std::env::temp_dir().join(format!("xrat-journal-{}", std::process::id()));
        let paths = Paths::resolve(Some(&root)).unwrap();
        paths.create().unwrap();
        let lock = Lock::take(&paths).unwrap();
        assert_eq!(lock.read().unwrap(), State::default());
        // What a killed process has left half written.
        std::fs::write(root.join("system-proxy.json.new"), "{").unwrap();
        let value = Value { key: "mode".into(), before: Some(Secret::new("'auto'")), ours: vec!["'manual'".into()] };
        let servers = Servers { socks: "127.0.0.1:1080".parse().unwrap(), http: None };
        let kept = Kept { desktop: DesktopName::Gnome, servers, complete: false, values: vec![value] };
        let state = State { version: VERSION, switch: Some(true), problem: None, desktops: vec![kept] };
        lock.write(&state).unwrap();
        assert_eq!(lock.read().unwrap(), state);
        assert!(!format!("{state:?}").contains("auto"));
        let mode = std::fs::metadata(paths.system_proxy()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for (text, problem) in [("{\"version\": 1", "line 1"), ("{\"version\":2,\"desktops\":[]}", "version 2")] {
            std::fs::write(paths.system_proxy(), text).unwrap();
            let error = lock.read().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("system-proxy.json"), "{error}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
