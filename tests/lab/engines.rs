//! Where the engines are, how each is started, and what a test does without one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An engine family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// V2Ray, 4 or 5.
    V2ray,
    /// Xray-core.
    Xray,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V2ray, Self::Xray];

    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2ray => "v2ray",
            Self::Xray => "xray",
        }
    }

    /// How to get it, as one sentence.
    pub fn how_to_get(self) -> &'static str {
        match self {
            Self::V2ray => "install it with 'sudo apt-get install v2ray', or run scripts/setup-tests",
            Self::Xray => "install Go and run scripts/setup-tests, which builds it",
        }
    }

    /// The arguments that run a configuration file.
    pub fn run_arguments(self, program: &Path, config: &Path) -> Vec<String> {
        let config = config.to_str().unwrap().to_owned();
        if self == Self::V2ray && is_v2ray_4(program) {
            vec!["-config".into(), config]
        } else {
            vec!["run".into(), "-c".into(), config]
        }
    }
}

/// The path of an engine, or `None` after saying on standard error that the test is skipped and why.
///
/// # Panics
/// With `CI=true`, where a skipped test would pass for a good one; except for engines that `XRAT_LAB_WITHOUT`
/// names, which `scripts/test` sets for those that cannot be had on this machine.
pub fn engine(name: &str) -> Option<PathBuf> {
    let kind =
        Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or_else(|| panic!("no engine is called {name}"));
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()));
    found.or_else(|| skip(name, &format!("{name} is not in PATH"), kind.how_to_get()))
}

/// Says on standard error that a test is skipped for want of `name`, why, and what helps; gives `None`.
///
/// # Panics
/// As [`engine`].
pub fn skip<T>(name: &str, why: &str, advice: &str) -> Option<T> {
    let excused =
        std::env::var("XRAT_LAB_WITHOUT").is_ok_and(|names| names.split_whitespace().any(|word| word == name));
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci || excused, "{why}, and this is CI: {advice}");
    // Past the test harness, which would hide it: a skipped test counts as passed.
    let _ = writeln!(std::io::stderr(), "skipped: {why}: {advice}");
    None
}

/// Whether a program that some tests drive the daemon with is there; if not, says that the test is skipped.
///
/// # Panics
/// Without it with `CI=true`.
pub fn tool(name: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    if !found {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "{name} is not in PATH, and this is CI: run scripts/setup-tests");
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not in PATH: run scripts/setup-tests");
    }
    found
}

fn is_v2ray_4(program: &Path) -> bool {
    let answer = Command::new(program).arg("-version").output();
    answer.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("V2Ray 4."))
}
