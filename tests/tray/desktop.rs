//! A desktop of its own for one test: an X server without a screen, a bus, Xfce's panel, a notification service.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::lab::bus::{Bus, plain};
use super::lab::process::{Guard, OWNER_VARIABLE};
use super::lab::scratch::Scratch;
use super::lab::{tool, wait_for, wait_until};
use super::screen::Picture;
use serde_json::Value;

/// The screen, in pixels; [`PANEL`] is made for it.
const WIDTH: usize = 560;
const HEIGHT: usize = 340;
/// Owned by the panel: where items register.
pub(crate) const WATCHER: &str = "org.kde.StatusNotifierWatcher";
const ITEM: &str = "org.kde.StatusNotifierItem";
const MENU: &str = "com.canonical.dbusmenu";
/// What Xfce's panel and the files it needs are called.
const XFCONF: &str = "/usr/share/dbus-1/services/org.xfce.Xfconf.service";
/// The panel: one line along the bottom, with the notification area alone.
const PANEL: &str = include_str!("panel.xml");
/// Menus whose lines have a known height, so that one can be pointed at.
const STYLE: &str = "menu { padding: 4px 0; }
menu menuitem { min-height: 20px; padding: 2px 10px; margin: 0; }
menu separator { min-height: 1px; margin: 3px 0; padding: 0; }
";
const EDGE: usize = 4;
const LINE: usize = 24;
const SEPARATOR: usize = 7;

/// See the first line. What runs on it ends on drop.
pub(crate) struct Desktop {
    pub(crate) bus: Bus,
    home: Scratch,
    display: String,
    tray: Option<Guard>,
    panel: Option<Guard>,
    dunst: Option<Guard>,
    _x: Guard,
}

/// One line of the menu.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) id: i64,
    /// As it is read; empty for a separator.
    pub(crate) label: String,
    pub(crate) enabled: bool,
    pub(crate) checked: Option<bool>,
    separator: bool,
    pub(crate) lines: Vec<Line>,
}

impl Desktop {
    /// Starts the X server and the bus; `None` (after saying so) where something is missing.
    pub(crate) fn start() -> Option<Self> {
        if !["Xvfb", "xfce4-panel", "dunst", "xdotool", "xclip"].into_iter().all(tool) {
            return None;
        }
        let bus = Bus::start()?;
        let home = Scratch::new();
        for directory in ["config", "config/gtk-3.0", "data", "cache", "runtime", "screen"] {
            home.dir(directory);
        }
        let channels = home.path().join("config/xfce4/xfconf/xfce-perchannel-xml");
        std::fs::create_dir_all(&channels).unwrap();
        std::fs::write(channels.join("xfce4-panel.xml"), PANEL).unwrap();
        home.file("config/gtk-3.0/gtk.css", STYLE);
        std::fs::copy(XFCONF, bus.services().join("org.xfce.Xfconf.service")).unwrap();
        let (read, write) = std::io::pipe().unwrap();
        let log = File::create(home.path().join("x.log")).unwrap();
        let size = format!("{WIDTH}x{HEIGHT}x24");
        let x = Guard::spawn(Path::new("Xvfb"), |command| {
            command.args(["-displayfd", "1", "-screen", "0", &size, "-nolisten", "tcp", "-wr", "-fbdir"]);
            command.arg(home.path().join("screen")).stdin(Stdio::null()).stdout(write).stderr(log);
        });
        let mut number = String::new();
        BufReader::new(read).read_line(&mut number).unwrap();
        let display = format!(":{}", number.trim());
        let desktop = Self { bus, home, display, tray: None, panel: None, dunst: None, _x: x };
        desktop.reload_bus();
        Some(desktop)
    }

    /// What the bus starts gets this desktop's environment, and its directories are read again.
    fn reload_bus(&self) {
        let bus = "org.freedesktop.DBus";
        let environment = self.environment();
        let mut words = vec!["call".to_owned(), bus.into(), "/org/freedesktop/DBus".into(), bus.into()];
        words.extend(["UpdateActivationEnvironment".into(), "a{ss}".into(), environment.len().to_string()]);
        words.extend(environment.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        self.bus.busctl(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.home.path().join(name).display().to_string();
        vec![
            ("HOME", path("")),
            ("XDG_CONFIG_HOME", path("config")),
            ("XDG_DATA_HOME", path("data")),
            ("XDG_CACHE_HOME", path("cache")),
            ("XDG_RUNTIME_DIR", path("runtime")),
            ("XDG_CURRENT_DESKTOP", "XFCE".into()),
            ("DISPLAY", self.display.clone()),
            ("DBUS_SESSION_BUS_ADDRESS", self.bus.address()),
            ("NO_AT_BRIDGE", "1".into()),
            ("GSETTINGS_BACKEND", "memory".into()),
            (OWNER_VARIABLE, path("")),
            ("LANG", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
        ]
    }

    fn spawn(&self, program: &Path, arguments: &[&str]) -> Guard {
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file(&name)).unwrap();
        Guard::spawn(program, |command| {
            command.args(arguments).envs(self.environment()).env_remove("WAYLAND_DISPLAY");
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        })
    }

    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("{name}.log"))
    }

    /// Where this desktop's user installs icons.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What a program said.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// Starts the panel, or another one in place of the one that is killed, and waits until items can register.
    pub(crate) fn panel(&mut self) {
        self.panel = None;
        wait_until("the old panel is off the bus", || !self.owned(WATCHER));
        self.panel = Some(self.spawn(Path::new("xfce4-panel"), &["--disable-wm-check"]));
        wait_until("the panel takes items", || self.owned(WATCHER));
    }

    /// Starts the notification service.
    pub(crate) fn dunst(&mut self) {
        let config = self.home.file(
            "dunstrc",
            "[global]\nfont = Sans 9\nframe_width = 1\nicon_position = left\noffset = 10x24\nwidth = 220\n",
        );
        self.dunst = Some(self.spawn(Path::new("dunst"), &["-conf", config.to_str().unwrap()]));
        wait_until("notifications can be shown", || self.owned("org.freedesktop.Notifications"));
    }

    /// Starts the tray, or another one in place of the one that is killed. Its process.
    pub(crate) fn tray(&mut self, root: &Path) -> u32 {
        self.tray = None;
        let tray = self.spawn(&program(), &["--root", root.to_str().unwrap()]);
        let pid = tray.pid();
        self.tray = Some(tray);
        pid
    }

    /// The tray that runs.
    pub(crate) fn tray_guard(&mut self) -> &mut Guard {
        self.tray.as_mut().unwrap()
    }

    /// A command on this desktop.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment()).env_remove("WAYLAND_DISPLAY").stdin(Stdio::null());
        command
    }

    /// Puts another bus in place of this one, at the same address, with another panel on it.
    pub(crate) fn replace_bus(&mut self) {
        (self.panel, self.dunst) = (None, None);
        self.bus.kill();
        self.bus.run();
        self.reload_bus();
        self.panel();
    }

    /// Whether somebody owns a name.
    pub(crate) fn owned(&self, name: &str) -> bool {
        let bus = "org.freedesktop.DBus";
        self.bus
            .busctl(&["call", bus, "/", bus, "NameHasOwner", "s", name])
            .is_ok_and(|answer| answer.trim() == "b true")
    }

    /// The picture on the screen.
    pub(crate) fn picture(&self) -> Picture {
        Picture::take(&self.home.path().join("screen/Xvfb_screen0"))
    }

    /// The bus name of the item that is on the panel.
    pub(crate) fn item(&self) -> Option<String> {
        let words = ["--json=short", "get-property", WATCHER, "/StatusNotifierWatcher", WATCHER];
        let answer = self.bus.busctl(&[&words[..], &["RegisteredStatusNotifierItems"]].concat()).ok()?;
        let items = plain(serde_json::from_str(&answer).ok()?);
        let item = items.as_array()?.last()?.as_str()?.to_owned();
        Some(item.split('/').next()?.to_owned())
    }

    /// A property of the item, as a panel reads it.
    pub(crate) fn property(&self, name: &str) -> Option<Value> {
        let item = self.item()?;
        let answer =
            self.bus.busctl(&["--json=short", "get-property", &item, "/StatusNotifierItem", ITEM, name]).ok()?;
        Some(plain(serde_json::from_str(&answer).ok()?))
    }

    /// What the item says: its icon, and the title of its tooltip.
    pub(crate) fn shown(&self) -> Option<(String, String)> {
        let tip = self.property("ToolTip")?;
        Some((self.property("IconName")?.as_str()?.to_owned(), tip[2].as_str()?.to_owned()))
    }

    /// Calls a method of the menu.
    pub(crate) fn menu_call(&self, method: &str, arguments: &[&str]) -> Result<Value, String> {
        let item = self.item().ok_or("no item")?;
        // Arguments below zero are no options.
        let words = ["--json=short", "--", "call", &item, "/MenuBar", MENU, method];
        let answer = self.bus.busctl(&[&words[..], arguments].concat())?;
        Ok(serde_json::from_str(&answer).map_or(Value::Null, plain))
    }

    /// The lines of the menu that can be seen, submenus with theirs.
    pub(crate) fn menu(&self) -> Vec<Line> {
        let layout = self.menu_call("GetLayout", &["iias", "0", "-1", "0"]).unwrap();
        Line::all(&layout[1][2])
    }

    /// The line with this label, or one that begins with it.
    #[track_caller]
    pub(crate) fn line(&self, label: &str) -> Line {
        let lines = self.menu();
        let found = lines.iter().find(|line| line.label.starts_with(label)).cloned();
        found.unwrap_or_else(|| panic!("no {label:?} in {lines:#?}"))
    }

    /// Clicks at a point of the screen.
    pub(crate) fn click(&self, (x, y): (usize, usize)) {
        self.xdotool(&["mousemove", &x.to_string(), &y.to_string(), "click", "1"]);
    }

    /// Drives mouse and keyboard.
    pub(crate) fn xdotool(&self, arguments: &[&str]) -> String {
        let output = self.command(Path::new("xdotool")).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Moves the mouse to a point.
    pub(crate) fn hover(&self, (x, y): (usize, usize)) {
        self.xdotool(&["mousemove", &x.to_string(), &y.to_string()]);
    }

    /// The places of the menus that are open: x, y, width and height.
    pub(crate) fn open_menus(&self) -> Vec<[usize; 4]> {
        let windows = self.xdotool(&["search", "--onlyvisible", "--name", "."]);
        let place = |window: &str| {
            let shell = self.xdotool(&["getwindowgeometry", "--shell", window]);
            let field = |name: &str| shell.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
            let [x, y, width, height] = [field("X=")?, field("Y=")?, field("WIDTH=")?, field("HEIGHT=")?];
            // The panel itself is one line, a notification two.
            (height > 3 * LINE && width < WIDTH).then_some([x, y, width, height])
        };
        windows.lines().filter_map(place).collect()
    }

    /// Opens the menu by a left click at `at`, and gives its place.
    pub(crate) fn open(&self, at: (usize, usize)) -> [usize; 4] {
        self.click(at);
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the menu opens", || self.open_menus().pop())
        }));
        opened.unwrap_or_else(|_| {
            self.picture().keep("not-opened");
            panic!("no menu at {at:?}; windows: {}", self.xdotool(&["search", "--onlyvisible", "--name", "."]))
        })
    }

    /// The point in the middle of a line of the open menu.
    #[track_caller]
    pub(crate) fn point(&self, label: &str, [x, y, width, height]: [usize; 4]) -> (usize, usize) {
        let lines = self.menu();
        let high = |line: &Line| if line.separator { SEPARATOR } else { LINE };
        let whole = 2 * EDGE + lines.iter().map(high).sum::<usize>();
        assert_eq!(whole, height, "the menu is as high as its lines: {lines:#?}");
        let above = lines.iter().take_while(|line| !line.label.starts_with(label)).map(high).sum::<usize>();
        assert!(lines.iter().any(|line| line.label.starts_with(label)), "{label}: {lines:#?}");
        (x + width / 2, y + EDGE + above + LINE / 2)
    }
}

impl Line {
    fn all(children: &Value) -> Vec<Self> {
        children.as_array().into_iter().flatten().filter_map(Self::read).collect()
    }

    fn read(item: &Value) -> Option<Self> {
        let properties = &item[1];
        let is = |name: &str| properties[name].as_bool().unwrap_or(true);
        is("visible").then(|| Self {
            id: item[0].as_i64().unwrap(),
            label: properties["label"].as_str().unwrap_or_default().replace("__", "_"),
            enabled: is("enabled"),
            checked: properties["toggle-type"].as_str().map(|_| properties["toggle-state"] == 1),
            separator: properties["type"] == "separator",
            lines: Self::all(&item[2]),
        })
    }
}

/// The built tray, beside the built daemon.
pub(crate) fn program() -> PathBuf {
    super::lab::daemon::program().with_file_name("xrat-tray")
}
