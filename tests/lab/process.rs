//! Child processes that cannot outlive the test, and a look at those that belong to a directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, mpsc};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::wait_for;

/// Set to the scratch directory for whatever the lab starts, so that children of children are found as well.
pub const OWNER_VARIABLE: &str = "XRAT_LAB_OWNER";

/// A child in a process group of its own. The group is killed on drop, and by the kernel when the test dies.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts `program`; `prepare` adds arguments, environment and files.
    pub fn spawn(program: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        // setpriv asks the kernel to kill the child with its parent. Without --no-new-privs the kernel forgets
        // that request for a program with file capabilities, as Debian's v2ray is.
        let mut command = Command::new("setpriv");
        command.args(["--no-new-privs", "--pdeathsig", "KILL", "--"]).arg(program).process_group(0);
        prepare(&mut command);
        let shown = format!("{command:?}");
        let child = spawn_from_lasting_thread(command).unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        Self { child }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let pid = self.pid();
        wait_for(&format!("the end of process {pid}"), || self.exited())
    }

    /// Kills it, and whatever is in its process group, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(group) = to_pid(self.pid()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The exit code as a shell has it: 128 and the signal's number after a signal.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sends a signal, if there is such a process.
pub fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process lives; a zombie does not. The first thread of a killed process may be a zombie already while
/// others still hold its sockets: it is alive as long as one of them is.
pub fn is_alive(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| {
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            !matches!(state, Some('Z' | 'X') | None)
        })
    })
}

/// A process that belongs to a directory.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// Its program and arguments.
    pub command_line: Vec<String>,
}

impl Found {
    /// The program's file name.
    pub fn name(&self) -> String {
        self.command_line
            .first()
            .map(PathBuf::from)
            .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into()))
            .unwrap_or_default()
    }
}

/// The live processes of this user whose command line names `dir` or something in it, or that were started for it.
/// The test itself is never among them.
pub fn all_of(dir: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() || !is_alive(pid) {
            continue;
        }
        let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let owner = [OWNER_VARIABLE.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
        let mut arguments = command_line.split(|byte| *byte == 0);
        let named = arguments.any(|argument| names(argument, dir));
        let owned = environment.split(|byte| *byte == 0).any(|variable| variable == owner);
        if named || owned {
            let words = command_line.split(|byte| *byte == 0);
            let command_line =
                words.filter(|word| !word.is_empty()).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            found.push(Found { pid, command_line });
        }
    }
    found
}

/// Kills every process of [`all_of`] until there is none: a daemon may start another engine meanwhile.
pub fn kill_all_of(dir: &Path) {
    super::wait_until(&format!("the processes of {} end", dir.display()), || {
        let left = all_of(dir);
        for process in &left {
            signal_pid(process.pid, Signal::KILL);
        }
        left.is_empty()
    });
}

/// Whether an argument, or what follows its first `=`, is `dir` or a path in it.
fn names(argument: &[u8], dir: &Path) -> bool {
    let value = argument.iter().position(|byte| *byte == b'=');
    let tail = value.map_or(&[][..], |at| &argument[at + 1..]);
    [argument, tail].iter().any(|text| Path::new(OsStr::from_bytes(text)).starts_with(dir))
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Starts the command from a thread that lives as long as the process: the kernel counts the *thread* that
/// started a child as its parent, and a test's own thread may end before the child should.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("lab-spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            })
            .unwrap();
        orders
    });
    let (answer, result) = mpsc::channel();
    spawner.send((command, answer)).unwrap();
    result.recv().unwrap()
}
