//! What is worth a notification, and how often one may come. No I/O, no clock.

use std::time::{Duration, Instant};

use xrat::event::{Health, State};
use xrat::settings::Notice as Kind;

use crate::model::{Daemon, Decision, Model, Session};
use crate::words;

/// So many notices come at once; a connect, a failure and the way back are not held up.
const BURST: u32 = 3;
/// After those there is one in this time: what flaps is one notification that changes now and then.
const REFILL: Duration = Duration::from_secs(20);

/// A move is told with its reason, which the daemon has a moment after the move. So many looks are waited for it.
const LOOKS: u32 = 4;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) kind: Kind,
    pub(crate) summary: String,
    pub(crate) body: String,
}

/// What a change means for the notification on the screen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// Show this in its place.
    Show(Notice),
    /// It is not true any more, and nothing is in its place.
    Withdraw,
}

/// Finds what is worth telling by comparing what is with what was.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Whether a daemon was seen before: what the tray finds when it starts is no news.
    begun: bool,
    /// Whether the session is lost and the user has been told, or would have been.
    lost: bool,
    /// The config of the last session since there was none wanted.
    node: Option<i64>,
    /// Looks at a move whose reason was not there yet.
    looks: u32,
}

impl Watch {
    /// Looks at the daemon. Without one nothing is known, and what was stays.
    pub(crate) fn see(&mut self, model: &Model) -> Option<Change> {
        let daemon = model.daemon.as_ref()?;
        let first = !std::mem::replace(&mut self.begun, true);
        let change = self.compare(model, daemon);
        change.filter(|_| !first)
    }

    fn compare(&mut self, model: &Model, daemon: &Daemon) -> Option<Change> {
        let silent = daemon.state == State::Connected && daemon.health() == Health::Failed;
        match (daemon.state, &daemon.session) {
            (State::Failed, _) => self.fail(failed(daemon)),
            (State::Connected, _) if silent => self.fail(failed(daemon)),
            (State::Connected, Some(session)) => {
                let moved = self.node.is_some_and(|before| before != session.config_id);
                if moved && !self.lost && decision(daemon, session).is_none() && self.looks < LOOKS {
                    self.looks += 1;
                    return None;
                }
                self.looks = 0;
                let before = self.node.replace(session.config_id);
                let name = words::line(&session.name);
                let (kind, summary, body) = if std::mem::take(&mut self.lost) {
                    let through =
                        session.delay_ms.map_or_else(String::new, |delay| format!(", {}", words::delay(delay)));
                    (Kind::Recovered, "Connected again".to_owned(), format!("Through {name}{through}"))
                } else if moved {
                    let from = before.map(|before| words::line(&model.name_of(before)));
                    (Kind::Rotated, format!("Moved to {name}"), why(daemon, session, from))
                } else if before.is_none() {
                    let body = session.delay_ms.map(words::delay).unwrap_or_default();
                    (Kind::Connected, format!("Connected to {name}"), body)
                } else {
                    return None;
                };
                Some(Change::Show(Notice { kind, summary, body }))
            }
            (State::Disconnected | State::Disconnecting, _) => {
                self.node = None;
                std::mem::take(&mut self.lost).then_some(Change::Withdraw)
            }
            _ => None,
        }
    }

    fn fail(&mut self, notice: Notice) -> Option<Change> {
        let known = std::mem::replace(&mut self.lost, true);
        (!known).then_some(Change::Show(notice))
    }
}

fn failed(daemon: &Daemon) -> Notice {
    let (summary, body) = match &daemon.session {
        Some(session) => {
            let body = "No node that works was found; the connection is kept and tried on.".to_owned();
            (format!("{} does not answer", words::line(&session.name)), body)
        }
        None => {
            let reason = daemon.last_failure.clone().or_else(|| words::reason(daemon.reason).map(str::to_owned));
            ("The connection is lost".to_owned(), reason.unwrap_or_default())
        }
    };
    Notice { kind: Kind::Failed, summary, body }
}

/// The decision that has led to this session.
fn decision<'d>(daemon: &'d Daemon, session: &Session) -> Option<&'d Decision> {
    let last = daemon.rotation.last.as_ref()?;
    // An older one may have led to the same node.
    (last.new_config_id == Some(session.config_id) && last.at >= session.started_at).then_some(last)
}

/// Why the session is on another node than before.
fn why(daemon: &Daemon, session: &Session, from: Option<String>) -> String {
    match (decision(daemon, session), from) {
        (Some(decision), _) if !decision.reason.is_empty() => decision.reason.clone(),
        (_, Some(from)) => format!("From {from}"),
        _ => String::new(),
    }
}

/// Lets notices through, or holds the newest until it may come.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    /// When the last one was put back.
    refilled: Option<Instant>,
    held: Option<Notice>,
    shown: Option<Notice>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { left: BURST, refilled: None, held: None, shown: None }
    }

    /// Takes a notice; gives it back if it may come now.
    pub(crate) fn offer(&mut self, notice: Notice, now: Instant) -> Option<Notice> {
        self.held = Some(notice);
        self.release(now)
    }

    /// The notice that was held, when its time has come and it is news still.
    pub(crate) fn release(&mut self, now: Instant) -> Option<Notice> {
        self.refill(now);
        // It came and went, and what is on the screen is right.
        self.held.take_if(|held| self.shown.as_ref() == Some(held));
        if self.left == 0 {
            return None;
        }
        let notice = self.held.take()?;
        self.left -= 1;
        self.shown = Some(notice.clone());
        Some(notice)
    }

    /// What is held is not true any more, and nothing is on the screen.
    pub(crate) fn forget(&mut self) {
        self.held = None;
        self.shown = None;
    }

    /// When [`Pace::release`] is worth a call.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.held.as_ref().and(self.refilled).map(|refilled| refilled + REFILL)
    }

    fn refill(&mut self, now: Instant) {
        let mut refilled = self.refilled.unwrap_or(now);
        while self.left < BURST && refilled + REFILL <= now {
            refilled += REFILL;
            self.left += 1;
        }
        // Full: the time counts from the next one that is used.
        self.refilled = Some(if self.left == BURST { now } else { refilled });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::model::tests::{daemon, session};
    use crate::model::{Config, Decision};

    fn model(state: State, health: Health) -> Model {
        Model { daemon: Some(daemon(state, health)), ..Model::default() }
    }

    fn on(config_id: i64, name: &str) -> Model {
        let mut model = model(State::Connected, Health::Healthy);
        model.daemon.as_mut().unwrap().session = Some(session(config_id, name, Health::Healthy));
        let source = None;
        model.configs = vec![Config { config_id: 1, name: "one".into(), enabled: true, delay_ms: None, source }];
        model
    }

    fn shown(change: Option<Change>) -> (Kind, String, String) {
        match change {
            Some(Change::Show(notice)) => (notice.kind, notice.summary, notice.body),
            other => panic!("{other:?}"),
        }
    }

    /// A watch that has seen a daemon without a session.
    fn watch() -> Watch {
        let mut watch = Watch::default();
        assert_eq!(watch.see(&model(State::Disconnected, Health::Unknown)), None);
        watch
    }

    #[test]
    fn what_is_found_at_the_start_is_no_news() {
        for found in [on(1, "one"), model(State::Failed, Health::Unknown), model(State::Disconnected, Health::Unknown)]
        {
            assert_eq!(Watch::default().see(&found), None);
        }
    }

    #[test]
    fn a_session_is_told_once() {
        let mut watch = watch();
        assert_eq!(watch.see(&model(State::Connecting, Health::Unknown)), None);
        assert_eq!(shown(watch.see(&on(1, "one"))), (Kind::Connected, "Connected to one".into(), "35 ms".into()));
        for same in [on(1, "one"), Model::default(), model(State::Recovering, Health::Unknown), on(1, "one")] {
            assert_eq!(watch.see(&same), None, "{same:?}");
        }
        assert_eq!(watch.see(&model(State::Disconnected, Health::Unknown)), None);
        assert_eq!(shown(watch.see(&on(1, "one"))).0, Kind::Connected);
    }

    fn decided(mut model: Model, reason: &str, new: i64, at: i64) -> Model {
        model.daemon.as_mut().unwrap().rotation.last = Some(Decision {
            at: chrono::DateTime::from_timestamp(at, 0),
            trigger: "timer".into(),
            reason: reason.into(),
            old_config_id: Some(1),
            new_config_id: Some(new),
            candidates: Vec::new(),
        });
        model
    }

    #[test]
    fn a_move_is_told_with_its_reason() {
        let mut watch = watch();
        watch.see(&on(1, "one"));
        assert_eq!(watch.see(&model(State::Replacing, Health::Healthy)), None);
        // The session is there before the decision is.
        assert_eq!(watch.see(&on(2, "two")), None);
        assert_eq!(watch.see(&decided(on(2, "two"), "long ago", 2, -1)), None);
        assert_eq!(watch.see(&decided(on(2, "two"), "about another", 1, 1)), None);
        let told = shown(watch.see(&decided(on(2, "two"), "two is faster", 2, 1)));
        assert_eq!(told, (Kind::Rotated, "Moved to two".into(), "two is faster".into()));
        assert_eq!(watch.see(&on(2, "two")), None);
    }

    #[test]
    fn a_move_without_a_reason_is_told_all_the_same() {
        let mut watch = watch();
        watch.see(&on(1, "one"));
        for _ in 0..LOOKS {
            assert_eq!(watch.see(&on(2, "two")), None);
        }
        assert_eq!(shown(watch.see(&on(2, "two"))), (Kind::Rotated, "Moved to two".into(), "From one".into()));
    }

    #[test]
    fn a_loss_is_told_once_and_then_that_it_is_over() {
        for lost in [model(State::Failed, Health::Unknown), model(State::Connected, Health::Failed)] {
            let mut watch = watch();
            watch.see(&on(1, "one"));
            assert_eq!(shown(watch.see(&lost)).0, Kind::Failed);
            assert_eq!(watch.see(&lost), None);
            assert_eq!(watch.see(&model(State::Recovering, Health::Unknown)), None);
            assert_eq!(watch.see(&lost), None, "it was never back");
            let back = shown(watch.see(&on(2, "two")));
            assert_eq!(back, (Kind::Recovered, "Connected again".into(), "Through two, 35 ms".into()));
            watch.see(&lost);
            assert_eq!(watch.see(&model(State::Disconnected, Health::Unknown)), Some(Change::Withdraw));
        }
    }

    fn notice(summary: &str) -> Notice {
        Notice { kind: Kind::Failed, summary: summary.into(), body: String::new() }
    }

    #[test]
    fn what_flaps_comes_a_few_times_and_ends_with_the_truth() {
        let begin = Instant::now();
        let mut pace = Pace::new();
        let mut shown = 0;
        for second in 0..120 {
            let now = begin + Duration::from_secs(second);
            let text = if second % 2 == 0 { "lost" } else { "back" };
            shown += u32::from(pace.offer(notice(text), now).is_some());
        }
        assert!((BURST..=BURST + 6).contains(&shown), "{shown} in two minutes");
        pace.release(begin + Duration::from_secs(120) + REFILL);
        assert_eq!(pace.shown, Some(notice("back")));
    }

    #[test]
    fn what_came_and_went_while_it_was_held_is_not_told() {
        let now = Instant::now();
        let mut pace = Pace::new();
        for text in ["a", "b", "c"] {
            assert!(pace.offer(notice(text), now).is_some());
        }
        assert_eq!(pace.offer(notice("d"), now), None);
        assert_eq!(pace.due(), Some(now + REFILL));
        assert_eq!(pace.offer(notice("c"), now), None);
        assert_eq!((pace.due(), pace.release(now + REFILL)), (None, None));
        // And there is room again.
        assert_eq!(pace.offer(notice("d"), now + REFILL), Some(notice("d")));
    }

    #[test]
    fn what_is_withdrawn_does_not_come_later() {
        let now = Instant::now();
        let mut pace = Pace::new();
        for text in ["a", "b", "c", "d"] {
            pace.offer(notice(text), now);
        }
        pace.forget();
        assert_eq!(pace.release(now + REFILL), None);
    }
}
