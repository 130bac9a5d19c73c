//! A root directory that is gone when the test ends, and the program run in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use uuid::Uuid;
use xrat::store::Store;

/// In every credential that a test stores: nothing that is not asked for it may print it.
pub(crate) const SECRET: &str = "hunter2";

pub(crate) struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// The exit code and what standard error has to hold.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, reason: &str) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.err.starts_with("Error: ") && self.err.contains(reason), "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Root {
    pub(crate) fn new() -> Self {
        // Short, because a socket path has 107 bytes.
        let path = std::env::temp_dir().join(format!("xc-{}", &Uuid::new_v4().simple().to_string()[..12]));
        Self(path)
    }

    /// A root with three configs: 1 `one`, 2 `two`, 3 `Other`.
    pub(crate) fn with_configs() -> Self {
        let root = Self::new();
        let links = [link("one", "one.example"), link("two", "two.example"), link("Other", "other.example")];
        root.run_with(&["import", "-"], links.join("\n").as_bytes()).ok();
        root
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file in the root, for sources and settings.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::create_dir_all(&self.0).unwrap();
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.0.join("xrat.db")).unwrap()
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = bare(&["--root", self.0.to_str().unwrap()]);
        command.args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Run {
        self.run_with(words, b"")
    }

    pub(crate) fn run_with(&self, words: &[&str], input: &[u8]) -> Run {
        finish(self.command(words), input)
    }

    /// The names that `list` shows as enabled, in order.
    pub(crate) fn enabled(&self) -> Vec<String> {
        let list = self.run(&["list", "--json"]).ok().json();
        let rows = list.as_array().unwrap().iter().filter(|row| row["enabled"] == true);
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// The program without a root, free of what the one who runs the tests has set.
pub(crate) fn bare(words: &[&str]) -> Command {
    // `scripts/test` names a copy that its unprivileged user can reach.
    let program = std::env::var_os("XRAT_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_xrat").into());
    let mut command = Command::new(program);
    command.args(words);
    for variable in ["XRAT_PATH", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn finish(mut command: Command, input: &[u8]) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it early.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn link(name: &str, host: &str) -> String {
    format!("trojan://{SECRET}@{host}:443#{name}")
}
