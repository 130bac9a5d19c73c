//! Bodies of subscriptions in every format: which nodes are in them, and what is said of the others.

use std::ops::ControlFlow;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Map, Value};
use xrat::link::{self, subscription};

use crate::damage::damage;
use crate::lab::vectors::expand;
use crate::lab::{self, random::Random};

/// A row of `vectors/subscriptions.json`; `<<text>>` stands for the base64 of the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    what: String,
    body: String,
    /// Some fields of each node, in order.
    nodes: Vec<Map<String, Value>>,
    /// Place and a part of the reason.
    refused: Vec<(String, String)>,
}

fn bodies() -> Vec<Body> {
    let file = lab::source_dir().join("tests/vectors/subscriptions.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn every_format_gives_its_nodes_and_names_the_others() {
    for Body { what, body, nodes, refused } in bodies() {
        let parsed = subscription::parse(expand(&body).as_bytes());
        let found: Vec<_> =
            parsed.configs.iter().map(|(_, config)| serde_json::to_value(link::fields(config)).unwrap()).collect();
        let told: Vec<_> = parsed.refused.iter().map(|one| (one.place.to_string(), one.reason.to_string())).collect();
        assert_eq!(found.len(), nodes.len(), "{what}: {found:#?}, refused {told:#?}");
        for (found, wanted) in found.iter().zip(&nodes) {
            for (key, wanted) in wanted {
                let value = found.get(key).unwrap_or(&Value::Null);
                assert_eq!(value, wanted, "{what}: {key} of {found}");
            }
        }
        assert_eq!(told.len(), refused.len(), "{what}: {told:#?}");
        for ((place, reason), (wanted_place, wanted)) in told.iter().zip(&refused) {
            let there = place == wanted_place || wanted_place == "line" && place.starts_with("line ");
            assert!(
                there && reason.contains(wanted.as_str()),
                "{what}: {place}: {reason}, not {wanted_place}: {wanted}"
            );
        }
        for (_, config) in &parsed.configs {
            assert_eq!(link::parse(&link::write(config)).as_ref(), Ok(config), "{what}");
        }
    }
}

#[test]
fn damaged_bodies_never_break_the_promises() {
    let mut random = Random::new();
    for round in 0..lab::rounds(20, 2_000) {
        for Body { what, body, .. } in bodies() {
            let body =
                if round % 2 == 0 { expand(&damage(&mut random, &body)) } else { damage(&mut random, &expand(&body)) };
            let parsed = std::panic::catch_unwind(|| subscription::parse(body.as_bytes()));
            let parsed = parsed.unwrap_or_else(|_| panic!("{what}, round {round}: {body:?}"));
            for (_, config) in parsed.configs {
                assert!(!config.name.is_empty() && !config.name.chars().any(char::is_control), "{what}: {body:?}");
                assert_eq!(link::parse(&link::write(&config)).as_ref(), Ok(&config), "{what}: {body:?}");
            }
            for refused in parsed.refused {
                let reason = refused.reason.to_string();
                assert!(!reason.chars().any(char::is_control) && reason.chars().count() < 400, "{what}: {reason:?}");
            }
        }
    }
}

/// Time on the processor, which other programs do not change.
fn processor_time(work: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
    };
    let before = now();
    work();
    now() - before
}

/// Each of these could take time that grows faster than its size: eight times as much may take four times as long
/// again, where growth with the square would be eight.
#[test]
fn hostile_bodies_take_time_as_they_are_long() {
    const SMALLEST: Duration = Duration::from_millis(10);
    let size = lab::rounds(256 << 10, 16 << 20);
    for (head, part, tail) in [
        ("proxies: ", "[", ""),
        ("proxies: ", "{a: ", ""),
        ("proxies:\n", "- ", ""),
        ("proxies:\n", "- {}\n", ""),
        ("proxies:\n- ", "? ", ""),
        ("proxies:\n- \"", "\\x41", "\""),
        ("proxies:\n- |\n", "  a\n", ""),
        ("proxies:\n", "- &a a\n", ""),
        ("proxies:\n", "- !!a a\n", ""),
        ("proxies:\n", "# a comment\n", ""),
        ("proxies:\n", "\t", ""),
        ("a: &a [x]\nproxies:\n", "- *a\n", ""),
        ("proxies:\n- {", "a,", "}"),
        ("", "proxies:\n", ""),
        ("[", "[", ""),
        ("[", "0,", "0]"),
        ("[", "{},", "{}]"),
        ("{\"outbounds\":[", "{\"type\":\"x\"},", "{}]}"),
        ("{", "\"a\":1,", "\"a\":1}"),
        ("", "vless://\n", ""),
        ("", "://", ""),
        ("", "eJ", ""),
    ] {
        let took = |size: usize| {
            let mut body = head.to_owned();
            while body.len() < size {
                body.push_str(part);
            }
            body.push_str(tail);
            processor_time(|| {
                let _ = subscription::each(body.as_bytes(), &mut |_| ControlFlow::Continue(()));
            })
        };
        let (short, long) = (took(size / 8).max(SMALLEST), took(size));
        assert!(long < short * 32, "{head:?} {part:?}: {short:?}, and eight times as much {long:?}");
    }
}
