//! What must hold for any input: the bodies of the fuzz targets, which `tests/corpus.rs` runs as well.
#![allow(unreachable_pub, reason = "a library of its own here, and a module there")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is what the fuzzer looks for")]

use std::ops::ControlFlow;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use xrat::config::Config;
use xrat::ipc::wire::{Framing, Progress, parse_request};
use xrat::link::{self, LinkError, subscription};
use xrat::settings::Settings;

/// Stands before what is to be base64, which no fuzzer gets through by itself.
const ENCODED: u8 = b'<';

/// What follows `scheme://`.
pub fn link(scheme: &str, data: &[u8]) {
    let rest = match data.split_first() {
        Some((&ENCODED, payload)) => STANDARD.encode(payload),
        _ => match std::str::from_utf8(data) {
            Ok(text) => text.to_owned(),
            Err(_) => return,
        },
    };
    match link::parse(&format!("{scheme}://{rest}")) {
        Ok(config) => config_holds(&config),
        Err(error) => error_holds(&error),
    }
}

/// A body, as it would be fetched.
pub fn subscription(data: &[u8]) {
    let _ = subscription::each(data, &mut |item| {
        match item.outcome {
            Ok(config) => config_holds(&config),
            Err(error) => error_holds(&error),
        }
        ControlFlow::Continue(())
    });
}

/// Bytes of a client. The first says how large the pieces are that they arrive in: a request ends where it does when
/// all of it arrives at once.
pub fn wire(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = Framing::default().feed(bytes);
    let (mut framing, mut before) = (Framing::default(), 0);
    let mut pieces = Progress::More;
    for piece in bytes.chunks(usize::from(*size).max(1)) {
        match framing.feed(piece) {
            Progress::More => before += piece.len(),
            Progress::Done(place) => pieces = Progress::Done(before + place),
            Progress::NotAnObject => pieces = Progress::NotAnObject,
        }
        if pieces != Progress::More {
            break;
        }
    }
    assert_eq!(pieces, whole);
    if let Progress::Done(end) = whole {
        let _ = parse_request(&bytes[..end]);
    }
}

/// The settings of a user.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Settings::parse(text, Path::new("config.toml")) {
        Ok((_, warnings)) => warnings.iter().for_each(|warning| assert!(!warning.is_empty())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn config_holds(config: &Config) {
    assert!(!config.name.is_empty() && !config.name.chars().any(char::is_control), "{:?}", config.name);
    let written = link::write(config);
    assert!(!written.chars().any(char::is_control), "{written:?}");
    assert_eq!(link::parse(&written).as_ref(), Ok(config), "{written}");
}

fn error_holds(error: &LinkError) {
    let text = error.to_string();
    assert!(!text.chars().any(link::is_unprintable) && text.chars().count() < 400, "{text:?}");
}
