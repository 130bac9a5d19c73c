//! What tests leave behind when they are killed: engines without an owner, their files and sockets.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use async_io::Timer;
use futures::future::{Either, select};
use rustix::process::Signal;

use crate::engine::process::{Process, is_alive, processes_with_argument};
use crate::paths::Paths;
use crate::store::ProcessIdentity;

/// How long a killed engine may take to be gone before its files are removed all the same.
const GRACE: Duration = Duration::from_secs(2);

/// Ends the engines of tests whose owner is dead, and removes their files. Tests that run are left alone.
///
/// Looks at every process of this machine, on the blocking pool. Dropped half-way it may leave an engine that has its
/// SIGKILL, and files for the next sweep.
pub async fn sweep_dead_tests(paths: &Paths) {
    let runtime = paths.runtime();
    let engines = smol::unblock(move || processes_with_argument(|word| dead_owner(&runtime, word))).await;
    for (identity, argument) in engines {
        // Another process may have the pid by now: it is found only with the same start time and argument.
        let Ok(process) = Process::find(identity, &[&argument]) else { continue };
        tracing::warn!(pid = identity.pid, "ending a test's engine whose owner is gone");
        process.signal(Signal::KILL);
        if let Either::Right(_) = select(std::pin::pin!(process.exited()), Timer::after(GRACE)).await {
            tracing::error!(pid = identity.pid, "a test's engine survives SIGKILL: the kernel holds it");
        }
    }
    let runtime = paths.runtime();
    smol::unblock(move || {
        let Ok(entries) = std::fs::read_dir(&runtime) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if owner(&path).is_some_and(|owner| !is_testing(owner))
                && let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
    })
    .await;
}

/// Whether `path` is a file or socket of a test that still runs.
pub fn is_of_live_test(path: &Path) -> bool {
    owner(path).is_some_and(is_testing)
}

/// Whether a process may still be testing. A daemon that executed itself again has the identity it had before, and
/// none of its engines.
fn is_testing(owner: ProcessIdentity) -> bool {
    is_alive(owner) && (owner.pid != std::process::id() || super::trial::has_begun())
}

/// Whether `word` is the file of a test in this directory whose owner is dead.
fn dead_owner(runtime: &Path, word: &OsStr) -> bool {
    let path = Path::new(word);
    path.parent() == Some(runtime)
        && path.extension().is_some_and(|kind| kind == "json")
        && owner(path).is_some_and(|owner| !is_testing(owner))
}

/// The process that made a file or socket, from the names of [`Paths::test_file`] and [`Paths::test_socket`].
fn owner(path: &Path) -> Option<ProcessIdentity> {
    let (name, kinds) = path.file_name()?.to_str()?.split_once('.')?;
    let numbers = match kinds {
        "json" => name.strip_prefix("test-")?,
        "sock" | "sock.lock" => name,
        _ => return None,
    };
    let mut numbers = numbers.split('-');
    let (pid, start_ticks, number) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let ours = numbers.next().is_none() && number.parse::<u32>().is_ok();
    ours.then_some(ProcessIdentity { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::engine::process::own_identity;
    use crate::event::SessionId;

    #[test]
    fn names_tell_their_owner_and_others_have_none() {
        let paths = Paths::resolve(Some(Path::new("/r"))).unwrap();
        let identity = ProcessIdentity { pid: 12, start_ticks: 345 };
        assert_eq!(owner(&paths.test_file(12, 345, 6)), Some(identity));
        assert_eq!(owner(&paths.test_socket(12, 345, 6)), Some(identity));
        assert_eq!(owner(Path::new("/r/runtime/12-345-6.sock.lock")), Some(identity));
        let session = SessionId(12);
        for other in [paths.session_file(session), paths.session_socket(session, "http"), paths.socket()] {
            assert_eq!(owner(&other), None, "{}", other.display());
        }
    }

    #[test]
    fn what_a_living_process_owns_is_left_alone() {
        let me = own_identity().unwrap();
        super::super::trial::number();
        let paths = Paths::resolve(Some(Path::new("/r"))).unwrap();
        let mine = paths.test_file(me.pid, me.start_ticks, 0);
        let others = paths.test_file(me.pid, me.start_ticks + 1, 0);
        assert!(is_of_live_test(&mine) && !is_of_live_test(&others));
        let runtime = paths.runtime();
        assert!(!dead_owner(&runtime, mine.as_os_str()) && dead_owner(&runtime, others.as_os_str()));
        assert!(!dead_owner(Path::new("/other/runtime"), others.as_os_str()));
    }
}
