//! Tables, `field: value` lines and JSON, safe for any terminal whatever the data holds.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use console::{Style, measure_text_width};
use serde::Serialize;

use crate::link::is_unprintable;

/// Between two columns.
const GAP: &str = "  ";

/// What a cell of a table means; the terminal's colours show it, where there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Something is wrong.
    Bad,
    /// Of less interest.
    Dim,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => Style::new().green(),
            Self::Bad => Style::new().red(),
            Self::Dim => Style::new().dim(),
        }
    }
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell whose text means something.
    pub(super) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: clean(text.as_ref()), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Text without control characters and without those that reorder a line: each becomes its `\u{…}`.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) {
            clean.extend(character.escape_unicode());
        } else {
            clean.push(character);
        }
    }
    clean
}

/// A time for people.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// A table with a heading; columns are as wide as what they show takes on a terminal.
pub(super) fn table<const N: usize>(out: &mut impl Write, heading: [&str; N], rows: &[[Cell; N]]) -> io::Result<()> {
    let mut widths = heading.map(measure_text_width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(&cell.text));
        }
    }
    let bold = Style::new().bold();
    line(out, heading.iter().map(|text| (*text, &bold)), &widths)?;
    for row in rows {
        let styles = row.each_ref().map(|cell| cell.tone.style());
        line(out, row.iter().map(|cell| cell.text.as_str()).zip(&styles), &widths)?;
    }
    Ok(())
}

fn line<'a>(
    out: &mut impl Write,
    cells: impl Iterator<Item = (&'a str, &'a Style)>,
    widths: &[usize],
) -> io::Result<()> {
    // Spaces are owed until something follows them, so that no line ends in any.
    let mut owed = 0;
    for ((text, style), width) in cells.zip(widths) {
        if !text.is_empty() {
            write!(out, "{:owed$}{}", "", style.apply_to(text))?;
            owed = 0;
        }
        owed += width.saturating_sub(measure_text_width(text)) + GAP.len();
    }
    writeln!(out)
}

/// Aligned `field: value` lines.
pub(super) fn fields(out: &mut impl Write, fields: &[(impl AsRef<str>, String)]) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| name.as_ref().len()).max().unwrap_or_default() + 1;
    let dim = Style::new().dim();
    for (name, value) in fields {
        let name = name.as_ref();
        let padding = width - name.len();
        writeln!(out, "{}{:padding$}{}", dim.apply_to(format_args!("{name}:")), "", clean(value))?;
    }
    Ok(())
}

/// One JSON value on a line of its own. What must not reach a terminal is escaped, which changes nothing for a reader.
pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    let mut units = [0; 2];
    // Such characters can only be inside of strings, where the escape means the same.
    for part in text.split_inclusive(is_unprintable) {
        match part.char_indices().next_back() {
            Some((at, last)) if is_unprintable(last) => {
                write!(out, "{}", &part[..at])?;
                for unit in last.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            _ => write!(out, "{part}")?,
        }
    }
    writeln!(out)
}

/// One message to standard error; a closed one is nobody to complain to.
pub(super) fn note(text: &str) {
    let mut safe = String::with_capacity(text.len() + 1);
    for line in text.lines() {
        safe.push_str(&clean(line));
        safe.push('\n');
    }
    let _ = io::stderr().write_all(safe.as_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn printed(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_align_by_display_width() {
        let rows = [["香港".into(), "a".into()], ["x".into(), "b".into()], ["".into(), "".into()]];
        let text = printed(|out| table(out, ["N", "M"], &rows));
        assert_eq!(text, "N     M\n香港  a\nx     b\n\n");
    }

    #[test]
    fn what_could_steer_a_terminal_is_spelled_out() {
        let text = printed(|out| fields(out, &[("name", "a\u{1b}[2Jb\u{202e}c".to_owned())]));
        assert_eq!(text, "name: a\\u{1b}[2Jb\\u{202e}c\n");
        let value = "a\u{1b}\u{9b}\u{7f}\u{202e}\nz";
        let text = printed(|out| json(out, &value));
        assert!(!text.trim_end().chars().any(is_unprintable), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }
}
