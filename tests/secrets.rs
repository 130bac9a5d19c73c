//! Credentials: where they must never show, and who may read the files that hold them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use lab::scratch::Scratch;
use lab::server::LabLink;
use lab::wrapper::{Gate, wrapper};
use lab::{Daemon, Kind, Lab, process, wait_until};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;
use serde_json::json;

/// Credentials no other text contains, with characters that JSON, URLs and shells write in another way.
const PASSWORD: &str = "s3cr\"et\\ü p@ss:w/rd";
const UUID: &str = "5ec2e700-0000-4bad-8bad-c0ffee5ec2e7";
/// The password of the public proxy.
const OWN: &str = "l0cal%secret$";

/// Every spelling under which one of them might show.
fn spellings(lab: &Lab) -> Vec<String> {
    let known = lab.server.secrets();
    let mut all = Vec::new();
    for secret in [PASSWORD, UUID, OWN, &known.uuid, &known.password, &known.key_2022] {
        let quoted = serde_json::to_string(secret).unwrap();
        let debug = format!("{secret:?}");
        let inner = |text: &str| text[1..text.len() - 1].to_owned();
        let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        all.extend([secret.to_owned(), secret.replace('-', ""), inner(&quoted), inner(&debug), encoded]);
    }
    // Parts are as bad.
    all.extend(["s3cr".to_owned(), "5ec2e700".to_owned(), "l0cal".to_owned()]);
    all.sort();
    all.dedup();
    all
}

/// Fails when a text has one of them.
struct Watch(Vec<String>);

impl Watch {
    #[track_caller]
    fn check(&self, what: &str, text: &str) {
        for secret in &self.0 {
            assert!(!text.contains(secret.as_str()), "{what} shows {secret:?}: {text}");
        }
    }

    /// Runs a command whose whole output is watched, failures included.
    #[track_caller]
    fn xrat(&self, daemon: &Daemon, arguments: &[&str]) -> lab::daemon::Output {
        let output = daemon.xrat(arguments);
        self.check(&format!("xrat {}", arguments.join(" ")), &(output.stdout.clone() + &output.stderr));
        output
    }

    /// Every log, and what `ps` shows of everything that runs for this root.
    #[track_caller]
    fn surroundings(&self, daemon: &Daemon) {
        self.check("the daemon's log", &daemon.log());
        for file in std::fs::read_dir(daemon.root().join("logs")).unwrap() {
            let path = file.unwrap().path();
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            self.check(path.to_str().unwrap(), &text);
        }
        let found = daemon.processes();
        assert!(!found.is_empty());
        for process in found {
            for file in ["cmdline", "environ", "comm"] {
                let bytes = std::fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
                self.check(&format!("{file} of {}", process.name()), &String::from_utf8_lossy(&bytes));
            }
        }
    }
}

/// Every file below a directory is 0600 and every directory 0700; their names.
#[track_caller]
fn assert_private(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        // What ends at this moment takes its files along.
        let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
        let wanted = if data.is_dir() { 0o700 } else { 0o600 };
        // config.toml is the user's own. An engine makes its sockets itself, and they are as private as we made it be.
        if path.extension().is_some_and(|kind| kind == "sock" || kind == "lock") {
            assert_eq!(data.mode() & 0o077, 0, "{}", path.display());
        } else if !path.ends_with("config.toml") {
            assert_eq!(data.mode() & 0o7777, wanted, "{}", path.display());
        }
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        if data.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    names
}

/// A root with a node for each kind of credential and a password of its own proxy, under an umask that hides nothing.
fn root(lab: &Lab, kind: Kind, settings: &[&str]) -> Daemon {
    let own = [format!("runtime.socks.password = \"{OWN}\""), "runtime.socks.username = \"me\"".to_owned()];
    let mut all: Vec<_> = own.iter().map(String::as_str).collect();
    all.extend(settings);
    let (mut daemon, _) = lab.root(kind, &all);
    daemon.trust(&lab.authority);
    daemon
}

fn links(lab: &Lab) -> Vec<String> {
    let password = utf8_percent_encode(PASSWORD, NON_ALPHANUMERIC).to_string();
    let mut links = vec![
        format!("trojan://{password}@127.0.0.1:9?security=tls&sni=node.example#dead-trojan"),
        format!("vless://{UUID}@127.0.0.1:9?encryption=none&security=none#dead-vless"),
        format!("vless://{UUID}@127.0.0.1:9?security=reality&pbk=AAAA&sid=zz&flow=xtls-rprx-vision#wrong"),
        format!("vless://{UUID}@127.0.0.1:99999#wrong-port"),
        format!("trojan://{password}@:9#no-host"),
        format!("ss://aes-256-gcm:{password}@127.0.0.1:port#wrong"),
        format!("socks://user:{password}@127.0.0.1:9#dead-socks"),
        format!("hysteria2://{password}@127.0.0.1:9#later"),
        format!("{password}"),
    ];
    links.extend(lab.server.links().into_iter().map(|LabLink { link, .. }| link));
    links
}

fn nothing_shows(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let watch = Watch(spellings(&lab));
    let mut daemon = root(&lab, kind, &[]);
    daemon.set_env("RUST_LOG", "trace");
    let mut shell = daemon.command(&["daemon", "start"]);
    // As loose an umask as there is: the modes must come from us.
    let line = "umask 0; exec \"$@\"";
    let program = shell.get_program().to_owned();
    let arguments: Vec<_> = shell.get_args().map(ToOwned::to_owned).collect();
    let variables: Vec<_> =
        shell.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    shell = std::process::Command::new("sh");
    shell.args(["-c", line, "sh"]).arg(program).args(arguments);
    for (name, value) in variables {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    assert!(shell.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success());

    let mut events = daemon.events();
    let file = Scratch::new();
    let file = file.file("links", links(&lab).join("\n"));
    let imported = watch.xrat(&daemon, &["import", "--verbose", file.to_str().unwrap()]);
    assert!(imported.stdout.contains("refused") || imported.stderr.contains("refused"), "{imported:?}");
    let listed = watch.xrat(&daemon, &["list", "--json"]).ok().json();
    watch.xrat(&daemon, &["list"]).ok();
    watch.xrat(&daemon, &["import", "--verbose", &links(&lab)[3]]).exits(1);
    watch.xrat(&daemon, &["parse", "--json", &links(&lab)[3]]).exits(1);

    for row in listed.as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        watch.xrat(&daemon, &["show", name]);
        let id = row["config_id"].as_i64().unwrap().to_string();
        let used = ["dead-trojan", "vless-tcp-none", "trojan-ws-tls", "shadowsocks-aes-256-gcm-tcp-none"];
        if !used.contains(&name) {
            continue;
        }
        let connected = watch.xrat(&daemon, &["connect", &id]).ok();
        assert_eq!(connected.stderr.contains("nothing came through"), name.contains("dead"), "{connected:?}");
        watch.xrat(&daemon, &["status"]).ok();
        watch.xrat(&daemon, &["status", "--json"]).ok();
        watch.surroundings(&daemon);
        let names = assert_private(daemon.root());
        assert!(!names.iter().any(|name| name.starts_with("session-") && name.ends_with(".json")), "{names:?}");
        // A dead engine's last words are its last row's.
        process::signal_pid(daemon.engine_pids()[0], Signal::TERM);
        events.until_state("recovering");
        events.until_state("connected");
        watch.xrat(&daemon, &["status", "--json"]).ok();
        watch.xrat(&daemon, &["proxy", "why"]).ok();
        watch.xrat(&daemon, &["history", "--json"]).ok();
        watch.xrat(&daemon, &["disconnect"]).ok();
    }
    // Everything that was ever told, from the first event on.
    let (instance, last) = {
        let snapshot = daemon.events().next();
        (snapshot["instance_id"].as_str().unwrap().to_owned(), snapshot["seq"].as_u64().unwrap())
    };
    let mut all = lab::Events::subscribe(&daemon.socket(), Some((&instance, 0))).unwrap();
    for _ in 0..last {
        watch.check("an event", &all.next().to_string());
    }
    watch.surroundings(&daemon);
    let details = "SELECT group_concat(coalesce(failure_detail, '') || engine_path || name) FROM runtime_sessions";
    let told: String = daemon.database().query_row(details, [], |row| row.get(0)).unwrap();
    watch.check("the sessions' rows", &told);
    daemon.xrat(&["daemon", "stop"]).ok();
    assert_private(daemon.root());
}

#[test]
fn nothing_shows_with_v2ray() {
    nothing_shows(Kind::V2ray);
}

#[test]
fn nothing_shows_with_xray() {
    nothing_shows(Kind::Xray);
}

/// An engine may say anything; what is passed on of it is masked.
#[test]
fn what_an_engine_says_of_its_file_is_masked() {
    let kind = Kind::V2ray;
    let Some(lab) = Lab::start(kind) else { return };
    let watch = Watch(spellings(&lab));
    let dir = Scratch::new();
    let (program, gate) = (dir.path().join("v2ray"), Gate::new(dir.path().join("gate")));
    let setting = format!("paths.v2ray = \"{}\"", program.display());
    // It quotes its file from the node on, in one line.
    let quote = "IFS= read -r line <\"$2\"; printf '%s\\n' \"${line#*blackhole}\"";
    wrapper(&program, kind, &format!("{quote}; exit 9")).unwrap();
    let mut daemon = root(&lab, kind, &[&setting]);
    daemon.run();
    let mut events = daemon.events();
    daemon.xrat_with_input(&["import", "-"], links(&lab)[..2].join("\n").as_bytes());
    for name in ["dead-trojan", "dead-vless", "vless-tcp-none"] {
        let refused = watch.xrat(&daemon, &["connect", name]).exits(1);
        assert!(refused.stderr.contains("exit code 9") && refused.stderr.contains("***"), "{}", refused.stderr);
        watch.check("the event", &events.until("the failure", |event| event["type"] == "SessionFailed").to_string());
        watch.check("the status", &daemon.status().to_string());
        watch.check("the daemon's log", &daemon.log());
    }
    // The same as the last words of one that served: it stays the parent of the real engine and ends after it.
    let real = lab::engine(kind.name()).unwrap();
    let serve = format!(
        "text=$({quote})\n'{}' \"$@\" & engine=$!\ntrap 'kill $engine; wait $engine; printf \"%s\\n\" \"$text\"; exit 9' USR1\n\
         while :; do {}; done",
        real.display(),
        gate.line()
    );
    wrapper(&program, kind, &serve).unwrap();
    let answer = daemon.request(&json!({"type": "RuntimeConnect", "payload": {"config_id": 1}})).unwrap();
    assert_eq!(answer["code"], 200, "{answer}");
    let pid = u32::try_from(answer["payload"]["pid"].as_u64().unwrap()).unwrap();
    process::signal_pid(pid, Signal::USR1);
    let failure = events.until("the failure", |event| event["type"] == "SessionFailed");
    watch.check("the event", &failure.to_string());
    let detail = failure["detail"].as_str().unwrap();
    assert!(detail.contains("exit code 9") && detail.contains("***"), "{detail}");
    watch.check("the status", &daemon.status().to_string());
    watch.check("the daemon's log", &daemon.log());
}

#[test]
fn files_are_private_also_while_the_engine_starts() {
    let kind = Kind::V2ray;
    let Some(lab) = Lab::start(kind) else { return };
    let dir = Scratch::new();
    let (program, gate) = (dir.path().join("v2ray"), Gate::new(dir.path().join("gate")));
    wrapper(&program, kind, &gate.line()).unwrap();
    let setting = format!("paths.v2ray = \"{}\"", program.display());
    let mut daemon = root(&lab, kind, &[&setting]);
    daemon.run();
    let watch = Watch(spellings(&lab));
    let mut client = daemon.command(&["connect", "vless-tcp-none"]);
    let client = client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = gate.reached();
    // Now the credentials are in a file: it is ours alone.
    let names = assert_private(daemon.root());
    assert!(names.contains(&"session-1.json".to_owned()), "{names:?}");
    let text = std::fs::read_to_string(daemon.root().join("runtime/session-1.json")).unwrap();
    assert!(text.contains(&lab.server.secrets().uuid), "or this test looks at the wrong file");
    watch.surroundings(&daemon);
    drop(waits);
    assert!(client.wait_with_output().unwrap().status.success());
    wait_until("it is gone", || !daemon.root().join("runtime/session-1.json").exists());
    assert_private(daemon.root());
}
