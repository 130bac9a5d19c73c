//! `xrat completions`: scripts for shells, and the answers to what these ask while somebody types.
//!
//! The scripts know nothing of xrat. For each press of the key they run `xrat __complete WORD...` with what stands on
//! the line so far, the last word unfinished, and get one candidate a line: the word, a tab, what it means. So what is
//! completed is what this program can do, and the configs it has.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs, Optionality};

use super::error::CliError;
use super::{Args, Cli, finish};
use crate::paths::Paths;
use crate::store::{Sort, Store};

/// What shells ask with. It is in no help: people have no use for it.
const ASK: &str = "__complete";
/// The line that stands for "and names of files".
const FILES: &str = "\tfiles";
/// At most so many configs are offered; who has more types more.
const MAX_STORED: usize = 100;

const SCRIPTS: [(&str, &str); 3] = [
    ("bash", include_str!("../../desktop/completions/xrat.bash")),
    ("zsh", include_str!("../../desktop/completions/_xrat")),
    ("fish", include_str!("../../desktop/completions/xrat.fish")),
];

/// Print the script that makes a shell complete commands, options and configs: eval "$(xrat completions bash)".
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "completions")]
pub(super) struct Completions {
    /// bash, zsh or fish
    #[argh(positional, from_str_fn(script))]
    shell: &'static str,
}

fn script(shell: &str) -> Result<&'static str, String> {
    let known = SCRIPTS.iter().find(|(name, _)| *name == shell);
    known.map(|(_, script)| *script).ok_or_else(|| "expected bash, zsh or fish".to_owned())
}

impl Completions {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        Ok(cli.out.write_all(self.shell.as_bytes())?)
    }
}

/// Whether a shell asks, and not a person.
pub(super) fn is_asked(first: Option<&OsStr>) -> bool {
    first.is_some_and(|word| word == ASK)
}

/// Answers a shell. `words` are those after the program's name, from [`ASK`] on.
pub(super) fn answer(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = words.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let mut out = BufWriter::new(io::stdout());
    let written = complete(&words, &stored).into_iter().try_for_each(|candidate| writeln!(out, "{}", candidate.line()));
    finish(written, &mut out)
}

/// A word that may stand in place of the last one, or [`FILES`].
#[derive(Debug, PartialEq, Eq)]
enum Candidate {
    Word(String, String),
    Files,
}

impl Candidate {
    fn line(&self) -> String {
        match self {
            Self::Word(word, meaning) => format!("{}\t{}", one_line(word), one_line(meaning)),
            Self::Files => FILES.to_owned(),
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What is in the database.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Configs,
    Subscriptions,
}

/// What can be chosen by its number: its numbers, and what a person knows it by.
type Look<'l> = &'l dyn Fn(Stored, Option<PathBuf>) -> Vec<(String, String)>;

/// The command that a line has come to.
struct Place {
    command: CommandInfoWithArgs,
    path: Vec<String>,
    positionals: usize,
    root: Option<PathBuf>,
    /// The name of the value that the next word is.
    value: Option<String>,
    options_ended: bool,
}

impl Place {
    fn take(&mut self, word: &str) {
        if let Some(value) = self.value.take() {
            if value == "dir" {
                self.root = Some(word.into());
            }
        } else if word == "--" && !self.options_ended {
            self.options_ended = true;
        } else if let Some((option, value)) = word.split_once('=').filter(|_| self.is_option(word)) {
            self.value = self.value_of(option);
            self.take(value);
        } else if self.is_option(word) {
            self.value = self.value_of(word);
        } else if let Some(command) = self.command.commands.iter().find(|command| command.name == word) {
            self.path.push(word.to_owned());
            self.command = command.command.clone();
        } else {
            self.positionals += 1;
        }
    }

    fn is_option(&self, word: &str) -> bool {
        word.starts_with("--") && !self.options_ended
    }

    /// The options that may stand here; those of the whole program may stand everywhere.
    fn options(&self) -> Vec<&'static FlagInfo<'static>> {
        let everywhere = Args::get_args_info().flags.iter().filter(|flag| flag.long == "--root");
        let own = self.command.flags.iter().filter(|flag| !flag.hidden);
        let mut options: Vec<_> = own.collect();
        if !self.path.is_empty() {
            options.extend(everywhere);
        }
        options
    }

    fn value_of(&self, option: &str) -> Option<String> {
        self.options().iter().find(|flag| flag.long == option).and_then(|flag| match flag.kind {
            FlagInfoKind::Option { arg_name } => Some(arg_name.to_owned()),
            FlagInfoKind::Switch => None,
        })
    }
}

fn complete(words: &[String], look: Look<'_>) -> Vec<Candidate> {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut place = Place {
        command: Args::get_args_info(),
        path: Vec::new(),
        positionals: 0,
        root: None,
        value: None,
        options_ended: false,
    };
    before.iter().for_each(|word| place.take(word));
    let mut candidates = Vec::new();
    if let Some(value) = &place.value {
        candidates = values(value);
    } else if let Some((option, _)) = last.split_once('=').filter(|_| place.is_option(last)) {
        let joined = |candidate| match candidate {
            Candidate::Word(word, meaning) => Candidate::Word(format!("{option}={word}"), meaning),
            Candidate::Files => Candidate::Files,
        };
        candidates.extend(place.value_of(option).iter().flat_map(|value| values(value)).map(joined));
    } else if last.starts_with('-') && !place.options_ended {
        candidates.extend(place.options().into_iter().map(|flag| word((flag.long, flag.description))));
    } else if !place.command.commands.is_empty() {
        // What is no command has none behind it.
        let commands = place.command.commands.iter().filter(|_| place.positionals == 0);
        candidates.extend(commands.map(|one| word((one.name, one.command.description))));
    } else {
        candidates = positional(&place, last, look);
    }
    candidates.retain(|candidate| match candidate {
        Candidate::Word(word, _) => word.starts_with(last),
        Candidate::Files => true,
    });
    candidates
}

fn word((word, meaning): (&str, &str)) -> Candidate {
    Candidate::Word(word.to_owned(), meaning.to_owned())
}

/// The values of an option, by the name that its help gives them.
fn values(name: &str) -> Vec<Candidate> {
    match name {
        "dir" => vec![Candidate::Files],
        "order" => [("id", "as imported"), ("name", "by name"), ("delay", "fastest first")].map(word).into(),
        _ => Vec::new(),
    }
}

fn positional(place: &Place, last: &str, look: Look<'_>) -> Vec<Candidate> {
    let last_one = place.command.positionals.last();
    let repeating = last_one.filter(|positional| positional.optionality == Optionality::Repeating);
    let Some(positional) = place.command.positionals.get(place.positionals).or(repeating) else { return Vec::new() };
    let stored = match place.path.first().map(String::as_str) {
        Some("subscription") => Stored::Subscriptions,
        _ => Stored::Configs,
    };
    match positional.name {
        "shell" => SCRIPTS.map(|(name, _)| word((name, ""))).into(),
        "source" => vec![Candidate::Files],
        "id" | "ids" => {
            let rows = look(stored, place.root.clone()).into_iter();
            // Who begins with a letter means the name.
            let by_name = last.starts_with(|first: char| !first.is_ascii_digit());
            let rows = rows.map(|(id, name)| if by_name { (name, format!("number {id}")) } else { (id, name) });
            let fitting = rows.filter(|(word, _)| word.starts_with(last)).take(MAX_STORED);
            fitting.map(|(word, meaning)| Candidate::Word(word, meaning)).collect()
        }
        _ => Vec::new(),
    }
}

/// What the database has; nothing if there is none, or if something is wrong with it: this is not the place to say so.
fn stored(what: Stored, root: Option<PathBuf>) -> Vec<(String, String)> {
    let read = || -> Option<Vec<(String, String)>> {
        let database = Paths::resolve(root.as_deref()).ok()?.database();
        if !database.exists() {
            return None;
        }
        let store = Store::open(&database).ok()?;
        Some(match what {
            Stored::Configs => {
                let rows = store.configs(None, Sort::Id).ok()?.into_iter();
                rows.map(|row| (row.config_id.to_string(), row.config.name)).collect()
            }
            Stored::Subscriptions => {
                let rows = store.subscriptions().ok()?.into_iter();
                // Its address is a credential.
                rows.map(|row| (row.subscription_id.0.to_string(), format!("{} configs", row.configs))).collect()
            }
        })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// The words that complete a line; a bar stands for its end.
    fn words(line: &str) -> Vec<String> {
        let line = line.strip_suffix('|').unwrap();
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let look = |what, root: Option<PathBuf>| match (what, root) {
            (_, Some(root)) => vec![("7".to_owned(), root.display().to_string())],
            (Stored::Configs, _) => vec![("1".into(), "Frank one".into()), ("12".into(), "Paris".into())],
            (Stored::Subscriptions, _) => vec![("3".into(), "2 configs".into())],
        };
        let said = complete(&words, &look).into_iter().map(|candidate| match candidate {
            Candidate::Word(word, _) => word,
            Candidate::Files => "(files)".to_owned(),
        });
        said.collect()
    }

    #[test]
    fn commands_are_those_of_the_program() {
        assert_eq!(words("conn|"), ["connect"]);
        assert_eq!(words("proxy sta|"), ["start", "status"]);
        assert!(words("|").len() > 15 && words("|").contains(&"subscription".to_owned()));
        assert!(words("nonsense |").is_empty());
    }

    #[test]
    fn options_are_those_of_the_command() {
        assert_eq!(words("list --s|"), ["--sort"]);
        assert_eq!(words("list --|"), ["--help", "--json", "--sort", "--root"]);
        assert!(words("list -- --|").is_empty());
        assert_eq!(words("list --sort |"), ["id", "name", "delay"]);
        assert_eq!(words("list --sort=na|"), ["--sort=name"]);
        assert_eq!(words("--root /r li|"), ["list"]);
        assert_eq!(words("--root |"), ["(files)"]);
    }

    #[test]
    fn configs_and_subscriptions_are_those_of_the_root() {
        assert_eq!(words("connect |"), ["1", "12"]);
        assert_eq!(words("connect 12|"), ["12"]);
        assert_eq!(words("connect --json Fr|"), ["Frank one"]);
        assert!(words("connect 1 |").is_empty(), "it takes one");
        assert_eq!(words("test 1 |"), ["1", "12"], "it takes many");
        assert_eq!(words("proxy rotate P|"), ["Paris"]);
        assert_eq!(words("subscription update |"), ["3"]);
        assert_eq!(words("--root /r show |"), ["7"]);
        assert_eq!(words("show --root=/r |"), ["7"]);
        assert_eq!(words("rename 1 |"), [""; 0], "a new name is the user's own");
        assert_eq!(words("import |"), ["(files)"]);
        assert_eq!(words("completions |"), ["bash", "zsh", "fish"]);
    }

    #[test]
    fn a_name_cannot_break_its_line() {
        assert_eq!(word(("1", "a\tb\nc")).line(), "1\ta b c");
    }
}
