//! What a connect adds to the start of its engine: RuntimeConnect, from the request to the answer, in turn with a bare
//! start of the same engine with the same file.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot measure says so and ends")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::process::ExitCode;

use lab::timing::Claims;
use lab::{Kind, bare};

/// Pairs for each engine.
const COUNT: usize = 31;
/// What the daemon may add, in milliseconds.
const MOST_MS: f64 = 30.0;

fn main() -> ExitCode {
    let mut claims = Claims::default();
    for kind in Kind::ALL {
        let Some(pairs) = bare::connect_and_floor(kind, COUNT) else { continue };
        let claim = format!("at most {MOST_MS} ms more than the bare engine");
        claims.check(&format!("connect, {}", kind.name()), &pairs.line(), &claim, pairs.extra_ms() <= MOST_MS);
    }
    claims.exit()
}
