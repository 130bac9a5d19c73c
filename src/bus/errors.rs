//! Failures as D-Bus errors: `org.xrat.Daemon1.Error.*`, with the message that the socket has.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use crate::command::Failure;

/// Why a call failed; the name of the variant is the last part of the error's name.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.xrat.Daemon1.Error")]
pub(super) enum Error {
    /// The bus itself; it keeps the name it has.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// The request itself is wrong (400 on the socket).
    BadRequest(String),
    /// What it names does not exist (404).
    NotFound(String),
    /// It does not go together with what is (409).
    Conflict(String),
    /// The daemon's or the engine's fault (500).
    Internal(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::BadRequest(message) => Self::BadRequest(message),
            Failure::NotFound(message) => Self::NotFound(message),
            Failure::Conflict { message, details: _ } => Self::Conflict(message),
            Failure::Internal(message) => Self::Internal(message),
        }
    }
}

/// Runs `work`; a panic becomes [`Error::Internal`]. zbus would leave the caller without any answer.
pub(super) async fn guarded<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a call on the bus panicked");
        Err(Error::Internal("the daemon failed to handle this request".into()))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use zbus::DBusError;

    #[test]
    fn each_failure_has_its_name_and_keeps_its_message() {
        let failures = [
            (Failure::BadRequest("a".into()), "BadRequest", "a"),
            (Failure::NotFound("b".into()), "NotFound", "b"),
            (Failure::conflict("c"), "Conflict", "c"),
            (Failure::Internal("d".into()), "Internal", "d"),
        ];
        for (failure, name, message) in failures {
            let error = Error::from(failure);
            assert_eq!(error.name().as_str(), format!("org.xrat.Daemon1.Error.{name}"));
            assert_eq!(error.description(), Some(message));
        }
    }

    #[test]
    fn a_panic_is_an_answer() {
        let result = async_io::block_on(guarded::<()>(async { panic!("as a test") }));
        assert!(matches!(result, Err(Error::Internal(_))), "{result:?}");
    }
}
