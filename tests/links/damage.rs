//! Damaged links: whatever happens to one on its way, it ends in a config that writes back or in one clean sentence.

use std::panic::catch_unwind;

use crate::lab::vectors::{expand, tables};
use crate::lab::{self, random::Random};
use crate::vectors::check_any;

pub(crate) const SPICE: &[&str] = &[
    "%",
    "@",
    ":",
    "/",
    "?",
    "#",
    "&",
    "=",
    "[",
    "]",
    "+",
    ",",
    ";",
    " ",
    "\0",
    "\n",
    "\r",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{85}",
    "\u{202e}",
    "é",
    "🇳🇱",
    "%00",
    "%0A",
    "%1b",
    "%FF",
    "%25",
    "&amp;",
    "://",
    "{",
    "}",
    "\"",
    "\\",
    "99999",
    "0",
    "=",
    "-",
];

/// One to three mistakes.
pub(crate) fn damage(random: &mut Random, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=below(random, 3) {
        let at = below(random, chars.len() + 1);
        match below(random, 6) {
            0 if at < chars.len() => drop(chars.remove(at)),
            1 => chars.truncate(at),
            2 => {
                let end = (at + below(random, 12)).min(chars.len());
                let slice: Vec<char> = chars[at..end].to_vec();
                let to = below(random, chars.len() + 1);
                chars.splice(to..to, slice);
            }
            3 if at < chars.len() => {
                let other = below(random, chars.len());
                chars.swap(at, other);
            }
            4 if at < chars.len() => {
                let spice = SPICE[below(random, SPICE.len())].chars();
                chars.splice(at..=at, spice);
            }
            _ => {
                let spice = SPICE[below(random, SPICE.len())].chars();
                chars.splice(at..at, spice);
            }
        }
    }
    chars.into_iter().collect()
}

/// A number below `limit`.
pub(crate) fn below(random: &mut Random, limit: usize) -> usize {
    usize::try_from(random.below(u64::try_from(limit.max(1)).unwrap())).unwrap()
}

#[test]
fn damaged_links_never_break_the_promises() {
    // So many a scheme.
    let rounds = lab::rounds(10_000, 200_000);
    let mut random = Random::new();
    for (name, rows) in tables() {
        for round in 0..rounds {
            let link = &rows[below(&mut random, rows.len())].link;
            // Damage inside of base64 as well as outside.
            let link = match random.below(2) {
                0 => damage(&mut random, &expand(link)),
                _ => expand(&damage(&mut random, link)),
            };
            let outcome = catch_unwind(|| check_any(&link));
            assert!(outcome.is_ok(), "{name}, round {round}: {link:?}");
        }
    }
}
