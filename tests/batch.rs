//! `xrat test` with real engines: each config its own verdict, many at once in one engine, nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::client::{self, Kept, Proxy};
use lab::daemon::Output;
use lab::process::{exit_code, is_alive, signal_pid};
use lab::{Daemon, Kind, Lab, Mode, Relay, engine, ports, wait_for_within, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// Long enough for anything that answers, and for a test to be interrupted in it.
const LONG: &str = "60s";

/// The longest that a test may take: many others may run on this machine.
const LIMIT: Duration = Duration::from_secs(90);

/// An address that a [`strict`] engine refuses.
const NAMELESS: &str = "culprit.invalid";
/// An address that a [`strict`] engine ends over.
const DEADLY: &str = "deadly.invalid";

/// A root whose tests fetch `path` of the origin with one kind of engine.
fn root(lab: &Lab, kind: Kind, path: &str) -> Daemon {
    let url = lab.origin.url(path);
    let settings = [
        format!("runtime.engine = \"{}\"", kind.name()),
        format!("testing.url = \"{url}\""),
        format!("runtime.health.url = \"{}\"", lab.origin.url("/page")),
    ];
    let mut daemon = Daemon::new(&settings.each_ref().map(String::as_str));
    daemon.trust(&lab.authority);
    daemon
}

/// An HTTP node without a login at this port. Who asks under another name is another config to xrat.
fn node(port: u16, name: &str) -> String {
    format!("http://{name}:x@127.0.0.1:{port}#{name}")
}

/// The port of the lab's node that takes anyone.
fn open_node(lab: &Lab) -> u16 {
    lab.server.port_of("http-tcp-none")
}

fn import(daemon: &Daemon, links: &[String]) {
    daemon.xrat_with_input(&["import", "-"], links.join("\n").as_bytes()).ok();
}

/// A config that Xray refuses and names: it knows no such fingerprint, which a [`newer`] one could.
fn refused_by_name(port: u16, name: &str) -> String {
    format!("trojan://{name}@127.0.0.1:{port}?security=tls&fp=hellonobody#{name}")
}

/// A config that [`strict`] engines end over, in words that name nothing.
fn panicking(name: &str) -> String {
    format!("http://secret-user:secret-word@{DEADLY}:1#{name}")
}

/// A config that no engine can carry: it has no key where one is looked for.
fn unsupported(port: u16, name: &str) -> String {
    let user = "3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b";
    format!("vless://{user}@127.0.0.1:{port}?encryption=mlkem768x25519plus.native.0rtt.{name}#{name}")
}

/// A config that only [`strict`] engines refuse.
fn refused_without_name(name: &str) -> String {
    format!("http://secret-user:secret-word@{NAMELESS}:1#{name}")
}

/// The results of `test --json` by name: the delay in milliseconds, or the kind of failure.
fn results(output: &Output) -> BTreeMap<String, Result<u64, String>> {
    let answer = output.json();
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("no results in {answer}"));
    let verdict = |row: &Value| match row["delay_ms"].as_u64() {
        Some(delay) => Ok(delay),
        None => Err(row["failure"]["kind"].as_str().unwrap_or_else(|| panic!("no failure in {row}")).to_owned()),
    };
    results.iter().map(|row| (row["name"].as_str().unwrap().to_owned(), verdict(row))).collect()
}

/// What tests have left in the runtime directory, the daemon's and sessions' own files excepted.
fn leftovers(daemon: &Daemon) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.root().join("runtime")).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("test-") || name.matches('-').count() > 1).collect()
}

fn assert_clean(daemon: &Daemon) {
    assert_eq!(leftovers(daemon), [""; 0]);
    assert_eq!(daemon.engine_pids(), [0; 0]);
}

/// A test that runs in the background, and readers of what it says: a full pipe would stop it.
struct Background(Child, [Option<JoinHandle<String>>; 2]);

impl Background {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let words: Vec<_> = ["test"].iter().chain(arguments).copied().collect();
        let mut command = daemon.command(&words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = [Some(thread::spawn(|| read(stdout))), Some(thread::spawn(|| read(stderr)))];
        Self(child, readers)
    }

    fn signal(&self, signal: Signal) {
        signal_pid(self.0.id(), signal);
    }

    fn end(mut self) -> Output {
        let status = wait_for_within(LIMIT, "the end of xrat test", || self.0.try_wait().unwrap());
        let [stdout, stderr] = self.1.each_mut().map(|reader| reader.take().unwrap().join().unwrap());
        Output { code: exit_code(status), stdout, stderr }
    }
}

fn read(mut pipe: impl std::io::Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A lab, and a root whose first config answers, whose second is swallowed, and whose third answers.
fn in_between(kind: Kind) -> Option<(Lab, Daemon, Relay)> {
    let lab = Lab::start(kind)?;
    let daemon = root(&lab, kind, "/generate_204");
    let port = open_node(&lab);
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], port)));
    relay.set(Mode::Swallow);
    import(&daemon, &[node(port, "first"), node(relay.port(), "second"), node(port, "third")]);
    Some((lab, daemon, relay))
}

/// A test in the background that has tested the first config, stored it, and hangs in the second.
fn hanging(daemon: &Daemon, relay: &Relay) -> Background {
    let test = Background::start(daemon, &["--concurrency", "1", "--timeout", LONG]);
    wait_until("the second config is being tested", || relay.upstream_bytes() > 0);
    wait_until("the first result is stored", || stored(daemon, "first").is_some());
    test
}

/// What `list` tells of the last test of a config.
fn stored(daemon: &Daemon, name: &str) -> Option<Value> {
    let list = daemon.xrat(&["list", "--json"]).ok().json();
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    Some(row["last_test"].clone()).filter(|test| !test.is_null())
}

fn each_config_gets_its_own_verdict(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let daemon = root(&lab, kind, "/generate_204");
    let good = lab.server.link("vless-tcp-none");
    let deaf = Relay::start(SocketAddr::from(([127, 0, 0, 1], good.port)));
    deaf.set(Mode::Swallow);
    let closed = ports::take();
    let (port, uuid) = (open_node(&lab), &lab.server.secrets().uuid);
    let mut links: Vec<String> = [
        "vless-tcp-none",
        "vmess-tcp-tls",
        "trojan-tcp-tls",
        "shadowsocks-aes-256-gcm-tcp-none",
        "socks-login-tcp-none",
    ]
    .iter()
    .map(|name| lab.server.link(name).link)
    .collect();
    links.push(format!("vless://{uuid}@127.0.0.1:{}?encryption=none#refuses", closed.number()));
    links.push(format!("vless://{uuid}@127.0.0.1:{}?encryption=none#swallows", deaf.port()));
    // xrat executes no plugin.
    links.push(format!("ss://aes-256-gcm:secret-word@127.0.0.1:{port}?plugin=obfs-local#unsupported"));
    // The right door and a wrong key.
    links
        .push(format!("vless://3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b@127.0.0.1:{}?encryption=none#stranger", good.port));
    links.insert(0, refused_without_name("culprit-1"));
    links.insert(3, refused_without_name("culprit-2").replace(":1#", ":2#"));
    let mut culprits = vec!["culprit-1", "culprit-2"];
    if kind == Kind::Xray {
        links.insert(5, refused_by_name(port, "culprit-3"));
        links.push(panicking("culprit-4"));
        culprits.extend(["culprit-3", "culprit-4"]);
    }
    let (url, engine) = (lab.origin.url("/generate_204"), strict(&daemon, kind));
    daemon.configure(&[
        &format!("runtime.engine = \"{}\"", kind.name()),
        &format!("testing.url = \"{url}\""),
        &format!("paths.{} = \"{engine}\"", kind.name()),
    ]);
    import(&daemon, &links);
    let output = daemon.xrat(&["test", "--json", "--timeout", "5s"]).ok();
    let mut results = results(&output);
    assert_eq!(results.len(), links.len());
    for culprit in culprits {
        assert_eq!(results.remove(culprit), Some(Err("refused".to_owned())), "{culprit}: {}", output.stdout);
    }
    assert_eq!(results.remove("unsupported"), Some(Err("unsupported".to_owned())), "{}", output.stdout);
    assert_eq!(results.remove("refuses"), Some(Err("connection".to_owned())), "{}", output.stdout);
    assert_eq!(results.remove("swallows"), Some(Err("timed_out".to_owned())), "{}", output.stdout);
    let stranger = results.remove("stranger").unwrap();
    assert!(matches!(stranger.as_ref().map_err(String::as_str), Err("connection" | "timed_out")), "{}", output.stdout);
    assert_eq!(results.len(), 5);
    assert!(results.values().all(Result::is_ok), "{}", output.stdout);
    for secret in ["secret-word", uuid, lab.server.secrets().password.as_str()] {
        assert!(!output.stdout.contains(secret), "{}", output.stdout);
    }
    if kind == Kind::Xray {
        let failure = stored(&daemon, "culprit-3").unwrap()["failure"].as_str().unwrap().to_owned();
        assert!(failure.contains("refuses it: unknown \"fingerprint\": hellonobody"), "{failure}");
    }
    let failure = stored(&daemon, "unsupported").unwrap()["failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("cannot do the Shadowsocks plugin \"obfs-local\""), "{failure}");
    assert_clean(&daemon);
}

/// The line of a script by which Xray says that it is a version of the future: of words that such a one may know xrat
/// refuses none, and then it is Xray who does.
fn newer(kind: Kind) -> &'static str {
    match kind {
        Kind::Xray => "case \"$1\" in version|-version) echo 'Xray 99.1.1 (from the future)'; exit;; esac\n",
        Kind::V2ray => "",
    }
}

/// The engine itself, but that it refuses [`NAMELESS`] in words that name no config: V2Ray never does, and Xray not
/// always, but what xrat lets through to them is nothing that they refuse like that today.
fn strict(daemon: &Daemon, kind: Kind) -> String {
    let file = daemon.root().join("strict");
    let program = engine(kind.name()).unwrap();
    let script = format!(
        "#!/bin/sh\n{}for last; do :; done\n\
         if grep -q {DEADLY} \"$last\" 2>/dev/null; then echo 'panic: runtime error: secret-word' >&2; exit 2; fi\n\
         if grep -q {NAMELESS} \"$last\" 2>/dev/null; then echo 'main: broken > it says secret-word' >&2; exit 23; fi\n\
         exec {} \"$@\"\n",
        newer(kind),
        program.display()
    );
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn each_config_gets_its_own_verdict_with_xray() {
    each_config_gets_its_own_verdict(Kind::Xray);
}

#[test]
fn each_config_gets_its_own_verdict_with_v2ray() {
    each_config_gets_its_own_verdict(Kind::V2ray);
}

fn a_thousand_in_one_engine(kind: Kind) {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let Some(lab) = Lab::start(kind) else { return };
    let daemon = root(&lab, kind, "/withhold");
    if kind == Kind::Xray {
        daemon.configure(&[
            "runtime.engine = \"xray\"",
            &format!("testing.url = \"{}\"", lab.origin.url("/withhold")),
            &format!("paths.xray = \"{}\"", strict(&daemon, kind)),
        ]);
    }
    let (port, closed) = (open_node(&lab), ports::take());
    let deaf = Relay::start(SocketAddr::from(([127, 0, 0, 1], port)));
    deaf.set(Mode::Swallow);
    let many = |count, what: &str, link: &dyn Fn(&str) -> String| -> Vec<String> {
        (0..count).map(|number| link(&format!("{what}{number}"))).collect()
    };
    let mut links = many(650, "answers", &|name| node(port, name));
    links.extend(many(150, "refuses", &|name| node(closed.number(), name)));
    let (culprit, kind_of_culprit): (&dyn Fn(&str) -> String, _) = match kind {
        Kind::Xray => (&|name| refused_by_name(port, name), "refused"),
        // V2Ray 4 refuses nothing of what it is told; these it is not told.
        Kind::V2ray => (&|name| unsupported(port, name), "unsupported"),
    };
    links.extend(many(50, "culprit", culprit));
    import(&daemon, &links);

    // Without silent nodes: nothing is waited for but the origin, which answers only when 128 requests have come.
    let began = Instant::now();
    let test = Background::start(&daemon, &["--json"]);
    lab.origin.wait_for_hits("/withhold", 128);
    assert_eq!(lab.origin.hits("/withhold"), 128);
    assert_eq!(daemon.engine_pids().len(), 1);
    assert!(leftovers(&daemon).iter().all(|name| !name.ends_with(".json")), "the file with the credentials is gone");
    lab.origin.release();
    let output = test.end().ok();
    let without_silent = began.elapsed();
    let expect = |output: &Output, expected: &[(&str, usize, Result<(), &str>)]| {
        let results = results(output);
        for (what, count, verdict) in expected {
            let rows: Vec<_> = results.iter().filter(|(name, _)| name.starts_with(what)).collect();
            assert_eq!(rows.len(), *count, "{what}");
            for (name, result) in rows {
                assert_eq!(result.as_ref().map(drop).map_err(String::as_str), *verdict, "{name}");
            }
        }
    };
    let mut expected = vec![("answers", 650, Ok(())), ("refuses", 150, Err("connection"))];
    expected.push(("culprit", 50, Err(kind_of_culprit)));
    expect(&output, &expected);
    assert_eq!(lab.origin.hits("/withhold"), 650);
    assert_clean(&daemon);

    // 150 silent nodes take two rounds of the timeout, because 128 are tested at once, and nothing else.
    import(&daemon, &many(150, "swallows", &|name| node(deaf.port(), name)));
    let began = Instant::now();
    let output = Background::start(&daemon, &["--json", "--timeout", "5s"]).end().ok();
    let with_silent = began.elapsed();
    expected.push(("swallows", 150, Err("timed_out")));
    expect(&output, &expected);
    assert_eq!(deaf.accepted(), 150);
    println!("{}: {without_silent:?} for 850, {with_silent:?} for 1000 with 150 silent nodes", kind.name());
    assert!(with_silent < without_silent + 3 * TIMEOUT, "{with_silent:?}, without silent nodes {without_silent:?}");
    assert_clean(&daemon);
}

#[test]
fn a_thousand_configs_are_tested_in_one_engine_with_xray() {
    a_thousand_in_one_engine(Kind::Xray);
}

#[test]
fn a_thousand_configs_are_tested_in_one_engine_with_v2ray() {
    a_thousand_in_one_engine(Kind::V2ray);
}

#[test]
fn a_running_session_is_untouched() {
    for kind in Kind::ALL {
        let Some((lab, mut daemon, relay)) = in_between(kind) else { continue };
        daemon.run();
        daemon.xrat(&["connect", "first"]).ok();
        let before = daemon.engine_pids();
        assert_eq!(before.len(), 1);
        let mut kept = Kept::open(&Proxy::Socks(daemon.socks(), None), &lab.origin.url("/"), None).unwrap();
        assert_eq!(kept.get("/page").unwrap().status, 200);
        let test = hanging(&daemon, &relay);
        assert_eq!(daemon.engine_pids().len(), 2);
        assert_eq!(kept.get("/page").unwrap().status, 200);
        relay.set(Mode::Reset);
        let counts = test.end().ok();
        assert!(counts.stdout.contains("2 of 3 work"), "{}", counts.stdout);
        assert_eq!(daemon.engine_pids(), before);
        assert_eq!(kept.get("/page").unwrap().status, 200);
        assert_eq!(client::http_get_via_socks(daemon.socks(), &lab.origin.url("/page")).unwrap().status, 200);
        assert_eq!(leftovers(&daemon), [""; 0]);
    }
}

#[test]
fn an_interrupt_keeps_what_is_done_and_leaves_nothing() {
    for (kind, signal) in [(Kind::Xray, Signal::INT), (Kind::V2ray, Signal::TERM)] {
        let Some((_lab, daemon, relay)) = in_between(kind) else { continue };
        let test = hanging(&daemon, &relay);
        test.signal(signal);
        let output = test.end().exits(130);
        assert!(output.stdout.contains("1 of 1 work; 2 not tested"), "{}", output.stdout);
        assert!(output.stderr.contains("interrupted: 2 configs"), "{}", output.stderr);
        assert!(stored(&daemon, "first").unwrap()["delay_ms"].is_u64());
        assert_eq!(stored(&daemon, "second"), None);
        assert_clean(&daemon);
    }
}

#[test]
fn the_next_test_ends_what_a_killed_one_left() {
    for kind in Kind::ALL {
        let Some((_lab, daemon, relay)) = in_between(kind) else { continue };
        let test = hanging(&daemon, &relay);
        test.signal(Signal::KILL);
        test.end().exits(137);
        let stray = daemon.engine_pids();
        assert_eq!(stray.len(), 1, "an engine outlives its owner: else this test proves nothing");
        assert!(!leftovers(&daemon).is_empty());
        daemon.xrat(&["test", "third"]).ok();
        assert!(!is_alive(stray[0]));
        assert_clean(&daemon);
    }
}

#[test]
fn a_daemon_ends_what_a_killed_test_left_and_leaves_a_running_one_alone() {
    for kind in Kind::ALL {
        let Some((_lab, mut daemon, relay)) = in_between(kind) else { continue };
        let killed = hanging(&daemon, &relay);
        killed.signal(Signal::KILL);
        killed.end().exits(137);
        let stray = daemon.engine_pids();
        let bytes = relay.upstream_bytes();
        daemon.run();
        wait_until("the daemon has ended the stray engine", || stray.iter().all(|pid| !is_alive(*pid)));
        assert_eq!(leftovers(&daemon), [""; 0]);
        daemon.kill_daemon();

        let test = Background::start(&daemon, &["--concurrency", "1", "--timeout", LONG]);
        wait_until("the second config is being tested", || relay.upstream_bytes() > bytes);
        let engines = daemon.engine_pids();
        daemon.run();
        assert_eq!(daemon.engine_pids(), engines);
        relay.set(Mode::Reset);
        let output = test.end().ok();
        assert!(output.stdout.contains("2 of 3 work"), "{}", output.stdout);
        assert_eq!(leftovers(&daemon), [""; 0]);
    }
}

#[test]
fn an_engine_that_dies_in_the_middle_costs_no_verdict() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let daemon = root(&lab, kind, "/withhold");
        let port = open_node(&lab);
        let links: Vec<_> = (0..20).map(|number| node(port, &format!("n{number}"))).collect();
        import(&daemon, &links);
        let test = Background::start(&daemon, &["--json", "--concurrency", "8", "--timeout", LONG]);
        lab.origin.wait_for_hits("/withhold", 8);
        for pid in daemon.engine_pids() {
            signal_pid(pid, Signal::KILL);
        }
        lab.origin.release();
        let results = results(&test.end().ok());
        assert!(results.len() == 20 && results.values().all(Result::is_ok), "{results:?}");
        assert_clean(&daemon);
    }
}

#[test]
fn output_is_sorted_and_plain_when_piped() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let daemon = root(&lab, Kind::V2ray, "/generate_204");
    let (port, closed) = (open_node(&lab), ports::take());
    let slow = Relay::start(SocketAddr::from(([127, 0, 0, 1], port)));
    slow.set(Mode::Delay(Duration::from_millis(100)));
    import(&daemon, &[node(closed.number(), "dead"), node(slow.port(), "slow"), node(port, "fast"), node(port, "off")]);
    daemon.xrat(&["disable", "off"]).ok();

    let output = daemon.xrat(&["test"]).ok();
    let names: Vec<_> = output.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["NAME", "fast", "slow", "dead", "of"], "{}", output.stdout);
    assert!(output.stdout.ends_with("2 of 3 work; 1 without a connection\n"), "{}", output.stdout);
    assert!(!output.stdout.contains('\u{1b}'), "{:?}", output.stdout);
    assert_eq!(output.stderr, "");

    let all = daemon.xrat(&["test", "--all", "--json", "--timeout", "5"]).ok().json();
    assert_eq!((&all["working"], &all["failed"]["connection"], &all["untested"]), (&3.into(), &1.into(), &0.into()));
    let delays: Vec<_> = all["results"].as_array().unwrap().iter().map(|row| row["delay_ms"].as_u64()).collect();
    assert!(delays[0] <= delays[1] && delays[1] < delays[2], "{delays:?}");
    assert!(delays[2] >= Some(200), "there and back: {delays:?}");
    assert_eq!(delays[3], None);

    // A number or a name chooses; a disabled one is tested when it is meant.
    assert_eq!(results(&daemon.xrat(&["test", "--json", "off"]).ok()).len(), 1);
    assert_eq!(results(&daemon.xrat(&["test", "--json", "1", "fast", "fast"]).ok()).len(), 2);
    daemon.xrat(&["test", "nobody"]).exits(4);
    daemon.xrat(&["test", "--timeout", "0"]).exits(2);
    let none = daemon.xrat(&["test", "dead"]).exits(1);
    assert!(none.stdout.contains("0 of 1 work") && none.stderr.contains("no config works"), "{none:?}");
}

#[test]
fn a_test_without_configs_says_what_to_do() {
    if engine("v2ray").is_none() {
        return;
    }
    let daemon = Daemon::new(&[]);
    let output = daemon.xrat(&["test"]).exits(1);
    assert!(output.stderr.contains("xrat import"), "{}", output.stderr);
}
