//! The tables: what each link says, or why it is refused.

use serde_json::Value;
use xrat::link;

use crate::lab::vectors::{Vector, expand, tables};

/// What must hold for whatever is given to the parser.
pub(crate) fn check_any(link: &str) {
    match link::parse(link) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "control character in {text:?}");
            assert!(text.chars().count() < 400, "{text}");
        }
        Ok(config) => {
            assert!(!config.name.is_empty() && !config.name.chars().any(char::is_control), "{:?}", config.name);
            let fields = serde_json::to_string(&link::fields(&config)).unwrap();
            assert!(!fields.chars().any(char::is_control), "control character in {fields:?}");
            let written = link::write(&config);
            assert!(written.is_ascii() && !written.chars().any(char::is_control), "{written:?}");
            assert_eq!(link::parse(&written).as_ref(), Ok(&config), "{written}");
            assert!(!format!("{config:?}").contains("S3cret"), "{config:?}");
        }
    }
}

#[test]
fn there_are_enough_of_them() {
    let tables = tables();
    let count =
        |broken: bool| tables.iter().flat_map(|(_, rows)| rows).filter(|row| row.error.is_some() == broken).count();
    let (good, broken) = (count(false), count(true));
    assert!(good + broken >= 300 && broken * 3 >= good + broken, "{good} good and {broken} broken vectors");
}

#[test]
fn vectors_hold() {
    let mut failures = Vec::new();
    for (_, rows) in tables() {
        rows.iter().for_each(|row| check(row, &mut failures));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(vector: &Vector, failures: &mut Vec<String>) {
    let link = expand(&vector.link);
    check_any(&link);
    match (link::parse(&link), &vector.error) {
        (Err(error), Some(wanted)) if error.to_string().contains(wanted) => {}
        (Err(error), wanted) => failures.push(format!("{link}\n  gave the error {error}\n  instead of {wanted:?}")),
        (Ok(_), Some(wanted)) => failures.push(format!("{link}\n  passed, but should say {wanted:?}")),
        (Ok(config), None) => {
            let fields = serde_json::to_value(link::fields(&config)).unwrap();
            for (key, wanted) in &vector.fields {
                let found = fields.get(key).unwrap_or(&Value::Null);
                if found != wanted {
                    failures.push(format!("{link}\n  has {key} {found}, expected {wanted}"));
                }
            }
            if let Some(other) = &vector.same_as {
                let other = link::parse(&expand(other)).unwrap();
                if other.identity() != config.identity() {
                    failures.push(format!("{link}\n  is {config:?}\n  and not {other:?}"));
                }
            }
        }
    }
}
