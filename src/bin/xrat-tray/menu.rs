//! The menu, as data: what stands in it for a [`Model`], and what each entry asks for. No I/O.
//!
//! The top level always has the same entries, some of them invisible. A panel then changes an open menu in place; with
//! another number of entries it would build the menu anew under the user's hand.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use xrat::event::State;

use crate::model::{Action, Config, Decision, Model};
use crate::words;

/// So many configs are offered at once, before "More".
const FASTEST: usize = 12;
/// So many of one subscription: a panel draws every line of a menu before it shows the first.
const MOST_OF_A_SOURCE: usize = 60;
/// So many subscriptions.
const MOST_SOURCES: usize = 20;
/// About so long a line of a sentence is.
const LINE: usize = 56;
/// So many candidates of a decision are listed.
const MOST_CANDIDATES: usize = 6;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    Separator,
    Item {
        label: String,
        visible: bool,
        /// None: words only.
        action: Option<Action>,
        /// Whether there is a box, and whether it is ticked.
        checked: Option<bool>,
    },
    Menu {
        label: String,
        entries: Vec<Entry>,
    },
}

impl Entry {
    fn words(label: impl Into<String>) -> Self {
        Self::Item { label: label.into(), visible: true, action: None, checked: None }
    }

    fn action(label: impl Into<String>, action: Action) -> Self {
        Self::Item { label: label.into(), visible: true, action: Some(action), checked: None }
    }

    /// Cannot be chosen unless `possible`.
    fn possible(self, possible: bool) -> Self {
        match self {
            Self::Item { label, visible, action, checked } => {
                Self::Item { label, visible, action: action.filter(|_| possible), checked }
            }
            other => other,
        }
    }

    fn visible_if(self, visible: bool) -> Self {
        match self {
            Self::Item { label, action, checked, .. } => Self::Item { label, visible, action, checked },
            other => other,
        }
    }

    fn checked(self, ticked: bool) -> Self {
        match self {
            Self::Item { label, visible, action, .. } => Self::Item { label, visible, action, checked: Some(ticked) },
            other => other,
        }
    }
}

/// The menu for `model` at the time `now`.
pub(crate) fn entries(model: &Model, now: DateTime<Utc>) -> Vec<Entry> {
    let daemon = model.daemon.as_ref();
    let session = daemon.and_then(|daemon| daemon.session.as_ref());
    let wanted = daemon.is_some_and(|daemon| daemon.wants_session());
    let details = details(model, now);
    let complaint = model.complaint.as_deref().map(|text| format!("Not done: {}", words::line(text)));
    let rotation = daemon.map(|daemon| &daemon.rotation);
    let automatic = rotation.is_some_and(|rotation| rotation.enabled);
    let next = rotation.and_then(|rotation| rotation.next_at).filter(|_| automatic);
    let next = next.map_or_else(String::new, |at| format!(" (next at {})", words::clock(at, now)));
    let (test, test_action) = match model.test {
        None => ("Test all".to_owned(), Action::Test),
        Some(test) if test.total == 0 => ("Testing …".to_owned(), Action::StopTest),
        Some(test) => (format!("Stop the test ({} of {})", test.done, test.total), Action::StopTest),
    };
    vec![
        Entry::words(headline(model)),
        Entry::words(details.clone().unwrap_or_default()).visible_if(details.is_some()),
        Entry::words(complaint.clone().unwrap_or_default()).visible_if(complaint.is_some()),
        Entry::action("Start the daemon", Action::Start).visible_if(daemon.is_none()),
        Entry::Separator,
        Entry::Menu { label: "Connect to".into(), entries: connect(model) },
        Entry::action("Rotate now", Action::Rotate).possible(wanted),
        Entry::action(format!("Rotate automatically{next}"), Action::Automatic(!automatic))
            .possible(daemon.is_some())
            .checked(automatic),
        Entry::action(test, test_action).possible(daemon.is_some() && !model.configs.is_empty()),
        Entry::Separator,
        Entry::action("Copy proxy address", Action::Copy).possible(session.is_some()),
        Entry::Menu { label: "Why did it switch?".into(), entries: why(model, now) },
        Entry::Separator,
        Entry::action("Disconnect", Action::Disconnect).possible(wanted),
        Entry::action("Quit", Action::Quit),
    ]
}

/// The first line: the state, and the node.
pub(crate) fn headline(model: &Model) -> String {
    let Some(daemon) = &model.daemon else { return "The daemon does not run".into() };
    let state = words::state(daemon);
    match &daemon.session {
        Some(session) => format!("{state}: {}", words::line(&session.name)),
        None => match words::reason(daemon.reason) {
            Some(reason) if daemon.state != State::Connecting => format!("{state}: {reason}"),
            _ => state.to_owned(),
        },
    }
}

/// The second line: delay, traffic and since when.
pub(crate) fn details(model: &Model, now: DateTime<Utc>) -> Option<String> {
    let daemon = model.daemon.as_ref()?;
    let mut parts = Vec::new();
    if let Some(session) = &daemon.session {
        parts.extend(session.delay_ms.map(words::delay));
        parts.extend(session.traffic.map(|(up, down)| format!("↓ {}  ↑ {}", words::bytes(down), words::bytes(up))));
        parts.extend(session.started_at.map(|at| format!("since {}", words::clock(at, now))));
    } else if daemon.state == State::Failed {
        parts.extend(daemon.since.map(|at| format!("since {}", words::clock(at, now))));
    }
    (!parts.is_empty()).then(|| parts.join("  ·  "))
}

fn connect(model: &Model) -> Vec<Entry> {
    let usable: Vec<_> = model.configs.iter().filter(|config| config.enabled).collect();
    if usable.is_empty() {
        let words = match &model.daemon {
            Some(_) => "There is no config yet: xrat import LINK",
            None => "The daemon does not run",
        };
        return vec![Entry::words(words)];
    }
    let mut entries: Vec<_> = usable.iter().take(FASTEST).map(|config| node(model, config)).collect();
    if usable.len() > FASTEST {
        let mut sources: BTreeMap<Option<&str>, Vec<&Config>> = BTreeMap::new();
        for config in &usable {
            sources.entry(config.source.as_deref()).or_default().push(config);
        }
        let mut more: Vec<_> = sources
            .iter()
            .take(MOST_SOURCES)
            .map(|(source, configs)| Entry::Menu {
                label: format!("{} ({})", source.map_or("Added by hand".into(), words::line), configs.len()),
                entries: of_source(model, configs),
            })
            .collect();
        if sources.len() > MOST_SOURCES {
            more.push(Entry::words(format!("and {} more: see xrat list", sources.len() - MOST_SOURCES)));
        }
        entries.push(Entry::Separator);
        entries.push(Entry::Menu { label: "More".into(), entries: more });
    }
    entries
}

fn of_source(model: &Model, configs: &[&Config]) -> Vec<Entry> {
    let mut entries: Vec<_> = configs.iter().take(MOST_OF_A_SOURCE).map(|config| node(model, config)).collect();
    if configs.len() > MOST_OF_A_SOURCE {
        entries.push(Entry::words(format!("and {} more: see xrat list", configs.len() - MOST_OF_A_SOURCE)));
    }
    entries
}

fn node(model: &Model, config: &Config) -> Entry {
    let session = model.daemon.as_ref().and_then(|daemon| daemon.session.as_ref());
    let active = session.is_some_and(|session| session.config_id == config.config_id);
    let delay = config.delay_ms.map_or_else(String::new, |delay| format!("   {}", words::delay(delay)));
    let label = format!("{}{delay}", words::line(&config.name));
    Entry::action(label, Action::Connect(config.config_id)).checked(active)
}

/// The last decision in words.
fn why(model: &Model, now: DateTime<Utc>) -> Vec<Entry> {
    let last = model.daemon.as_ref().and_then(|daemon| daemon.rotation.last.as_ref());
    let Some(decision) = last else { return vec![Entry::words("It has not switched yet")] };
    let mut entries = vec![Entry::words(occasion(decision, now))];
    if let (Some(old), Some(new)) = (decision.old_config_id, decision.new_config_id) {
        let (old, new) = (model.name_of(old), model.name_of(new));
        entries.push(Entry::words(format!("From {} to {}", words::line(&old), words::line(&new))));
    }
    entries.extend(words::wrap(&decision.reason, LINE).into_iter().map(Entry::words));
    if !decision.candidates.is_empty() {
        entries.push(Entry::Separator);
    }
    for candidate in decision.candidates.iter().take(MOST_CANDIDATES) {
        let delay = candidate.delay_ms.map_or_else(|| "failed".to_owned(), words::delay);
        let chosen = if candidate.chosen { ", chosen" } else { "" };
        let name = model.name_of(candidate.config_id);
        entries.push(Entry::words(format!("{}   {delay}{chosen}", words::line(&name))));
    }
    entries
}

fn occasion(decision: &Decision, now: DateTime<Utc>) -> String {
    let who = match decision.trigger.as_str() {
        "manual" => "on request",
        "timer" => "by the timer",
        "health" => "because the node failed",
        other => other,
    };
    decision.at.map_or_else(|| who.to_owned(), |at| format!("{}, {who}", words::clock(at, now)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::model::tests::daemon;
    use crate::model::{Candidate, Progress, Rotation};
    use xrat::event::Health;

    fn config(config_id: i64, source: Option<&str>) -> Config {
        let (name, source) = (format!("node {config_id}"), source.map(Into::into));
        Config { config_id, name, enabled: true, delay_ms: Some(config_id * 10), source }
    }

    fn connected() -> Model {
        let daemon = Some(daemon(State::Connected, Health::Healthy));
        Model { daemon, configs: vec![config(1, None), config(2, None)], ..Model::default() }
    }

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    /// Visible labels, one a line; what cannot be chosen in brackets, ticks in front, submenus indented.
    fn outline(entries: &[Entry]) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in entries {
            match entry {
                Entry::Separator => lines.push("--".into()),
                Entry::Item { visible: false, .. } => {}
                Entry::Item { label, action, checked, .. } => {
                    let tick = checked.map_or("", |checked| if checked { "[x] " } else { "[ ] " });
                    let label = if action.is_some() { label.clone() } else { format!("({label})") };
                    lines.push(format!("{tick}{label}"));
                }
                Entry::Menu { label, entries } => {
                    lines.push(format!("{label}:"));
                    lines.extend(outline(entries).into_iter().map(|line| format!("  {line}")));
                }
            }
        }
        lines
    }

    #[test]
    fn the_menu_of_a_session() {
        let since = words::clock(now(), now());
        let wanted = [
            "(Connected: one)",
            &format!("(35 ms  ·  ↓ 5.0 MiB  ↑ 1.0 MiB  ·  since {since})"),
            "--",
            "Connect to:",
            "  [x] node 1   10 ms",
            "  [ ] node 2   20 ms",
            "Rotate now",
            "[ ] Rotate automatically",
            "Test all",
            "--",
            "Copy proxy address",
            "Why did it switch?:",
            "  (It has not switched yet)",
            "--",
            "Disconnect",
            "Quit",
        ];
        assert_eq!(outline(&entries(&connected(), now())), wanted);
    }

    #[test]
    fn without_a_daemon_it_can_be_started_and_nothing_else() {
        let wanted = [
            "(The daemon does not run)",
            "Start the daemon",
            "--",
            "Connect to:",
            "  (The daemon does not run)",
            "(Rotate now)",
            "[ ] (Rotate automatically)",
            "(Test all)",
            "--",
            "(Copy proxy address)",
            "Why did it switch?:",
            "  (It has not switched yet)",
            "--",
            "(Disconnect)",
            "Quit",
        ];
        assert_eq!(outline(&entries(&Model::default(), now())), wanted);
    }

    #[test]
    fn the_top_level_has_the_same_entries_in_every_state() {
        let shape = |model: &Model| {
            let entry = |entry: &Entry| match entry {
                Entry::Separator => 's',
                Entry::Item { .. } => 'i',
                Entry::Menu { .. } => 'm',
            };
            entries(model, now()).iter().map(entry).collect::<String>()
        };
        let mut failing = connected();
        failing.complaint = Some("no".into());
        failing.test = Some(Progress::default());
        let models =
            State::ALL.iter().map(|state| Model { daemon: Some(daemon(*state, Health::Healthy)), ..connected() });
        for model in models.chain([failing, Model::default()]) {
            assert_eq!(shape(&model), shape(&connected()), "{model:?}");
        }
    }

    #[test]
    fn a_lost_session_can_be_rotated_and_given_up() {
        let mut model = connected();
        model.daemon = Some(daemon(State::Failed, Health::Unknown));
        let lines = outline(&entries(&model, now()));
        assert!(lines.contains(&"Rotate now".into()) && lines.contains(&"Disconnect".into()), "{lines:#?}");
        assert!(lines.contains(&"(Copy proxy address)".into()), "{lines:#?}");
    }

    #[test]
    fn twelve_are_at_hand_and_the_others_with_their_subscription() {
        let mut model = connected();
        let source = |id| (id % 2 == 0).then_some("https://a.example");
        model.configs = (1..=140).map(|id| config(id, source(id))).collect();
        model.configs[0].enabled = false;
        let Entry::Menu { entries, .. } = &entries(&model, now())[5] else { panic!("no submenu") };
        assert_eq!(entries.len(), FASTEST + 2);
        let lines = outline(entries);
        assert_eq!((lines[0].as_str(), lines[12].as_str(), lines[13].as_str()), ("[ ] node 2   20 ms", "--", "More:"));
        let groups: Vec<_> = lines.iter().filter(|line| line.ends_with(':')).map(|line| line.trim()).collect();
        assert_eq!(groups, ["More:", "Added by hand (69):", "https://a.example (70):"]);
        assert!(lines.contains(&"    (and 9 more: see xrat list)".into()), "{lines:#?}");
    }

    #[test]
    fn a_test_shows_its_progress_and_can_be_stopped() {
        let mut model = connected();
        model.test = Some(Progress { done: 3, total: 7 });
        let all = entries(&model, now());
        assert!(all.contains(&Entry::action("Stop the test (3 of 7)", Action::StopTest)));
    }

    #[test]
    fn a_decision_is_told_in_words() {
        let mut model = connected();
        let candidate = |config_id, delay_ms, chosen| Candidate { config_id, delay_ms, chosen };
        let last = Some(Decision {
            at: Some(now()),
            trigger: "timer".into(),
            reason: "node 2 answers in 20 ms, 40 ms faster than node 1, which is more than the tolerance".into(),
            old_config_id: Some(1),
            new_config_id: Some(2),
            candidates: vec![candidate(2, Some(20), true), candidate(9, None, false)],
        });
        let next_at = Some(now());
        model.daemon.as_mut().unwrap().rotation = Rotation { enabled: true, next_at, last };
        let lines = outline(&entries(&model, now()));
        let time = words::clock(now(), now());
        assert!(lines.contains(&format!("[x] Rotate automatically (next at {time})")), "{lines:#?}");
        let at = lines.iter().position(|line| line.starts_with("Why")).unwrap();
        let wanted = [
            &format!("  ({time}, by the timer)"),
            "  (From node 1 to node 2)",
            "  (node 2 answers in 20 ms, 40 ms faster than node 1, which)",
            "  (is more than the tolerance)",
            "  --",
            "  (node 2   20 ms, chosen)",
            "  (config 9   failed)",
        ];
        assert_eq!(lines[at + 1..at + 8], wanted);
    }
}
