//! Runs a desktop's own tool: within a time limit, and with what it said.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::journal::Lock;

/// A tool takes some 10 ms. One that takes longer than this waits for a service that hangs.
const LIMIT: Duration = Duration::from_secs(3);
/// As much of what a tool prints is read: a pipe's worth, so that no tool waits for its reader.
const MAX_OUTPUT: u64 = 64 << 10;
/// As much of its complaint is shown.
const MAX_SHOWN: usize = 300;

/// Why a tool did not do its work. None of these has a value in it: a user's own proxy may have a password.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It cannot be executed, or not be waited for.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Its name.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It was ended because it took too long.
    #[error("'{what}' did not end within {} s: the service behind it hangs", LIMIT.as_secs())]
    TimedOut {
        /// The command without its value.
        what: String,
    },
    /// Nobody waits for it any more.
    #[error("'{what}' was not done: the daemon ended before")]
    Ended {
        /// The command without its value.
        what: String,
    },
    /// It says that it failed.
    #[error("'{what}' failed: {said}")]
    Failed {
        /// The command without its value.
        what: String,
        /// Its own words.
        said: String,
    },
    /// It succeeded, and its answer makes no sense.
    #[error("the answer of '{what}' is not what it should be")]
    Answer {
        /// The command.
        what: String,
    },
}

/// Ends the tool that runs, from another thread, and lets no other begin.
#[derive(Clone, Default)]
pub(super) struct Leash(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    ended: bool,
    /// The tool and its process group. Its number is nobody else's: it is taken out before the tool's end is taken note
    /// of, under the same mutex.
    running: Option<Pid>,
}

impl Leash {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a tool; none when there are to be none any more.
    fn spawn(&self, command: &mut Command) -> std::io::Result<Option<Child>> {
        let mut held = self.held();
        if held.ended {
            return Ok(None);
        }
        let child = command.spawn()?;
        held.running = Some(Pid::from_child(&child));
        Ok(Some(child))
    }

    /// Takes note of the end of a tool that has ended or was killed.
    fn reap(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        self.held().running = None;
        child.wait()
    }

    /// Kills the tool that runs, with all that it started, so that it cannot hold the lock; no other begins.
    pub(super) fn end(&self) {
        let mut held = self.held();
        held.ended = true;
        if let Some(group) = held.running {
            // Its own group: nobody else is in it. One that has ended already is none to kill.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A tool that was found, and the lock under which it runs.
#[derive(Clone, Copy)]
pub(super) struct Tool<'l> {
    pub(super) program: &'static str,
    pub(super) lock: &'l Lock,
}

/// What a tool printed.
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Tool<'_> {
    /// Runs the tool with `arguments` and then `secret`, which is in no message.
    ///
    /// Blocks for [`LIMIT`] at most; a tool that takes longer is killed. The tool inherits the lock, as its standard
    /// input: as long as one lives whose daemon was killed, nobody else changes what it is about to change.
    ///
    /// # Errors
    /// See [`ToolError`].
    pub(super) fn run(&self, arguments: &[&str], secret: &[&str]) -> Result<Output, ToolError> {
        let program = self.program;
        let what = [&[program], arguments].concat().join(" ");
        let failed = |source| ToolError::Run { program: program.to_owned(), source };
        let mut command = Command::new(program);
        command.args(arguments).args(secret).stdin(self.lock.share().map_err(failed)?);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // Messages in one language, and any text that a value may have.
        command.env("LC_ALL", "C.UTF-8");
        let leash = &self.lock.leash;
        let Some(mut child) = leash.spawn(&mut command).map_err(failed)? else {
            return Err(ToolError::Ended { what });
        };
        let Some(status) = wait(&mut child, LIMIT, leash).map_err(failed)? else {
            return Err(ToolError::TimedOut { what });
        };
        if !status.success() && leash.held().ended {
            return Err(ToolError::Ended { what });
        }
        let stdout = child.stdout.take().map(said).transpose().map_err(failed)?.unwrap_or_default();
        let stderr = child.stderr.take().map(said).transpose().map_err(failed)?.unwrap_or_default();
        if !status.success() {
            let said = if stderr.trim().is_empty() { status.to_string() } else { shortened(&stderr) };
            return Err(ToolError::Failed { what, said });
        }
        Ok(Output { stdout, stderr })
    }
}

/// The program file of this name, as a shell would find it.
pub(super) fn found(program: &str) -> Option<PathBuf> {
    let executable = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|file| file.is_file())
            && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| executable(path))
}

/// A complaint as one short line.
pub(super) fn shortened(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|character| !crate::link::is_unprintable(*character)).take(MAX_SHOWN).collect()
}

/// The end of a child; none when it had to be killed, with all that it started.
fn wait(child: &mut Child, limit: Duration, leash: &Leash) -> std::io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                // Its own group: nobody else is in it.
                let _ = kill_process_group(pid, Signal::KILL);
                leash.reap(child)?;
                return Ok(None);
            }
            Ok(_) => return leash.reap(child).map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is in the pipe now. A service that the tool has started may hold the other end for ever.
fn said(pipe: impl Read + std::os::fd::AsFd) -> std::io::Result<String> {
    rustix::io::ioctl_fionbio(&pipe, true)?;
    let mut bytes = Vec::new();
    match pipe.take(MAX_OUTPUT).read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    #[test]
    fn a_tool_that_nobody_waits_for_is_killed_and_no_other_begins() {
        let root = std::env::temp_dir().join(format!("xrat-leash-{}", uuid::Uuid::new_v4()));
        let paths = Paths::resolve(Some(&root)).unwrap();
        paths.create().unwrap();
        let leash = Leash::default();
        let lock = Lock::take_with(&paths, leash.clone()).unwrap();
        // What it starts holds the lock as well.
        let tool = Tool { program: "sh", lock: &lock };
        let killed = std::thread::scope(|scope| {
            let running = scope.spawn(|| tool.run(&["-c", "sleep 600; :"], &[]));
            while leash.held().running.is_none() && !running.is_finished() {
                std::thread::yield_now();
            }
            leash.end();
            running.join().unwrap()
        });
        assert!(matches!(killed, Err(ToolError::Ended { .. })), "{:?}", killed.err());
        assert!(matches!(tool.run(&["-c", ":"], &[]), Err(ToolError::Ended { .. })));
        drop(lock);
        Lock::take(&paths).unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }
}
