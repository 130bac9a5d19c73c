//! In step with the session: connect, disconnect, move, recover, restart, stop.

use super::*;

#[test]
fn a_command_turns_it_on_and_off_and_a_disconnect_gives_everything_back() {
    let Some(set) = Set::start(&[]) else { return };
    let xrat = |line: &[&str]| set.daemon.xrat(line).ok();
    set.connect();
    assert_eq!(set.desk.values(), set.own, "off by default");
    let said = xrat(&["system-proxy", "on"]).stdout;
    assert!(said.contains(&set.daemon.socks().to_string()), "{said}");
    assert_eq!(set.desk.values(), set.pointed());
    let proxies = format!("['http://{}']\n['direct://']\n", set.daemon.http());
    assert_eq!(set.desk.of_a_program(), proxies, "what it is all for");
    let status = xrat(&["system-proxy", "status", "--json"]).json();
    assert_eq!((&status["wanted"], &status["decided_by"]), (&json!(true), &json!("command")));
    assert_eq!(status["servers"]["socks"], json!(set.daemon.socks().to_string()));
    assert_eq!([&status["desktops"][0]["points_here"], &status["desktops"][1]["points_here"]], ["yes", "yes"]);
    assert!(xrat(&["status"]).stdout.contains("on (GNOME, KDE)"));
    let journal = set.daemon.root().join("system-proxy.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(journal).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    xrat(&["disconnect"]);
    set.comes("its own", &set.own);
    // What was said last holds for the next session, and the one after a restart.
    set.connect_and_point();
    xrat(&["system-proxy", "off"]);
    set.is_own();
    assert_eq!(set.desk.of_a_program(), "['direct://']\n['direct://']\n");
    assert_eq!(set.state(), "connected");
    xrat(&["system-proxy", "off"]);
    xrat(&["disconnect"]);
    set.connect();
    xrat(&["daemon", "stop"]);
    set.is_own();
}

#[test]
fn with_the_setting_it_is_on_while_there_is_a_session_and_a_stop_gives_everything_back() {
    let Some(set) = Set::start(&[ON]) else { return };
    assert_eq!(set.desk.values(), set.own, "no session, nothing to point at");
    set.connect_and_point();
    let status = set.daemon.xrat(&["system-proxy", "status"]).ok().stdout;
    assert!(status.contains("On (by desktop.system_proxy in config.toml)"), "{status}");
    set.daemon.xrat(&["daemon", "stop"]).ok();
    set.is_own();
}

#[test]
fn turning_the_setting_on_and_off_takes_a_sighup() {
    let Some(set) = Set::start(&[]) else { return };
    set.connect();
    let own_settings = std::fs::read_to_string(set.daemon.root().join("config.toml")).unwrap();
    let configure = |more: &str| {
        std::fs::write(set.daemon.root().join("config.toml"), format!("{own_settings}{more}\n")).unwrap();
        process::signal_pid(set.daemon.pid(), Signal::HUP);
    };
    configure(ON);
    set.comes("at the session", &set.pointed());
    configure("");
    set.comes("its own", &set.own);
}

#[test]
fn a_restart_and_a_move_do_not_touch_it_and_other_ports_are_followed() {
    let Some(set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    set.desk.changes();
    set.daemon.xrat(&["daemon", "restart"]).ok();
    set.daemon.xrat(&["proxy", "rotate", &set.id]).ok();
    // A value that the user takes back in between stays with the user.
    set.desk.gnome(".http", "port", "8888");
    let (socks, http) = (ports::take(), ports::take());
    let path = set.daemon.root().join("config.toml");
    let ours = [set.daemon.socks().port().to_string(), set.daemon.http().port().to_string()];
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(&ours[0], &socks.number().to_string()).replace(&ours[1], &http.number().to_string());
    std::fs::write(&path, text).unwrap();
    process::signal_pid(set.daemon.pid(), Signal::HUP);
    wait_until("the settings are read", || set.daemon.log().contains("settings read again"));
    set.daemon.xrat(&["proxy", "rotate", &set.id]).ok();
    let mut moved = Desk::pointed_at(&set.own, socks.number(), http.number());
    moved.insert("gnome http.port".into(), "8888".into());
    set.comes("at the new ports", &moved);
    // All that was written since: the three ports that changed, and KDE's three addresses. Nothing twice, nothing back.
    let changes = set.desk.changes();
    assert_eq!(changes.len(), 5, "{changes:#?}");
    assert!(changes.iter().all(|line| line.contains(" port ") || line.contains("Proxy ")), "{changes:#?}");
    set.daemon.xrat(&["daemon", "stop"]).ok();
    let mut own = set.own.clone();
    own.insert("gnome http.port".into(), "8888".into());
    assert_eq!(set.desk.values(), own);
}

#[test]
fn while_the_session_is_brought_back_it_stays() {
    let dir = lab::scratch::Scratch::new();
    let program = dir.path().join("v2ray");
    let Some(()) = lab::wrapper::wrapper(&program, KIND, "") else { return };
    let path = format!("paths.v2ray = \"{}\"", program.display());
    let Some(set) = Set::start(&[ON, &path]) else { return };
    set.connect_and_point();
    set.desk.changes();
    // The engine dies, and no other can be started.
    std::fs::remove_file(&program).unwrap();
    let mut events = set.daemon.events();
    process::signal_pid(set.daemon.engine_pids()[0], Signal::KILL);
    events.until_state("recovering");
    assert_eq!(set.desk.values(), set.pointed());
    set.daemon.xrat(&["disconnect"]).ok();
    set.comes("its own", &set.own);
    // Nothing was written in between: one key after the other got its value back, and that is all.
    let changes = set.desk.changes();
    assert!(changes[0].contains("org.gnome.system.proxy mode"), "{changes:#?}");
    assert_eq!(changes.len(), 11, "{changes:#?}");
}

#[test]
fn kio_is_told_and_the_real_store_of_gnome_keeps_it() {
    let Some(bus) = Bus::start() else { return };
    let Some(desk) = Desk::with(Backend::Dconf, Some(&bus)) else { return };
    let Some(set) = Set::on(desk, &[ON]) else { return };
    let monitor = bus.monitor_of("interface='org.kde.KIO.Scheduler'");
    let told = || {
        let signal = monitor.next();
        assert_eq!((signal.path.as_str(), signal.member.as_str()), ("/KIO/Scheduler", "reparseSlaveConfiguration"));
        assert_eq!(signal.body, json!([""]));
    };
    set.connect_and_point();
    told();
    set.daemon.xrat(&["daemon", "stop"]).ok();
    set.is_own();
    told();
}
