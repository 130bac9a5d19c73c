//! The commands that people type: arguments, dispatch, exit codes. One file a family of commands.
//!
//! To add a command: a file with its arguments and their `run`, and its line in `commands!`. The doc comment of the
//! arguments is the command's `--help`.

mod args;
mod client;
mod complete;
mod configs;
mod connect;
mod daemon;
mod download;
mod env;
mod error;
mod events;
mod history;
mod import;
mod install;
#[cfg(test)]
mod manual;
mod notify;
mod parse;
mod proxy;
mod qr;
mod render;
mod service;
mod source;
mod status;
mod subscription;
mod system_proxy;
mod test;

use std::ffi::OsString;
use std::io::{self, BufWriter, Stdout, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use crate::engine::process::machine_id;
use crate::paths::Paths;
use crate::settings::Settings;
use crate::store::Store;
use error::CliError;

/// What the program calls itself in `--help`, however it was started.
const PROGRAM: &str = "xrat";

/// Keep one proxy session alive: import share links, connect, rotate.
#[derive(FromArgs, ArgsInfo)]
pub(crate) struct Args {
    /// directory of the database, settings, sockets and logs (default: XRAT_PATH, else ~/.config/xrat)
    #[argh(option, arg_name = "dir")]
    root: Option<PathBuf>,

    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(subcommand)]
    command: Option<Command>,
}

/// The enum of all commands and the way to each one's `run`, from one line a command.
macro_rules! commands {
    ($($name:ident($arguments:ty)),+ $(,)?) => {
        #[derive(FromArgs, ArgsInfo)]
        #[argh(subcommand)]
        enum Command {
            $($name($arguments)),+
        }

        impl Command {
            fn run(self, cli: &mut Cli) -> Result<(), CliError> {
                match self {
                    $(Self::$name(arguments) => arguments.run(cli)),+
                }
            }
        }
    };
}

commands! {
    Connect(connect::Connect),
    Disconnect(connect::Disconnect),
    Status(status::StatusCommand),
    Env(env::Env),
    Events(events::Events),
    Proxy(proxy::Proxy),
    SystemProxy(system_proxy::SystemProxy),
    History(history::History),
    Daemon(daemon::Daemon),
    Import(import::Import),
    Parse(parse::Parse),
    List(configs::List),
    Show(configs::Show),
    Enable(configs::Enable),
    Disable(configs::Disable),
    Rename(configs::Rename),
    Remove(configs::Remove),
    Subscription(subscription::Subscription),
    Test(test::Test),
    Completions(complete::Completions),
}

/// What every command is given.
struct Cli {
    root: Option<PathBuf>,
    /// Standard output. Commands write and never flush, unless someone waits for a line.
    out: BufWriter<Stdout>,
}

impl Cli {
    /// The root directory, made when it is missing.
    fn paths(&self) -> Result<Paths, CliError> {
        let paths = Paths::resolve(self.root.as_deref())?;
        paths.create()?;
        Ok(paths)
    }

    /// The settings; their warnings go to standard error.
    fn settings(&self, paths: &Paths) -> Result<Settings, CliError> {
        let (settings, warnings) = Settings::load(&paths.settings())?;
        for warning in warnings {
            render::note(&format!("Warning: {warning}"));
        }
        Ok(settings)
    }

    /// The root directory and the database in it.
    fn store(&self) -> Result<(Paths, Store), CliError> {
        let paths = self.paths()?;
        let store = Store::open(&paths.database())?;
        Ok((paths, store))
    }
}

/// Does what the arguments (without the program's name) say and gives the exit code: 0 done, 1 failed, 2 wrong usage,
/// 3 daemon not reachable, 4 not found, 5 conflict, 130 interrupted.
///
/// Blocks until it is done. Closed standard output is no failure: `xrat list | head -1` has what it wanted.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    if complete::is_asked(arguments.peek().map(OsString::as_os_str)) {
        return complete::answer(arguments);
    }
    let words = match args::prepare(arguments) {
        Ok(words) => words,
        Err(error) => return fail(&error, false, &mut BufWriter::new(io::stdout())),
    };
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = BufWriter::new(io::stdout());
    let args = match Args::from_args(&[PROGRAM], &words) {
        Ok(args) => args,
        Err(exit) if exit.status.is_ok() => return finish(write!(out, "{}", exit.output), &mut out),
        Err(exit) => return fail(&CliError::Arguments(exit.output), json, &mut out),
    };
    if args.version {
        return finish(writeln!(out, "{PROGRAM} {}", env!("CARGO_PKG_VERSION")), &mut out);
    }
    let Some(command) = args.command else {
        // `--help` always ends early, with the text.
        let help = Args::from_args(&[PROGRAM], &["--help"]).err().map(|exit| exit.output).unwrap_or_default();
        render::note(help.trim_end());
        return error::Exit::Usage.into();
    };
    let mut cli = Cli { root: args.root, out };
    match command.run(&mut cli) {
        Ok(()) => finish(Ok(()), &mut cli.out),
        Err(error) => fail(&error, json, &mut cli.out),
    }
}

/// Writes out what is left; the exit code of a command that did its work.
fn finish(written: io::Result<()>, out: &mut BufWriter<Stdout>) -> ExitCode {
    match written.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&CliError::Output(error), false, out),
    }
}

/// Says what went wrong: for people on standard error, with `--json` the whole answer on standard output as well.
fn fail(error: &CliError, json: bool, out: &mut BufWriter<Stdout>) -> ExitCode {
    if error.is_closed_output() {
        return ExitCode::SUCCESS;
    }
    if json && let Some(answer) = error.answer() {
        // The exit code and standard error tell of the failure; there is nobody to tell of a second one.
        let _ = render::json(out, &answer);
    }
    let _ = out.flush();
    if !matches!(error, CliError::Told) {
        render::note(&format!("Error: {error}"));
    }
    if let Some(hint) = error.hint() {
        render::note(&format!("Hint: {hint}"));
    }
    error.exit().into()
}

/// The config that is in use on this machine, as far as the database knows.
fn active(store: &Store) -> Result<Option<crate::config::ConfigId>, CliError> {
    Ok(store.active_config(&machine_id())?)
}
