//! `env`: the session's addresses as variables that programs know.

use std::io::Write;

use argh::{ArgsInfo, FromArgs};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Cli;
use super::client::{ask_for, root};
use super::error::CliError;
use crate::command::{Command, Failure};
use crate::event::{Address, Status};
use crate::ipc::wire::Answer;

/// What never goes through a proxy.
const NO_PROXY: &str = "localhost,127.0.0.0/8,::1";

/// Print variables for a shell: eval "$(xrat env)".
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "env")]
pub(super) struct Env {
    /// print what takes them back
    #[argh(switch)]
    unset: bool,
}

impl Env {
    pub(super) fn run(self, cli: &mut Cli) -> Result<(), CliError> {
        if self.unset {
            for name in ["all_proxy", "http_proxy", "https_proxy", "no_proxy"] {
                writeln!(cli.out, "unset {name} {}", name.to_uppercase())?;
            }
            return Ok(());
        }
        let paths = root(cli.root.as_deref())?;
        let status: Status = async_io::block_on(ask_for(&paths, &Command::RuntimeStatus {}))?;
        let session = status.session.ok_or_else(|| {
            let message = "no active session: connect first with 'xrat connect ID'".to_owned();
            CliError::Refused(Answer::failure(&Failure::NotFound(message)))
        })?;
        let auth = cli.settings(&paths)?.runtime.socks.auth().map(|(user, password)| {
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            format!("{}:{}@", encode(&user), encode(password.reveal()))
        });
        let url = |scheme: &str, address: &Address| format!("{scheme}://{}{address}", auth.as_deref().unwrap_or(""));
        let socks = url("socks5h", &session.socks);
        let http = session.http.as_ref().map_or_else(|| socks.clone(), |http| url("http", http));
        for (name, value) in [
            ("all_proxy", socks.as_str()),
            ("http_proxy", http.as_str()),
            ("https_proxy", http.as_str()),
            ("no_proxy", NO_PROXY),
        ] {
            // Hosts are addresses and credentials are percent-encoded: nothing here needs quoting twice.
            writeln!(cli.out, "export {name}='{value}' {}='{value}'", name.to_uppercase())?;
        }
        Ok(())
    }
}
