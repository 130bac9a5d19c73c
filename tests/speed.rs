//! The promise about time that a test can keep on a busy machine: `connect` costs what its engine's start costs, and
//! little more. The rest is measured by `cargo bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use lab::timing::PAIRS;
use lab::{Kind, bare};

/// What the daemon may add to the start of an engine, in milliseconds.
const MOST_MS: f64 = 30.0;

#[test]
fn a_connect_takes_little_longer_than_its_engine() {
    // One after the other: two at once would measure each other.
    for kind in Kind::ALL {
        let Some(pairs) = bare::connect_and_floor(kind, PAIRS + 6) else { continue };
        println!("{}: {}", kind.name(), pairs.line());
        assert!(pairs.extra_ms() <= MOST_MS, "{}: more than {MOST_MS} ms: {}", kind.name(), pairs.line());
    }
}
