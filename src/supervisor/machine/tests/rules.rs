//! One test a rule.

use super::*;

const REPLACE: Command = Command::RuntimeReplace { trigger: Trigger::Manual, candidate_id: None };

use crate::command::{DecisionOutcome, Trigger, Verdict};
use crate::event::Health;

fn ask(machine: &mut Machine, command: Command, now: Now) -> Vec<Effect> {
    machine.step(Input::Command(CallId(9), command), now)
}

fn die(machine: &mut Machine, session_id: i64, now: Now) -> Vec<Effect> {
    machine.step(Input::EngineExited(SessionId(session_id), "was ended by signal 9 (SIGKILL)".into()), now)
}

#[test]
fn connect_starts_then_serves_then_proves() {
    let mut machine = machine();
    let effects = ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId(1) }, at(0));
    assert_eq!(starts(&effects), Some((ConfigId(1), false)));
    let effects = machine.step(Input::Started(Ok(session(1, 1))), at(1));
    assert!(effects.contains(&Effect::GoPublic { session_id: SessionId(1), old: None }));
    assert!(answer(&effects).is_none(), "not before it serves");
    let effects = machine.step(Input::WentPublic(Ok(())), at(2));
    assert!(matches!(answer(&effects), Some(Ok(Outcome::Session(_)))));
    assert!(effects.contains(&Effect::Exchange(SessionId(1))) && effects.contains(&Effect::Watch(SessionId(1))));
}

#[test]
fn a_second_transition_is_a_conflict_that_names_the_first() {
    let mut machine = machine();
    ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId(1) }, at(0));
    for command in [Command::RuntimeConnect { config_id: ConfigId(2) }, REPLACE, Command::DaemonRestart {}] {
        let effects = ask(&mut machine, command, at(1));
        let Some(Err(failure @ Failure::Conflict { .. })) = answer(&effects) else { panic!("{effects:?}") };
        assert!(failure.to_string().contains("in progress: connect"), "{failure}");
    }
}

#[test]
fn a_connect_that_names_no_config_takes_the_last_one_or_the_best() {
    let failed = |id| CandidateRow { failures: 3, ..row(id, None, Some(at(0))) };
    for (usable, last, chosen) in [
        (vec![row(1, Some(10), None), row(2, Some(90), None)], Some(2), 2),
        (vec![row(1, Some(90), None), row(2, Some(10), None)], Some(3), 2),
        (vec![failed(1), row(2, None, None), row(3, None, None)], None, 2),
        (vec![failed(1), row(2, None, None), row(3, Some(900), None)], None, 3),
    ] {
        let mut machine = machine();
        let effects = ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId::NONE }, at(0));
        assert!(effects.contains(&Effect::ReadChoice) && starts(&effects).is_none(), "{effects:?}");
        let choice = Choice { stored: usable.len(), usable, last: last.map(ConfigId) };
        let effects = machine.step(Input::ChoiceRead(Ok(choice)), at(1));
        assert_eq!(starts(&effects), Some((ConfigId(chosen), false)));
        machine.step(Input::Started(Ok(session(1, chosen))), at(2));
        let effects = machine.step(Input::WentPublic(Ok(())), at(3));
        assert!(matches!(answer(&effects), Some(Ok(Outcome::Session(session))) if session.config_id.0 == chosen));
    }
}

#[test]
fn a_connect_that_finds_no_config_says_how_to_get_one() {
    for stored in [0, 3] {
        let mut machine = machine();
        ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId::NONE }, at(0));
        let effects = machine.step(Input::ChoiceRead(Ok(Choice { stored, ..Choice::default() })), at(1));
        let Some(Err(Failure::NotFound(message))) = answer(&effects) else { panic!("{effects:?}") };
        assert!(message.contains("xrat import"), "{message}");
        assert_eq!(message.contains("3 stored"), stored == 3, "{message}");
        assert_eq!((machine.status().state, &machine.status().last_failure), (State::Disconnected, &None));
    }
}

#[test]
fn a_disconnect_wins_over_a_choice() {
    let mut machine = machine();
    ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId::NONE }, at(0));
    ask(&mut machine, Command::RuntimeDisconnect {}, at(1));
    let choice = Choice { usable: vec![row(1, None, None)], stored: 1, last: None };
    let effects = machine.step(Input::ChoiceRead(Ok(choice)), at(2));
    assert_eq!((starts(&effects), machine.status().state), (None, State::Disconnected));
}

#[test]
fn a_failed_connect_is_told_and_leaves_nothing() {
    let mut machine = machine();
    ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId(1) }, at(0));
    let effects = machine.step(Input::Started(Err(failure(Some(1)))), at(1));
    assert!(matches!(answer(&effects), Some(Err(Failure::Internal(_)))));
    assert!(effects.contains(&Effect::ClosePublic));
    assert_eq!(machine.status().state, State::Disconnected);
    assert_eq!(machine.deadline(), None, "nothing tries again");
}

#[test]
fn a_disconnect_wins_over_a_connect_and_stays_one() {
    let mut machine = machine();
    ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId(1) }, at(0));
    let effects = ask(&mut machine, Command::RuntimeDisconnect {}, at(1));
    assert!(effects.contains(&Effect::CancelStart) && effects.contains(&Effect::ForgetWanted));
    // It was done before it heard.
    let effects = machine.step(Input::Started(Ok(session(1, 1))), at(2));
    assert!(effects.contains(&Effect::Stop(SessionId(1), Reason::UserRequested)));
    let effects = machine.step(Input::StopEnded(SessionId(1)), at(3));
    assert!(matches!(answer(&effects), Some(Ok(Outcome::Stopped { stopped_session_id: Some(SessionId(1)) }))));
    assert_eq!(machine.status().state, State::Disconnected);
    assert!(die(&mut machine, 1, at(4)).is_empty(), "its end is no failure");
    assert_eq!(machine.deadline(), None);
}

#[test]
fn a_dead_engine_alone_is_started_again_and_the_sixth_time_fails() {
    let mut machine = connected();
    machine.rules.health_trigger = false;
    let mut now = 1000;
    let mut session_id = 1;
    for wait in [0, 1000, 2000, 4000, 8000] {
        let effects = die(&mut machine, session_id, at(now));
        assert!(effects.contains(&Effect::Hold));
        let effects = if wait == 0 {
            effects
        } else {
            assert_eq!(starts(&effects), None);
            assert_eq!(machine.deadline(), Some(at(now + wait).boot));
            now += wait;
            machine.step(Input::Tick, at(now))
        };
        assert_eq!(starts(&effects), Some((ConfigId(1), false)), "after {wait}");
        session_id += 1;
        machine.step(Input::Started(Ok(session(session_id, 1))), at(now));
        machine.step(Input::WentPublic(Ok(())), at(now));
        assert_eq!(machine.status().state, State::Connected);
        now += 1;
    }
    let effects = die(&mut machine, session_id, at(now));
    assert_eq!((machine.status().state, machine.status().reason), (State::Failed, Reason::TooManyFailures));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Refuse(_))));
    let retry = machine.deadline().unwrap() - at(now).boot;
    assert!(retry >= Duration::from_secs(60) && retry < Duration::from_secs(75), "{retry:?}");
}

#[test]
fn failed_tries_once_a_minute_and_is_left_by_a_disconnect() {
    let mut machine = connected();
    machine.rules.health_trigger = false;
    machine.starts = (0..5).map(|_| at(0).boot).collect();
    die(&mut machine, 1, at(1));
    assert_eq!(machine.status().state, State::Failed);
    let effects = machine.step(Input::Tick, at(80_000));
    assert_eq!(starts(&effects), Some((ConfigId(1), false)));
    machine.step(Input::Started(Err(failure(None))), at(80_100));
    assert_eq!(machine.status().state, State::Failed);
    assert!(machine.deadline().is_some());
    ask(&mut machine, Command::RuntimeDisconnect {}, at(80_200));
    assert_eq!((machine.status().state, machine.deadline()), (State::Disconnected, None));
}

#[test]
fn after_a_death_fresh_results_choose_without_a_test() {
    let mut machine = connected();
    let effects = die(&mut machine, 1, at(1000));
    assert!(effects.contains(&Effect::ReadCandidates) && effects.contains(&Effect::Hold));
    let rows = vec![row(2, Some(80), Some(at(0))), row(3, Some(40), Some(at(0))), row(1, Some(1), Some(at(0)))];
    let effects = machine.step(Input::CandidatesRead(rows, 1), at(1001));
    assert_eq!(starts(&effects), Some((ConfigId(3), false)), "the fastest other, proven afterwards");
    machine.step(Input::Started(Ok(session(2, 3))), at(1010));
    let effects = machine.step(Input::WentPublic(Ok(())), at(1011));
    let decision = decision(&effects).unwrap();
    assert_eq!((decision.outcome, decision.new_config_id), (DecisionOutcome::Replaced, Some(ConfigId(3))));
    assert!(machine.cooling(at(1012)));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Drain(..))), "there is nothing left to drain");
}

#[test]
fn after_a_death_without_fresh_results_the_same_config_comes_first_then_a_test() {
    let mut machine = connected();
    die(&mut machine, 1, at(0));
    let effects = machine.step(Input::CandidatesRead(vec![row(2, Some(80), None)], 1), at(1));
    assert_eq!(decision(&effects).unwrap().outcome, DecisionOutcome::Stayed);
    assert_eq!(starts(&effects), Some((ConfigId(1), false)), "nobody waits for a test");
    machine.step(Input::Started(Ok(session(1, 1))), at(10));
    machine.step(Input::WentPublic(Ok(())), at(11));
    die(&mut machine, 1, at(1000));
    let effects = machine.step(Input::CandidatesRead(vec![row(2, Some(80), None)], 1), at(1001));
    assert_eq!(effects, vec![Effect::TestCandidates(vec![ConfigId(2)], Duration::from_secs(8))]);
    let effects = machine.step(Input::CandidatesTested(vec![(ConfigId(2), Err("refused".into()))]), at(1200));
    assert_eq!(decision(&effects).unwrap().outcome, DecisionOutcome::Failed);
    assert_eq!(machine.deadline(), Some(at(2200).boot), "then the same config again, a second later");
}

#[test]
fn a_cooldown_keeps_the_config_and_is_written_down() {
    let mut machine = connected();
    machine.cooldown_until = Some(at(200_000).boot);
    let effects = die(&mut machine, 1, at(1000));
    assert_eq!(decision(&effects).unwrap().outcome, DecisionOutcome::Cooldown);
    assert_eq!(starts(&effects), Some((ConfigId(1), false)));
}

#[test]
fn a_dead_node_is_left_after_the_threshold_and_kept_without_a_better_one() {
    let mut machine = connected();
    for (failures, health) in [(1, Health::Degraded), (2, Health::Degraded), (3, Health::Failed)] {
        let effects = machine.step(Input::ExchangeEnded(SessionId(1), Err("timed out".into())), at(failures * 2000));
        assert_eq!(machine.status().session.as_ref().unwrap().health.status, health);
        assert_eq!(effects.contains(&Effect::ReadCandidates), health == Health::Failed);
    }
    assert_eq!(machine.status().state, State::Replacing);
    let effects = machine.step(Input::CandidatesRead(Vec::new(), 1), at(6001));
    assert_eq!(decision(&effects).unwrap().outcome, DecisionOutcome::NoCandidate);
    assert_eq!(machine.status().state, State::Connected);
    assert_eq!(machine.status().session.as_ref().unwrap().health.status, Health::Failed);
    let effects = machine.step(Input::ExchangeEnded(SessionId(1), Err("timed out".into())), at(21_000));
    assert!(!effects.contains(&Effect::ReadCandidates), "no busy loop");
    let effects = machine.step(Input::ExchangeEnded(SessionId(1), Err("timed out".into())), at(70_000));
    assert!(effects.contains(&Effect::ReadCandidates), "but again after a while");
}

#[test]
fn a_failed_exchange_is_repeated_after_two_seconds_then_every_interval() {
    let mut machine = connected();
    let mut due = Vec::new();
    machine.health.tick_at = None;
    for failures in 1..=4_u64 {
        machine.step(Input::ExchangeEnded(SessionId(1), Err("timed out".into())), at(failures * 1000));
        machine.transition = None;
        due.push(machine.deadline().unwrap() - at(failures * 1000).boot);
    }
    assert_eq!(due, [2, 2, 15, 15].map(Duration::from_secs));
}

#[test]
fn when_everything_fails_the_uplink_is_suspect_and_nobody_is_judged() {
    let mut machine = connected();
    for failures in 1..=3 {
        machine.step(Input::ExchangeEnded(SessionId(1), Err("timed out".into())), at(failures * 2000));
    }
    let rows = (2..5).map(|id| row(id, None, None)).collect();
    machine.step(Input::CandidatesRead(rows, 1), at(6001));
    let results = (1..5).map(|id| (ConfigId(id), Err("timed out".to_owned()))).collect();
    let effects = machine.step(Input::CandidatesTested(results), at(8000));
    assert_eq!(decision(&effects).unwrap().outcome, DecisionOutcome::Offline);
    assert!(machine.quarantine.is_empty());
}

#[test]
fn offline_no_failure_counts_and_the_present_node_comes_first_afterwards() {
    let mut machine = connected();
    machine.step(Input::Network { online: false }, at(1000));
    for failures in 1..=5 {
        machine.step(Input::ExchangeEnded(SessionId(1), Err("unreachable".into())), at(1000 + failures));
    }
    assert_eq!(machine.status().session.as_ref().unwrap().health.status, Health::Healthy);
    let effects = machine.step(Input::Network { online: true }, at(9000));
    assert!(effects.contains(&Effect::Exchange(SessionId(1))));
}

#[test]
fn the_timer_stays_unless_another_is_faster_by_the_tolerance() {
    for (other, outcome) in [(60, None), (50, None), (49, Some(ConfigId(2)))] {
        let mut machine = connected();
        ask(&mut machine, Command::ProxyStart {}, at(0));
        assert_eq!(machine.rotation_status(at(0)).next_timer_at, Some(at(1_800_000).wall));
        let effects = machine.step(Input::Tick, at(1_800_000));
        assert!(effects.contains(&Effect::ReadCandidates));
        let effects = machine.step(Input::CandidatesRead(vec![row(2, None, None)], 1), at(1_800_001));
        assert!(effects.contains(&Effect::TestCandidates(vec![ConfigId(2), ConfigId(1)], Duration::from_secs(8))));
        let results = vec![(ConfigId(2), Ok(other)), (ConfigId(1), Ok(100))];
        let effects = machine.step(Input::CandidatesTested(results), at(1_800_100));
        match outcome {
            Some(id) => assert_eq!(starts(&effects), Some((id, true))),
            None => {
                let decision = decision(&effects).unwrap();
                assert_eq!(decision.outcome, DecisionOutcome::Stayed);
                assert_eq!(decision.candidates[0].verdict, Verdict::NotNeeded);
                assert_eq!(machine.status().state, State::Connected);
                assert!(machine.deadline().is_some(), "and the timer goes on");
            }
        }
    }
}

#[test]
fn a_replace_drains_the_old_engine_and_only_an_automatic_one_begins_a_cooldown() {
    let mut machine = connected();
    let only = Command::RuntimeReplace { trigger: Trigger::Manual, candidate_id: Some(ConfigId(2)) };
    let effects = ask(&mut machine, only, at(1000));
    assert_eq!(starts(&effects), Some((ConfigId(2), true)), "proven before any client reaches it");
    let effects = machine.step(Input::Started(Ok(session(2, 2))), at(1100));
    assert!(effects.contains(&Effect::GoPublic { session_id: SessionId(2), old: Some(SessionId(1)) }));
    let effects = machine.step(Input::WentPublic(Ok(())), at(1150));
    assert!(effects.contains(&Effect::Drain(SessionId(1), Duration::from_secs(3600), Reason::ManualRotation, None)));
    assert!(matches!(answer(&effects), Some(Ok(Outcome::Replaced { .. }))));
    assert!(!machine.cooling(at(1151)));
}

#[test]
fn a_candidate_that_fails_is_quarantined_and_the_next_is_tried_while_the_old_engine_serves() {
    let mut machine = connected();
    ask(&mut machine, REPLACE, at(1000));
    machine.step(Input::CandidatesRead(vec![row(2, None, None), row(3, None, None)], 1), at(1001));
    let results = vec![(ConfigId(2), Ok(10)), (ConfigId(3), Ok(20))];
    let effects = machine.step(Input::CandidatesTested(results), at(1100));
    assert_eq!(starts(&effects), Some((ConfigId(2), true)));
    let effects = machine.step(Input::Started(Err(failure(Some(2)))), at(1200));
    assert_eq!(starts(&effects), Some((ConfigId(3), true)));
    assert_eq!(machine.status().session.as_ref().unwrap().session_id, SessionId(1));
    let effects = machine.step(Input::Started(Err(failure(Some(3)))), at(1300));
    assert!(matches!(answer(&effects), Some(Err(Failure::Internal(_)))));
    let verdicts: Vec<_> = decision(&effects).unwrap().candidates.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [Verdict::StartFailed; 2]);
    assert_eq!(machine.status().state, State::Connected);
    ask(&mut machine, REPLACE, at(1400));
    let effects = machine.step(Input::CandidatesRead(vec![row(2, None, None), row(3, None, None)], 1), at(1401));
    assert_eq!(decision(&effects).unwrap().outcome, DecisionOutcome::NoCandidate, "both are in quarantine");
}

#[test]
fn no_new_attempt_begins_when_the_time_is_nearly_up() {
    let mut machine = connected();
    ask(&mut machine, REPLACE, at(0));
    machine.step(Input::CandidatesRead(vec![row(2, None, None), row(3, None, None)], 1), at(1));
    machine.step(Input::CandidatesTested(vec![(ConfigId(2), Ok(10)), (ConfigId(3), Ok(20))]), at(8000));
    let effects = machine.step(Input::Started(Err(failure(Some(2)))), at(12_500));
    assert_eq!(starts(&effects), None);
    assert!(answer(&effects).is_some());
}

#[test]
fn the_old_engine_may_die_during_a_replace() {
    let mut machine = connected();
    ask(&mut machine, REPLACE, at(1000));
    machine.step(Input::CandidatesRead(vec![row(2, None, None)], 1), at(1001));
    let effects = die(&mut machine, 1, at(1002));
    assert!(effects.contains(&Effect::Hold));
    assert_eq!(machine.status().state, State::Recovering);
    let effects = machine.step(Input::CandidatesTested(vec![(ConfigId(2), Ok(10))]), at(1100));
    assert_eq!(starts(&effects), Some((ConfigId(2), false)), "nobody serves: it is proven afterwards");
    machine.step(Input::Started(Ok(session(2, 2))), at(1200));
    let effects = machine.step(Input::WentPublic(Ok(())), at(1210));
    assert!(matches!(answer(&effects), Some(Ok(Outcome::Replaced { old_session_id: None, .. }))));
}

#[test]
fn automatic_replaces_respect_the_cooldown_and_manual_ones_do_not() {
    let mut machine = connected();
    machine.cooldown_until = Some(at(300_000).boot);
    for trigger in [Trigger::Timer, Trigger::Health] {
        let effects = ask(&mut machine, Command::RuntimeReplace { trigger, candidate_id: None }, at(1));
        assert!(matches!(answer(&effects), Some(Err(Failure::Conflict { .. }))));
    }
    assert!(ask(&mut machine, REPLACE, at(2)).contains(&Effect::ReadCandidates));
}

#[test]
fn replace_and_disconnect_without_a_session_are_not_found() {
    let mut machine = machine();
    for command in [REPLACE, Command::RuntimeDisconnect {}] {
        let effects = ask(&mut machine, command, at(0));
        assert!(matches!(answer(&effects), Some(Err(Failure::NotFound(_)))), "{effects:?}");
    }
}

#[test]
fn cooldown_and_timer_survive_and_the_wall_clock_does_not_matter() {
    let facts = RotationFacts {
        enabled: Some(true),
        boot_id: "boot".into(),
        cooldown_until_boot_ms: Some(1_100_000),
        cooldown_until: Some(at(0).wall - Duration::from_secs(86_400)),
        ..RotationFacts::default()
    };
    let machine = machine_with(rules(), facts.clone(), at(0));
    assert!(machine.cooling(at(99_000)) && !machine.cooling(at(101_000)));
    let mut later = at(99_000);
    later.wall += Duration::from_secs(86_400);
    assert!(machine.cooling(later), "a jump of the wall clock by a day");

    let reboot = RotationFacts {
        boot_id: "another".into(),
        cooldown_until: Some(at(0).wall + Duration::from_secs(86_400)),
        ..facts
    };
    let machine = machine_with(rules(), reboot, at(0));
    assert!(machine.cooling(at(299_000)) && !machine.cooling(at(301_000)), "clamped to the setting");
}

#[test]
fn traffic_that_comes_back_saves_the_check_and_traffic_that_does_not_hastens_it() {
    let traffic = |up, down| Some(Traffic { uplink_bytes: up, downlink_bytes: down });
    let mut machine = connected();
    let look = |machine: &mut Machine, traffic, ms| {
        machine.step(Input::TrafficRead(None, SessionId(1), traffic), at(ms)).contains(&Effect::Exchange(SessionId(1)))
    };
    assert!(!look(&mut machine, traffic(10, 10), 15_000), "the first look only remembers");
    assert!(!look(&mut machine, traffic(20, 20), 30_000));
    assert!(look(&mut machine, traffic(30, 20), 45_000), "sent, and nothing came back");
    machine.step(Input::ExchangeEnded(SessionId(1), Ok(5)), at(45_010));
    assert!(!look(&mut machine, traffic(40, 30), 60_000));
    assert!(!look(&mut machine, traffic(40, 30), 75_000), "idle");
    assert!(look(&mut machine, traffic(40, 30), 120_000), "idle for a minute");
}

#[test]
fn choosing_takes_the_best_and_some_that_were_not_tested_for_long() {
    let mut rows: Vec<_> = (1..=100).map(|id| row(id, Some(u32::try_from(id).unwrap()), Some(at(0)))).collect();
    rows.extend((101..=110).map(|id| row(id, None, None)));
    let chosen = crate::supervisor::machine::choose::choose(rows, 40, 5);
    assert_eq!(chosen.len(), 40);
    assert!(chosen[..30].iter().all(|row| row.config_id.0 <= 30));
    assert!(chosen[30..].iter().all(|row| row.config_id.0 > 100), "never tested comes first");
}

#[test]
fn shutdown_answers_first_then_ends_the_session() {
    let mut machine = connected();
    let effects = ask(&mut machine, Command::DaemonShutdown {}, at(1));
    assert!(matches!(effects[0], Effect::Answer(_, Ok(Outcome::Done {}))));
    assert!(effects.contains(&Effect::Stop(SessionId(1), Reason::DaemonShutdown)));
    assert!(!effects.contains(&Effect::ForgetWanted), "what was wanted is wanted after a reboot");
    assert!(machine.step(Input::StopEnded(SessionId(1)), at(2)).contains(&Effect::Exit));
}

#[test]
fn a_check_that_ends_during_a_disconnect_plans_nothing() {
    let mut machine = connected();
    machine.step(Input::Resumed, at(10));
    ask(&mut machine, Command::RuntimeDisconnect {}, at(11));
    for input in [
        Input::ExchangeEnded(SessionId(1), Err("the engine is gone".into())),
        Input::TrafficRead(None, SessionId(1), None),
        Input::Network { online: true },
    ] {
        assert_eq!(machine.step(input, at(12)), []);
    }
    machine.step(Input::StopEnded(SessionId(1)), at(13));
    assert_eq!(machine.deadline(), None, "a deadline that nothing handles comes again and again");
}

#[test]
fn an_engine_that_leaves_its_ports_in_a_hand_over_has_lost_nothing() {
    let lost = || Input::PortLost(SessionId(1), "the engine does not listen any more".into());
    let mut machine = connected();
    let replace = Command::RuntimeReplace { trigger: Trigger::Manual, candidate_id: Some(ConfigId(2)) };
    ask(&mut machine, replace, at(1));
    machine.step(Input::Started(Ok(session(2, 2))), at(2));
    assert_eq!(machine.step(lost(), at(3)), []);
    machine.step(Input::WentPublic(Ok(())), at(4));
    assert_eq!(machine.step(lost(), at(5)), [], "it is the old one's");
    assert_eq!(machine.status().session.as_ref().unwrap().session_id, SessionId(2));
    let effects = machine.step(Input::PortLost(SessionId(2), "gone".into()), at(6));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Discard(SessionId(2), Reason::PortLost, _))));
}

#[test]
fn a_connect_that_fails_does_not_end_a_recovery() {
    let mut machine = connected();
    machine.rules.health_trigger = false;
    machine.starts = [at(0).boot].into();
    die(&mut machine, 1, at(1));
    assert_eq!(machine.status().state, State::Recovering);
    ask(&mut machine, Command::RuntimeConnect { config_id: ConfigId(2) }, at(2));
    let effects = machine.step(Input::Started(Err(failure(None))), at(3));
    assert!(matches!(answer(&effects), Some(Err(_))));
    assert!(!effects.contains(&Effect::ClosePublic), "{effects:?}");
    assert_eq!(machine.status().state, State::Recovering);
    let effects = machine.step(Input::Tick, at(10_000));
    assert_eq!(starts(&effects), Some((ConfigId(1), false)), "what was lost comes back");
}

#[test]
fn a_disconnect_ends_what_drains_also_without_a_session() {
    let mut machine = connected();
    machine.rules.health_trigger = false;
    machine.starts = (0..5).map(|_| at(0).boot).collect();
    die(&mut machine, 1, at(1));
    assert_eq!(machine.status().state, State::Failed);
    let effects = ask(&mut machine, Command::RuntimeDisconnect {}, at(2));
    assert!(effects.contains(&Effect::EndDrains), "{effects:?}");
}
