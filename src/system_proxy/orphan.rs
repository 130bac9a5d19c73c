//! Whether the desktop's settings point to an engine that is no more.

use super::change::summary;
use super::{Servers, SystemProxyError};
use crate::engine::ports;
use crate::engine::process::processes_with_argument;
use crate::paths::Paths;

/// Whether settings point to a port that no engine of this root listens on. What a living daemon holds is not looked
/// at: whoever asks makes sure that there is none.
///
/// Blocks for some milliseconds.
///
/// # Errors
/// When the journal cannot be read.
pub fn is_orphaned(paths: &Paths) -> Result<bool, SystemProxyError> {
    let Some((Servers { socks, .. }, _)) = summary(paths)?.on else { return Ok(false) };
    let engines = processes_with_argument(|word| paths.is_session_file(word));
    Ok(!engines.iter().any(|(engine, _)| ports::listens(engine.pid, socks)))
}
