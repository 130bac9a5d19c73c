//! Engines that misbehave on command: a script that is named in `[paths]` in place of the real one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::engines::{Kind, engine};
use super::wait_for;

/// Writes a script that says the engine's version when asked for it, runs `first` (shell) otherwise, and becomes the
/// engine after it; `None` without that engine. Only builtins in `first`, or `exec`: nothing else is cleaned up.
pub fn wrapper(path: &Path, kind: Kind, first: &str) -> Option<()> {
    let real = engine(kind.name())?;
    let real = real.to_str().unwrap();
    let versions = "-version|version";
    script(path, &format!("case \"$*\" in {versions}) exec {real} \"$@\";; esac\n{first}\nexec {real} \"$@\"\n"));
    Some(())
}

/// Writes an executable shell script.
///
/// Another process does it: were the file open in this one, a child that another test starts at that moment would
/// inherit it, and the kernel refuses to execute what somebody can write to.
pub fn script(path: &Path, text: &str) {
    let mut child = Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod 700 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A place where a script waits for the test.
pub struct Gate {
    path: PathBuf,
}

impl Gate {
    /// Makes it: a FIFO.
    pub fn new(path: PathBuf) -> Self {
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        Self { path }
    }

    /// The line of shell that waits.
    pub fn line(&self) -> String {
        format!("read -r _ <'{}'", self.path.display())
    }

    /// Waits until a script has come to the gate. It goes on when the result is dropped.
    ///
    /// # Panics
    /// When none comes.
    pub fn reached(&self) -> File {
        // A FIFO cannot be opened for writing until somebody reads.
        wait_for("a script waits at the gate", || {
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            OpenOptions::new().write(true).custom_flags(nonblocking).open(&self.path).ok()
        })
    }
}
