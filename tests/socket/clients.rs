//! Clients that are slow, silent, gone, many, not ours, or another user's.

use super::*;

#[test]
fn who_says_nothing_for_too_long_is_told() {
    let daemon = running();
    let (silent, mut half) = (connect(&daemon), connect(&daemon));
    half.write_all(&PING.as_bytes()[..20]).unwrap();
    for stream in [silent, half] {
        assert_refused(&read_all(stream), &["too late", "5 s"]);
    }
}

#[test]
fn idle_connections_delay_nobody() {
    let daemon = running();
    let count = rounds(200, 2_000);
    // Fewer descriptors than clients: who makes room must be gone, not just told to go. And more of our own.
    let few = Rlimit { current: Some(160), maximum: Some(160) };
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let own = rustix::process::getrlimit(Resource::Nofile);
    prlimit(None, Resource::Nofile, Rlimit { current: own.maximum, ..own }).unwrap();

    let mut idle = Vec::new();
    for number in 1..=count {
        idle.push(connect(&daemon));
        if number % 50 == 0 {
            assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
            // Not because those before it ran into their own time limit: the newest still waits.
            let newest = idle.last_mut().unwrap();
            newest.set_nonblocking(true).unwrap();
            assert_eq!(newest.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            newest.set_nonblocking(false).unwrap();
        }
    }
    let newest = idle.split_off(count - 20);
    assert_refused(&read_all(idle.remove(0)), &["too many connections", "silent longest"]);
    // Whoever was not displaced may still ask.
    for mut stream in newest {
        stream.write_all(PING.as_bytes()).unwrap();
        assert_ping(&read_all(stream));
    }
    assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
}

#[test]
fn clients_that_are_done_and_stay_delay_nobody() {
    let daemon = running();
    let few = Rlimit { current: Some(160), maximum: Some(160) };
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let mut done = Vec::new();
    for _ in 0..rounds(200, 2_000) {
        let mut stream = connect(&daemon);
        stream.write_all(PING.as_bytes()).unwrap();
        done.push(stream);
    }
    for stream in done {
        assert_ping(&read_all(stream));
    }
    assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
}

#[test]
fn clients_that_vanish_harm_nobody() {
    let daemon = running();
    let pid = daemon.pid();
    for round in 0..rounds(200, 2_000) {
        let mut stream = connect(&daemon);
        stream.write_all(&PING.as_bytes()[..PING.len() - round % 3]).unwrap();
        if round % 2 == 0 {
            stream.shutdown(Shutdown::Both).unwrap();
        }
        drop(stream);
    }
    assert_eq!(daemon.pid(), pid);
    // Nothing of theirs is left open.
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    wait_until("the daemon closes what clients left", || open() < 40);
}

#[test]
fn a_command_outlives_its_client() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let (mut daemon, id) = lab.root(Kind::V2ray, &[]);
    daemon.run();
    let mut events = daemon.events();
    let request = json!({"protocol_version": 1, "request": {"type": "RuntimeConnect", "payload": {"config_id": id}}});
    let mut stream = connect(&daemon);
    stream.write_all(request.to_string().as_bytes()).unwrap();
    drop(stream);
    events.until_state("connected");
}

/// Runs a command that ends in the socket's path; what it prints.
fn printed(command: &[&str], daemon: &Daemon) -> String {
    let output =
        Command::new(command[0]).args(&command[1..]).arg(daemon.socket()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a person would write: no newline, no half-close, pretty-printed, and read to the end.
const PYTHON: &str = r#"
import json, socket, sys
def ask(text, half_close=False):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(sys.argv[1])
        s.sendall(text.encode())
        if half_close:
            s.shutdown(socket.SHUT_WR)
        return s.makefile().read()
ping = {"protocol_version": 1, "request": {"type": "DaemonPing"}}
for text in json.dumps(ping), json.dumps(ping, indent=4), json.dumps(ping) + "\n":
    for half_close in False, True:
        answer = ask(text, half_close)
        assert answer.count("\n") == 1 and json.loads(answer)["payload"]["version"], answer
status = ask(json.dumps({"protocol_version": 1, "request": {"type": "RuntimeStatus"}}))
assert json.loads(status)["payload"]["state"] == "disconnected", status
for text, words in (
    ("hello", "not a JSON object"),
    ("{" + "x" * 200 * 1024, "64 KiB"),
    (json.dumps(ping).replace("1", "7"), "version 7"),
    (json.dumps(ping).replace("Ping", "Pong"), "unknown request type `DaemonPong`"),
):
    answer = json.loads(ask(text))
    assert answer["code"] == 400 and words in answer["message"], answer
assert json.loads(ask(json.dumps(ping)[:-1], half_close=True))["code"] == 400
print("as documented")
"#;

/// The same with what people have at hand in a shell.
const SOCAT: &str = r#"
set -e
ask() { socat -t 20 - UNIX-CONNECT:"$1"; }
printf '{"protocol_version":1,"request":{"type":"DaemonPing"}}' | ask "$1" | grep -q '"code":200'
echo '{"protocol_version":1,"request":{"type":"DaemonPing"}}' | ask "$1" | grep -q '"code":200'
printf '{\n  "protocol_version": 1,\n  "request": {\n    "type": "RuntimeStatus"\n  }\n}\n' | ask "$1" |
  grep -q '"state":"disconnected"'
printf 'hello' | ask "$1" | grep -q '"code":400'
printf '{"protocol_version":1' | ask "$1" | grep -q 'ended before its JSON object closed'
printf '{%204800s' '' | ask "$1" | grep -q '64 KiB'
printf '{"protocol_version":3,"request":{"type":"DaemonPing"}}' | ask "$1" | grep 'version 3' | grep -q 'version 1'
echo as documented
"#;

#[test]
fn python_and_socat_are_answered() {
    let daemon = running();
    for (name, command) in [("python3", &["python3", "-c", PYTHON][..]), ("socat", &["sh", "-c", SOCAT, "sh"])] {
        if tool(name) {
            assert_eq!(printed(command, &daemon), "as documented\n", "{name}");
        }
    }
}

#[test]
fn only_its_own_user_gets_to_the_socket() {
    let daemon = running();
    let socket = std::fs::metadata(daemon.socket()).unwrap();
    assert_eq!((socket.mode() & 0o7777, socket.mode() & 0o170_000), (0o600, 0o140_000));
    let directory = std::fs::metadata(daemon.root().join("runtime")).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o700);
    if !rustix::process::geteuid().is_root() || !tool("python3") {
        let _ = writeln!(std::io::stderr(), "skipped: asking as another user takes root");
        return;
    }
    // Even with every permission given away the daemon answers nobody else.
    for path in daemon.socket().ancestors().take(4).filter(|path| path.starts_with(std::env::temp_dir())) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(20)\ns.connect(sys.argv[1])\n\
        try:\n  s.sendall(sys.argv[2].encode())\n  print(s.makefile().read(), end='')\n\
        except OSError:\n  pass\n";
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", ask])
        .arg(daemon.socket())
        .arg(PING)
        // What is in root's own home is out of the other user's reach.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
    assert!(daemon.log().contains("uid 65534"), "the refusal is in the log");
}
