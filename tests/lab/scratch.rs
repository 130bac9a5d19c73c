//! Private directories with short paths, removed on drop; those of killed tests are removed by the next one.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use super::process;

/// Every directory of the lab is named this, the test's pid and a number. Short, because a Unix socket's path
/// has 107 bytes at most.
const PREFIX: &str = "xl-";

/// A directory with mode 0700.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Self { path },
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it, with mode 0700.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        path
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failing test prints what its engines and daemon had to say before it is gone.
        if std::thread::panicking() && std::env::var_os("XRAT_LAB_KEEP").is_some() {
            eprintln!("kept for you to look at: {}", self.path.display());
            return;
        }
        remove(&self.path);
    }
}

/// Removes a directory, also when a test took the write permission from parts of it.
fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_err() {
        let _ = std::process::Command::new("chmod").args(["-R", "u+rwX", "--"]).arg(path).status();
        let _ = fs::remove_dir_all(path);
    }
}

/// Ends and removes what killed tests left: directories whose process is gone, with all that runs in them.
fn sweep() {
    let me = rustix::process::getuid().as_raw();
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        let mine = entry.metadata().is_ok_and(|found| found.uid() == me);
        if mine && !Path::new(&format!("/proc/{owner}")).exists() {
            process::kill_all_of(&entry.path());
            remove(&entry.path());
        }
    }
}
