//! Why a command failed: one sentence, a hint where there is a way out, and the exit code.

use std::io;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::command::PROTOCOL_VERSION;
use crate::daemon::DaemonError;
use crate::engine::discover::DiscoverError;
use crate::import::ImportError;
use crate::ipc::client::ClientError;
use crate::ipc::wire::Answer;
use crate::net::fetch::FetchError;
use crate::net::url::UrlError;
use crate::paths::PathError;
use crate::probe::batch::BatchError;
use crate::probe::stored::TestError;
use crate::settings::SettingsError;
use crate::store::{FindError, StoreError};
use crate::system_proxy::SystemProxyError;

/// The exit codes. Scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The work failed (500).
    Failed = 1,
    /// The request itself is wrong (400).
    Usage = 2,
    /// No daemon answers.
    NotReachable = 3,
    /// What it names does not exist (404).
    NotFound = 4,
    /// It does not go together with what is (409).
    Conflict = 5,
    /// A signal ended it early: 128 and the number of SIGINT, as a shell has it.
    Interrupted = 130,
}

impl Exit {
    /// The same in the words of the daemon's answers.
    fn code(self) -> u16 {
        match self {
            Self::Failed | Self::NotReachable | Self::Interrupted => 500,
            Self::Usage => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The argument parser's words.
    #[error("{}", .0.trim_end())]
    Arguments(String),
    /// A word of the command line is not text.
    #[error("the arguments are not UTF-8")]
    NotUtf8,
    /// An argument that the parser cannot judge.
    #[error("{0}")]
    Usage(String),
    /// The root directory.
    #[error(transparent)]
    Path(#[from] PathError),
    /// `config.toml`.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An id or a name that does not mean one config.
    #[error(transparent)]
    Find(#[from] FindError),
    /// An id that means no subscription.
    #[error("no subscription {0} (see 'xrat subscription list')")]
    NoSubscription(i64),
    /// A source that cannot be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// The file, or standard input.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file that cannot be written or removed.
    #[error("cannot write {what}: {source}")]
    Write {
        /// The file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A source that is neither a link nor a file.
    #[error("{0} is neither a share link (scheme://…) nor a file")]
    NoSource(String),
    /// A source that is too large to be a list of links.
    #[error("{what} is larger than {limit_mib} MiB: that is no list of links")]
    TooLarge {
        /// The file, or standard input.
        what: String,
        /// What is read at most.
        limit_mib: usize,
    },
    /// A link that no QR code can hold.
    #[error("the link has {bytes} bytes, and a QR code holds {limit} at most: 'xrat show ID --link' prints it")]
    TooLongForQr {
        /// Bytes of the link.
        bytes: usize,
        /// Bytes of the largest code.
        limit: usize,
    },
    /// Nothing could be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An address that cannot be fetched.
    #[error("the address {0}")]
    Url(#[from] UrlError),
    /// The daemon did not do it.
    #[error("{}", .0.message)]
    Refused(Answer),
    /// The daemon could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon ended while it was being watched.
    #[error("the daemon has ended")]
    DaemonEnded,
    /// The daemon cannot be executed.
    #[error("cannot start the daemon: {source}")]
    StartDaemon {
        /// What the system said.
        source: io::Error,
    },
    /// The daemon was executed and does not answer.
    #[error("the daemon did not start: {what}{}", .lines.iter().map(|line| format!("\n  {line}")).collect::<String>())]
    NotStarted {
        /// How it went.
        what: String,
        /// Whether it refused its settings.
        usage: bool,
        /// The last lines of its log.
        lines: Vec<String>,
    },
    /// The service manager does not end the daemon.
    #[error("the daemon was not stopped: {0}")]
    NotStopped(String),
    /// The daemon was told to end or to begin again, and did not.
    #[error("the daemon (pid {pid}) does not do as it was told; see its log")]
    StillRunning {
        /// Its pid.
        pid: u32,
    },
    /// The daemon in the foreground.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// No engine.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Nothing could be tested.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Everything was tested, to no avail.
    #[error("no config works")]
    NoneWorks,
    /// A signal ended the tests early.
    #[error("interrupted: {untested} configs were not tested")]
    Interrupted {
        /// How many.
        untested: usize,
    },
    /// The desktop's proxy settings, or their journal.
    #[error(transparent)]
    SystemProxy(#[from] SystemProxyError),
    /// The proxy settings of one desktop, when the others are done.
    #[error("{0}")]
    Desktop(String),
    /// Standard output.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The command has told everything already.
    #[error("")]
    Told,
}

impl From<TestError> for CliError {
    fn from(error: TestError) -> Self {
        match error {
            TestError::Discover(error) => error.into(),
            TestError::Batch(error) => error.into(),
            TestError::Store(error) => error.into(),
        }
    }
}

impl CliError {
    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Arguments(_)
            | Self::NotUtf8
            | Self::Usage(_)
            | Self::Settings(_)
            | Self::Url(_)
            | Self::SystemProxy(SystemProxyError::Credentials) => Exit::Usage,
            Self::Refused(answer) => match answer.code {
                400 => Exit::Usage,
                404 => Exit::NotFound,
                409 => Exit::Conflict,
                _ => Exit::Failed,
            },
            Self::Client(ClientError::NotReachable { .. }) | Self::DaemonEnded => Exit::NotReachable,
            Self::Daemon(DaemonError::Locked(_)) | Self::SystemProxy(SystemProxyError::Busy { .. }) => Exit::Conflict,
            Self::Daemon(DaemonError::Settings(_)) | Self::NotStarted { usage: true, .. } => Exit::Usage,
            Self::Interrupted { .. } => Exit::Interrupted,
            Self::Find(FindError::Missing(_)) | Self::NoSubscription(_) => Exit::NotFound,
            Self::Find(FindError::Ambiguous { .. }) => Exit::Usage,
            Self::Find(FindError::Store(_))
            | Self::Path(_)
            | Self::Store(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::NoSource(_)
            | Self::TooLarge { .. }
            | Self::TooLongForQr { .. }
            | Self::Import(_)
            | Self::Client(_)
            | Self::StartDaemon { .. }
            | Self::NotStarted { usage: false, .. }
            | Self::NotStopped(_)
            | Self::StillRunning { .. }
            | Self::Daemon(_)
            | Self::Discover(_)
            | Self::Batch(_)
            | Self::NoneWorks
            | Self::SystemProxy(_)
            | Self::Desktop(_)
            | Self::Output(_)
            | Self::Told => Exit::Failed,
        }
    }

    /// The way out, where the sentence does not have it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Arguments(_) => Some("'xrat --help' and 'xrat COMMAND --help' tell what there is"),
            Self::Client(ClientError::NotReachable { .. }) => Some("start the daemon with 'xrat daemon start'"),
            Self::NoSource(_) => Some("put a link in quotes, give the name of a file, or '-' for standard input"),
            Self::Import(ImportError::Fetch { direct, tunnelled: None, .. })
                if matches!(**direct, FetchError::Connect { .. } | FetchError::TimedOut) =>
            {
                Some("if the site is blocked here, connect first ('xrat connect ID') and try again")
            }
            _ => None,
        }
    }

    /// The failure as an answer of the daemon would put it; none when there is nothing to add to the output.
    pub(super) fn answer(&self) -> Option<Value> {
        match self {
            Self::Told | Self::NoneWorks | Self::Interrupted { .. } | Self::Output(_) => None,
            Self::Refused(answer) => serde_json::to_value(answer).ok(),
            _ => Some(json!({
                "protocol_version": PROTOCOL_VERSION,
                "ok": false,
                "code": self.exit().code(),
                "message": self.to_string(),
                "payload": null,
            })),
        }
    }

    /// Whether the reader of the output has gone, as `head` does when it has enough.
    pub(super) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
