//! The completion scripts in the shells they are for: what a person gets who presses Tab.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::process::{Command, Stdio};

use lab::scratch::Scratch;
use lab::{Daemon, daemon, tool};

/// A root with two configs, and a directory for PATH that has the program.
struct Typist {
    root: Daemon,
    bin: Scratch,
}

impl Typist {
    fn new() -> Self {
        let root = Daemon::new(&[]);
        let links = "trojan://x@one.example:443#Frankfurt%20one\ntrojan://x@two.example:443#Paris\n";
        root.xrat_with_input(&["import", "-"], links.as_bytes()).ok();
        let bin = Scratch::new();
        std::os::unix::fs::symlink(daemon::program(), bin.path().join("xrat")).unwrap();
        for shell in ["bash", "zsh", "fish"] {
            let script = root.xrat(&["completions", shell]).ok().stdout;
            bin.file(if shell == "zsh" { "_xrat" } else { shell }, script);
        }
        Self { root, bin }
    }

    /// Runs a shell to its end; its lines, in order of the alphabet.
    fn run(&self, shell: &str, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new(shell);
        let path = std::env::join_paths(
            std::iter::once(self.bin.path().to_owned())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        command.args(arguments).env("PATH", path.unwrap()).env("XRAT_PATH", self.root.root());
        command.env("HOME", self.bin.path()).env("TERM", "dumb").current_dir(self.bin.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && err.is_empty(), "{shell} {arguments:?}: {out}\n{err}");
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// What bash would offer: its words as readline splits them.
    fn bash(&self, words: &[&str]) -> Vec<String> {
        let line = "source ./bash; compopt() { :; }; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _xrat xrat \"${!#}\"; \
                    [ ${#COMPREPLY[@]} -eq 0 ] || printf '%s\\n' \"${COMPREPLY[@]}\"";
        self.run("bash", &[&["--norc", "-c", line, "bash"], words].concat())
    }

    fn fish(&self, line: &str) -> Vec<String> {
        self.run("fish", &["--no-config", "-c", "source ./fish; complete -C $argv[1]", line])
    }

    /// What stands on the line after Tab in a zsh on a terminal of its own.
    fn zsh(&self, typed: &str) -> String {
        let line = "zmodload zsh/zpty; zpty shell zsh -f -i; \
             zpty -w shell 'PS1=; fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; \
             finish() { print -r -- \"[$BUFFER]\"; exit; }; zle -N finish; bindkey \"^X\" finish; print READY'; \
             zpty -r shell got '*READY*READY*'; zpty -w -n shell \"$1\"$'\\t'; zpty -w -n shell $'\\030'; \
             zpty -r shell got '*\\[*\\]*'; print -r -- \"${${got##*\\[}%%\\]*}\"";
        self.run("zsh", &["-f", "-c", line, "zsh", typed]).join("\n")
    }
}

#[test]
fn bash_completes_commands_options_and_configs() {
    if !tool("bash") {
        return;
    }
    let typist = Typist::new();
    assert_eq!(typist.bash(&["xrat", "conn"]), ["connect"]);
    assert_eq!(typist.bash(&["xrat", "proxy", "sta"]), ["start", "status"]);
    assert_eq!(typist.bash(&["xrat", "connect", ""]), ["1 (Frankfurt one)", "2 (Paris)"]);
    assert_eq!(typist.bash(&["xrat", "connect", "2"]), ["2"]);
    assert_eq!(typist.bash(&["xrat", "connect", "Fr"]), [r"Frankfurt\ one"]);
    assert_eq!(typist.bash(&["xrat", "list", "--sort", "=", "na"]), ["name"]);
    assert_eq!(typist.bash(&["xrat", "list", "--sort", "="]), ["delay", "id", "name"]);
    assert_eq!(typist.bash(&["xrat", "import", "fi"]), ["fish"]);
    assert!(typist.bash(&["xrat", "nonsense", ""]).is_empty());
}

#[test]
fn fish_completes_commands_options_and_configs() {
    if !tool("fish") {
        return;
    }
    let typist = Typist::new();
    assert_eq!(typist.fish("xrat connect "), ["1\tFrankfurt one", "2\tParis"]);
    assert_eq!(typist.fish("xrat connect Fr"), ["Frankfurt one\tnumber 1"]);
    assert!(typist.fish("xrat conn")[0].starts_with("connect\tStart a session"));
    assert_eq!(typist.fish("xrat list --sort=na"), ["--sort=name\tby name"]);
    assert_eq!(typist.fish("xrat import fi"), ["fish"]);
}

#[test]
fn zsh_completes_commands_options_and_configs() {
    if !tool("zsh") {
        return;
    }
    let typist = Typist::new();
    assert_eq!(typist.zsh("xrat conn"), "xrat connect ");
    assert_eq!(typist.zsh("xrat connect Fr"), r"xrat connect Frankfurt\ one ");
    assert_eq!(typist.zsh("xrat list --so"), "xrat list --sort ");
    assert_eq!(typist.zsh("xrat import fi"), "xrat import fish ");
}
