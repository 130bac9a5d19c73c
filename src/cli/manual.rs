//! The manual page `desktop/xrat.1`: what is said here of the whole, and the help of every command. A test holds it to
//! the program; `XRAT_WRITE=1 cargo test --lib the_manual` writes it again.

use std::fmt::Write;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::Args;

const ABOUT: &str = "\
.SH DESCRIPTION
A small daemon runs a proxy engine (Xray or V2Ray) for the node you choose, sees at once when engine or node dies, moves
to a better one without losing a connection, and says why. Programs find the session at socks5h://127.0.0.1:18200 and
http://127.0.0.1:18201, whatever node it is on.
.PP
A config is a stored node. Where a command takes one, it is its number, its name, or a part of the name that no other has.
";

const AFTER: &str = r#".SH FILES
.TP
\fI~/.config/xrat/config.toml\fR
settings; none is needed
.TP
\fI~/.config/xrat/xrat.db\fR
configs with their credentials, subscriptions, sessions, decisions
.TP
\fI~/.config/xrat/logs/\fR
what daemon and engines said
.SH ENVIRONMENT
.TP
\fBXRAT_PATH\fR
the directory that holds everything, unless \fB\-\-root\fR names one
.SH EXIT STATUS
.nf
0  done
1  failed
2  wrong arguments, settings or request
3  no daemon answers
4  not found
5  conflict
.fi
.SH EXAMPLES
.nf
xrat import 'https://provider.example/sub'
xrat daemon start
xrat connect
eval "$(xrat env)"
xrat proxy rotate
.fi
.SH SEE ALSO
\fBv2ray\fR(1), \fBsystemctl\fR(1), \fBbusctl\fR(1)
"#;

fn page() -> String {
    let mut page = String::from("'\\\" Made from the program's help: see src/cli/manual.rs\n");
    page.push_str(".TH XRAT 1\n.SH NAME\nxrat \\- keep one proxy session alive\n.SH SYNOPSIS\n");
    page.push_str("\\fBxrat\\fR [\\fB\\-\\-root\\fR \\fIDIR\\fR] \\fICOMMAND\\fR ...\n");
    page.push_str(ABOUT);
    let whole = Args::get_args_info();
    page.push_str(".SH OPTIONS\n");
    options(&mut page, whole.flags);
    page.push_str(".SH COMMANDS\n");
    for command in &whole.commands {
        section(&mut page, &format!("xrat {}", command.name), &command.command);
    }
    page.push_str(AFTER);
    page
}

fn section(page: &mut String, name: &str, command: &CommandInfoWithArgs) {
    if command.commands.is_empty() {
        let mut usage = vec![format!("\\fB{}\\fR", text(name))];
        usage.extend(command.flags.iter().filter(|flag| shown(flag)).map(|flag| format!("[{}]", option(flag))));
        usage.extend(command.positionals.iter().filter(|positional| !positional.hidden).map(|positional| {
            let name = format!("\\fI{}\\fR", text(&positional.name.to_uppercase()));
            match positional.optionality {
                Optionality::Required => name,
                Optionality::Optional => format!("[{name}]"),
                Optionality::Repeating | Optionality::Greedy => format!("[{name} ...]"),
            }
        }));
        // Quotes in a macro's argument end it.
        let _ = writeln!(page, ".SS {}\n{}", usage.join(" ").replace('"', "\\(dq"), text(command.description));
        for positional in command.positionals.iter().filter(|positional| !positional.hidden) {
            let name = text(&positional.name.to_uppercase());
            let _ = writeln!(page, ".TP\n\\fI{name}\\fR\n{}", text(positional.description));
        }
        options(page, command.flags);
    }
    for one in &command.commands {
        section(page, &format!("{name} {}", one.name), &one.command);
    }
}

fn options(page: &mut String, flags: &[FlagInfo<'_>]) {
    for flag in flags.iter().filter(|flag| shown(flag)) {
        let _ = writeln!(page, ".TP\n{}\n{}", option(flag), text(flag.description));
    }
}

/// Every command has `--help`, and no reader of this page needs it.
fn shown(flag: &FlagInfo<'_>) -> bool {
    !flag.hidden && flag.long != "--help"
}

fn option(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map(|short| format!("\\fB\\-{short}\\fR, ")).unwrap_or_default();
    let value = match flag.kind {
        FlagInfoKind::Option { arg_name } => format!(" \\fI{}\\fR", text(&arg_name.to_uppercase())),
        FlagInfoKind::Switch => String::new(),
    };
    format!("{short}\\fB{}\\fR{value}", text(flag.long))
}

/// Words as roff reads them: no request in a first character, no escape, and a hyphen that can be copied.
fn text(words: &str) -> String {
    let words = words.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ");
    if words.starts_with(['.', '\'']) { format!("\\&{words}") } else { words }
}

#[test]
fn the_manual_is_that_of_the_program() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/desktop/xrat.1");
    if std::env::var_os("XRAT_WRITE").is_some() {
        return std::fs::write(file, page()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    assert!(
        page() == include_str!("../../desktop/xrat.1"),
        "XRAT_WRITE=1 cargo test --lib the_manual, then look at it"
    );
}
