//! The whole life of a session by clients that are not ours, and the words: golden copies and the page.

use super::*;

#[test]
fn the_whole_life_with_busctl_and_gdbus() {
    let Some(Set { bus, lab, daemon, ids }) = Set::start(&[]) else { return };
    let [first, second] = [ids[0], ids[1]];
    assert_eq!(bus.call(DAEMON, "Ping", &[])["pid"], daemon.pid());
    assert_eq!(bus.get(DAEMON, "Version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(bus.get(DAEMON, "ProtocolVersion"), 1);

    let link = lab.server.link("trojan-tcp-tls");
    let imported = bus.call(CONFIGS, "Import", &["sa{sv}", &format!("{} nonsense://x", link.link), "0"]);
    let third = imported["added"][0].as_i64().unwrap();
    assert_eq!(imported["known"], json!([]));
    let listed = bus.call(CONFIGS, "List", &["a{sv}", "1", "query", "s", &link.name]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["config_id"]), (1, &json!(third)), "{listed}");
    let all = bus.gdbus("org.xrat.Daemon1.Configs.List", &["{'sort': <'name'>}"]).unwrap();
    assert!(all.contains("'vmess-tcp-none'") && !all.contains("uuid"), "{all}");

    let session = bus.call(RUNTIME, "Connect", &["x", &first.to_string()]);
    assert_eq!(session["config_id"], first);
    // When the answer is there, so are the properties.
    assert_eq!(bus.get(RUNTIME, "State"), CONNECTED);
    assert_eq!(bus.get(RUNTIME, "StateReason"), json!([CONNECTED, 2]));
    assert_eq!(bus.get(RUNTIME, "Session")["session_id"], session["session_id"]);
    assert_eq!(client::http_get_via_socks(daemon.socks(), &lab.origin.url("/page")).unwrap().status, 200);
    wait_until("the session is healthy", || bus.get(RUNTIME, "Health") == 2);
    assert!(bus.get(RUNTIME, "Traffic")[1].as_u64().unwrap() > 0);
    let status = bus.call(RUNTIME, "GetStatus", &[]);
    assert_eq!((&status["state"], &status["session"]["health"]["status"]), (&json!(CONNECTED), &json!(2)));

    bus.gdbus("org.xrat.Daemon1.Rotation.Start", &[]).unwrap();
    assert_eq!(bus.get(ROTATION, "Enabled"), true);
    assert!(bus.get(ROTATION, "NextAt").as_i64().unwrap() > 1_700_000_000);
    assert_eq!(bus.call(ROTATION, "GetStatus", &[])["enabled"], true);
    bus.busctl(&["set-property", NAME, PATH, ROTATION, "Enabled", "b", "false"]).unwrap();
    assert_eq!((bus.get(ROTATION, "Enabled"), bus.get(ROTATION, "NextAt")), (json!(false), json!(0)));

    let moved = bus.call(RUNTIME, "Replace", &["sx", "manual", &second.to_string()]);
    assert_eq!(moved["config_id"], second);
    let last = bus.get(ROTATION, "LastDecision");
    assert_eq!((&last["new_config_id"], &last["trigger"]), (&json!(second), &json!("manual")));
    assert_eq!(bus.call(ROTATION, "History", &["u", "5"])[0], last);

    let monitor = bus.monitor();
    let job = bus.call(CONFIGS, "Test", &["axa{sv}", "2", &first.to_string(), &second.to_string(), "0"]);
    let mut delays = Vec::new();
    loop {
        let signal = monitor.next();
        match signal.member.as_str() {
            "Result" => delays.push((signal.body[0].as_i64().unwrap(), signal.body[1].as_i64().unwrap())),
            "Finished" => {
                assert_eq!((signal.body, signal.path.as_str()), (json!(["done"]), job.as_str().unwrap()));
                break;
            }
            _ => {}
        }
    }
    delays.sort_unstable();
    assert!(matches!(delays[..], [(a, 0..), (b, 0..)] if a == first && b == second), "{delays:?}");
    let tested = bus.call(CONFIGS, "List", &["a{sv}", "0"]);
    assert_eq!(tested[0]["last_test"]["delay_ms"], delays[0].1);
    let progress = |name| bus.busctl(&["get-property", NAME, job.as_str().unwrap(), "org.xrat.Daemon1.Job", name]);
    assert_eq!((progress("Done"), progress("Total")), (Ok("u 2\n".into()), Ok("u 2\n".into())));

    bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
    assert_eq!((bus.get(RUNTIME, "State"), bus.get(RUNTIME, "Session")), (json!(DISCONNECTED), json!({})));
    bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    wait_until("nothing of the daemon is left", || daemon.processes().is_empty());
    assert!(!bus.has_name());
}

/// A command with this bus as its session bus.
fn on(bus: &Bus, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("DBUS_SESSION_BUS_ADDRESS", bus.address()).stdin(Stdio::null());
    command
}

#[test]
fn the_whole_life_with_python() {
    if !lab::tool("python3") {
        return;
    }
    let Some(set) = Set::start(&[]) else { return };
    let mut life = on(&set.bus, "/usr/bin/python3");
    life.arg(source_dir().join("tests/bus/life.py")).args(set.ids.iter().map(ToString::to_string));
    let output = life.arg(set.lab.server.link("trojan-tcp-tls").link).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    wait_until("nothing of the daemon is left", || set.daemon.processes().is_empty());
}

#[test]
fn every_line_of_the_page_works() {
    let Some(mut set) = Set::start(&[]) else { return };
    assert_eq!(set.ids, [1, 2], "the page speaks of these");
    let page = std::fs::read_to_string(source_dir().join("docs/dbus.md")).unwrap();
    let mut members = Vec::new();
    for block in page.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let instance = ["get-property", NAME, PATH, DAEMON, "InstanceId"];
            let before = set.bus.busctl(&instance).unwrap();
            let output = on(&set.bus, "sh").args(["-euc", line]).output().unwrap();
            assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
            let member = |word: &str| (line.split(' ').next().unwrap().to_owned(), word.to_owned());
            members.extend(line.split([' ', '.']).map(member));
            if line.contains("Restart") {
                wait_until("it has begun again", || set.bus.busctl(&instance).is_ok_and(|now| now != before));
            } else if line.contains("Shutdown") {
                set.daemon.wait();
                set.daemon.run();
                set.bus.wait_for_name();
            }
        }
    }
    for name in [DAEMON, RUNTIME, ROTATION, CONFIGS, "org.xrat.Daemon1.Job"] {
        let golden = std::fs::read_to_string(source_dir().join(format!("dbus/{name}.xml"))).unwrap();
        let lines = golden.lines().filter(|line| line.contains("<method name=") || line.contains("<property name="));
        for member in lines.map(|line| line.split('"').nth(1).unwrap()) {
            for tool in ["busctl", "gdbus"] {
                let has_line = members.iter().any(|(with, word)| with == tool && word == member);
                assert!(has_line, "{name}.{member} has no line with {tool} in docs/dbus.md");
            }
        }
    }
}

/// The description of one interface as the daemon tells it, as a file of its own.
fn description(whole: &str, interface: &str) -> String {
    let begin = whole.find(&format!("  <interface name=\"{interface}\">")).unwrap_or_else(|| panic!("no {interface}"));
    let end = begin + whole[begin..].find("</interface>\n").unwrap() + "</interface>\n".len();
    let head = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
                \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";
    format!("{head}<node>\n{}</node>\n", &whole[begin..end])
}

#[test]
fn introspection_is_the_golden_copy() {
    let Some(set) = Set::start(&[]) else { return };
    let introspect = |path: &str| {
        let line = ["--json=short", "call", NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect"];
        let answer: Value = serde_json::from_str(&set.bus.busctl(&line).unwrap()).unwrap();
        answer["data"][0].as_str().unwrap().to_owned()
    };
    let whole = introspect(PATH);
    let job = set.bus.call(CONFIGS, "Test", &["axa{sv}", "1", &set.ids[0].to_string(), "0"]);
    let of_job = introspect(job.as_str().unwrap());
    for (whole, name) in
        [(&whole, DAEMON), (&whole, RUNTIME), (&whole, ROTATION), (&whole, CONFIGS), (&of_job, "org.xrat.Daemon1.Job")]
    {
        let file = source_dir().join(format!("dbus/{name}.xml"));
        let told = description(whole, name);
        if std::env::var_os("XRAT_BLESS").is_some() {
            std::fs::write(&file, &told).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(golden, told, "{} differs; XRAT_BLESS=1 writes it again", file.display());
    }
}
