//! The promises about time that a test can keep on a busy machine: `connect`, and the return after an engine's death, cost
//! what an engine's start costs, and little more. The rest is measured by `cargo bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use lab::timing::{PAIRS, ms};
use lab::{Kind, bare};

/// What the daemon may add to the start of an engine, in milliseconds.
const MOST_MS: f64 = 30.0;

/// After an engine's death the first request is served within twice the start of an engine and this, in milliseconds.
const RECOVERY_MS: f64 = 50.0;

#[test]
fn a_killed_engine_is_replaced_in_little_more_than_its_start() {
    for kind in Kind::ALL {
        let Some(pairs) = bare::recovery_and_floor(kind, PAIRS) else { continue };
        println!("{}: {}", kind.name(), pairs.line());
        let most = 2.0 * ms(pairs.floor()) + RECOVERY_MS;
        assert!(ms(pairs.subject()) <= most, "{}: more than {most:.1} ms: {}", kind.name(), pairs.line());
    }
}

#[test]
fn a_connect_takes_little_longer_than_its_engine() {
    // One after the other: two at once would measure each other.
    for kind in Kind::ALL {
        let Some(pairs) = bare::connect_and_floor(kind, PAIRS + 6) else { continue };
        println!("{}: {}", kind.name(), pairs.line());
        assert!(pairs.extra_ms() <= MOST_MS, "{}: more than {MOST_MS} ms: {}", kind.name(), pairs.line());
    }
}
