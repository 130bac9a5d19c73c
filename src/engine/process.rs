//! An engine's process: starting it, knowing it again, noticing its end, ending it.
//!
//! Everything goes through a pidfd: a bare pid may be another process by the time a signal is sent to it.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use async_io::{Async, Timer};
use futures::future::{Either, select};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use crate::store::ProcessIdentity;

/// How long an engine may take to end after SIGTERM before it is killed.
pub const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a killed process (one that hangs in a system call on a dead disk).
const KILL_GRACE: Duration = Duration::from_secs(2);

/// The variables an engine gets: where its geo files are, and what any program needs. Everything else stays
/// with the daemon, also what could make an engine read a second configuration.
const ENVIRONMENT: &[&str] =
    &["PATH", "HOME", "TMPDIR", "XRAY_LOCATION_ASSET", "V2RAY_LOCATION_ASSET", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was another process's child.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => {
                write!(f, "was ended by signal {signal}")?;
                match Signal::from_named_raw(*signal) {
                    Some(Signal::KILL) => f.write_str(" (SIGKILL)"),
                    Some(Signal::TERM) => f.write_str(" (SIGTERM)"),
                    Some(Signal::SEGV) => f.write_str(" (SIGSEGV)"),
                    Some(Signal::ABORT) => f.write_str(" (SIGABRT)"),
                    Some(Signal::INT) => f.write_str(" (SIGINT)"),
                    _ => Ok(()),
                }
            }
            Self::Unknown => f.write_str("ended (an earlier daemon had started it: exit code unknown)"),
        }
    }
}

/// Why a process is not the one that was looked for.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No such process.
    #[error("the process is gone")]
    Gone,
    /// The pid is another process's now.
    #[error("the pid belongs to another process now")]
    Reused,
    /// Its command line is not the expected one.
    #[error("the process runs something else")]
    Other,
    /// It cannot be looked at.
    #[error("the process cannot be examined: {0}")]
    Io(#[from] io::Error),
}

/// A process that was started or found again. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Process {
    identity: ProcessIdentity,
    pidfd: Async<OwnedFd>,
    exit: Cell<Option<Exit>>,
}

impl Process {
    /// Starts `program` in a session and process group of its own, with nothing on standard input, `output` as
    /// standard output and error, `/` as working directory and no other descriptor.
    ///
    /// The work is done on the blocking pool; dropping the future may leave the process started.
    ///
    /// # Errors
    /// What the system says, for example that there is no such program.
    pub async fn spawn(program: &Path, args: Vec<OsString>, output: File) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).current_dir("/").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        // SAFETY: between fork and exec only two system calls are made; they allocate nothing and take no lock.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                // What the daemon itself inherited from a shell or a build must not live on in an engine that
                // outlives it. Kernels before 5.11 cannot do this, and then it does.
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
                Ok(())
            });
        }
        // std's Child does not wait when it is dropped; the pidfd does that.
        let pid = smol::unblock(move || command.spawn().map(|child| child.id())).await?;
        // A program that ended at once is a zombie by now: it is ours to wait for, so its pid is still its own.
        Self::open(pid, stat(pid).map(|(_, ticks)| ticks)).map_err(|error| match error {
            IdentityError::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    /// Finds a process again by pid, start time and command line (`words` must all be in it).
    ///
    /// # Errors
    /// When it is gone or another one; it is left alone then.
    pub fn find(identity: ProcessIdentity, words: &[&OsStr]) -> Result<Self, IdentityError> {
        let process = Self::open(identity.pid, start_ticks(identity.pid))?;
        // Read again now that the pidfd is open: only now it is of the process that the pidfd means.
        if start_ticks(identity.pid).ok_or(IdentityError::Gone)? != identity.start_ticks {
            return Err(IdentityError::Reused);
        }
        let line = command_line(identity.pid)?;
        if !words.iter().all(|word| line.iter().any(|argument| argument == word)) {
            return Err(IdentityError::Other);
        }
        Ok(process)
    }

    fn open(pid: u32, start_ticks: Option<u64>) -> Result<Self, IdentityError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(IdentityError::Gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(|error| match error {
            rustix::io::Errno::SRCH => IdentityError::Gone,
            other => IdentityError::Io(other.into()),
        })?;
        let start_ticks = start_ticks.ok_or(IdentityError::Gone)?;
        Ok(Self {
            identity: ProcessIdentity { pid, start_ticks },
            pidfd: Async::new_nonblocking(pidfd)?,
            exit: Cell::new(None),
        })
    }

    /// Pid and start time.
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Waits until the process has ended. Safe to drop and to call again, also from several futures.
    pub async fn exited(&self) -> Exit {
        loop {
            if let Some(exit) = self.exit.get() {
                return exit;
            }
            // A pidfd is readable once the process has ended. An error of the reactor leaves nothing to wait for.
            let readable = self.pidfd.readable().await;
            if self.exit.get().is_none() && (readable.is_err() || self.has_ended()) {
                self.exit.set(Some(self.reap()));
            }
        }
    }

    /// Whether the process has ended, without waiting; a zombie has.
    pub fn has_ended(&self) -> bool {
        if self.exit.get().is_some() {
            return true;
        }
        let mut fds = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&none)), Ok(n) if n > 0)
    }

    fn reap(&self) -> Exit {
        use std::os::fd::AsFd;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                _ => Exit::Unknown,
            },
            _ => Exit::Unknown,
        }
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, signal) {
            tracing::debug!(pid = self.identity.pid, %error, "signal not delivered");
        }
    }

    /// Ends the process: SIGTERM, SIGKILL after `grace`. Waits until it is gone.
    ///
    /// Dropped half-way the process has its SIGTERM, and nobody waits for it.
    pub async fn stop(&self, grace: Duration) -> Exit {
        self.signal(Signal::TERM);
        // A stopped process (SIGSTOP) handles SIGTERM only when it runs again.
        self.signal(Signal::CONT);
        if let Either::Left((exit, _)) = select(std::pin::pin!(self.exited()), Timer::after(grace)).await {
            return exit;
        }
        tracing::warn!(pid = self.identity.pid, "engine did not end within {grace:?} of SIGTERM: killing it");
        self.signal(Signal::KILL);
        match select(std::pin::pin!(self.exited()), Timer::after(KILL_GRACE)).await {
            Either::Left((exit, _)) => exit,
            Either::Right(_) => {
                tracing::error!(pid = self.identity.pid, "engine survives SIGKILL: the kernel holds it");
                Exit::Unknown
            }
        }
    }
}

/// This process, as others find it again.
///
/// # Errors
/// When /proc is not mounted.
pub fn own_identity() -> io::Result<ProcessIdentity> {
    let pid = std::process::id();
    let start_ticks = start_ticks(pid).ok_or_else(|| io::Error::other("/proc does not tell of this process"))?;
    Ok(ProcessIdentity { pid, start_ticks })
}

/// Whether the process is still there; a zombie is not.
pub fn is_alive(identity: ProcessIdentity) -> bool {
    start_ticks(identity.pid) == Some(identity.start_ticks)
}

/// The start time of a process that is alive: a zombie is not.
fn start_ticks(pid: u32) -> Option<u64> {
    stat(pid).and_then(|(alive, ticks)| alive.then_some(ticks))
}

/// Whether the process is more than a zombie, and field 22 of `/proc/<pid>/stat`.
fn stat(pid: u32) -> Option<(bool, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses itself; the fields after it may not.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first of them is field 3, the state.
    Some((!matches!(fields.first(), Some(&"Z" | &"X")), fields.get(19)?.parse().ok()?))
}

fn command_line(pid: u32) -> io::Result<Vec<OsString>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    Ok(line.split(|b| *b == 0).filter(|word| !word.is_empty()).map(|word| OsStr::from_bytes(word).to_owned()).collect())
}

/// The user's processes that have an argument for which `wanted` holds, with that argument.
pub fn processes_with_argument(wanted: impl Fn(&OsStr) -> bool) -> Vec<(ProcessIdentity, OsString)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let argument = command_line(pid).ok()?.into_iter().skip(1).find(|word| wanted(word))?;
            Some((ProcessIdentity { pid, start_ticks: start_ticks(pid)? }, argument))
        })
        .collect()
}

/// `/proc/sys/kernel/random/boot_id`: another one means that no process of before is left.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// `/etc/machine-id`, or the host's name where there is none (a minimal container).
pub fn machine_id() -> String {
    match std::fs::read_to_string("/etc/machine-id") {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        _ => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn run(script: &str) -> Process {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let args = vec!["-c".into(), script.into()];
        async_io::block_on(Process::spawn(Path::new("/bin/sh"), args, null)).unwrap()
    }

    /// In the middle of an exec the command line reads as empty.
    fn runs_sleep(pid: u32) -> bool {
        command_line(pid).unwrap().first().is_some_and(|word| word == "sleep")
    }

    #[test]
    fn tells_exit_codes_and_signals() {
        assert_eq!(async_io::block_on(run("exit 7").exited()), Exit::Code(7));
        let exit = async_io::block_on(run("kill -9 $$").exited());
        assert_eq!(exit, Exit::Signal(9));
        assert_eq!(exit.to_string(), "was ended by signal 9 (SIGKILL)");
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let process = run("trap '' TERM; while :; do read -r _ < /dev/zero; done");
        // Signalled only once the trap is set: a shell without it would die of SIGTERM and prove nothing.
        while !ignores_term(process.identity().pid) {
            std::thread::yield_now();
        }
        assert_eq!(async_io::block_on(process.stop(Duration::from_millis(50))), Exit::Signal(9));
    }

    fn ignores_term(pid: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (15 - 1)) != 0
    }

    #[test]
    fn a_stopped_process_ends_at_once() {
        let process = run("kill -STOP $$; exit 3");
        assert!(matches!(async_io::block_on(process.stop(Duration::from_secs(60))), Exit::Signal(15) | Exit::Code(3)));
    }

    #[test]
    fn a_process_is_found_again_by_identity_and_words_only() {
        let process = run("exec sleep 1000");
        let identity = process.identity();
        while !runs_sleep(identity.pid) {
            std::thread::yield_now();
        }
        let found = Process::find(identity, &[OsStr::new("1000")]).unwrap();
        let other = ProcessIdentity { start_ticks: identity.start_ticks + 1, ..identity };
        assert!(matches!(Process::find(other, &[]), Err(IdentityError::Reused)));
        assert!(matches!(Process::find(identity, &[OsStr::new("2000")]), Err(IdentityError::Other)));
        async_io::block_on(process.stop(TERM_GRACE));
        assert!(found.has_ended());
        assert!(matches!(Process::find(identity, &[]), Err(IdentityError::Gone)));
    }

    #[test]
    fn the_child_has_a_session_of_its_own_and_no_stray_descriptor() {
        let kept = File::open("/dev/null").unwrap();
        let process = run("exec sleep 1000");
        let pid = process.identity().pid;
        while !runs_sleep(pid) {
            std::thread::yield_now();
        }
        let raw = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        assert_eq!(rustix::process::getsid(Some(raw)).unwrap(), raw);
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert_eq!(descriptors, 3);
        async_io::block_on(process.stop(TERM_GRACE));
        drop(kept);
    }
}
