//! The tables: what each link says, or why it is refused.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use xrat::link;

use crate::lab;

/// A row of a table. In a link, `<<text>>` stands for the base64 of the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vector {
    pub(crate) link: String,
    /// Expected fields; null for one that must be absent.
    #[serde(default)]
    fields: Map<String, Value>,
    /// Another link of the same node.
    same_as: Option<String>,
    /// A part of the expected error.
    error: Option<String>,
}

/// The tables by name, one a scheme.
pub(crate) fn tables() -> Vec<(String, Vec<Vector>)> {
    let folder = lab::source_dir().join("tests/vectors");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut tables: Vec<_> =
        files.filter(|file| file.file_stem().unwrap() != "subscriptions").map(|file| table(&file)).collect();
    tables.sort_by(|(one, _), (other, _)| one.cmp(other));
    tables
}

fn table(file: &Path) -> (String, Vec<Vector>) {
    let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let rows = serde_json::from_slice(&std::fs::read(file).unwrap());
    (name, rows.unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

pub(crate) fn expand(link: &str) -> String {
    match (link.find("<<"), link.rfind(">>")) {
        (Some(from), Some(to)) if from + 2 <= to => {
            format!("{}{}{}", &link[..from], STANDARD.encode(&link[from + 2..to]), &link[to + 2..])
        }
        _ => link.to_owned(),
    }
}

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
