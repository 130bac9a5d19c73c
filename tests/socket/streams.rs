//! Event streams: snapshot, resumption, slow readers, limits.

use super::*;

#[test]
fn events_begin_with_a_snapshot_and_can_be_resumed() {
    let daemon = running();
    let change = || assert_eq!(daemon.request(&json!({"type": "ConfigsChanged"})).unwrap()["code"], 200);
    let mut events = daemon.events();
    assert_eq!((&events.answer["ok"], &events.answer["code"]), (&json!(true), &json!(200)));
    let instance = events.answer["payload"]["instance_id"].as_str().unwrap().to_owned();
    let snapshot = events.next();
    assert_eq!((&snapshot["type"], &snapshot["state"]), (&json!("Snapshot"), &json!("disconnected")));
    assert_eq!(snapshot["instance_id"], instance.as_str());
    let seq = snapshot["seq"].as_u64().unwrap();
    events.half_close();
    for next in 1..=3 {
        change();
        let event = events.next();
        assert_eq!((&event["type"], event["seq"].as_u64()), (&json!("ConfigsChanged"), Some(seq + next)));
        assert!(event["at"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    drop(events);

    // What was missed comes first, without a snapshot; then what happens.
    let mut resumed = Events::subscribe(&daemon.socket(), Some((&instance, seq + 1))).unwrap();
    assert_eq!(resumed.next()["seq"], seq + 2);
    assert_eq!(resumed.next()["seq"], seq + 3);
    change();
    assert_eq!(resumed.next()["seq"], seq + 4);
    // Up to date is a place as well.
    let mut resumed = Events::subscribe(&daemon.socket(), Some((&instance, seq + 4))).unwrap();
    change();
    assert_eq!(resumed.next()["seq"], seq + 5);

    let other = "00000000-0000-4000-8000-000000000000";
    for since in [(other, seq + 1), (instance.as_str(), seq + 6), (instance.as_str(), u64::MAX)] {
        let first = Events::subscribe(&daemon.socket(), Some(since)).unwrap().next();
        assert_eq!((&first["type"], first["seq"].as_u64()), (&json!("Snapshot"), Some(seq + 5)), "{since:?}");
    }
}

#[test]
fn who_does_not_read_events_delays_nobody_and_is_told() {
    let daemon = running();
    let mut slow = daemon.events();
    let mut last = slow.next()["seq"].as_u64().unwrap();
    let mut fast = daemon.events();
    fast.next();
    let count = 2_000;
    for number in 1..=count {
        // Answered although the stream of the slow one is full: nothing here waits for it.
        assert_eq!(daemon.request(&json!({"type": "ConfigsChanged"})).unwrap()["code"], 200);
        assert_eq!(fast.next()["seq"], last + number);
    }
    let end = last + count;
    let mut lagged = 0;
    while last < end {
        let event = slow.next();
        let seq = event["seq"].as_u64().unwrap();
        if event["type"] == "Lagged" {
            lagged += 1;
            assert_eq!(seq - last, event["missed"].as_u64().unwrap(), "{event}");
        } else {
            assert_eq!(seq, last + 1, "{event}");
        }
        last = seq;
    }
    assert_eq!(lagged, 1);
}

#[test]
fn streams_have_a_limit_of_their_own() {
    let daemon = running();
    let streams: Vec<_> = (0..64).map(|_| daemon.events()).collect();
    assert!(streams.iter().all(|stream| stream.answer["ok"] == true));
    let refused = daemon.events();
    assert_eq!(refused.answer["code"], 409, "{}", refused.answer);
    assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
    drop(streams);
    wait_until("there is room again", || daemon.events().answer["ok"] == true);
}
