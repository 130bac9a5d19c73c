//! A desktop: its settings in a directory of their own, its real tools, and what the tools were asked to do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::lab::bus::Bus;
use super::lab::scratch::Scratch;
use super::lab::wrapper::{Gate, script};
use super::lab::{Daemon, tool};

/// Prints what a user has set of GNOME's proxy settings, as GLib itself says: unset keys are left out.
const USER_VALUES: &str = r"
from gi.repository import Gio
for child, keys in {'': ['mode', 'ignore-hosts', 'autoconfig-url'], 'http': ['host', 'port', 'enabled'],
                    'https': ['host', 'port'], 'socks': ['host', 'port'], 'ftp': ['host', 'port']}.items():
    settings = Gio.Settings.new('.'.join(filter(None, ['org.gnome.system.proxy', child])))
    for key in keys:
        value = settings.get_user_value(key)
        if value is not None:
            print('.'.join(filter(None, [child, key])), value.print_(False), sep='\t')
";

/// Prints the proxies that a GNOME program uses for a page, and for one that the user has excepted.
const PROXIES: &str = r"
from gi.repository import Gio
for host in ['example.org', 'intra.example']:
    print(Gio.ProxyResolver.get_default().lookup('https://' + host + '/', None))
";

/// Where GNOME's settings are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// In a file, without a service.
    Keyfile,
    /// By the service of real desktops, on this bus.
    Dconf,
}

/// What a user has set, in both desktops.
pub(crate) type Values = BTreeMap<String, String>;

pub(crate) struct Desk {
    home: Scratch,
    backend: Backend,
    bus: Option<String>,
    gate: Gate,
}

impl Desk {
    /// Settings that nobody has touched; `None` (after saying so) without the tools.
    pub(crate) fn new() -> Option<Self> {
        Self::with(Backend::Keyfile, None)
    }

    /// [`Desk::new`] with a session bus.
    pub(crate) fn with(backend: Backend, bus: Option<&Bus>) -> Option<Self> {
        if !["gsettings", "kwriteconfig5", "kreadconfig5"].into_iter().all(tool) {
            return None;
        }
        let home = Scratch::new();
        for name in ["config", "cache", "run", "bin"] {
            home.dir(name);
        }
        home.file("log", "");
        home.file("stop", "\n");
        let gate = Gate::new(home.path().join("gate"));
        let desk = Self { home, backend, bus: bus.map(Bus::address), gate };
        for name in ["gsettings", "kwriteconfig5", "kreadconfig5"] {
            let dir = desk.home.path().display();
            let lines = format!(
                "echo \"{name} $*\" >>{dir}/log\nread -r stop <{dir}/stop\n\
                 case \"{name} $*\" in *\"${{stop:-nothing}}\"*) {};; esac\nexec /usr/bin/{name} \"$@\"\n",
                desk.gate.line()
            );
            script(&desk.home.path().join("bin").join(name), &lines);
        }
        if let (Backend::Dconf, Some(bus)) = (backend, bus) {
            let variables: Vec<_> =
                desk.environment().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            let service = "/usr/libexec/dconf-service";
            let text =
                format!("[D-BUS Service]\nName=ca.desrt.dconf\nExec=/usr/bin/env {} {service}\n", variables.join(" "));
            std::fs::write(bus.services().join("ca.desrt.dconf.service"), text).unwrap();
            bus.busctl(&["call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"]).unwrap();
        }
        Some(desk)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let dir = |name: &str| self.home.path().join(name).display().to_string();
        let mut all = vec![
            ("HOME", dir("")),
            ("XDG_CONFIG_HOME", dir("config")),
            ("XDG_CACHE_HOME", dir("cache")),
            ("XDG_RUNTIME_DIR", dir("run")),
        ];
        if self.backend == Backend::Keyfile {
            all.push(("GSETTINGS_BACKEND", "keyfile".to_owned()));
        }
        all.extend(self.bus.clone().map(|bus| ("DBUS_SESSION_BUS_ADDRESS", bus)));
        all
    }

    /// Has a daemon and its commands live on this desktop.
    pub(crate) fn seat(&self, daemon: &mut Daemon) {
        for (name, value) in self.environment() {
            daemon.set_env(name, value);
        }
        let path = std::env::var("PATH").unwrap();
        daemon.set_env("PATH", format!("{}:{path}", self.home.path().join("bin").display()));
    }

    /// The user sets something: `gsettings` or `kwriteconfig5` with arguments.
    #[track_caller]
    pub(crate) fn run(&self, line: &[&str]) -> String {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).envs(self.environment()).env_remove("DBUS_SESSION_BUS_ADDRESS");
        if let Some(bus) = &self.bus {
            command.env("DBUS_SESSION_BUS_ADDRESS", bus);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn gnome(&self, schema: &str, key: &str, value: &str) {
        self.run(&["gsettings", "set", &format!("org.gnome.system.proxy{schema}"), key, value]);
    }

    #[track_caller]
    pub(crate) fn kde(&self, key: &str, value: &str) {
        self.run(&["kwriteconfig5", "--file", "kioslaverc", "--group", "Proxy Settings", "--key", key, value]);
    }

    /// Settings with a bit of everything: set, unset, set to the default.
    pub(crate) fn lived_in(&self) -> Values {
        self.gnome("", "ignore-hosts", "['localhost', 'intra.example']");
        self.gnome("", "mode", "'none'");
        self.gnome(".http", "host", "\"the user's own\"");
        self.gnome(".https", "port", "0");
        self.kde("NoProxyFor", "intra.example");
        self.kde("httpsProxy", "http://user:pass@proxy.example 3128");
        self.kde("socksProxy", "");
        self.values()
    }

    /// All that the user has set.
    pub(crate) fn values(&self) -> Values {
        let gnome = self.run(&["/usr/bin/python3", "-c", USER_VALUES]);
        let lines = gnome.lines().map(|line| line.split_once('\t').unwrap());
        let mut all: Values = lines.map(|(key, value)| (format!("gnome {key}"), value.to_owned())).collect();
        let kde = std::fs::read_to_string(self.kioslaverc()).unwrap_or_default();
        let lines = kde.lines().filter_map(|line| line.split_once('='));
        all.extend(lines.map(|(key, value)| (format!("kde {key}"), value.to_owned())));
        all
    }

    /// The proxies that a GNOME program uses for a page, and for one that the user has excepted.
    pub(crate) fn of_a_program(&self) -> String {
        self.run(&["env", "XDG_CURRENT_DESKTOP=GNOME", "/usr/bin/python3", "-c", PROXIES])
    }

    pub(crate) fn kioslaverc(&self) -> PathBuf {
        self.home.path().join("config/kioslaverc")
    }

    /// What the settings are when they point at a daemon, and were `before`.
    pub(crate) fn pointed(before: &Values, daemon: &Daemon) -> Values {
        Self::pointed_at(before, daemon.socks().port(), daemon.http().port())
    }

    pub(crate) fn pointed_at(before: &Values, socks: u16, http: u16) -> Values {
        let mut all = before.clone();
        for (key, value) in [
            ("gnome mode", "'manual'".to_owned()),
            ("gnome http.host", "'127.0.0.1'".to_owned()),
            ("gnome http.port", http.to_string()),
            ("gnome https.host", "'127.0.0.1'".to_owned()),
            ("gnome https.port", http.to_string()),
            ("gnome socks.host", "'127.0.0.1'".to_owned()),
            ("gnome socks.port", socks.to_string()),
            ("kde httpProxy", format!("http://127.0.0.1 {http}")),
            ("kde httpsProxy", format!("http://127.0.0.1 {http}")),
            ("kde socksProxy", format!("socks://127.0.0.1 {socks}")),
            ("kde ProxyType", "1".to_owned()),
        ] {
            all.insert(key.to_owned(), value);
        }
        all
    }

    /// The changes that xrat asked the tools for, since the last call.
    pub(crate) fn changes(&self) -> Vec<String> {
        let log = self.home.path().join("log");
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::write(&log, "").unwrap();
        let writes = |line: &&str| {
            ["gsettings set", "gsettings reset", "kwriteconfig5"].iter().any(|begin| line.starts_with(begin))
        };
        text.lines().filter(writes).map(str::to_owned).collect()
    }

    /// From now on a tool whose command line has this in it waits at the gate, before it does anything.
    pub(crate) fn stop_at(&self, part: &str) -> &Gate {
        self.home.file("stop", format!("{part}\n"));
        &self.gate
    }

    /// No tool waits from now on.
    pub(crate) fn stop_nowhere(&self) {
        self.home.file("stop", "\n");
    }
}
