//! Where the daemon's log goes: standard error, as a file that is rotated by size, or as the journal wants it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A log that is larger is put aside as `daemon.log.1`, in place of the one before.
const MAX_LOG: u64 = 5 << 20;

/// Sends the log to standard error, at the level that RUST_LOG says (`info`, or `info,xrat::ipc=debug`).
///
/// If standard error is the file at `path`, it is rotated; if it is the journal, lines carry their priority instead
/// of a time. Panics go to standard error as well.
pub fn init(path: &Path) {
    // An empty variable is an unset one; as a filter it would let nothing through.
    let level = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = match level.map(|text| text.parse::<Targets>()) {
        Some(Ok(targets)) => targets,
        Some(Err(_)) | None => Targets::new().with_default(LevelFilter::INFO),
    };
    let journal = is_journal();
    let writer = Output { rotation: Rotation::of(path).map(Mutex::new), journal };
    let format = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter);
    // Set once a process; a second time is a test's.
    let _ = if journal { registry.with(format.without_time()).try_init() } else { registry.with(format).try_init() };
}

/// Whether standard error is the journal (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

struct Output {
    rotation: Option<Mutex<Rotation>>,
    journal: bool,
}

struct Rotation {
    path: PathBuf,
    written: AtomicU64,
}

impl Rotation {
    /// A rotation of `path`, if standard error is that file.
    fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::fstat(rustix::stdio::stderr()).ok()?;
        let file = std::fs::metadata(path).ok()?;
        // The two come in the same types on every Linux but for their signs.
        (file.ino() == stat.st_ino && file.dev() == stat.st_dev)
            .then(|| Self { path: path.to_owned(), written: AtomicU64::new(file.len()) })
    }

    /// Counts what was written; past the limit standard error becomes a new file.
    fn count(&self, bytes: u64) -> io::Result<()> {
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_LOG {
            return Ok(());
        }
        self.written.store(0, Ordering::Relaxed);
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(&self.path, aside)?;
        let fresh = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        rustix::stdio::dup2_stderr(&fresh)?;
        Ok(())
    }
}

/// One line of the log.
struct Line<'a> {
    output: &'a Output,
    priority: &'static str,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { output: self, priority: "" }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        // sd-daemon(3)
        let priority = match *metadata.level() {
            _ if !self.journal => "",
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        };
        Line { output: self, priority }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        stderr.write_all(self.priority.as_bytes())?;
        stderr.write_all(line)?;
        if let Some(rotation) = &self.output.rotation {
            let rotation = rotation.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            rotation.count(line.len() as u64)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
