//! Two things measured in turn: what is claimed, and the floor it is compared with on the same machine at the same time.

use std::time::{Duration, Instant};

/// The fewest pairs a claim is made from.
pub const PAIRS: usize = 15;

/// What two things took, measured in turn.
#[derive(Debug, Clone)]
pub struct Pairs {
    floor: Vec<Duration>,
    subject: Vec<Duration>,
}

impl Pairs {
    /// Measures `floor` and `subject` in turn, `count` times, after one round that is not counted. Which of them goes
    /// first changes from pair to pair.
    ///
    /// # Panics
    /// With fewer than [`PAIRS`] pairs.
    pub fn measure(count: usize, mut floor: impl FnMut() -> Duration, mut subject: impl FnMut() -> Duration) -> Self {
        assert!(count >= PAIRS, "{count} pairs prove nothing");
        let mut pairs = Self { floor: Vec::new(), subject: Vec::new() };
        floor();
        subject();
        for number in 0..count {
            if number % 2 == 0 {
                pairs.floor.push(floor());
                pairs.subject.push(subject());
            } else {
                pairs.subject.push(subject());
                pairs.floor.push(floor());
            }
        }
        pairs.floor.sort_unstable();
        pairs.subject.sort_unstable();
        pairs
    }

    /// The median of the floor.
    pub fn floor(&self) -> Duration {
        self.floor[self.floor.len() / 2]
    }

    /// The median of what is claimed.
    pub fn subject(&self) -> Duration {
        self.subject[self.subject.len() / 2]
    }

    /// By how much the subject's median is above the floor's, in milliseconds; negative below it.
    pub fn extra_ms(&self) -> f64 {
        ms(self.subject()) - ms(self.floor())
    }

    /// The subject's median in floors.
    pub fn ratio(&self) -> f64 {
        ms(self.subject()) / ms(self.floor())
    }

    /// One line for people: medians with the quickest and the slowest.
    pub fn line(&self) -> String {
        let part = |sorted: &[Duration], median| {
            format!("{:8.3} ms ({:.3} to {:.3})", ms(median), ms(sorted[0]), ms(sorted[sorted.len() - 1]))
        };
        format!(
            "{}  floor {}  {:+.3} ms, x {:.2}",
            part(&self.subject, self.subject()),
            part(&self.floor, self.floor()),
            self.extra_ms(),
            self.ratio()
        )
    }
}

/// What `work` took.
pub fn time(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// A duration in milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A benchmark's claims, printed as they are measured.
#[derive(Debug, Default)]
pub struct Claims {
    broken: usize,
}

impl Claims {
    /// Prints a claim with what was measured, and remembers whether it holds.
    pub fn check(&mut self, name: &str, measured: &str, claim: &str, holds: bool) {
        let verdict = if holds { "ok" } else { "BROKEN" };
        println!("{name:<34} {measured}\n{:<34} {verdict}: {claim}", "");
        self.broken += usize::from(!holds);
    }

    /// The exit code of the benchmark: 1 when a claim is broken.
    pub fn exit(self) -> std::process::ExitCode {
        std::process::ExitCode::from(u8::from(self.broken > 0))
    }
}
