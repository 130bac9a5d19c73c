//! A GNOME Shell without a screen, with the extension in it: it is looked at and clicked through its own Eval.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::bus::Bus;
use crate::lab::process::{Guard, OWNER_VARIABLE};
use crate::lab::scratch::Scratch;
use crate::lab::{artifact, source_dir, tool, wait_until};

const UUID: &str = "xrat@xrat.org";
/// What `ExtensionState` calls ENABLED, in all versions; later ones say ACTIVE.
const ENABLED: u64 = 1;

/// Names for the parts of the extension, and a mouse. `toggle` is undefined while the extension is off.
const WORDS: &str = "
    const {Clutter, GLib, St} = imports.gi;
    const panel = Main.panel.statusArea.quickSettings;
    const toggle = panel.menu._grid.get_children().find(child => child.constructor.name === 'XratToggle');
    const indicator = panel._indicators.get_children().find(child => child.constructor.name === 'XratIndicator');
    const text = () => 'subtitle' in toggle ? [toggle.title, toggle.subtitle ?? ''] : (toggle.label + '\\n').split('\\n', 2);
    const labels = actor => [actor, ...actor.get_children().flatMap(labels)]
        .flatMap(actor => actor instanceof St.Label && actor.visible ? [actor] : Array.isArray(actor) ? actor : []);
    const texts = actor => labels(actor).map(label => label.text).filter(text => text !== '');
    const rows = () => toggle._list._getMenuItems();
    const click = actor => {
        const [x, y] = actor.get_transformed_position();
        const [width, height] = actor.get_transformed_size();
        const mouse = globalThis.xratMouse ??= Clutter.get_default_backend().get_default_seat()
            .create_virtual_device(Clutter.InputDeviceType.POINTER_DEVICE);
        mouse.notify_absolute_motion(GLib.get_monotonic_time(), x + width / 2, y + height / 2);
        for (const state of [Clutter.ButtonState.PRESSED, Clutter.ButtonState.RELEASED])
            mouse.notify_button(GLib.get_monotonic_time(), Clutter.BUTTON_PRIMARY, state);
        return true;
    };
";

/// A Shell on a bus; ends on drop.
pub(crate) struct Shell {
    bus: String,
    home: Scratch,
    // A bus for the system's services, with none on it.
    _system: Bus,
    _guard: Guard,
}

impl Shell {
    /// Starts a Shell whose session is on `bus`, and waits until the extension is on. `None` (after saying so) where
    /// there is no Shell.
    pub(crate) fn start(bus: &Bus) -> Option<Self> {
        if !["gnome-shell", "setpriv"].into_iter().all(tool) {
            return None;
        }
        let system = Bus::start()?;
        let home = Scratch::new();
        for name in ["h", "x"] {
            home.dir(name);
        }
        let (house, runtime) = (home.path().join("h"), home.path().join("x"));
        let extension = house.join(".local/share/gnome-shell/extensions").join(UUID);
        // Through a link, as the Debian package has it.
        std::fs::create_dir_all(extension.parent().unwrap()).unwrap();
        lay_out(layout(), &home.path().join("layout"));
        std::os::unix::fs::symlink(home.path().join("layout"), &extension).unwrap();
        let settings = house.join(".config/glib-2.0/settings");
        std::fs::create_dir_all(&settings).unwrap();
        // Without a greeting, and without things that move.
        let words = format!(
            "[org/gnome/shell]\nenabled-extensions=['{UUID}']\nwelcome-dialog-last-shown-version='99'\n\n\
             [org/gnome/desktop/interface]\nenable-animations=false\n"
        );
        std::fs::write(settings.join("keyfile"), words).unwrap();
        let log = std::fs::File::create(home.path().join("shell.log")).unwrap();
        let guard = Guard::spawn(Path::new("gnome-shell"), |command| {
            command.args(["--headless", "--no-x11", "--wayland", "--virtual-monitor", "1024x768", "--unsafe-mode"]);
            command.env("HOME", &house).env("XDG_RUNTIME_DIR", &runtime).env(OWNER_VARIABLE, home.path());
            for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "DISPLAY"] {
                command.env_remove(name);
            }
            command.env("DBUS_SESSION_BUS_ADDRESS", bus.address()).env("DBUS_SYSTEM_BUS_ADDRESS", system.address());
            command.env("GSETTINGS_BACKEND", "keyfile").env_remove("WAYLAND_DISPLAY");
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        });
        let shell = Self { bus: bus.address(), home, _system: system, _guard: guard };
        let state = format!("Main.layoutManager._startingUp ? 0 : Main.extensionManager.lookup('{UUID}')?.state");
        wait_until("the extension is on", || {
            let state = shell.try_eval(&state);
            assert!(!matches!(&state, Some(Value::Number(state)) if state.as_u64() > Some(ENABLED)), "{}", shell.log());
            state.is_some_and(|state| state == ENABLED)
        });
        Some(shell)
    }

    /// The value of an expression in the Shell, which may use [`WORDS`].
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.ask(expression).unwrap_or_else(|error| panic!("{expression}: {error}\n{}", self.log()))
    }

    fn try_eval(&self, expression: &str) -> Option<Value> {
        self.ask(expression).ok()
    }

    fn ask(&self, expression: &str) -> Result<Value, String> {
        let program = format!("(() => {{ {WORDS} return {expression}; }})()");
        let answer = self.busctl(&["org.gnome.Shell", "/org/gnome/Shell", "org.gnome.Shell", "Eval", "s", &program])?;
        let text = answer["data"][1].as_str().unwrap_or_default();
        if answer["data"][0] != true {
            return Err(text.to_owned());
        }
        Ok(serde_json::from_str(text).unwrap_or(Value::Null))
    }

    fn busctl(&self, call: &[&str]) -> Result<Value, String> {
        let mut command = Command::new("busctl");
        command.arg(format!("--address={}", self.bus)).args(["--json=short", "call", "--"]).args(call);
        let output = command.stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Waits until an expression is true, and shows what `instead` is if it never is.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: &str) {
        wait_until(what, || self.try_eval(condition).is_some_and(|value| value == true));
    }

    /// Moves the mouse to the middle of an actor and clicks, once it is where it will stay.
    #[track_caller]
    pub(crate) fn click(&self, actor: &str) {
        let place = format!("[...{actor}.get_transformed_position(), ...{actor}.get_transformed_size()]");
        let mut before = Value::Null;
        wait_until(&format!("{actor} stands still"), || {
            let now = self.eval(&format!("{actor}.mapped ? {place} : null"));
            let still = !now.is_null() && now == before;
            before = now;
            still
        });
        self.eval(&format!("click({actor})"));
    }

    /// Opens the quick settings as a person does.
    #[track_caller]
    pub(crate) fn open(&self) {
        if self.eval("panel.menu.isOpen") != true {
            self.click("panel");
            self.wait("the quick settings are open", "panel.menu.isOpen && toggle.mapped");
        }
    }

    /// Opens the toggle's menu.
    #[track_caller]
    pub(crate) fn open_menu(&self) {
        self.open();
        self.click("toggle._menuButton");
        self.wait("the toggle's menu is open", "toggle.menu.isOpen && toggle._rotate.mapped");
    }

    /// Title and subtitle of the toggle.
    #[track_caller]
    pub(crate) fn text(&self) -> [String; 2] {
        serde_json::from_value(self.eval("text()")).unwrap()
    }

    /// Switches the extension on or off as the Extensions program does.
    pub(crate) fn enable(&self, on: bool) {
        let verb = if on { "enableExtension" } else { "disableExtension" };
        self.eval(&format!("Main.extensionManager.{verb}('{UUID}')"));
        self.wait("the extension is on or off", &format!("(toggle !== undefined) === {on}"));
    }

    /// A picture of the quick settings, kept as an artifact.
    pub(crate) fn picture(&self, name: &str) {
        // What the Shell has to say of its own home is not the point.
        self.eval("Main.messageTray.getSources().forEach(source => source.destroy())");
        self.wait("nothing is in the way", "Main.messageTray._notification === null");
        let file = self.home.path().join(format!("{name}.png"));
        let (screenshot, object) = ("org.gnome.Shell.Screenshot", "/org/gnome/Shell/Screenshot");
        let call = [screenshot, object, screenshot, "ScreenshotArea", "iiiibs", "604", "0", "420", "560", "false"];
        let answer = self.busctl(&[&call[..], &[file.to_str().unwrap()]].concat());
        assert_eq!(answer.unwrap()["data"][0], true);
        assert!(std::fs::metadata(&file).unwrap().len() > 1000);
        artifact(&file);
    }

    /// What the Shell said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("shell.log")).unwrap_or_default()
    }

    /// What the Shell complained about that has to do with the extension: lines that name it, or one of its files.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.log().lines().filter(|line| line.contains("xrat")).map(str::to_owned).collect()
    }
}

/// The layout that the Shell at hand loads.
fn layout() -> &'static str {
    let said = Command::new("gnome-shell").arg("--version").output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let major = said.split_whitespace().last().and_then(|version| version.split('.').next()?.parse().ok());
    if major.unwrap_or(0) < 45 { "43" } else { "45" }
}

/// Runs `scripts/gnome-extension`.
fn lay_out(layout: &str, to: &Path) {
    let script: PathBuf = source_dir().join("scripts/gnome-extension");
    let output = Command::new(&script).arg(layout).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
