//! Chance for tests, with a seed that a failure prints.

use std::time::Duration;

/// Names the seed of a failure, to see it again.
const SEED_VARIABLE: &str = "XRAT_SEED";

/// A small generator (xorshift64).
pub struct Random(u64);

impl Random {
    /// Begins with `XRAT_SEED`, or with the time; says which.
    ///
    /// # Panics
    /// When the variable is no number.
    pub fn new() -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().expect("XRAT_SEED is a number"),
            Err(_) => u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap(),
        };
        eprintln!("{SEED_VARIABLE}={seed}");
        Self(seed | 1)
    }

    /// A number below this.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// A duration below this, to the microsecond.
    pub fn duration(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).unwrap().max(1)))
    }
}
