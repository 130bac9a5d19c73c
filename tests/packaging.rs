//! What is installed: into an empty home for one user, and into an empty root for a package.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::bus::Bus;
use lab::scratch::Scratch;
use lab::{Kind, Lab, daemon, source_dir, tool};

const DESKTOP: &str = "share/applications/org.xrat.Xrat.desktop";
const SERVICE: &str = "share/dbus-1/services/org.xrat.Daemon1.service";
const EXTENSION: &str = "share/gnome-shell/extensions/xrat@xrat.org";

/// Runs a program to its end: whether it succeeded, and all it said.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn ok(command: &mut Command) -> String {
    let (ok, said) = run(command);
    assert!(ok, "{command:?}: {said}");
    said
}

/// A directory of programs as a build leaves them.
fn programs() -> Scratch {
    let programs = Scratch::new();
    let xrat = daemon::program();
    for name in ["xrat", "xrat-tray"] {
        // Where only the one is at hand, it stands in for the other: none is run but `xrat`.
        let built = Some(xrat.with_file_name(name)).filter(|file| file.exists());
        std::os::unix::fs::symlink(built.unwrap_or_else(|| xrat.clone()), programs.path().join(name)).unwrap();
    }
    programs
}

/// `scripts/install` with an environment of its own.
fn install(programs: &Scratch, home: &Path, more: &[(&str, &str)]) -> Command {
    let mut command = Command::new(source_dir().join("scripts/install"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
    command.env("XRAT_BIN_DIR", programs.path()).env("GNOME_SHELL", "none").envs(more.iter().copied());
    command
}

/// The files under a directory, from there on.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// The program that a desktop file starts, as the library that most desktops have reads it.
fn started(desktop: &Path) -> PathBuf {
    let script = "import sys\nfrom gi.repository import Gio, GLib\n\
                  info = Gio.DesktopAppInfo.new_from_filename(sys.argv[1])\n\
                  print(GLib.shell_parse_argv(info.get_commandline())[1][0])";
    PathBuf::from(ok(Command::new("/usr/bin/python3").args(["-c", script]).arg(desktop)).trim())
}

#[track_caller]
fn validate(share: &Path, autostart: &Path) {
    for file in [&share.join("applications/org.xrat.Xrat.desktop"), &autostart.join("org.xrat.Xrat.desktop")] {
        let said = ok(Command::new("desktop-file-validate").arg(file));
        assert!(said.is_empty(), "{said}");
    }
    let info = share.join("metainfo/org.xrat.Xrat.metainfo.xml");
    ok(Command::new("appstreamcli").args(["validate", "--no-net"]).arg(&info));
    let words = std::fs::read_to_string(info).unwrap();
    assert!(words.contains(&format!("<release version=\"{}\"", env!("CARGO_PKG_VERSION"))), "the release is named");
    let icon = share.join("icons/hicolor/scalable/apps/org.xrat.Xrat.svg");
    assert!(std::fs::read_to_string(icon).unwrap().contains("<svg"));
}

/// Has systemd read a unit of a user's.
#[track_caller]
fn verify(unit: &Path, runtime: &Scratch) {
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--user", "verify"]).arg(unit).env("XDG_RUNTIME_DIR", runtime.path()).env("HOME", runtime.path());
    let said = ok(&mut verify);
    assert!(!said.contains("xrat.service"), "{said}");
}

fn tools() -> bool {
    ["desktop-file-validate", "appstreamcli", "systemd-analyze"].into_iter().all(tool)
}

#[test]
fn a_user_gets_everything_with_the_right_paths_and_loses_it_again() {
    if !tools() {
        return;
    }
    let (programs, scratch) = (programs(), Scratch::new());
    // What desktop files, units and shells quote differently.
    let home = scratch.dir("a $home `x`");
    let said = ok(&mut install(&programs, &home, &[("GNOME_SHELL", "43")]));
    assert!(said.contains("gnome-extensions enable") && said.contains("is not in PATH"), "{said}");
    let local = home.join(".local");
    let xrat = local.join("bin/xrat");
    assert!(ok(Command::new(&xrat).arg("--version")).starts_with("xrat "));
    validate(&local.join("share"), &home.join(".config/autostart"));
    for file in [local.join(DESKTOP), home.join(".config/autostart/org.xrat.Xrat.desktop")] {
        assert_eq!(started(&file), local.join("bin/xrat-tray"));
    }
    let actions = std::fs::read_to_string(local.join(DESKTOP)).unwrap();
    assert_eq!(actions.matches("/bin/xrat\" ").count(), 2, "{actions}");

    // The unit and the activation file are those of `xrat daemon install`.
    let unit = home.join(".config/systemd/user/xrat.service");
    verify(&unit, &scratch);
    let service = std::fs::read_to_string(local.join(SERVICE)).unwrap();
    assert!(service.contains(&format!("\nExec='{}' daemon run\n", xrat.display())), "{service}");
    let installed = ok(Command::new(&xrat).args(["daemon", "install", "--dry-run"]).env_clear().env("HOME", &home));
    let words = std::fs::read_to_string(&unit).unwrap();
    assert!(words.lines().all(|line| installed.contains(&format!("\n  {line}\n"))), "{words}\n{installed}");

    // The icons are the theme's, and all that the extension names are there.
    let menu = std::fs::read_to_string(local.join(EXTENSION).join("menu.js")).unwrap();
    let (_, names) = menu.split_once("function iconName").unwrap();
    let (names, _) = names.split_once("\n    }\n").unwrap();
    let named: BTreeSet<_> =
        names.split('\'').skip(1).step_by(2).map(|name| format!("xrat-{name}-symbolic.svg")).collect();
    assert_eq!(named.len(), 6);
    if source_dir().join("desktop/icons/hicolor/symbolic/status").exists() {
        assert!(files(&local.join(EXTENSION).join("icons")).is_superset(&named), "{named:?}");
    }

    let meta = local.join(EXTENSION).join("metadata.json");
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(meta).unwrap()).unwrap();
    assert_eq!((&meta["uuid"], &meta["shell-version"][0]), (&"xrat@xrat.org".into(), &"43".into()));

    // Again, for another Shell: what is of the old layout only is gone.
    let before = files(&home);
    ok(&mut install(&programs, &home, &[("GNOME_SHELL", "45")]));
    assert_eq!(files(&home), before);
    assert!(std::fs::read_to_string(local.join(EXTENSION).join("extension.js")).unwrap().contains("export default"));
    ok(&mut install(&programs, &home, &[]));
    assert!(!local.join(EXTENSION).exists());

    let own = local.join("share/applications/own.desktop");
    std::fs::write(&own, "").unwrap();
    ok(install(&programs, &home, &[]).arg("--uninstall"));
    assert_eq!(files(&home), BTreeSet::from([".local/share/applications/own.desktop".to_owned()]));
    let (succeeded, said) = run(install(&programs, &home, &[]).arg("--uninstall"));
    assert!(!succeeded && said.contains("nothing is installed here"), "{said}");
}

#[test]
fn what_the_user_switched_off_stays_off() {
    let (programs, scratch) = (programs(), Scratch::new());
    let home = scratch.dir("home");
    ok(&mut install(&programs, &home, &[]));
    let autostart = home.join(".config/autostart/org.xrat.Xrat.desktop");
    let written = std::fs::read_to_string(&autostart).unwrap();
    for line in ["Hidden=true", "X-GNOME-Autostart-enabled=false"] {
        // With something of the user's own, which shows that the file is kept.
        let off = format!("{written}{line}\nX-Mine=1\n");
        std::fs::write(&autostart, &off).unwrap();
        assert!(ok(&mut install(&programs, &home, &[])).contains("is kept as it is"));
        assert_eq!(std::fs::read_to_string(&autostart).unwrap(), off);
    }
    std::fs::write(&autostart, format!("{written}X-GNOME-Autostart-enabled=true\n")).unwrap();
    ok(&mut install(&programs, &home, &[]));
    assert_eq!(std::fs::read_to_string(&autostart).unwrap(), written);

    // What 'systemctl --user enable' and 'disable' leave of the unit.
    let units = home.join(".config/systemd/user");
    let wants = units.join("default.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    let link = wants.join("xrat.service");
    let _ = std::fs::remove_file(&link);
    std::fs::write(units.join("xrat.service"), "").unwrap();
    let said = ok(&mut install(&programs, &home, &[]));
    assert!(said.contains("switched off and stays so") && !said.contains("at your next login"), "{said}");
    assert!(!link.is_symlink());
    assert!(std::fs::read_to_string(units.join("xrat.service")).unwrap().contains("ExecStart="), "it is refreshed");
    std::os::unix::fs::symlink(units.join("xrat.service"), &link).unwrap();
    assert!(ok(&mut install(&programs, &home, &[])).contains("at your next login"));
}

#[test]
fn a_prefix_in_the_home_is_the_user_s_own() {
    let (programs, scratch) = (programs(), Scratch::new());
    let home = scratch.dir("home");
    let prefix = home.join("opt/");
    let to = [("PREFIX", prefix.to_str().unwrap())];
    ok(&mut install(&programs, &home, &to));
    let xrat = home.join("opt/bin/xrat");
    assert!(ok(Command::new(&xrat).arg("--version")).starts_with("xrat "));
    let words = std::fs::read_to_string(home.join(".config/autostart/org.xrat.Xrat.desktop")).unwrap();
    assert!(words.contains(&format!("\nExec={}-tray\n", xrat.display())), "{words}");
    let unit = std::fs::read_to_string(home.join(".config/systemd/user/xrat.service")).unwrap();
    assert!(unit.contains(&format!("\nExecStart=\"{}\" daemon run\n", xrat.display())), "{unit}");
    // There is one list of what is the user's own, wherever the programs are.
    ok(install(&programs, &home, &[]).arg("--uninstall"));
    assert_eq!(files(&home), BTreeSet::new());
}

#[test]
fn nothing_is_put_where_not_everything_can_be() {
    let (programs, scratch) = (programs(), Scratch::new());
    let home = scratch.dir("home");
    // Nobody can make a directory below a file, not even root.
    std::fs::create_dir(home.join(".config")).unwrap();
    std::fs::write(home.join(".config/autostart"), "").unwrap();
    let (succeeded, said) = run(&mut install(&programs, &home, &[]));
    assert!(!succeeded && said.contains("nothing was installed") && said.contains(".config/autostart"), "{said}");
    assert_eq!(files(&home), BTreeSet::from([".config/autostart".to_owned()]));
}

#[test]
fn half_an_installation_can_be_taken_back() {
    let (programs, scratch) = (programs(), Scratch::new());
    let (home, tools) = (scratch.dir("home"), scratch.dir("tools"));
    std::fs::write(home.join("own"), "").unwrap();
    // The first program is put, and then the disk is full.
    let script = "#!/bin/sh\ncase \"$*\" in *bin/xrat) exec /usr/bin/install \"$@\";; esac\nexit 1\n";
    std::fs::write(tools.join("install"), script).unwrap();
    std::fs::set_permissions(tools.join("install"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let (succeeded, said) = run(&mut install(&programs, &home, &[("PATH", &path)]));
    assert!(!succeeded && said.contains("half-way"), "{said}");
    assert!(home.join(".local/bin/xrat").exists());
    ok(install(&programs, &home, &[]).arg("--uninstall"));
    assert_eq!(files(&home), BTreeSet::from(["own".to_owned()]));
}

#[test]
fn a_package_gets_everything_in_its_place() {
    if !tools() {
        return;
    }
    let (programs, scratch) = (programs(), Scratch::new());
    let (home, root) = (scratch.dir("home"), scratch.dir("root"));
    let to = [("PREFIX", "/usr"), ("DESTDIR", root.to_str().unwrap()), ("GNOME_SHELL", "both")];
    ok(&mut install(&programs, &home, &to));
    assert!(files(&home).is_empty(), "it touches no home");
    validate(&root.join("usr/share"), &root.join("etc/xdg/autostart"));
    for (file, line) in [
        ("usr/lib/systemd/user/xrat.service", "ExecStart=/usr/bin/xrat daemon run"),
        (&format!("usr/{SERVICE}"), "Exec=/usr/bin/xrat daemon run"),
        (&format!("usr/{DESKTOP}"), "Exec=/usr/bin/xrat disconnect"),
        ("usr/share/man/man1/xrat.1", ".TH XRAT 1"),
        ("usr/share/bash-completion/completions/xrat", "complete -F _xrat xrat"),
        ("usr/share/zsh/vendor-completions/_xrat", "#compdef xrat"),
        ("usr/share/fish/vendor_completions.d/xrat.fish", "complete -c xrat -f -a '(__xrat_complete)'"),
    ] {
        let words = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(words.lines().any(|one| one == line), "{file}: {words}");
        assert_eq!(root.join(file).metadata().unwrap().permissions().mode() & 0o777, 0o644, "{file}");
    }
    // It looks for the program, which is where the package is installed only.
    let words = std::fs::read_to_string(root.join("usr/lib/systemd/user/xrat.service")).unwrap();
    let unit = words.replace("/usr/bin/xrat", programs.path().join("xrat").to_str().unwrap());
    verify(&scratch.file("xrat.service", unit), &scratch);
    assert!(!files(&root).iter().any(|file| file.ends_with("xrat/installed")), "dpkg knows what it has");

    let (succeeded, said) = run(&mut install(&programs, &home, &[("PREFIX", "/opt/a b"), to[1]]));
    assert!(!succeeded && said.contains("/opt/a b"), "{said}");
}

#[test]
fn the_actions_of_the_desktop_file_do_what_they_say() {
    let Some(bus) = Bus::start() else { return };
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let url = format!("testing.url = \"{}\"", lab.origin.url("/generate_204"));
    let (mut xrat, first) = lab.root(Kind::V2ray, &[&url]);
    let second = xrat.import(&[lab.server.link("vmess-tcp-none")])[0];
    xrat.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    xrat.run();
    bus.wait_for_name();
    let words = std::fs::read_to_string(source_dir().join("desktop/org.xrat.Xrat.desktop")).unwrap();
    let choose = |action: &str| {
        let (_, rest) = words.split_once(&format!("[Desktop Action {action}]\n")).unwrap();
        let line = rest.lines().find_map(|line| line.strip_prefix("Exec=")).unwrap();
        let line = line.replace("/usr/bin/xrat", daemon::program().to_str().unwrap());
        let mut command = Command::new("sh");
        ok(command.args(["-c", &line]).env("XRAT_PATH", xrat.root()).env("DBUS_SESSION_BUS_ADDRESS", bus.address()));
        xrat.status()["session"]["config_id"].as_i64()
    };
    assert_eq!(choose("connect"), Some(first));
    assert_eq!(choose("rotate"), Some(second));
    assert_eq!(choose("disconnect"), None);
    assert!(words.contains("\nActions=connect;rotate;disconnect;\n"));
}

#[test]
fn the_package_shows_each_shell_the_layout_that_it_loads() {
    if !tool("dpkg-query") {
        return;
    }
    let root = Scratch::new();
    let script = |name: &str, argument: &str| {
        let mut command = Command::new("sh");
        command.arg(source_dir().join("desktop/debian").join(name)).arg(argument).env("DPKG_ROOT", root.path());
        ok(&mut command);
    };
    std::fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
    let link = root.path().join("usr/share/gnome-shell/extensions/xrat@xrat.org");
    for (version, layout) in
        [(None, None), (Some("43.9-0+deb12u2"), Some("43")), (Some("1:48.7-1"), Some("45")), (Some("3.38.6"), None)]
    {
        let status = version.map_or(String::new(), |version| {
            format!(
                "Package: gnome-shell\nStatus: install ok installed\nArchitecture: all\nMaintainer: x\n\
                 Description: x\nVersion: {version}\n"
            )
        });
        std::fs::write(root.path().join("var/lib/dpkg/status"), status).unwrap();
        script("postinst", "triggered");
        let shown = std::fs::read_link(&link).ok();
        assert_eq!(shown, layout.map(|layout| format!("../../xrat/gnome-shell/{layout}").into()), "{version:?}");
    }
    std::fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("x", &link).unwrap();
    script("prerm", "upgrade");
    assert!(link.is_symlink());
    script("prerm", "remove");
    assert!(!link.is_symlink());
}
