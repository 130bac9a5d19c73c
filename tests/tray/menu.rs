//! The menu: by mouse, and as panels of other makes call it.

use super::*;
use lab::{wait_for, wait_until};
use serde_json::{Value, json};

/// Its picture is the one in the README.
#[test]
fn rotate_now_is_clicked_and_the_session_moves() {
    let Some(mut set) = Set::start(&[]) else { return };
    set.desktop.panel();
    set.desktop.dunst();
    set.desktop.tray(set.daemon.root());
    let others = ["c", "d", "e", "f"].map(|name| set.lab.node(name));
    let others = set.daemon.import(&others.iter().map(|(_, link)| link.clone()).collect::<Vec<_>>());
    let names = ["Tokyo 1", "Frankfurt 2", "Amsterdam 3", "Chicago", "Seoul 2", "Toronto"];
    for (id, name) in set.ids.iter().chain(&others).zip(names) {
        set.daemon.xrat(&["rename", &id.to_string(), name]).ok();
    }
    set.shows("xrat-disconnected", "Disconnected");
    set.painted(GREY);
    set.daemon.xrat(&["test"]).ok();
    set.connect(0);
    set.shows("xrat-connected", "Connected: Tokyo 1");
    let icon = set.painted(GREEN);
    wait_until("all delays are known", || {
        set.desktop.line("Connect to").lines.iter().all(|line| line.label.ends_with(" ms"))
    });
    wait_until("the notification is there", || set.desktop.picture().find(GREEN, TILE, ABOVE).is_some());
    let place = set.desktop.open(icon.middle());
    set.desktop.hover(set.desktop.point("Connect to", place));
    wait_until("the submenu is there", || set.desktop.open_menus().len() == 2);
    set.desktop.picture().keep("tray-menu");
    let point = set.desktop.point("Rotate now", place);
    let monitor = set.desktop.bus.monitor();
    set.desktop.click(point);
    let rotated = monitor.until("Rotated").body;
    assert_eq!((&rotated[0], &rotated[2]), (&json!(set.ids[0]), &json!("manual")));
    let now = set.active().expect("a session");
    assert_eq!((rotated[1].as_i64(), now == set.ids[0]), (Some(now), false));
    let name = set.desktop.bus.get(RUNTIME, "Session")["name"].as_str().unwrap().to_owned();
    set.shows("xrat-connected", &format!("Connected: {name}"));
}

#[test]
fn configs_that_are_not_at_hand_are_with_their_subscription() {
    let Some(set) = Set::with_tray(&[]) else { return };
    let nodes: String = (1..=14).map(|n| format!("trojan://secret@node{n}.example:443#node_{n}\n")).collect();
    let path = "/a-secret-path";
    set.lab.origin.answer(path, lab::origin::Canned::ok(nodes));
    set.desktop.bus.call("org.xrat.Daemon1.Configs", "Import", &["sa{sv}", &set.lab.origin.url(path), "0"]);
    let lines = wait_for("the new configs", || {
        let lines = set.desktop.line("Connect to").lines;
        (lines.len() > 12).then_some(lines)
    });
    assert_eq!(lines.len(), 14, "twelve, a separator, and the others");
    assert!(lines.iter().any(|line| line.label == "node_1"), "an underscore is no access key: {lines:#?}");
    let groups: Vec<_> = lines[13].lines.iter().map(|line| (line.label.as_str(), line.lines.len())).collect();
    let source = format!("http://{} (14)", set.lab.origin.http());
    assert_eq!((lines[13].label.as_str(), groups), ("More", vec![("Added by hand (2)", 2), (source.as_str(), 14)]));
}

#[test]
fn the_menu_protocol_is_answered_as_kde_and_xfce_ask() {
    let Some(set) = Set::with_tray(&[]) else { return };
    set.connect(0);
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    // Xfce reads all at once, KDE one level after the other, each with the properties it knows.
    let names = ["5", "type", "label", "visible", "enabled", "children-display"];
    let all = set.desktop.menu_call("GetLayout", &[&["iias", "0", "-1"][..], &names].concat()).unwrap();
    let top = set.desktop.menu_call("GetLayout", &["iias", "0", "1", "0"]).unwrap();
    let ids = |layout: &Value| layout[1][2].as_array().unwrap().iter().map(|item| item[0].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&all), ids(&top));
    assert_eq!(top[1][1]["children-display"], "submenu");
    let connect = set.desktop.line("Connect to");
    let id = connect.id.to_string();
    let level = set.desktop.menu_call("GetLayout", &["iias", &id, "1", "0"]).unwrap();
    let labels: Vec<_> = level[1][2].as_array().unwrap().iter().map(|item| item[1]["label"].clone()).collect();
    assert_eq!(labels, ["vless-tcp-none", "vmess-tcp-none"]);

    let shown = set.desktop.menu_call("AboutToShowGroup", &["ai", "3", "0", &id, "9999"]).unwrap();
    assert_eq!(shown, json!([[], [9999]]), "updates needed, and ids that are none");
    assert_eq!(set.desktop.menu_call("AboutToShow", &["i", "0"]).unwrap()[0], false);
    let properties = set.desktop.menu_call("GetGroupProperties", &["aias", "1", &id, "0"]).unwrap();
    assert_eq!(properties[0][0][1]["label"], "Connect to");

    // A click, as KDE sends it: together with the end of its hover.
    let second = connect.lines.iter().find(|line| line.label == "vmess-tcp-none").unwrap().id.to_string();
    let click = ["a(isvu)", "2", &second, "hovered", "i", "0", "0", &second, "clicked", "i", "0", "0"];
    assert_eq!(set.desktop.menu_call("EventGroup", &click).unwrap(), json!([[]]));
    set.shows("xrat-connected", "Connected: vmess-tcp-none");
    assert_eq!(set.active(), Some(set.ids[1]));
    // The left button opens the menu: panels are told so, and refused anything else.
    assert_eq!(set.desktop.property("ItemIsMenu"), Some(json!(true)));
    assert_eq!(set.desktop.property("Menu"), Some(json!("/MenuBar")));
    let sizes = set.desktop.property("IconPixmap").unwrap();
    let sizes: Vec<_> = sizes.as_array().unwrap().iter().map(|icon| icon[0].clone()).collect();
    assert_eq!(sizes, [16, 22, 24, 32, 48]);
}

/// Whether the menu has a line with this label.
fn has(set: &Set, label: &str) -> bool {
    set.desktop.menu().iter().any(|line| line.label == label)
}

/// A click of a line, without a mouse.
fn choose(set: &Set, label: &str) {
    let line = set.desktop.line(label);
    assert!(line.enabled, "{line:?}");
    set.desktop.menu_call("Event", &["isvu", &line.id.to_string(), "clicked", "s", "", "0"]).unwrap();
}

#[test]
fn every_entry_does_what_it_says() {
    let Some(mut set) = Set::testing_with("/withhold", &[]).map(Set::and_tray) else { return };
    let rotation = |name: &str| set.desktop.bus.get("org.xrat.Daemon1.Rotation", name);
    let refused = ["Rotate now", "Copy proxy address", "Disconnect"];
    assert!(refused.iter().all(|label| !set.desktop.line(label).enabled));

    // The test's progress is in the label while it runs.
    choose(&set, "Test all");
    wait_until("the test is shown", || has(&set, "Stop the test (0 of 2)"));
    set.lab.origin.release();
    wait_until("the test is over", || has(&set, "Test all"));
    let nodes = || set.desktop.line("Connect to").lines;
    wait_until("the delays are shown", || nodes().iter().all(|line| line.label.ends_with(" ms")));

    let first = nodes().into_iter().find(|line| line.label.starts_with("vless")).unwrap();
    assert_eq!(first.checked, Some(false));
    set.desktop.menu_call("Event", &["isvu", &first.id.to_string(), "clicked", "s", "", "0"]).unwrap();
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    let active: Vec<_> = nodes().into_iter().filter(|line| line.checked == Some(true)).map(|line| line.label).collect();
    assert!(matches!(&active[..], [one] if one.starts_with("vless-tcp-none")), "{active:?}");

    assert_eq!(set.desktop.line("Rotate automatically").checked, Some(false));
    choose(&set, "Rotate automatically");
    wait_until("it is switched on", || rotation("Enabled") == true);
    wait_until("the next time is shown", || {
        let line = set.desktop.line("Rotate automatically");
        line.checked == Some(true) && line.label.starts_with("Rotate automatically (next at ")
    });
    choose(&set, "Rotate automatically");
    wait_until("it is switched off", || rotation("Enabled") == false);

    choose(&set, "Copy proxy address");
    let pasted =
        || set.desktop.command("xclip".as_ref()).args(["-o", "-selection", "clipboard"]).output().unwrap().stdout;
    let wanted = format!("socks5h://{}", set.daemon.socks());
    wait_until("the address can be pasted", || pasted() == wanted.as_bytes());

    let why = || set.desktop.line("Why did it switch?").lines.into_iter().map(|line| line.label).collect::<Vec<_>>();
    assert_eq!(why(), ["It has not switched yet"]);
    choose(&set, "Rotate now");
    set.shows("xrat-connected", "Connected: vmess-tcp-none");
    let told = rotation("LastDecision")["reason"].as_str().unwrap().to_owned();
    wait_until("the reason is told", || why().join(" ").contains(&told));
    let words = why();
    assert!(words[0].ends_with(", on request"), "{words:?}");
    assert_eq!(words[1], "From vless-tcp-none to vmess-tcp-none");

    choose(&set, "Disconnect");
    set.shows("xrat-disconnected", "Disconnected");
    let quit = set.desktop.line("Quit").id.to_string();
    // It may be gone before the bus has its answer.
    let _ = set.desktop.menu_call("Event", &["isvu", &quit, "clicked", "s", "", "0"]);
    assert!(set.desktop.tray_guard().wait().success());
}

#[test]
fn what_cannot_be_done_is_said_in_the_menu() {
    let Some(mut set) = Set::with_tray(&["paths.v2ray = \"/nonexistent/v2ray\""]) else { return };
    let first = set.desktop.line("Connect to").lines[0].id.to_string();
    set.desktop.menu_call("Event", &["isvu", &first, "clicked", "s", "", "0"]).unwrap();
    wait_until("the menu says why", || set.desktop.menu().iter().any(|line| line.label.starts_with("Not done: ")));
    assert!(set.tray_log().contains("xrat-tray: connect: "), "{}", set.tray_log());
    // Nobody is there to be started: no file says how.
    set.daemon.kill_daemon();
    set.shows("xrat-disconnected", "The daemon does not run");
    choose(&set, "Start the daemon");
    wait_until("the way out is told", || set.tray_log().contains("run 'xrat daemon install'"));
    set.desktop.tray_guard().signal(rustix::process::Signal::TERM);
}
