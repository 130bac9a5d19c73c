//! Where things live: the root directory and every file in it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::event::SessionId;

/// `sun_path` holds 108 bytes with the closing NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Why the root directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither `--root`, `XRAT_PATH`, `XDG_CONFIG_HOME` nor `HOME` says where.
    #[error("no root directory: HOME is not set; give --root DIR or set XRAT_PATH")]
    NoHome,
    /// A socket in it would not fit into a socket address.
    #[error(
        "the root directory {} is too long: a Unix socket path has {MAX_SOCKET_PATH} bytes and {} would need {length}. \
         Give a shorter one with --root or XRAT_PATH", root.display(), longest.display()
    )]
    TooLong {
        /// The root.
        root: PathBuf,
        /// The longest socket path in it.
        longest: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// A directory of ours cannot be made or read.
    #[error("cannot use the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory of ours is a link, a file, or somebody else's.
    #[error("{} {problem}", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and the way out.
        problem: &'static str,
    },
}

/// The root directory and the names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Finds the root: `--root`, else `XRAT_PATH`, else `xrat` in `XDG_CONFIG_HOME` or `~/.config`.
    ///
    /// Relative paths are taken from the working directory; nothing is created.
    ///
    /// # Errors
    /// When there is no home, or a socket path would be too long.
    pub fn resolve(root: Option<&Path>) -> Result<Self, PathError> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = match root.map(Path::to_owned).or_else(|| var("XRAT_PATH")) {
            Some(root) => root,
            None => {
                // The base directory specification: a relative XDG path is to be ignored.
                let config = var("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
                config.or_else(|| Some(var("HOME")?.join(".config"))).ok_or(PathError::NoHome)?.join("xrat")
            }
        };
        let root = std::path::absolute(&root).map_err(|source| PathError::Directory { path: root, source })?;
        let paths = Self { root };
        let longest = paths.session_socket(SessionId(i64::MAX), "socks");
        let length = longest.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            return Err(PathError::TooLong { root: paths.root, longest, length });
        }
        Ok(paths)
    }

    /// Makes the root, `runtime` and `logs`, each 0700 and the user's own.
    ///
    /// # Errors
    /// When one cannot be made, is a symbolic link, is not a directory, or belongs to another user.
    pub fn create(&self) -> Result<(), PathError> {
        if !self.root.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.root)
                .map_err(|source| PathError::Directory { path: self.root.clone(), source })?;
        }
        // The root itself may be a link: people keep their ~/.config elsewhere. What is in it may not.
        self.check(&self.root, false)?;
        for directory in [self.runtime(), self.logs()] {
            match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PathError::Directory { path: directory, source: error });
                }
                _ => self.check(&directory, true)?,
            }
        }
        Ok(())
    }

    fn check(&self, path: &Path, private: bool) -> Result<(), PathError> {
        let failed = |source| PathError::Directory { path: path.to_owned(), source };
        let untrusted = |problem| PathError::Untrusted { path: path.to_owned(), problem };
        let metadata =
            if private { std::fs::symlink_metadata(path) } else { std::fs::metadata(path) }.map_err(failed)?;
        if metadata.is_symlink() {
            return Err(untrusted("is a symbolic link; remove it, xrat makes a directory in its place"));
        }
        if !metadata.is_dir() {
            return Err(untrusted("is not a directory; move it away, xrat makes a directory in its place"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(untrusted("belongs to another user; run xrat as that user or give another --root"));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(())
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the root that is used when nothing says otherwise.
    pub fn is_default(&self) -> bool {
        std::env::var_os("HOME").is_some_and(|home| self.root == Path::new(&home).join(".config/xrat"))
    }

    /// `config.toml`.
    pub fn settings(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("xrat.db")
    }

    /// Sockets and files of running engines; 0700.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// Logs of daemon and engines; 0700.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("daemon.sock")
    }

    /// The log of a daemon that runs in the background.
    pub fn daemon_log(&self) -> PathBuf {
        self.logs().join("daemon.log")
    }

    /// What the desktop's own proxy settings were before xrat changed them. Not in the runtime directory: it outlives
    /// whoever wrote it.
    pub fn system_proxy(&self) -> PathBuf {
        self.root.join("system-proxy.json")
    }

    /// Locked while those settings are changed.
    pub fn system_proxy_lock(&self) -> PathBuf {
        self.root.join("system-proxy.lock")
    }

    /// Whether a word is the path of a [`Paths::session_file`] of this root: an argument of its engines.
    pub fn is_session_file(&self, word: &OsStr) -> bool {
        let prefix = self.runtime().join("session-");
        word.as_bytes().starts_with(prefix.as_os_str().as_bytes()) && word.as_bytes().ends_with(b".json")
    }

    /// The engine's file of a session: credentials inside, there only until the engine is ready.
    pub fn session_file(&self, id: SessionId) -> PathBuf {
        self.runtime().join(format!("session-{id}.json"))
    }

    /// What a session's engine prints.
    pub fn session_log(&self, id: SessionId) -> PathBuf {
        self.logs().join(format!("session-{id}.log"))
    }

    /// A private socket of a session's engine; `role` is at most five characters.
    pub fn session_socket(&self, id: SessionId, role: &str) -> PathBuf {
        self.runtime().join(format!("{id}-{role}.sock"))
    }

    /// The engine's file of a test: credentials inside, there only until the engine is ready. `owner` is the pid of the
    /// process that tests, `start_ticks` when that was started; `number` tells its engines apart.
    pub fn test_file(&self, owner: u32, start_ticks: u64, number: u32) -> PathBuf {
        self.runtime().join(format!("test-{owner}-{start_ticks}-{number}.json"))
    }

    /// The private socket of a test's engine; `number` has four digits at most.
    pub fn test_socket(&self, owner: u32, start_ticks: u64, number: u32) -> PathBuf {
        self.runtime().join(format!("{owner}-{start_ticks}-{number}.sock"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_root_too_long_for_a_socket_is_refused_with_the_reason() {
        let error = Paths::resolve(Some(Path::new(&format!("/{}", "x".repeat(90))))).unwrap_err().to_string();
        assert!(error.contains("107 bytes") && error.contains("--root"), "{error}");
    }

    #[test]
    fn every_socket_is_no_longer_than_the_one_that_is_checked() {
        let paths = Paths::resolve(Some(Path::new("/r"))).unwrap();
        let longest = paths.session_socket(SessionId(i64::MAX), "socks").as_os_str().len();
        for role in ["socks", "http", "api"] {
            assert!(paths.session_socket(SessionId(1), role).as_os_str().len() <= longest);
        }
        assert!(paths.socket().as_os_str().len() <= longest);
        // The largest pid there can be, and 31 years without a restart at 100 ticks a second.
        assert!(paths.test_socket(4_194_304, 99_999_999_999, 9_999).as_os_str().len() <= longest);
    }
}
