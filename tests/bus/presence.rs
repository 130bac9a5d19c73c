//! A bus that dies, a name that is taken, no bus at all; being started by the bus and by a service manager.

use super::*;

#[test]
fn the_bus_dies_and_comes_back() {
    let Some(mut set) = Set::start(&[]) else { return };
    set.connect(0);
    let page = |set: &Set| client::http_get_via_socks(set.daemon.socks(), &set.lab.origin.url("/page")).unwrap().status;
    set.bus.kill();
    assert_eq!((page(&set), set.daemon.status()["state"].as_str()), (200, Some("connected")));
    wait_until("the daemon knows", || set.daemon.log().contains("the session bus is gone"));
    assert_eq!(set.socket("RuntimeDisconnect", &Value::Null)["code"], 200);
    // Else it might be back before anybody can listen.
    let pid = set.daemon.pid();
    process::signal_pid(pid, Signal::STOP);
    set.bus.run();
    let monitor = set.bus.monitor();
    process::signal_pid(pid, Signal::CONT);
    let mut told = Vec::new();
    while told.len() < 2 {
        let signal = monitor.next();
        assert_eq!(signal.member, "PropertiesChanged");
        told.push(signal.body);
    }
    assert_eq!(told[0][1]["State"], DISCONNECTED, "the present state is told: {told:?}");
    assert_eq!(told[1][1]["Enabled"], false, "{told:?}");
    assert_eq!(set.bus.get(RUNTIME, "State"), DISCONNECTED);
    set.connect(1);
    assert_eq!(page(&set), 200);
}

#[test]
fn a_bus_that_was_killed_or_comes_late_is_taken_when_it_is_there() {
    let Some(mut set) = Set::start(&[]) else { return };
    let session = set.connect(0);
    let mut download = client::Kept::open(&set.daemon.proxy(), &set.lab.origin.url("/"), None).unwrap();
    download.request("/drip", "keep-alive").unwrap();
    download.head().unwrap();
    set.bus.kill();
    wait_until("the daemon knows", || set.daemon.status()["bus"] == "absent");
    download.exactly(4 * lab::origin::DRIP_BYTES).unwrap();
    assert_eq!(set.daemon.status()["session"]["session_id"], session["session_id"]);
    set.bus.run();
    let promised = std::time::Duration::from_secs(5);
    lab::wait_for_within(promised, "the name is back", || set.bus.has_name().then_some(()));
    assert_eq!(set.bus.get(RUNTIME, "StateReason"), json!([CONNECTED, 2]));
    assert_eq!(set.bus.get(RUNTIME, "Session")["session_id"], session["session_id"]);
    assert_eq!(set.daemon.status()["bus"], "owned");
    download.exactly(4 * lab::origin::DRIP_BYTES).unwrap();

    // One that has waited in vain looks once a minute; the bus itself tells when it is time.
    set.bus.kill();
    let mut late = Daemon::new(&[]);
    late.set_env("DBUS_SESSION_BUS_ADDRESS", set.bus.address());
    late.run();
    wait_until("it has looked", || late.log().contains("no session bus"));
    set.daemon.kill_daemon();
    set.bus.run();
    lab::wait_for_within(promised, "the name is there", || set.bus.has_name().then_some(()));
    assert_eq!(set.bus.call(DAEMON, "Ping", &[])["pid"], late.pid());
}

#[test]
fn a_second_daemon_works_without_the_name_and_takes_it_later() {
    let Some(set) = Set::start(&[]) else { return };
    let first = set.bus.get(DAEMON, "InstanceId");
    let (mut second, id) = set.lab.root(KIND, &[]);
    second.set_env("DBUS_SESSION_BUS_ADDRESS", set.bus.address());
    second.run();
    wait_until("the second one says so", || second.log().contains("another daemon has the name"));
    second.xrat(&["connect", &id.to_string()]).ok();
    assert_eq!(set.bus.get(DAEMON, "InstanceId"), first);
    let told = |words: &[&str]| second.xrat(words).ok().stdout;
    for words in [&["status"][..], &["daemon", "status"]] {
        assert!(told(words).contains("another daemon has the name"), "{words:?}: {}", told(words));
        let json = second.xrat(&[words, &["--json"]].concat()).ok().json();
        assert_eq!(json["bus"], "taken", "{words:?}");
    }
    assert_eq!(set.bus.call(RUNTIME, "GetStatus", &[])["bus"], "owned", "of the first");
    // One that executes itself again comes back to its name, whoever waits.
    set.daemon.xrat(&["daemon", "restart"]).ok();
    wait_until("the first has the name again", || set.daemon.status()["bus"] == "owned");
    assert_eq!(set.bus.call(DAEMON, "Ping", &[])["pid"], set.daemon.pid());
    set.bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    let ping = ["--json=short", "call", NAME, PATH, DAEMON, "Ping"];
    let own = second.pid().to_string();
    wait_until("the second one has the name", || set.bus.busctl(&ping).is_ok_and(|answer| answer.contains(&own)));
    assert_ne!(set.bus.get(DAEMON, "InstanceId"), first);
    assert_eq!(set.bus.get(RUNTIME, "State"), CONNECTED);
    wait_until("its status says so", || second.status()["bus"] == "owned");
    assert!(!told(&["status"]).contains("another daemon"));
}

#[test]
fn activation_starts_a_daemon_and_no_session() {
    let Some(bus) = Bus::start() else { return };
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, _) = lab.root(KIND, &[]);
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    // What the bus starts inherits nothing of the lab's: the words of the file have to do.
    let words = std::fs::read_to_string(source_dir().join("dbus/org.xrat.Daemon1.service")).unwrap();
    let exec = words.lines().find(|line| line.starts_with("Exec=")).expect("the file names the program");
    assert!(exec.ends_with(" daemon run"), "{exec}");
    let start = bus.services().join("start");
    let command = daemon.command(&["daemon", "run"]);
    let environment = command.get_envs().map(|(name, value)| match value {
        Some(value) => format!("export {}='{}'\n", name.display(), value.display()),
        None => format!("unset {}\n", name.display()),
    });
    let arguments = command.get_args().map(|word| format!(" '{}'", word.display()));
    let program = Path::new(command.get_program()).display();
    let text = format!("{}exec '{program}'{}\n", environment.collect::<String>(), arguments.collect::<String>());
    script(&start, &text);
    // SystemdService only counts where the bus works with systemd.
    let file = words.replace(exec, &format!("Exec={}", start.display()));
    std::fs::write(bus.services().join("org.xrat.Daemon1.service"), file).unwrap();
    bus.busctl(&["call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"]).unwrap();

    assert!(!bus.has_name());
    let status = bus.call(RUNTIME, "GetStatus", &[]);
    assert_eq!((&status["state"], &status["session"]), (&json!(DISCONNECTED), &Value::Null));
    assert_eq!((daemon.status()["state"].as_str(), daemon.engine_pids().len()), (Some("disconnected"), 0));
    bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    wait_until("the daemon is gone", || daemon.processes().is_empty());
}

#[test]
fn without_a_bus_the_daemon_says_so_once_and_works() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.run();
    daemon.xrat(&["connect", &id.to_string()]).ok();
    assert_eq!(daemon.log().matches("no session bus").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.status()["bus"], "absent");
}

#[test]
fn no_dbus_stays_off_the_bus() {
    let Some(bus) = Bus::start() else { return };
    let mut daemon = Daemon::new(&[]);
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let mut child = daemon.command(&["daemon", "run", "--no-dbus"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the daemon answers", || daemon.request(&json!({"type": "DaemonPing"})).is_ok());
    assert!(!bus.has_name());
    assert_eq!(daemon.status()["bus"], "off");
    let names = bus.busctl(&["--no-pager", "list"]).unwrap();
    assert!(!names.contains(&format!(" {} xrat ", child.id())), "{names}");
    process::signal_pid(child.id(), Signal::TERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_service_manager_hears_that_it_is_ready_alive_and_how_it_is() {
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    let next = || {
        let mut word = [0; 512];
        let length = socket.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(&word[..length]).into_owned()
    };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.set_env("NOTIFY_SOCKET", dir.path().join("notify"));
    daemon.set_env("WATCHDOG_USEC", "60000000");
    daemon.run();
    assert_eq!([next(), next(), next()], ["READY=1", "WATCHDOG=1", "STATUS=disconnected"]);
    daemon.xrat(&["connect", &id.to_string()]).ok();
    let connected = format!("STATUS=connected: vless-tcp-none (config {id}) by {}", KIND.name());
    assert_eq!([next(), next()], ["STATUS=connecting".to_owned(), connected]);
    // The housekeeping of the loop itself, every 15 s.
    assert_eq!(next(), "WATCHDOG=1");
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    if !lab::tool("systemd-analyze") {
        return;
    }
    let dir = Scratch::new();
    let words = std::fs::read_to_string(source_dir().join("dbus/xrat.service")).unwrap();
    let program = Daemon::new(&[]).command(&[]).get_program().display().to_string();
    let unit = dir.file("xrat.service", words.replace("/usr/bin/xrat", &program));
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--user", "verify"]).arg(&unit).env("XDG_RUNTIME_DIR", dir.path());
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("xrat.service"), "{said}");
}

#[test]
fn install_writes_what_systemd_and_the_bus_understand_and_uninstall_takes_it_back() {
    let Some(mut bus) = Bus::start() else { return };
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, _) = lab.root(KIND, &[]);
    let home = Scratch::new();
    daemon.set_env("XDG_CONFIG_HOME", home.dir("my config"));
    daemon.set_env("XDG_DATA_HOME", home.dir("data"));
    // No user manager and no bus: that is told, and the files are there.
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let unit = home.path().join("my config/systemd/user/xrat.service");
    let service = home.path().join("data/dbus-1/services/org.xrat.Daemon1.service");

    let said = daemon.xrat(&["daemon", "install", "--dry-run"]).ok().stdout;
    assert!(said.contains("would write") && said.contains("would run systemctl --user enable xrat.service"), "{said}");
    assert!(!unit.exists() && !service.exists());
    let said = daemon.xrat(&["daemon", "install"]).ok().stdout;
    assert!(said.contains(&format!("wrote {}", unit.display())), "{said}");
    assert!(said.contains("ran busctl --user call"), "{said}");
    let words = std::fs::read_to_string(&unit).unwrap();
    assert!(words.contains(&format!("--root \"{}\" daemon run", daemon.root().display())), "{words}");

    // The bus starts the daemon with exactly that line.
    let words = std::fs::read_to_string(&service).unwrap();
    bus.kill();
    std::fs::write(bus.services().join("org.xrat.Daemon1.service"), words).unwrap();
    bus.run();
    assert_eq!(bus.call(RUNTIME, "GetStatus", &[])["state"], DISCONNECTED);
    let pid = daemon.pid();
    assert_eq!(bus.call(DAEMON, "Ping", &[])["pid"], pid);
    bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    wait_until("the daemon is gone", || !process::is_alive(pid));

    daemon.xrat(&["daemon", "uninstall"]).ok();
    assert!(!unit.exists() && !service.exists());
    daemon.xrat(&["daemon", "uninstall"]).ok();
}
