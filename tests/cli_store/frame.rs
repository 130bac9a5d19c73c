//! What all commands share: arguments, help, exit codes, output that ends early, private files.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::root::{Root, bare, finish, link};

#[test]
fn help_and_version_are_output_and_their_absence_is_an_error() {
    let help = finish(bare(&["--help"]), b"").ok();
    assert!(help.out.starts_with("Usage: xrat ") && help.out.contains("  import "), "{help:#?}");
    assert_eq!(finish(bare(&["-h"]), b"").ok().out, help.out);
    assert_eq!(finish(bare(&["--version"]), b"").ok().out, format!("xrat {}\n", env!("CARGO_PKG_VERSION")));
    let list = finish(bare(&["list", "--help"]), b"").ok();
    assert!(list.out.contains("--sort"), "{list:#?}");

    let nothing = finish(bare(&[]), b"");
    assert_eq!((nothing.code, nothing.out.as_str(), nothing.err), (2, "", help.out));
    for words in [&["frobnicate"][..], &["list", "--nonsense"], &["show"], &["list", "--sort", "speed"], &["--root"]] {
        let run = finish(bare(words), b"").failed(2, "");
        assert_eq!(run.out, "", "{words:?}");
    }
}

#[test]
fn options_may_be_joined_to_their_values_and_the_root_may_stand_anywhere() {
    let root = Root::with_configs();
    let directory = root.path().to_str().unwrap();
    let joined = format!("--root={directory}");
    let expected = root.run(&["list", "--sort", "name"]).ok().out;
    assert_eq!(expected.lines().count(), 4);
    for words in [
        &["--root", directory, "list", "--sort=name"][..],
        &["list", "--root", directory, "--sort=name"],
        &["list", "--sort=name", &joined],
    ] {
        assert_eq!(finish(bare(words), b"").ok().out, expected, "{words:?}");
    }
    let mut by_variable = bare(&["list", "--sort=name"]);
    by_variable.env("XRAT_PATH", directory);
    assert_eq!(finish(by_variable, b"").ok().out, expected);
}

#[test]
fn everything_is_private() {
    let root = Root::with_configs();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(root.path()), 0o700);
    let mut seen = 0;
    for entry in std::fs::read_dir(root.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 3, "database, runtime, logs");
}

#[test]
fn the_process_gains_no_privilege_and_makes_no_file_for_others() {
    let root = Root::with_configs();
    let pipe = root.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let child = root.command(&["parse", pipe.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    // This waits until the program reads from the other end.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    writer.write_all(link("a", "a.example").as_bytes()).unwrap();
    drop(writer);
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Umask:\t0077\n"), "{status}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let root = Root::new();
    let links: Vec<_> = (0..5000).map(|number| link(&format!("n{number}"), &format!("h{number}.example"))).collect();
    root.run_with(&["import", "-"], links.join("\n").as_bytes()).ok();
    let mut child = root.command(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("ID "), "{first}");
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let root = Root::with_configs();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = root.command(&["list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("Error: cannot write the output"));
}

#[test]
fn piped_output_has_no_escape_codes_and_colours_can_be_forced() {
    let root = Root::with_configs();
    for words in [&["list"][..], &["show", "1"], &["subscription", "list"], &["import", "trojan://a@h:1"]] {
        let run = root.run(words).ok();
        assert!(!run.out.contains('\u{1b}') && !run.err.contains('\u{1b}'), "{run:#?}");
    }
    let mut forced = root.command(&["list"]);
    forced.env("CLICOLOR_FORCE", "1");
    assert!(finish(forced, b"").ok().out.contains("\u{1b}["), "the test above would see them");
}

#[test]
fn a_root_or_settings_that_cannot_be_used_are_told() {
    let root = Root::new();
    let file = root.file("file", "");
    finish(bare(&["list", "--root", &file]), b"").failed(1, "is not a directory");
    root.file("config.toml", "[runtime\n");
    root.run(&["import", "http://127.0.0.1:1/x"]).failed(2, "line 1");
    root.file("config.toml", "[server]\nport = 1\n");
    let run = root.run(&["import", "http://127.0.0.1:1/x"]);
    assert!(run.err.starts_with("Warning: ") && run.err.contains("no HTTP API"), "{run:#?}");
}

#[test]
fn a_damaged_database_is_left_alone() {
    let root = Root::new();
    let noise = "no database at all ".repeat(500);
    let path = root.file("xrat.db", &noise);
    root.run(&["list"]).failed(1, "is damaged");
    assert_eq!(std::fs::read_to_string(path).unwrap(), noise);
}
