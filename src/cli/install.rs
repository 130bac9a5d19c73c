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
        let mut steps = Steps { cli, dry_run: self.dry_run };
        if let Some(unit) = packaged {
            // A copy would hide the package's own from the next update on.
            writeln!(steps.cli.out, "{} is there already, and the bus knows it", unit.display())?;
            steps.command(ENABLE)?;
        } else {
            steps.write(&files.unit, &unit)?;
            steps.write(&files.service, &service)?;
            for command in [RELOAD, ENABLE, RELOAD_BUS] {
                steps.command(command)?;
            }
        }
        if !self.dry_run {
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
        let mut steps = Steps { cli, dry_run: self.dry_run };
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
    cli: &'c mut Cli,
    dry_run: bool,
}

impl Steps<'_> {
    fn write(&mut self, path: &Path, text: &str) -> Result<(), CliError> {
        if self.dry_run {
            writeln!(self.cli.out, "would write {}:", path.display())?;
            for line in text.lines() {
                writeln!(self.cli.out, "  {line}")?;
            }
            return Ok(());
        }
        let failed = |source| CliError::Write { what: path.display().to_string(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(path, text).map_err(failed)?;
        Ok(writeln!(self.cli.out, "wrote {}", path.display())?)
    }

    fn remove(&mut self, path: &Path) -> Result<(), CliError> {
        if !path.exists() {
            return Ok(writeln!(self.cli.out, "{} is not there", path.display())?);
        }
        if self.dry_run {
            return Ok(writeln!(self.cli.out, "would remove {}", path.display())?);
        }
        std::fs::remove_file(path).map_err(|source| CliError::Write { what: path.display().to_string(), source })?;
        Ok(writeln!(self.cli.out, "removed {}", path.display())?)
    }

    /// Without a user manager or a bus the files do their work from the next login on: that is no failure.
    fn command(&mut self, words: &[&str]) -> Result<(), CliError> {
        let shown = words.join(" ");
        let [program, arguments @ ..] = words else { return Ok(()) };
        if self.dry_run {
            return Ok(writeln!(self.cli.out, "would run {shown}")?);
        }
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let problem = match output {
            Ok(output) if output.status.success() => return Ok(writeln!(self.cli.out, "ran {shown}")?),
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
