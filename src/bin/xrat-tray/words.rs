//! States, times, sizes and names as people read them.

use chrono::{DateTime, Local, Utc};
use xrat::event::{Health, Reason, State};

use crate::model::Daemon;

/// Longer names are cut: a menu is as wide as its longest line.
const MOST_CHARACTERS: usize = 48;

/// What the daemon is doing, in a word or two.
pub(crate) fn state(daemon: &Daemon) -> &'static str {
    match (daemon.state, daemon.health()) {
        (State::Unknown, _) => "Unknown",
        (State::Disconnected, _) => "Disconnected",
        (State::Connecting, _) => "Connecting",
        (State::Connected, Health::Degraded) => "Connected, but a check failed",
        (State::Connected, Health::Failed) => "The node does not answer",
        (State::Connected, _) => "Connected",
        (State::Replacing, _) => "Moving to another node",
        (State::Recovering, _) => "Coming back",
        (State::Failed, _) => "Failed",
        (State::Disconnecting, _) => "Disconnecting",
    }
}

/// Why a state was entered; nothing where the state says it all.
pub(crate) fn reason(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::Unknown | Reason::None | Reason::UserRequested | Reason::Adopted => return None,
        Reason::ManualRotation => "you asked for another node",
        Reason::TimerRotation => "the rotation timer",
        Reason::HealthRotation => "the last node failed",
        Reason::EngineExited => "the engine ended",
        Reason::EngineNotReady => "the engine did not start",
        Reason::PortLost => "another program took the port",
        Reason::ExchangeFailed => "nothing gets through the node",
        Reason::ConfigUnsupported => "the engine cannot run this node",
        Reason::EngineMissing => "there is no engine",
        Reason::AddressInUse => "the port belongs to another program",
        Reason::AdoptionRefused => "the session of an earlier daemon could not be taken over",
        Reason::Offline => "there is no network",
        Reason::Resumed => "the machine woke up",
        Reason::DaemonShutdown => "the daemon is ending",
        Reason::TooManyFailures => "it failed too often",
        Reason::Autoconnect => "connected after the start of the machine",
        Reason::InternalError => "a fault of xrat",
    })
}

/// A time of today as `14:05`, of another day with its date.
pub(crate) fn clock(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let (at, now) = (at.with_timezone(&Local), now.with_timezone(&Local));
    let form = if at.date_naive() == now.date_naive() { "%H:%M" } else { "%e %b, %H:%M" };
    at.format(form).to_string().trim_start().to_owned()
}

/// `35 ms`.
pub(crate) fn delay(delay_ms: i64) -> String {
    format!("{delay_ms} ms")
}

/// `1.4 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A name that came from anywhere, for one line: no control characters and nothing that turns the text around.
pub(crate) fn line(text: &str) -> String {
    let printable = |c: char| {
        !c.is_control() && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let text: String = text.chars().filter(|c| printable(*c)).collect();
    let text = text.trim();
    if text.chars().count() <= MOST_CHARACTERS {
        return text.to_owned();
    }
    let kept: String = text.chars().take(MOST_CHARACTERS - 1).collect();
    format!("{}…", kept.trim_end())
}

/// Text where `&`, `<` and `>` would be markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A sentence broken into lines of about `width` characters.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 1_500_000, 1_048_575, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "1.0 MiB", "5.0 GiB", "16777216.0 TiB"]);
    }

    #[test]
    fn names_are_one_line_of_bearable_length() {
        assert_eq!(line(" Tokyo\n\u{202e}1\t "), "Tokyo1");
        assert_eq!(line(&"é".repeat(48)), "é".repeat(48));
        assert_eq!(line(&"é".repeat(49)), "é".repeat(47) + "…");
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let at: DateTime<Utc> = "2026-03-04T12:00:00Z".parse().unwrap();
        assert_eq!(clock(at, at).len(), 5);
        assert!(clock(at, at + chrono::TimeDelta::days(2)).starts_with("4 Mar, "));
    }

    #[test]
    fn sentences_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""; 0]);
    }
}
