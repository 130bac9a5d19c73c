//! The tables of share links in `tests/vectors`: what each link says, or why it is refused.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A row of a table. In a link, `<<text>>` stands for the base64 of the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// The link, perhaps with a `<<text>>`.
    pub link: String,
    /// Expected fields; null for one that must be absent.
    #[serde(default)]
    pub fields: Map<String, Value>,
    /// Another link of the same node.
    pub same_as: Option<String>,
    /// A part of the expected error.
    pub error: Option<String>,
}

/// The tables by name, one a scheme.
pub fn tables() -> Vec<(String, Vec<Vector>)> {
    let folder = super::source_dir().join("tests/vectors");
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

/// The link itself: with base64 in the place of `<<text>>`.
pub fn expand(link: &str) -> String {
    match (link.find("<<"), link.rfind(">>")) {
        (Some(from), Some(to)) if from + 2 <= to => {
            format!("{}{}{}", &link[..from], STANDARD.encode(&link[from + 2..to]), &link[to + 2..])
        }
        _ => link.to_owned(),
    }
}
