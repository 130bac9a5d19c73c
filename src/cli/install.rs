//! `daemon install|uninstall`: the systemd user unit and the D-Bus activation file, with the path of this program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use argh::{ArgsInfo, FromArgs};

use super::client::root;
use super::error::CliError;
use super::{Cli, render};
use crate::paths::{PathError, Paths};

const UNIT: &str = include_str!("../../dbus/xrat.service");
const SERVICE: &str = include_str!("../../dbus/org.xrat.Daemon1.service");
/// Stands for the program in both.
const PROGRAM: &str = "/usr/bin/xrat";
const RELOAD: &[&str] = &["systemctl", "--user", "daemon-reload"];
const ENABLE: &[&str] = &["systemctl", "--user", "enable", "xrat.service"];
const DISABLE: &[&str] = &["systemctl", "--user", "disable", "xrat.service"];
/// Where packages put their units.
const PACKAGED: [&str; 2] = ["/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];
/// The bus looks into its directories again; it does not notice one that was not there.
const RELOAD_BUS: &[&str] =
    &["busctl", "--user", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"];

/// Let systemd start the daemon at login, and D-Bus when a program asks for it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "install")]
pub(super) struct Install {
    /// only say what would be done
    #[argh(switch)]
    dry_run: bool,
}

/// Take back what 'daemon install' did; a running daemon goes on.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "uninstall")]
pub(super) struct Uninstall {
    /// only say what would be done
    #[argh(switch)]
    dry_run: bool,
}

impl Install {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        let program =
            std::env::current_exe().map_err(|source| CliError::Read { what: "/proc/self/exe".into(), source })?;
        let (unit, service) = (unit(&program, &paths)?, service(&program, &paths)?);
        let files = Files::find()?;
        let packaged = packaged(&PACKAGED, &program, &paths);
        let mut steps = Steps { out: &mut cli.out, dry_run: self.dry_run };
        let at_login = if let Some(unit) = packaged {
            steps.use_package(&unit, &files)?;
            true
        } else {
            steps.use_own(&files, &unit, &service)?
        };
        if !self.dry_run && at_login {
            writeln!(cli.out, "The daemon starts at your next login; now: xrat daemon start")?;
        }
        Ok(())
    }
}

impl Uninstall {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        let paths = root(cli.root.as_deref())?;
        let files = Files::find()?;
        let packaged = std::env::current_exe().ok().and_then(|program| packaged(&PACKAGED, &program, &paths));
        let mut steps = Steps { out: &mut cli.out, dry_run: self.dry_run };
        if files.unit.exists() || packaged.is_some() {
            steps.command(DISABLE)?;
        }
        steps.remove(&files.unit)?;
        steps.remove(&files.service)?;
        for command in [RELOAD, RELOAD_BUS] {
            steps.command(command)?;
        }
        Ok(())
    }
}

/// Where the two files belong.
struct Files {
    unit: PathBuf,
    service: PathBuf,
}

impl Files {
    fn find() -> Result<Self, CliError> {
        Ok(Self {
            unit: unit_file()?,
            service: base("XDG_DATA_HOME", ".local/share")?.join("dbus-1/services/org.xrat.Daemon1.service"),
        })
    }
}

/// What the user has said of a unit, by 'systemctl --user enable', 'disable' and 'mask'. Read from the files, because there
/// may be no user manager to ask.
#[derive(Debug, PartialEq, Eq)]
enum Switch {
    /// There is no unit yet.
    New,
    /// It is started at login.
    On,
    /// It is there, and is not started at login.
    Off,
    /// It is never started.
    Masked,
}

impl Switch {
    fn of(unit: &Path) -> Self {
        if std::fs::read_link(unit).is_ok_and(|target| target == Path::new("/dev/null")) {
            return Self::Masked;
        }
        let Some(wanted) = unit.parent().map(|units| units.join("default.target.wants/xrat.service")) else {
            return Self::New;
        };
        match (unit.exists(), wanted.is_symlink()) {
            (false, _) => Self::New,
            (true, true) => Self::On,
            (true, false) => Self::Off,
        }
    }
}

/// Where the unit belongs.
pub(super) fn unit_file() -> Result<PathBuf, PathError> {
    Ok(base("XDG_CONFIG_HOME", ".config")?.join("systemd/user/xrat.service"))
}

/// The unit of a package that starts this program with the usual root, if there is one.
fn packaged(directories: &[&str], program: &Path, paths: &Paths) -> Option<PathBuf> {
    let start = format!("ExecStart={} daemon run", program.to_str().filter(|_| paths.is_default())?);
    let mut units = directories.iter().map(|directory| Path::new(directory).join("xrat.service"));
    units.find(|unit| std::fs::read_to_string(unit).is_ok_and(|text| text.lines().any(|line| line == start)))
}

/// A base directory; a relative one is to be ignored (XDG base directory specification).
fn base(variable: &str, usual: &str) -> Result<PathBuf, PathError> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    var(variable).or_else(|| Some(var("HOME")?.join(usual))).ok_or(PathError::NoHome)
}

/// The unit's text.
fn unit(program: &Path, paths: &Paths) -> Result<String, CliError> {
    let mut command = for_systemd(text(program)?, false);
    if !paths.is_default() {
        command.push_str(&format!(" --root {}", for_systemd(text(paths.root())?, true)));
    }
    Ok(UNIT.replace(PROGRAM, &command))
}

/// The activation file's text.
fn service(program: &Path, paths: &Paths) -> Result<String, CliError> {
    let mut command = for_bus(text(program)?);
    if !paths.is_default() {
        command.push_str(&format!(" --root {}", for_bus(text(paths.root())?)));
    }
    Ok(SERVICE.replace(PROGRAM, &command))
}

/// A path that a file of lines can have in it.
fn text(path: &Path) -> Result<&str, CliError> {
    path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(|| {
        CliError::Usage(format!(
            "{} cannot be named in a unit: it is not UTF-8, or has control characters",
            path.display()
        ))
    })
}

/// A word of `ExecStart=` (systemd.service(5), "Command lines"). Variables are only replaced after the program's name.
fn for_systemd(word: &str, argument: bool) -> String {
    let mut quoted = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '%' => quoted.push_str("%%"),
            '$' if argument => quoted.push_str("$$"),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A word of `Exec=`, which the bus reads as a shell does.
fn for_bus(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Does one thing after the other, or only says so.
struct Steps<'c> {
    out: &'c mut dyn Write,
    dry_run: bool,
}

impl Steps<'_> {
    /// Only lets the package's own unit start at login: a copy would hide it from the next update on.
    fn use_package(&mut self, unit: &Path, files: &Files) -> Result<(), CliError> {
        writeln!(self.out, "{} is there already, and the bus knows it", unit.display())?;
        // What an earlier installation for this user alone has left comes before the package's, and may name a program
        // that is gone. A link is the user's own doing.
        let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|data| data.is_file());
        let own: Vec<_> = [&files.unit, &files.service].into_iter().filter(|path| is_file(path)).collect();
        if !own.is_empty() {
            writeln!(self.out, "Files of an earlier 'daemon install' would hide those of the package:")?;
            if own.contains(&&files.unit) && Switch::of(&files.unit) == Switch::On {
                // The link to it would be in the way of the one to the package's.
                self.command(DISABLE)?;
            }
            for path in own {
                self.remove(path)?;
            }
            for command in [RELOAD, RELOAD_BUS] {
                self.command(command)?;
            }
        }
        self.command(ENABLE)
    }

    /// Writes both files for this program; gives whether the daemon starts at login. What the user has switched off
    /// stays off.
    fn use_own(&mut self, files: &Files, unit: &str, service: &str) -> Result<bool, CliError> {
        let switch = Switch::of(&files.unit);
        if switch == Switch::Masked {
            writeln!(
                self.out,
                "{} is masked and stays so; 'systemctl --user unmask xrat.service' takes that back",
                files.unit.display()
            )?;
        } else {
            self.write(&files.unit, unit)?;
        }
        self.write(&files.service, service)?;
        self.command(RELOAD)?;
        let at_login = matches!(switch, Switch::New | Switch::On);
        if at_login {
            self.command(ENABLE)?;
        } else if switch == Switch::Off {
            writeln!(
                self.out,
                "The start at login is switched off and stays so; it is switched on by: {}",
                ENABLE.join(" ")
            )?;
        }
        self.command(RELOAD_BUS)?;
        Ok(at_login)
    }

    fn write(&mut self, path: &Path, text: &str) -> Result<(), CliError> {
        if self.dry_run {
            writeln!(self.out, "would write {}:", path.display())?;
            for line in text.lines() {
                writeln!(self.out, "  {line}")?;
            }
            return Ok(());
        }
        let failed = |source| CliError::Write { what: path.display().to_string(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(path, text).map_err(failed)?;
        Ok(writeln!(self.out, "wrote {}", path.display())?)
    }

    fn remove(&mut self, path: &Path) -> Result<(), CliError> {
        if !path.exists() {
            return Ok(writeln!(self.out, "{} is not there", path.display())?);
        }
        if self.dry_run {
            return Ok(writeln!(self.out, "would remove {}", path.display())?);
        }
        std::fs::remove_file(path).map_err(|source| CliError::Write { what: path.display().to_string(), source })?;
        Ok(writeln!(self.out, "removed {}", path.display())?)
    }

    /// Without a user manager or a bus the files do their work from the next login on: that is no failure.
    fn command(&mut self, words: &[&str]) -> Result<(), CliError> {
        let shown = words.join(" ");
        let [program, arguments @ ..] = words else { return Ok(()) };
        if self.dry_run {
            return Ok(writeln!(self.out, "would run {shown}")?);
        }
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let problem = match output {
            Ok(output) if output.status.success() => return Ok(writeln!(self.out, "ran {shown}")?),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        render::note(&format!("Note: '{shown}' did not work: {problem}"));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_their_readers() {
        assert_eq!(for_systemd("/a b/100%\"$x\\", true), "\"/a b/100%%\\\"$$x\\\\\"");
        assert_eq!(for_systemd("/a$b", false), "\"/a$b\"");
        assert_eq!(for_bus("/a b/it's"), "'/a b/it'\\''s'");
    }

    #[test]
    fn a_package_s_unit_counts_for_its_own_program_and_the_usual_root() {
        let directory = std::env::temp_dir().join(format!("xrat-install-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let directories = ["/nonexistent", directory.to_str().unwrap()];
        let home = PathBuf::from(std::env::var_os("HOME").unwrap()).join(".config/xrat");
        let [usual, other] = [&home, Path::new("/srv/r")].map(|root| Paths::resolve(Some(root)).unwrap());
        let program = Path::new(PROGRAM);
        assert_eq!(packaged(&directories, program, &usual), None);
        std::fs::write(directory.join("xrat.service"), UNIT).unwrap();
        assert_eq!(packaged(&directories, program, &usual), Some(directory.join("xrat.service")));
        assert_eq!(packaged(&directories, program, &other), None);
        assert_eq!(packaged(&directories, Path::new("/opt/xrat"), &usual), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_the_user_said_of_the_unit_is_read_from_its_files() {
        let directory = std::env::temp_dir().join(format!("xrat-switch-{}", uuid::Uuid::new_v4()));
        let (unit, wants) = (directory.join("xrat.service"), directory.join("default.target.wants"));
        std::fs::create_dir_all(&wants).unwrap();
        assert_eq!(Switch::of(&unit), Switch::New);
        std::fs::write(&unit, UNIT).unwrap();
        assert_eq!(Switch::of(&unit), Switch::Off);
        std::os::unix::fs::symlink(&unit, wants.join("xrat.service")).unwrap();
        assert_eq!(Switch::of(&unit), Switch::On);
        std::fs::remove_file(&unit).unwrap();
        std::os::unix::fs::symlink("/dev/null", &unit).unwrap();
        assert_eq!(Switch::of(&unit), Switch::Masked);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn own_copies_make_way_for_the_package_s() {
        let directory = std::env::temp_dir().join(format!("xrat-copies-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(directory.join("default.target.wants")).unwrap();
        let files = Files { unit: directory.join("xrat.service"), service: directory.join("bus.service") };
        let said = || {
            let mut out = Vec::new();
            Steps { out: &mut out, dry_run: true }.use_package(Path::new("/usr/unit"), &files).unwrap();
            String::from_utf8(out).unwrap()
        };
        let enable = "would run systemctl --user enable xrat.service\n";
        let first = "/usr/unit is there already, and the bus knows it\n";
        assert_eq!(said(), format!("{first}{enable}"));
        std::fs::write(&files.unit, UNIT).unwrap();
        std::fs::write(&files.service, SERVICE).unwrap();
        std::os::unix::fs::symlink(&files.unit, directory.join("default.target.wants/xrat.service")).unwrap();
        let said = said();
        let steps: Vec<_> = said.lines().skip(2).map(str::to_owned).collect();
        let expected = [
            "would run systemctl --user disable xrat.service".to_owned(),
            format!("would remove {}", files.unit.display()),
            format!("would remove {}", files.service.display()),
            format!("would run {}", RELOAD.join(" ")),
            format!("would run {}", RELOAD_BUS.join(" ")),
            enable.trim().to_owned(),
        ];
        assert_eq!(steps, expected);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn both_files_name_the_program() {
        let paths = Paths::resolve(Some(Path::new("/srv/my root"))).unwrap();
        let unit = unit(Path::new("/opt/x y/xrat"), &paths).unwrap();
        assert!(unit.contains("\nExecStart=\"/opt/x y/xrat\" --root \"/srv/my root\" daemon run\n"), "{unit}");
        assert!(unit.contains("\nExecReload=\"/opt/x y/xrat\" --root \"/srv/my root\" daemon restart\n"), "{unit}");
        let stopped = "\nExecStopPost=\"/opt/x y/xrat\" --root \"/srv/my root\" system-proxy off --if-orphaned\n";
        assert!(unit.contains(stopped), "{unit}");
        let service = service(Path::new("/opt/x y/xrat"), &paths).unwrap();
        assert!(service.contains("\nExec='/opt/x y/xrat' --root '/srv/my root' daemon run\n"), "{service}");
    }
}
