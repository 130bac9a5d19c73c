//! Asking the daemon from the command line: one request, one payload or one error.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::CliError;
use crate::command::Command;
use crate::ipc::client::{self, ClientError};
use crate::ipc::wire::Answer;
use crate::paths::Paths;

/// Asks the daemon; the payload of its answer.
///
/// # Errors
/// When no daemon answers, or it refuses.
pub(super) async fn ask(paths: &Paths, command: &Command) -> Result<Value, CliError> {
    accept(client::call(&paths.socket(), command).await?)
}

/// Asks the daemon; the payload of its answer as what it is known to be.
///
/// # Errors
/// As [`ask`].
pub(super) async fn ask_for<T: DeserializeOwned>(paths: &Paths, command: &Command) -> Result<T, CliError> {
    let payload = ask(paths, command).await?;
    Ok(serde_json::from_value(payload).map_err(ClientError::Protocol)?)
}

/// The payload of an answer that says yes.
///
/// # Errors
/// The answer, when it says no.
pub(super) fn accept(answer: Answer) -> Result<Value, CliError> {
    if answer.ok { Ok(answer.payload) } else { Err(CliError::Refused(answer)) }
}

/// The root directory as it is: asking a daemon makes none.
pub(super) fn root(root: Option<&Path>) -> Result<Paths, CliError> {
    Ok(Paths::resolve(root)?)
}
