//! One start of a test's engine: its file, its socket, its last words; and which config it is that it refuses.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_channel::Sender;
use async_io::Timer;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::Signal;

use super::{BatchError, Job};
use crate::engine::process::{Exit, Process, own_identity};
use crate::engine::{Engine, batch_config, private, refused_tag};
use crate::paths::Paths;
use crate::store::ProcessIdentity;

/// An engine that is not ready by then never will be; one with 1,000 configs takes some 50 ms.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether it is ready.
const READY_POLL: Duration = Duration::from_millis(2);
/// An engine that has not checked its file by then hangs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// A group of so many is checked about as fast as an empty one: halving it would gain nothing.
const SMALL: usize = 32;
/// Names of sockets have room for a number of four digits.
const NUMBERS: u32 = 10_000;
/// An engine's words are kept in memory: so many bytes of them.
const MAX_WORDS: u64 = 256 << 10;
/// A longer line of an engine is cut in messages.
const MAX_LINE: usize = 300;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The number of this process's next engine.
pub(super) fn number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed) % NUMBERS
}

/// Whether this process has started an engine.
pub(super) fn has_begun() -> bool {
    NEXT.load(Ordering::Relaxed) > 0
}

/// A config that an engine refuses, by its place among the jobs, and why.
pub(super) type Refusal = (usize, String);

/// What every start of one engine for one batch has in common.
pub(super) struct Bench<'a> {
    pub(super) engine: &'a Engine,
    pub(super) paths: &'a Paths,
    pub(super) jobs: &'a Arc<Vec<Job>>,
    /// Who this process is.
    pub(super) owner: ProcessIdentity,
    /// Held by every engine until it is gone: closed when all are.
    pub(super) gone: Sender<()>,
}

/// An engine's process with what it leaves. Dropping it kills the engine at once; files and child are cleared away on
/// the blocking pool.
pub(super) struct Trial {
    process: Option<Process>,
    file: PathBuf,
    pub(super) socket: PathBuf,
    words: File,
    gone: Sender<()>,
}

impl Bench<'_> {
    /// Starts the engine with as many of these jobs as it takes; `set` is reduced to them. The others are told to
    /// `refused`. None when nothing is left.
    pub(super) async fn start(
        &self,
        set: &mut Vec<usize>,
        mut refused: impl FnMut(Refusal),
    ) -> Result<Option<Trial>, BatchError> {
        let mut tried = false;
        while !set.is_empty() {
            let trial = self.spawn(set, |engine, file| engine.run_args(file)).await?;
            let Err(words) = trial.until_ready(self.engine).await? else {
                return Ok(Some(trial));
            };
            drop(trial);
            let culprits = match self.named(set, &words) {
                // One bad config among many is the usual case; where there are more, halves find them faster.
                Some(culprit) if !tried => vec![culprit],
                _ => self.halve(set, &words).await?,
            };
            tried = true;
            set.retain(|job| culprits.iter().all(|(culprit, _)| culprit != job));
            culprits.into_iter().for_each(&mut refused);
        }
        Ok(None)
    }

    /// The job that the engine's own words blame.
    fn named(&self, set: &[usize], words: &str) -> Option<Refusal> {
        let id = refused_tag(words)?;
        let job = *set.iter().find(|job| self.jobs.get(**job).is_some_and(|job| job.config_id == id))?;
        Some((job, self.refusal(job, words)))
    }

    /// The engine's words about one job, without its credentials.
    fn refusal(&self, job: usize, words: &str) -> String {
        // What comes before names the file and the layers that pass an error on.
        let reason = words.rsplit(" > ").next().unwrap_or(words);
        let reason = match reason.split_once(": ") {
            Some((layer, rest)) if layer.contains('/') && !layer.contains(' ') => rest,
            _ => reason,
        };
        let masked = self.jobs.get(job).map_or_else(|| reason.to_owned(), |job| job.config.masked(reason));
        format!("{} refuses it: {}", self.engine, cut(&masked))
    }

    /// Finds by trial what the engine refuses: halves that it takes are innocent.
    async fn halve(&self, set: &[usize], words: &str) -> Result<Vec<Refusal>, BatchError> {
        let broken = |words: &str| BatchError::Engine { engine: self.engine.to_string(), words: cut(words) };
        if let Err(words) = self.check(&[]).await? {
            return Err(broken(&words));
        }
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let mut culprits = Vec::new();
        let mut waiting = vec![set.to_vec()];
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < at_once
                && let Some(group) = waiting.pop()
            {
                running.push(async move {
                    let result = self.check(&group).await;
                    (group, result)
                });
            }
            let Some((mut group, result)) = running.next().await else { break };
            let Err(words) = result? else { continue };
            if let Some((culprit, reason)) = self.named(&group, &words) {
                group.retain(|job| *job != culprit);
                culprits.push((culprit, reason));
                let half = if group.len() > SMALL { group.split_off(group.len() / 2) } else { Vec::new() };
                waiting.extend([half, group].into_iter().filter(|group| !group.is_empty()));
            } else if let [culprit] = group[..] {
                culprits.push((culprit, self.refusal(culprit, &words)));
            } else {
                let half = group.split_off(group.len() / 2);
                waiting.extend([half, group]);
            }
        }
        if culprits.is_empty() {
            // Each alone is taken and all together are not: no config can be blamed, and any may be quoted.
            let configs = set.iter().filter_map(|job| self.jobs.get(*job)).map(|job| &job.config);
            return Err(broken(&configs.fold(words.to_owned(), |words, config| config.masked(&words))));
        }
        Ok(culprits)
    }

    /// Whether the engine takes these jobs; its words when it does not. Nothing listens, nothing is dialled.
    async fn check(&self, set: &[usize]) -> Result<Result<(), String>, BatchError> {
        let trial = self.spawn(set, |engine, file| engine.test_args(file)).await?;
        match select(std::pin::pin!(trial.exited()), Timer::after(CHECK_TIMEOUT)).await {
            Either::Left((Exit::Code(0), _)) => Ok(Ok(())),
            Either::Left((exit, _)) => Ok(Err(trial.last_words().unwrap_or_else(|| exit.to_string()))),
            Either::Right(_) => Ok(Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()))),
        }
    }

    async fn spawn(&self, set: &[usize], args: fn(&Engine, &Path) -> Vec<OsString>) -> Result<Trial, BatchError> {
        let ProcessIdentity { pid, start_ticks } = self.owner;
        let number = number();
        let file = self.paths.test_file(pid, start_ticks, number);
        let socket = self.paths.test_socket(pid, start_ticks, number);
        let (engine, jobs, set) = (self.engine.clone(), Arc::clone(self.jobs), set.to_vec());
        let gone = self.gone.clone();
        // All of it in one piece, so that whoever stops waiting leaves no engine that nobody knows: the result is
        // dropped then, which ends it.
        smol::unblock(move || {
            let start = |source| BatchError::Start { engine: engine.path.clone(), source };
            let words = memory().map_err(start)?;
            let output = words.try_clone().map_err(start)?;
            let mut trial = Trial { process: None, file, socket, words, gone };
            let configs = set.iter().filter_map(|job| jobs.get(*job)).map(|job| (job.config_id, &job.config));
            let value = batch_config(&engine, configs, &trial.socket)?;
            write_private(&trial.file, &value.to_string())
                .map_err(|source| BatchError::File { path: trial.file.clone(), source })?;
            let process = Process::spawn(&engine.path, args(&engine, &trial.file), output);
            trial.process = Some(async_io::block_on(process).map_err(start)?);
            Ok(trial)
        })
        .await
    }
}

impl Trial {
    /// Waits until the engine answers, and removes its file then. The inner error is its last words: it has ended.
    async fn until_ready(&self, engine: &Engine) -> Result<Result<(), String>, BatchError> {
        let ready = async {
            let deadline = Instant::now() + READY_TIMEOUT;
            while Instant::now() < deadline {
                let attempt = private::ready(&self.socket);
                if let Either::Left((Ok(()), _)) = select(std::pin::pin!(attempt), Timer::at(deadline)).await {
                    return true;
                }
                Timer::after(READY_POLL).await;
            }
            false
        };
        match select(std::pin::pin!(self.exited()), std::pin::pin!(ready)).await {
            Either::Left((exit, _)) => Ok(Err(self.last_words().unwrap_or_else(|| exit.to_string()))),
            Either::Right((true, _)) => {
                // The drop tries again.
                let _ = std::fs::remove_file(&self.file);
                Ok(Ok(()))
            }
            Either::Right((false, _)) => {
                let words = format!("it was not ready within {} s", READY_TIMEOUT.as_secs());
                Err(BatchError::Engine { engine: engine.to_string(), words })
            }
        }
    }

    /// Waits until the engine has ended. Safe to drop.
    pub(super) async fn exited(&self) -> Exit {
        match &self.process {
            Some(process) => process.exited().await,
            None => Exit::Unknown,
        }
    }

    /// The line that tells why an engine ended: a panic's first, else the last. May hold credentials.
    pub(super) fn last_words(&self) -> Option<String> {
        let mut bytes = Vec::new();
        let mut words = &self.words;
        words.seek(SeekFrom::Start(0)).ok()?;
        words.take(MAX_WORDS).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines().map(|line| line.trim_matches(|c: char| c.is_control() || c == ' '));
        let panic = lines.clone().find(|line| line.starts_with("panic: ") || line.starts_with("fatal error: "));
        panic.or_else(|| lines.rfind(|line| !line.is_empty())).map(str::to_owned)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // It holds nothing that it should save.
            process.signal(Signal::KILL);
        }
        let mut lock = self.socket.clone().into_os_string();
        lock.push(".lock");
        let files = [std::mem::take(&mut self.file), std::mem::take(&mut self.socket), lock.into()];
        let (process, gone) = (self.process.take(), self.gone.clone());
        smol::unblock(move || {
            if let Some(process) = process {
                async_io::block_on(process.exited());
            }
            for file in files {
                let _ = std::fs::remove_file(file);
            }
            drop(gone);
        })
        .detach();
    }
}

/// Who this process is, for the names of its files.
pub(super) fn me() -> Result<ProcessIdentity, BatchError> {
    own_identity().map_err(BatchError::Identity)
}

/// A place for an engine's words that is gone with the process and cannot fill a disk: writes past its end fail.
fn memory() -> io::Result<File> {
    let memory = memfd_create("engine", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, MAX_WORDS)?;
    fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(memory.into())
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn cut(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect()
}
